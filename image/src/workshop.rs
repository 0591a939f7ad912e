//! What every part of the work needs: the source tree, the cache, the archive and somebody who watches.

use crate::apt::Archive;
use crate::cache::Cache;
use crate::checkout::Checkout;
use crate::progress::Progress;

/// The means to make an image. Making one touches the cache, the checkout's `target/` and nothing else.
pub struct Workshop<'a> {
    /// The source tree.
    pub checkout: &'a Checkout,
    /// What was made before.
    pub cache: &'a Cache,
    /// Debian's packages.
    pub archive: Archive<'a>,
    /// Who watches.
    pub progress: &'a dyn Progress,
}

impl<'a> Workshop<'a> {
    /// Puts the means together. Does nothing yet.
    #[must_use]
    pub fn new(checkout: &'a Checkout, cache: &'a Cache, progress: &'a dyn Progress) -> Self {
        Self { checkout, cache, archive: Archive::new(cache, progress), progress }
    }

    /// As many jobs as the machine has processors.
    pub(crate) fn jobs() -> String {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get).to_string()
    }
}
