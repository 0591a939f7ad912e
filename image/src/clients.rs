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

/// What `systemd-measure` consists of: itself and the libraries that it needs, the C library's loader among them.
const SYSTEMD_MEASURE: [&str; 17] = [
    "libacl1",
    "libaudit1",
    "libblkid1",
    "libc6",
    "libcap-ng0",
    "libcap2",
    "libcrypt1",
    "libmount1",
    "libpam0g",
    "libpcre2-8-0",
    "libseccomp2",
    "libselinux1",
    "libssl3t64",
    "libsystemd-shared",
    "libzstd1",
    "systemd",
    "zlib1g",
];

/// The directory that holds `systemd-measure` and its libraries, as `tests/clients.lock` names them.
///
/// # Errors
/// [`ToolsError`] by cause.
pub fn systemd_measure(shop: &Workshop<'_>) -> Result<PathBuf, ToolsError> {
    let lock = shop.checkout.path("tests/clients.lock");
    phase(shop.progress, "systemd-measure", || {
        let mut sources = Vec::new();
        for package in SYSTEMD_MEASURE {
            sources.push(shop.archive.fetch(&lock::pin_of(&lock, package)?)?);
        }
        let inputs = Inputs::of("systemd-measure", 1);
        let inputs = sources.iter().fold(inputs, |inputs, f| inputs.text(&f.package, &f.sha256.to_string()));
        let entry = shop.cache.entry("clients", inputs.key(), |dir| unpack(shop, &sources, dir))?;
        Ok((entry.path, entry.cached))
    })
}
