//! Opens an image disk as what its root hash says it is, or not at all.
//!
//! The disk holds an EROFS image and right behind it a verity superblock and hash tree (sha256, blocks of 4096 bytes), as
//! `veritysetup format --hash-offset` writes them. Nothing is copied or hashed up front: the kernel verifies each block when it is
//! read, and a block that does not match is an I/O error. Holding a [`VerifiedImage`] means that its first block verified.

mod superblock;

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use thiserror::Error;
use zeroize::Zeroizing;

pub use superblock::Error as SuperblockError;

use crate::device::{Device, Target};
use crate::tree::DetachedTree;
use superblock::{BLOCK_BYTES, Erofs, Verity};

/// Why an image was not opened.
#[derive(Debug, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what its fields are")]
pub enum Error {
    #[error("image disk {disk} is not a block device")]
    NotADisk { disk: String },
    #[error("cannot read image disk {disk}")]
    Read { disk: String, source: io::Error },
    #[error("image disk {disk} is not laid out as an image")]
    Superblock { disk: String, source: SuperblockError },
    #[error("cannot make the verity device of image {root_hash}")]
    Device { root_hash: String, source: io::Error },
    #[error("image disk {disk} does not have root hash {root_hash}")]
    RootHash { disk: String, root_hash: String },
    #[error("cannot mount image {root_hash}")]
    Mount { root_hash: String, source: io::Error },
}

/// An image that is verified as it is read, mounted nowhere. Dropped, its device goes with its last user.
#[derive(Debug)]
pub struct VerifiedImage {
    // Before the device: it is the device's user.
    tree: DetachedTree,
    device: Device,
}

impl VerifiedImage {
    /// The image as a step's root or mount; its name in records is `image:` and the root hash.
    #[must_use]
    pub fn tree(&self) -> &DetachedTree {
        &self.tree
    }

    /// Whether no read of it has failed verification so far. A step may have seen such a failure as an I/O error.
    ///
    /// # Errors
    /// If device-mapper does not answer.
    pub fn is_intact(&self) -> io::Result<bool> {
        self.device.is_intact()
    }
}

/// Opens the image on `disk` under `root_hash`. Needs `/proc`, and a kernel with dm-verity and EROFS.
///
/// # Errors
/// [`Error::RootHash`] if the first block does not verify, or the verified image states another size than the unverified one.
pub fn open(disk: &Path, root_hash: &[u8; 32]) -> Result<VerifiedImage, Error> {
    let name = || disk.display().to_string();
    let hash = || hex::encode(root_hash);
    let read = |source| Error::Read { disk: name(), source };
    let superblock = |source| Error::Superblock { disk: name(), source };
    // Not blocking, so that a path to a fifo is an error and not a wait.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(disk).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.file_type().is_block_device() {
        return Err(Error::NotADisk { disk: name() });
    }
    let bytes = file.seek(SeekFrom::End(0)).map_err(read)?;
    let erofs = Erofs::parse(&block(&mut file, 0).map_err(read)?).map_err(superblock)?;
    if bytes < erofs.verity_offset() + BLOCK_BYTES {
        let needed = erofs.verity_offset() + BLOCK_BYTES;
        return Err(superblock(SuperblockError::Truncated { found: bytes, needed }));
    }
    let behind = block(&mut file, erofs.verity_offset()).map_err(read)?;
    let verity = Verity::parse(&behind, erofs, bytes).map_err(superblock)?;
    drop(file);

    let label = hex::encode(root_hash.first_chunk::<8>().unwrap_or(&[0; 8]));
    let device = Device::create(&label, &target(metadata.rdev(), &verity, root_hash))
        .map_err(|source| Error::Device { root_hash: hash(), source })?;
    let wrong = || Error::RootHash { disk: name(), root_hash: hash() };
    let mut verified = device.open().map_err(|source| Error::Device { root_hash: hash(), source })?;
    let first = match block(&mut verified, 0) {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => return Err(wrong()),
        first => first.map_err(read)?,
    };
    drop(verified);
    if Erofs::parse(&first) != Ok(erofs) {
        return Err(wrong());
    }
    let tree = mount(&device, &hash()).map_err(|source| Error::Mount { root_hash: hash(), source })?;
    Ok(VerifiedImage { tree, device })
}

fn block(file: &mut File, offset: u64) -> io::Result<[u8; BLOCK_BYTES as usize]> {
    let mut bytes = [0; BLOCK_BYTES as usize];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The verity target over `disk` (its device number), for data and hashes alike. Source:
/// Documentation/admin-guide/device-mapper/verity.rst.
fn target(disk: u64, verity: &Verity, root_hash: &[u8; 32]) -> Target {
    let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
    let blocks = u64::from(verity.blocks);
    let mut parameters =
        format!("1 {major}:{minor} {major}:{minor} {BLOCK_BYTES} {BLOCK_BYTES} {blocks} {} sha256 ", blocks + 1);
    let salt = if verity.salt.is_empty() { "-".to_owned() } else { hex::encode(&verity.salt) };
    // Writing to a String cannot fail.
    let _ = write!(parameters, "{} {salt}", hex::encode(root_hash));
    let parameters = Zeroizing::new(parameters);
    Target { kind: "verity", sectors: blocks * (BLOCK_BYTES / 512), read_only: true, parameters }
}

fn mount(device: &Device, hash: &str) -> io::Result<DetachedTree> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", device.path())?;
    fsconfig_set_flag(context.as_fd(), "ro")?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(DetachedTree::new(mount, format!("image:{hash}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_says_what_dm_verity_expects() {
        let verity = Verity { blocks: 33_815, salt: vec![0xA9, 0xCA] };
        let target = target(rustix::fs::makedev(254, 16), &verity, &[0x9E; 32]);
        let expected = format!("1 254:16 254:16 4096 4096 33815 33816 sha256 {} a9ca", "9e".repeat(32));
        assert_eq!((target.parameters.as_str(), target.sectors), (expected.as_str(), 33_815 * 8));
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        assert!(matches!(open(Path::new("/dev/null"), &[0; 32]), Err(Error::NotADisk { .. })));
        assert!(matches!(open(Path::new("/nonexistent"), &[0; 32]), Err(Error::Read { .. })));
    }
}
