//! One dm-verity device, made and removed through device-mapper's ioctls. No `/dev` of anyone's is needed: the nodes are made in
//! a tmpfs that only we hold.
//!
//! Source: include/uapi/linux/dm-ioctl.h; Documentation/admin-guide/device-mapper/verity.rst.

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Mode, OFlags, makedev, mknodat, openat};
use rustix::mount::MountAttrFlags;

use super::superblock::{BLOCK_BYTES, Verity};
use crate::sys;
use crate::tree::tmpfs;

/// `MISC_MAJOR` and `MAPPER_CTRL_MINOR`.
const CONTROL: (u32, u32) = (10, 236);
/// `_IOWR(DM_IOCTL, nr, struct dm_ioctl)` without the number: a structure of 312 bytes, type 0xfd.
const IOCTL: u64 = 0xC138_FD00;
const DEV_CREATE: u64 = 3;
const DEV_REMOVE: u64 = 4;
const DEV_SUSPEND: u64 = 6;
const TABLE_LOAD: u64 = 9;
const TABLE_STATUS: u64 = 12;
/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1;
/// `DM_DEFERRED_REMOVE`: as soon as nobody has it open.
const DEFERRED: u32 = 1 << 17;
/// Fields of `struct dm_ioctl`, by offset, and its size.
const VERSION: usize = 0;
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
const NAME: usize = 48;
const HEADER_BYTES: usize = 312;
/// Size of `struct dm_target_spec`.
const TARGET_BYTES: usize = 40;
/// Room for a table or a status line.
const DATA_BYTES: usize = 2048;
/// Sectors of a block.
const SECTORS: u64 = BLOCK_BYTES / 512;

/// A live dm-verity device. Removed when dropped, or when its last user is gone.
#[derive(Debug)]
pub(super) struct Device {
    control: File,
    nodes: OwnedFd,
    name: String,
}

impl Device {
    /// Makes a device over `disk` (its device number), for data and hashes alike.
    pub(super) fn create(disk: u64, verity: &Verity, root_hash: &[u8; 32]) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let options = [("size", "64k".to_owned()), ("mode", "0700".to_owned())];
        let nodes = tmpfs(&options, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
        let control = node(&nodes, "control", FileType::CharacterDevice, makedev(CONTROL.0, CONTROL.1), OFlags::RDWR)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "kiln-{}-{}-{number}",
            hex::encode(root_hash.first_chunk::<8>().unwrap_or(&[0; 8])),
            std::process::id()
        );
        let device = Self { control, nodes, name };
        let made = device.call(DEV_CREATE, READ_ONLY, 0, &[])?;
        device.call(TABLE_LOAD, READ_ONLY, 1, &table(disk, verity, root_hash))?;
        // Without DM_SUSPEND_FLAG this resumes: the table becomes live.
        device.call(DEV_SUSPEND, READ_ONLY, 0, &[])?;
        let encoded = u64::from_ne_bytes(bytes(&made, DEVICE));
        // new_encode_dev. Source: include/linux/kdev_t.h.
        let (major, minor) = ((encoded >> 8) & 0xFFF, (encoded & 0xFF) | ((encoded >> 12) & 0xFFF00));
        node(&device.nodes, "image", FileType::BlockDevice, makedev(major as u32, minor as u32), OFlags::RDONLY)?;
        Ok(device)
    }

    /// Opens the verified contents.
    pub(super) fn open(&self) -> io::Result<File> {
        Ok(openat(&self.nodes, "image", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// A path to the block device for this process, as mounting asks for one.
    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}/image", self.nodes.as_raw_fd())
    }

    /// Whether no read has failed verification yet.
    pub(super) fn is_intact(&self) -> io::Result<bool> {
        let answer = self.call(TABLE_STATUS, 0, 0, &[])?;
        // The verity target's status is one letter: V (valid) or C (corruption).
        Ok(answer.get(HEADER_BYTES + TARGET_BYTES) == Some(&b'V'))
    }

    fn call(&self, command: u64, flags: u32, targets: u32, data: &[u8]) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; HEADER_BYTES + DATA_BYTES];
        put(&mut buffer, VERSION, &4_u32.to_ne_bytes());
        put(&mut buffer, DATA_SIZE, &((HEADER_BYTES + DATA_BYTES) as u32).to_ne_bytes());
        put(&mut buffer, DATA_START, &(HEADER_BYTES as u32).to_ne_bytes());
        put(&mut buffer, TARGET_COUNT, &targets.to_ne_bytes());
        put(&mut buffer, FLAGS, &flags.to_ne_bytes());
        put(&mut buffer, NAME, self.name.as_bytes());
        put(&mut buffer, HEADER_BYTES, data);
        sys::device_mapper(&self.control, IOCTL | command, &mut buffer)?;
        Ok(buffer)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // While something has it open the kernel remembers to remove it; there is nobody to tell of another failure.
        let _ = self.call(DEV_REMOVE, DEFERRED, 0, &[]);
    }
}

/// Makes and opens a device node in a directory of ours.
fn node(nodes: &OwnedFd, name: &str, kind: FileType, device: u64, flags: OFlags) -> io::Result<File> {
    mknodat(nodes, name, kind, Mode::from_raw_mode(0o600), device)?;
    Ok(openat(nodes, name, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// `struct dm_target_spec` and the parameters of the verity target.
fn table(disk: u64, verity: &Verity, root_hash: &[u8; 32]) -> Vec<u8> {
    let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
    let blocks = u64::from(verity.blocks);
    let mut parameters =
        format!("1 {major}:{minor} {major}:{minor} {BLOCK_BYTES} {BLOCK_BYTES} {blocks} {} sha256 ", blocks + 1);
    let salt = if verity.salt.is_empty() { "-".to_owned() } else { hex::encode(&verity.salt) };
    // Writing to a String cannot fail.
    let _ = write!(parameters, "{} {salt}", hex::encode(root_hash));
    let mut spec = vec![0; TARGET_BYTES];
    put(&mut spec, 8, &(blocks * SECTORS).to_ne_bytes());
    put(&mut spec, 24, b"verity");
    spec.extend(parameters.as_bytes());
    spec.push(0);
    spec
}

/// Copies `bytes` to a place that is always within `buffer`.
fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = buffer.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// `N` bytes at a place that is always within `buffer`.
fn bytes<const N: usize>(buffer: &[u8], at: usize) -> [u8; N] {
    buffer.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_dm_verity_expects() {
        let verity = Verity { blocks: 33_815, salt: vec![0xA9, 0xCA] };
        let table = table(makedev(254, 16), &verity, &[0x9E; 32]);
        let text = std::str::from_utf8(&table[TARGET_BYTES..]).expect("text");
        let expected = format!("1 254:16 254:16 4096 4096 33815 33816 sha256 {} a9ca\0", "9e".repeat(32));
        assert_eq!(text, expected);
        assert_eq!(u64::from_ne_bytes(bytes(&table, 8)), 33_815 * 8);
        assert!(table.len() <= DATA_BYTES);
    }
}
