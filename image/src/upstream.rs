//! The upstream source that the demonstration builds: zlib's tarball as Debian's source package carries it.

use crate::apt::{AptError, Fetched};
use crate::lock::{self, LockError};
use crate::progress::phase;
use crate::workshop::Workshop;

/// The tarball could not be had.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The source lock cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The package could not be had.
    #[error(transparent)]
    Apt(#[from] AptError),
}

/// The tarball of zlib that `image/source.lock` names by digest, in the cache.
///
/// # Errors
/// [`UpstreamError`] by cause.
pub fn zlib(shop: &Workshop<'_>) -> Result<Fetched, UpstreamError> {
    let pin = lock::pin_of(&shop.checkout.path("image/source.lock"), "zlib")?;
    phase(shop.progress, "zlib source", || {
        let source = shop.archive.fetch(&pin)?;
        let cached = source.cached;
        Ok((source, cached))
    })
}
