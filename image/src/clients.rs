//! The clients of others that the tests hold our evidence to, where Debian 12 has none: unpacked, not installed.

use std::path::PathBuf;

use crate::cache::Inputs;
use crate::lock;
use crate::progress::phase;
use crate::tools::{ToolsError, unpack};
use crate::workshop::Workshop;

/// `cosign`, as `tests/clients.lock` names it.
///
/// # Errors
/// [`ToolsError`] by cause.
pub fn cosign(shop: &Workshop<'_>) -> Result<PathBuf, ToolsError> {
    let pin = lock::pin_of(&shop.checkout.path("tests/clients.lock"), "cosign")?;
    phase(shop.progress, "cosign", || {
        let source = shop.archive.fetch(&pin)?;
        let inputs = Inputs::of("clients", 1).text(&source.package, &source.sha256.to_string());
        let entry = shop.cache.entry("clients", inputs.key(), |dir| unpack(shop, &[source], dir))?;
        Ok((entry.path.join("usr/bin/cosign"), entry.cached))
    })
}
