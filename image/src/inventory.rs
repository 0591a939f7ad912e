//! What an image consists of: every part, by a path-like name, with its digest.
//!
//! | part | what |
//! |-|-|
//! | `kernel`, `init`, `initrd`, `uki`, `disk` | the files |
//! | `initrd/NAME` | a file of the initrd |
//! | `uki/.NAME` | a section of the UKI |
//! | `disk/table`, `disk/esp`, `disk/esp/NAME` | the partition table, the partition, a file in it |
//!
//! Published with an image, an [`Inventory`] is enough to say in which part another one differs. Deliberately absent: what a
//! difference means, which is [`crate::check`].

use std::collections::BTreeMap;
use std::path::Path;

use kiln_formats::digest::Sha256Digest;
use serde::{Deserialize, Serialize};

use crate::command::{CommandError, Tool};
use crate::cpio;
use crate::disk::{PARTITION_BYTES, PARTITION_OFFSET_BYTES, UKI_PATH};
use crate::files::{self, FileError};
use crate::initrd::{self, InitrdError};
use crate::progress::Progress;
use crate::reference::{self, ReferenceError};

/// One part: how long, and which bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its length.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Sha256Digest,
}

/// Every part, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inventory {
    /// The parts.
    pub parts: BTreeMap<String, Part>,
}

/// The files of an image.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// PID 1's program.
    pub init: &'a Path,
    /// The initrd.
    pub initrd: &'a Path,
    /// The UKI.
    pub uki: &'a Path,
    /// The boot disk.
    pub disk: &'a Path,
}

impl<'a> Files<'a> {
    /// Each with its name in an inventory.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &'a Path); 5] {
        [("kernel", self.kernel), ("init", self.init), ("initrd", self.initrd), ("uki", self.uki), ("disk", self.disk)]
    }
}

/// A part could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The initrd could not be unpacked.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// The UKI could not be read.
    #[error(transparent)]
    Uki(#[from] ReferenceError),
    /// The file on the disk could not be read.
    #[error(transparent)]
    Disk(#[from] CommandError),
}

impl Part {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, sha256: Sha256Digest::of(bytes) }
    }
}

impl Inventory {
    /// Looks into every file of an image.
    ///
    /// # Errors
    /// [`InventoryError`] by cause.
    pub fn of(files: &Files<'_>, progress: &dyn Progress) -> Result<Self, InventoryError> {
        let mut parts = BTreeMap::new();
        for (name, path) in files.named() {
            let (sha256, bytes) = files::digest(path)?;
            parts.insert(name.to_owned(), Part { bytes, sha256 });
        }
        let archive = initrd::unpack(&files::read(files.initrd)?)?;
        for (name, content) in cpio::entries(&archive).filter(|(_, content)| !content.is_empty()) {
            parts.insert(format!("initrd/{}", String::from_utf8_lossy(name)), Part::of(content));
        }
        for section in reference::sections(&files::read(files.uki)?)? {
            parts.insert(format!("uki/{}", section.name), Part { bytes: section.bytes, sha256: section.sha256 });
        }
        let disk = files::read(files.disk)?;
        let (start, length) = (to_usize(PARTITION_OFFSET_BYTES), to_usize(PARTITION_BYTES));
        let (table, rest) = disk.split_at(start.min(disk.len()));
        let (partition, behind) = rest.split_at(length.min(rest.len()));
        parts.insert("disk/table".to_owned(), Part::of(&[table, behind].concat()));
        parts.insert("disk/esp".to_owned(), Part::of(partition));
        parts.insert(format!("disk/esp/{UKI_PATH}"), Part::of(&on_disk(files.disk, progress)?));
        Ok(Self { parts })
    }
}

/// The file that firmware starts, as it is on the disk.
fn on_disk(disk: &Path, progress: &dyn Progress) -> Result<Vec<u8>, InventoryError> {
    let dir = files::scratch()?;
    let copy = dir.path().join("uki");
    let image = format!("@@{PARTITION_OFFSET_BYTES}");
    let mut of_disk = disk.as_os_str().to_owned();
    of_disk.push(image);
    Tool::new("mcopy").arg("-i").arg(of_disk).arg(format!("::/{UKI_PATH}")).arg(&copy).run(progress)?;
    Ok(files::read(&copy)?)
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
