//! An image with a site's signature: what a machine whose firmware enforces Secure Boot starts from.
//!
//! The image is the published one: PCR 4, 9 and 11 are the same as without the signature, so its reference values hold.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_attestor::site::path::SECURE_BOOT;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::timestamp::Timestamp;
use kiln_image::secure_boot::{self, Keys};
use kiln_image::{disk, progress::Progress};
use kiln_qemu::Tools;

use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::output::Output;

/// The signed UKI.
const UKI: &str = "kiln.efi";
/// The disk with the signed UKI on it.
const DISK: &str = "disk.img";
/// The firmware's variables with the site's keys enrolled.
const VARIABLES: &str = "variables.fd";
/// When a virtual machine's keys were enrolled: 2026-01-01T00:00:00Z, so that the same keys give the same store.
const ENROLLED_UNIX: i64 = 1_767_225_600;

/// A directory with the signed UKI, a disk with it, and the variables that allow it.
#[derive(Debug)]
pub(crate) struct Signed {
    directory: PathBuf,
    /// What firmware measures of the image, and what a revocation names.
    pub(crate) authenticode: Sha256Digest,
}

impl Signed {
    /// Signs `uki` with the site's db key and makes the directory `out` of all of it.
    pub(crate) fn create(site: &Path, uki: &Path, out: &Path, progress: &dyn Progress) -> Result<Self> {
        let output = Output::begin(out)?;
        let made = Self::make(site, uki, output.path(), progress)?;
        Ok(Self { directory: output.release()?, ..made })
    }

    /// Signs `uki` with the site's db key and writes all of it into `directory`, which must be there and empty.
    pub(crate) fn make(site: &Path, uki: &Path, directory: &Path, progress: &dyn Progress) -> Result<Self> {
        let keys = keys(site)?;
        // The programs that sign and write do not run where we run.
        let directory = &directory.canonicalize().or_exit(Exit::Usage)?;
        let signed = Self { directory: directory.to_owned(), authenticode: Sha256Digest::of(&[]) };
        let authenticode = secure_boot::sign(&keys, uki, &signed.uki(), progress).or_exit(Exit::Usage)?;
        disk::write(progress, &signed.uki(), directory).or_exit(Exit::Infrastructure)?;
        fs::write(signed.variables(), variables(&keys)?).or_exit(Exit::Infrastructure)?;
        Ok(Self { authenticode, ..signed })
    }

    /// The signed UKI.
    pub(crate) fn uki(&self) -> PathBuf {
        self.directory.join(UKI)
    }

    /// The disk with it.
    pub(crate) fn disk(&self) -> PathBuf {
        self.directory.join(DISK)
    }

    /// The firmware's variables.
    pub(crate) fn variables(&self) -> PathBuf {
        self.directory.join(VARIABLES)
    }
}

/// The keys of a site.
pub(crate) fn keys(site: &Path) -> Result<Keys> {
    let directory = site.join(SECURE_BOOT);
    let missing = |source| Problem::Io { action: "read", path: directory.clone(), source };
    Keys::open(&directory.canonicalize().map_err(missing).or_exit(Exit::Usage)?).or_exit(Exit::Usage)
}

/// The variables of a virtual machine that starts what the site allows.
fn variables(keys: &Keys) -> Result<Vec<u8>> {
    let tools = Tools::find(&std::env::var_os("PATH").unwrap_or_default()).or_exit(Exit::Infrastructure)?;
    let template = fs::read(&tools.firmware_variables).or_exit(Exit::Infrastructure)?;
    let time = Timestamp::from_unix(ENROLLED_UNIX).or_exit(Exit::Infrastructure)?;
    secure_boot::enrolled(&template, &keys.databases().or_exit(Exit::Usage)?, time).or_exit(Exit::Infrastructure)
}
