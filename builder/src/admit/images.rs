//! Toolchain images: read-only disks, each found by its serial number, or partitions, found by their name; believed only through
//! the dm-verity root hash.

use std::collections::BTreeMap;
use std::fs::{read_dir, read_to_string};
use std::io;
use std::path::{Path, PathBuf};

use kiln_formats::digest::Sha256Digest;
use kiln_sandbox::DetachedTree;
use kiln_sandbox::verity::{self, VerifiedImage};

use crate::partitions;

/// How many hex digits of the root hash are a disk's serial number or a partition's name: what a virtio disk can carry.
/// Source: Virtio 1.2, section 5.2.6 (`VIRTIO_BLK_T_GET_ID`, 20 bytes).
const SERIAL_DIGITS: usize = 20;
/// What virtio disks are called.
const DISK_PREFIX: &str = "vd";

/// Why there is no such image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No disk has the serial number of this root hash, and no partition its name.
    #[error("no disk is the image with root hash {root_hash}")]
    Missing {
        /// The image.
        root_hash: Sha256Digest,
    },
    /// There is such a disk, and what it holds is another image.
    #[error("the disk that should be it is not the image with root hash {root_hash}")]
    RootHash {
        /// The image.
        root_hash: Sha256Digest,
    },
    /// The disks cannot be looked through.
    #[error("cannot look for the image with root hash {root_hash}")]
    Look {
        /// The image.
        root_hash: Sha256Digest,
        /// What the kernel said.
        source: io::Error,
    },
    /// The disk cannot be read, or holds no image at all.
    #[error("cannot open the image with root hash {root_hash}")]
    Open {
        /// The image.
        root_hash: Sha256Digest,
        /// What the sandbox said.
        source: verity::Error,
    },
    /// Something on the disk is no longer what the root hash says.
    #[error("the image with root hash {root_hash} was damaged while it was used")]
    Damaged {
        /// The image.
        root_hash: Sha256Digest,
    },
}

/// Where verified images come from.
pub trait Images {
    /// The file system with this dm-verity root hash, read-only and attached nowhere. Every read of it is verified.
    ///
    /// # Errors
    /// [`ImageError`].
    fn open(&mut self, root_hash: &Sha256Digest) -> Result<DetachedTree, ImageError>;

    /// Whether every read of an open image has verified so far.
    ///
    /// # Errors
    /// [`ImageError`] if it is not open or nobody can tell.
    fn is_intact(&self, root_hash: &Sha256Digest) -> Result<bool, ImageError>;
}

/// The disks of this machine. An image is opened once, however many steps run on it.
#[derive(Debug)]
pub(crate) struct Disks {
    block: PathBuf,
    devices: PathBuf,
    open: BTreeMap<Sha256Digest, VerifiedImage>,
}

impl Disks {
    /// Disks as the kernel lists them in `block` (sysfs), their nodes in `devices`.
    pub(crate) fn new(block: &Path, devices: &Path) -> Self {
        Self { block: block.into(), devices: devices.into(), open: BTreeMap::new() }
    }

    fn find(&self, root_hash: &Sha256Digest) -> io::Result<Option<PathBuf>> {
        let digits = root_hash.to_string();
        let wanted = digits.get(..SERIAL_DIGITS).unwrap_or(&digits);
        for entry in read_dir(&self.block)? {
            let name = entry?.file_name();
            if !name.to_string_lossy().starts_with(DISK_PREFIX) {
                continue;
            }
            if read_to_string(self.block.join(&name).join("serial"))?.trim_end() == wanted {
                return Ok(Some(self.devices.join(name)));
            }
        }
        let partition = partitions::named(&self.block, wanted)?.into_iter().next();
        Ok(partition.map(|name| self.devices.join(name)))
    }
}

impl Images for Disks {
    fn open(&mut self, root_hash: &Sha256Digest) -> Result<DetachedTree, ImageError> {
        let root_hash = *root_hash;
        if let Some(image) = self.open.get(&root_hash) {
            return Ok(image.tree().clone());
        }
        let found = self.find(&root_hash).map_err(|source| ImageError::Look { root_hash, source })?;
        let disk = found.ok_or(ImageError::Missing { root_hash })?;
        let image = verity::open(&disk, root_hash.as_bytes()).map_err(|source| match source {
            verity::Error::RootHash { .. } => ImageError::RootHash { root_hash },
            source => ImageError::Open { root_hash, source },
        })?;
        tracing::info!(disk = %disk.display(), "opened");
        let tree = image.tree().clone();
        self.open.insert(root_hash, image);
        Ok(tree)
    }

    fn is_intact(&self, root_hash: &Sha256Digest) -> Result<bool, ImageError> {
        let root_hash = *root_hash;
        let image = self.open.get(&root_hash).ok_or(ImageError::Missing { root_hash })?;
        image.is_intact().map_err(|source| ImageError::Look { root_hash, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_the_start_of_its_root_hash() {
        let block = tempfile::tempdir().unwrap();
        let (ours, other) = (Sha256Digest::of(b"ours"), Sha256Digest::of(b"other"));
        for (disk, serial) in [("sda", &ours), ("vda", &other), ("vdb", &ours)] {
            std::fs::create_dir(block.path().join(disk)).unwrap();
            let serial = serial.to_string();
            std::fs::write(block.path().join(disk).join("serial"), format!("{}\n", &serial[..20])).unwrap();
        }
        let disks = Disks::new(block.path(), Path::new("/dev"));
        assert_eq!(disks.find(&ours).unwrap(), Some("/dev/vdb".into()));
        assert_eq!(disks.find(&other).unwrap(), Some("/dev/vda".into()));
        assert_eq!(disks.find(&Sha256Digest::of(b"none")).unwrap(), None);
        let partition = block.path().join("nvme0n1/nvme0n1p2");
        std::fs::create_dir_all(&partition).unwrap();
        let name = Sha256Digest::of(b"none").to_string();
        std::fs::write(partition.join("uevent"), format!("PARTNAME={}\n", &name[..20])).unwrap();
        assert_eq!(disks.find(&Sha256Digest::of(b"none")).unwrap(), Some("/dev/nvme0n1p2".into()));
    }

    #[test]
    fn a_missing_disk_is_missing_and_nothing_else() {
        let block = tempfile::tempdir().unwrap();
        let opened = Disks::new(block.path(), Path::new("/dev")).open(&Sha256Digest::of(b"none"));
        assert!(matches!(opened, Err(ImageError::Missing { .. })));
    }
}
