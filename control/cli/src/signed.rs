//! An image with a site's signature: what a machine whose firmware enforces Secure Boot starts from.
//!
//! The image is the published one: a signature is no part of what is measured of it. What firmware does differs: it measures its keys
//! and which of them let the image start (PCR 7), and leaves the kernel in the image to the image (PCR 4 has an event less).

use std::fs;
use std::path::{Path, PathBuf};

use kiln_attestor::site::path::SECURE_BOOT;
use kiln_attestor::site::{Site, boot_reference};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::pcr::{Bank, PcrIndex};
use kiln_formats::prediction::{MachineDescription, SecureBoot};
use kiln_formats::reference::{MachineReference, Reference};
use kiln_formats::timestamp::Timestamp;
use kiln_image::disk::{self, Contents};
use kiln_image::progress::Progress;
use kiln_image::reference::{self, Variables};
use kiln_image::secure_boot::{self, Database, Keys, Variable};
use kiln_qemu::Tools;

use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::image::read_uki;
use crate::output::Output;

/// The signed UKI.
const UKI: &str = "kiln.efi";
/// The disk with the signed UKI on it.
const DISK: &str = "disk.img";
/// The firmware's variables with the site's keys enrolled.
const VARIABLES: &str = "variables.fd";
/// What is predicted of the boot: image, Secure Boot, command line and initrd, the image's sections.
const REGISTERS: [&str; 4] = ["4", "7", "9", "11"];
/// When a virtual machine's keys were enrolled: 2026-01-01T00:00:00Z, so that the same keys give the same store.
const ENROLLED_UNIX: i64 = 1_767_225_600;

/// A directory with the signed UKI, a disk with it, and the variables that allow it.
#[derive(Debug)]
pub(crate) struct Signed {
    directory: PathBuf,
    /// What firmware measures of the image, and what a revocation names.
    pub(crate) authenticode: Sha256Digest,
    /// What the firmware has enrolled.
    databases: Vec<(Variable, Database)>,
}

impl Signed {
    /// Signs `uki` with the site's db key and makes the directory `out` of all of it.
    pub(crate) fn create(site: &Path, uki: &Path, out: &Path, progress: &dyn Progress) -> Result<Self> {
        let output = Output::begin(out)?;
        let made = Self::make(site, uki, &Contents::default(), output.path(), progress)?;
        Ok(Self { directory: output.release()?, ..made })
    }

    /// Signs `uki` with the site's db key and writes all of it into `directory`, which must be there and empty.
    pub(crate) fn make(
        site: &Path,
        uki: &Path,
        contents: &Contents<'_>,
        directory: &Path,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let keys = keys(site)?;
        // The programs that sign and write do not run where we run.
        let directory = &directory.canonicalize().or_exit(Exit::Usage)?;
        let databases = keys.databases().or_exit(Exit::Usage)?;
        let signed = directory.join(UKI);
        let authenticode = secure_boot::sign(&keys, uki, &signed, progress).or_exit(Exit::Usage)?;
        disk::write(progress, &signed, contents, directory).or_exit(Exit::Infrastructure)?;
        fs::write(directory.join(VARIABLES), variables(&databases)?).or_exit(Exit::Infrastructure)?;
        Ok(Self { directory: directory.clone(), authenticode, databases })
    }

    /// Adds to the site's reference values of an image what this signed form of it must yield.
    pub(crate) fn reference(&self, site: &Site, builder_id: &str, mut reference: Reference) -> Result<Reference> {
        let machine = self.machine(site, builder_id, reference.init_sha256, None)?;
        if !reference.machines.contains(&machine) {
            reference.machines.retain(|known| known.builder_id != machine.builder_id);
            reference.machines.push(machine);
            site.add_reference(&reference).or_exit(Exit::Infrastructure)?;
        }
        Ok(reference)
    }

    /// What a machine that starts this signed image must yield: PCR 4, 7, 9, 11 and 15.
    pub(crate) fn machine(
        &self,
        site: &Site,
        builder_id: &str,
        init_sha256: Sha256Digest,
        uplink: Option<Sha256Digest>,
    ) -> Result<MachineReference> {
        let contents = |name: &str| {
            let found = self.databases.iter().find(|(variable, _)| variable.name() == name);
            found.map(|(_, database)| database.to_bytes()).unwrap_or_default()
        };
        let variables = Variables::new(Variables::NAMES.map(contents)).or_exit(Exit::Infrastructure)?;
        let machine = MachineDescription {
            secure_boot: SecureBoot::On,
            banks: vec![Bank::Sha256],
            ..MachineDescription::default()
        };
        let predicted = reference::predict(&read_uki(&self.uki())?, &machine, &variables).or_exit(Exit::Usage)?;
        let mut pcrs = predicted.sha256().or_exit(Exit::Infrastructure)?;
        pcrs.retain(|register, _| REGISTERS.contains(&register.as_str()));
        let boot = boot_reference(site.directory(), builder_id, init_sha256, uplink);
        pcrs.insert(PcrIndex::RUNTIME.get().to_string(), boot.or_exit(Exit::Infrastructure)?);
        Ok(MachineReference { builder_id: builder_id.to_owned(), pcrs })
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
fn variables(databases: &[(Variable, Database)]) -> Result<Vec<u8>> {
    let tools = Tools::find(&std::env::var_os("PATH").unwrap_or_default()).or_exit(Exit::Infrastructure)?;
    let template = fs::read(&tools.firmware_variables).or_exit(Exit::Infrastructure)?;
    let time = Timestamp::from_unix(ENROLLED_UNIX).or_exit(Exit::Infrastructure)?;
    secure_boot::enrolled(&template, databases, time).or_exit(Exit::Infrastructure)
}
