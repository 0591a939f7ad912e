//! The UKI: kernel, initrd, command line and name in one file that firmware starts and measures.
//!
//! The same for every site: it holds nobody's keys. Deliberately absent: a signature, which a site adds for Secure Boot.

use std::path::{Path, PathBuf};

use crate::cache::Inputs;
use crate::command::CommandError;
use crate::files::{self, FileError};
use crate::flavour::Flavour;
use crate::kernel::Kernel;
use crate::progress::phase;
use crate::tools::ImageTools;
use crate::workshop::Workshop;

/// 2026-01-01 00:00:00 UTC, as in `mkosi.conf`.
pub(crate) const EPOCH: &str = "1767225600";
/// The file that names the image.
const OS_RELEASE: &str = "image/mkosi.skeleton/usr/lib/os-release";

/// The UKI could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UkiError {
    /// A file could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// ukify failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The UKI is larger than it may be.
    #[error("the UKI has {bytes} bytes, more than {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
}

/// The kernel's command line in a flavour's image, without its line end.
///
/// # Errors
/// [`FileError`] if it cannot be read.
pub fn command_line(shop: &Workshop<'_>, flavour: Flavour) -> Result<String, FileError> {
    files::read_text(&shop.checkout.path(flavour.cmdline())).map(|text| text.trim().to_owned())
}

/// Joins kernel and initrd, or takes the UKI from the cache. Returns the file.
///
/// # Errors
/// [`UkiError`] by cause.
pub fn build(
    shop: &Workshop<'_>,
    flavour: Flavour,
    tools: &ImageTools,
    kernel: &Kernel,
    initrd: &Path,
) -> Result<PathBuf, UkiError> {
    phase(shop.progress, "UKI", || {
        let cmdline = command_line(shop, flavour)?;
        let inputs = tools.inputs(Inputs::of("uki", 1)).text("cmdline", &cmdline).text("release", &kernel.release);
        let inputs = inputs.file("kernel", &kernel.image)?.file("initrd", initrd)?;
        let key = inputs.file("os-release", &shop.checkout.path(OS_RELEASE))?.key();
        let entry = shop.cache.entry("uki", key, |dir| {
            let output = dir.join("kiln.efi");
            let ukify = tools.ukify().arg("build").env("SOURCE_DATE_EPOCH", EPOCH);
            let ukify = ukify.arg_path("--linux=", &kernel.image).arg_path("--initrd=", initrd);
            let ukify = ukify.arg(format!("--cmdline={cmdline}")).arg(format!("--uname={}", kernel.release));
            let ukify =
                ukify.arg_path("--os-release=@", &shop.checkout.path(OS_RELEASE)).arg_path("--stub=", &tools.stub());
            ukify.arg_path("--output=", &output).run(shop.progress)?;
            let (_, bytes) = files::digest(&output)?;
            let bytes_max = flavour.uki_bytes_max();
            if bytes > bytes_max { Err(UkiError::TooLarge { bytes, bytes_max }) } else { Ok(()) }
        })?;
        Ok((entry.path.join("kiln.efi"), entry.cached))
    })
}
