//! The whole image, from sources to the values it must leave in the TPM.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kiln_formats::digest::Sha256Digest;
use kiln_formats::reference::PcrReference;
use serde::{Deserialize, Serialize};

use crate::appliance::{self, ApplianceError};
use crate::apt::Fetched;
use crate::disk::{self, DiskError};
use crate::files::{self, FileError};
use crate::flavour::Flavour;
use crate::initrd::{self, InitrdError};
use crate::inputs::{self, Input, InputsError};
use crate::inventory::{Files, Inventory, InventoryError};
use crate::kernel::{self, KernelError};
use crate::reference::{self, ReferenceError};
use crate::tools::{ImageTools, ToolsError};
use crate::tss::{self, TssError};
use crate::uki::{self, UkiError};
use crate::workshop::Workshop;

/// The image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The kernel.
    #[error("cannot make the kernel")]
    Kernel(#[from] KernelError),
    /// The TPM library.
    #[error("cannot make the TPM library")]
    Tss(#[from] TssError),
    /// The appliance's program.
    #[error("cannot make the appliance's program")]
    Appliance(#[from] ApplianceError),
    /// The programs that assemble the image.
    #[error("cannot get the image tools")]
    Tools(#[from] ToolsError),
    /// The initrd.
    #[error("cannot make the initrd")]
    Initrd(#[from] InitrdError),
    /// The UKI.
    #[error("cannot make the UKI")]
    Uki(#[from] UkiError),
    /// The boot disk.
    #[error("cannot make the boot disk")]
    Disk(#[from] DiskError),
    /// The reference values.
    #[error("cannot compute the reference values")]
    Reference(#[from] ReferenceError),
    /// What the image consists of.
    #[error("cannot list the parts of the image")]
    Inventory(#[from] InventoryError),
    /// What went into the image.
    #[error("cannot list what the image was made from")]
    Inputs(#[from] InputsError),
    /// A finished file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A finished file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Artifact {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Sha256Digest,
}

/// The image and all that went into it.
#[derive(Debug, Clone, Serialize)]
pub struct Image {
    /// Kernel, initrd and command line in one: what firmware starts, and what evidence names.
    pub uki: Artifact,
    /// A disk that firmware boots the UKI from.
    pub disk: Artifact,
    /// The kernel, for a direct start.
    pub kernel: Artifact,
    /// The initrd, for a direct start.
    pub initrd: Artifact,
    /// PID 1's program in the initrd.
    pub init: Artifact,
    /// The kernel's command line.
    pub cmdline: String,
    /// The kernel's release.
    pub kernel_release: String,
    /// Whether every source is the one that the locks name. If not, the image is another one than was published.
    pub pinned: bool,
    /// The packages that the image was made from and with.
    pub sources: Vec<Fetched>,
    /// What booting the UKI must leave in the SHA-256 bank, by register number.
    pub pcrs: BTreeMap<String, PcrReference>,
    /// Every part, by which another image can be told apart.
    pub parts: Inventory,
    /// Everything that went into it.
    pub inputs: Vec<Input>,
}

impl Image {
    /// Its files.
    #[must_use]
    pub fn files(&self) -> Files<'_> {
        let [kernel, init, initrd, uki, disk] =
            [&self.kernel, &self.init, &self.initrd, &self.uki, &self.disk].map(|file| file.path.as_path());
        Files { kernel, init, initrd, uki, disk }
    }

    /// What is published with it.
    #[must_use]
    pub fn published(&self) -> Published {
        Published {
            uki: self.uki.clone(),
            disk: self.disk.clone(),
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            init: self.init.clone(),
            cmdline: self.cmdline.clone(),
            kernel_release: self.kernel_release.clone(),
            pinned: self.pinned,
            parts: self.parts.clone(),
            inputs: self.inputs.clone(),
        }
    }
}

/// What is published with an image: what `kiln build image --json` printed, as far as others need it.
#[derive(Debug, Clone, Deserialize)]
pub struct Published {
    /// The UKI.
    pub uki: Artifact,
    /// The boot disk.
    pub disk: Artifact,
    /// The kernel.
    pub kernel: Artifact,
    /// The initrd.
    pub initrd: Artifact,
    /// PID 1's program.
    pub init: Artifact,
    /// The kernel's command line.
    pub cmdline: String,
    /// The kernel's release.
    pub kernel_release: String,
    /// Whether every source was the one that the locks name.
    pub pinned: bool,
    /// Every part.
    pub parts: Inventory,
    /// Everything that went into it.
    pub inputs: Vec<Input>,
}

impl Published {
    /// Its files, each with its name in the inventory.
    #[must_use]
    pub fn files(&self) -> [(&'static str, &Artifact); 5] {
        [
            ("uki", &self.uki),
            ("disk", &self.disk),
            ("kernel", &self.kernel),
            ("initrd", &self.initrd),
            ("init", &self.init),
        ]
    }
}

/// Makes a flavour's image. What was made before from the same inputs is checked and taken from the cache.
///
/// # Errors
/// [`BuildError`] by the part that failed.
pub fn image(shop: &Workshop<'_>, flavour: Flavour) -> Result<Image, BuildError> {
    let kernel = kernel::build(shop, flavour)?;
    let tss = tss::build(shop)?;
    let program = appliance::build(shop, flavour, &tss)?;
    let tools = ImageTools::fetch(shop)?;
    let initrd = initrd::build(shop, &tools, &program)?;
    let uki = uki::build(shop, flavour, &tools, &kernel, &initrd)?;
    let disk = disk::build(shop, &uki)?;

    let pcrs = reference::image_registers(&files::read(&uki)?)?;
    let files = Files { kernel: &kernel.image, init: &program.path, initrd: &initrd, uki: &uki, disk: &disk };
    let parts = Inventory::of(&files, shop.progress)?;
    let sources: Vec<Fetched> = [kernel.source.clone(), tss.source].into_iter().chain(tools.sources).collect();
    Ok(Image {
        uki: artifact(&uki)?,
        disk: artifact(&disk)?,
        kernel: artifact(&kernel.image)?,
        initrd: artifact(&initrd)?,
        init: Artifact { path: program.path, bytes: program.bytes, sha256: program.sha256 },
        cmdline: uki::command_line(shop, flavour)?,
        kernel_release: kernel.release.clone(),
        pinned: sources.iter().all(|source| source.pinned),
        inputs: inputs::list(shop, flavour, &kernel, &sources)?,
        sources,
        pcrs,
        parts,
    })
}

fn artifact(path: &Path) -> Result<Artifact, FileError> {
    let (sha256, bytes) = files::digest(path)?;
    Ok(Artifact { path: path.to_path_buf(), bytes, sha256 })
}
