//! One device of one target, made and removed through device-mapper's ioctls. No `/dev` of anyone's is needed: the nodes are made in
//! a tmpfs that only we hold.
//!
//! Source: include/uapi/linux/dm-ioctl.h.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Mode, OFlags, makedev, mknodat, openat};
use rustix::mount::MountAttrFlags;
use zeroize::Zeroizing;

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
/// `DM_SECURE_DATA_FLAG`: the kernel wipes its copies of what is in the buffer.
const SECURE: u32 = 1 << 15;
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

/// What a device does with what it lies over.
#[derive(Debug)]
pub(crate) struct Target {
    /// The kind, as the kernel calls it.
    pub(crate) kind: &'static str,
    /// The device's length in sectors of 512 bytes.
    pub(crate) sectors: u64,
    /// Whether it can only be read.
    pub(crate) read_only: bool,
    /// The kind's parameters, wiped when they are dropped: a key may be among them.
    pub(crate) parameters: Zeroizing<String>,
}

/// A live device. Removed when dropped, or when its last user is gone.
#[derive(Debug)]
pub(crate) struct Device {
    control: File,
    nodes: OwnedFd,
    name: String,
    access: OFlags,
}

impl Device {
    /// Makes a device, with `label` in its name.
    pub(crate) fn create(label: &str, target: &Target) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let options = [("size", "64k".to_owned()), ("mode", "0700".to_owned())];
        let nodes = tmpfs(&options, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
        let control = node(&nodes, "control", FileType::CharacterDevice, makedev(CONTROL.0, CONTROL.1), OFlags::RDWR)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kiln-{label}-{}-{number}", std::process::id());
        let (flags, access) = if target.read_only { (READ_ONLY, OFlags::RDONLY) } else { (0, OFlags::RDWR) };
        let device = Self { control, nodes, name, access };
        let made = device.call(DEV_CREATE, flags, 0, &[])?;
        device.call(TABLE_LOAD, flags | SECURE, 1, &table(target))?;
        // Without DM_SUSPEND_FLAG this resumes: the table becomes live.
        device.call(DEV_SUSPEND, flags, 0, &[])?;
        let encoded = u64::from_ne_bytes(bytes(&made, DEVICE));
        // new_encode_dev. Source: include/linux/kdev_t.h.
        let (major, minor) = ((encoded >> 8) & 0xFFF, (encoded & 0xFF) | ((encoded >> 12) & 0xFFF00));
        node(&device.nodes, "image", FileType::BlockDevice, makedev(major as u32, minor as u32), access)?;
        Ok(device)
    }

    /// Opens the contents.
    pub(crate) fn open(&self) -> io::Result<File> {
        Ok(openat(&self.nodes, "image", self.access | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// A path to the block device for this process, as mounting asks for one.
    pub(crate) fn path(&self) -> String {
        format!("/proc/self/fd/{}/image", self.nodes.as_raw_fd())
    }

    /// Whether no read of a verity device has failed verification yet.
    pub(crate) fn is_intact(&self) -> io::Result<bool> {
        let answer = self.call(TABLE_STATUS, 0, 0, &[])?;
        // The verity target's status is one letter: V (valid) or C (corruption).
        Ok(answer.get(HEADER_BYTES + TARGET_BYTES) == Some(&b'V'))
    }

    fn call(&self, command: u64, flags: u32, targets: u32, data: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut buffer = Zeroizing::new(vec![0; HEADER_BYTES + DATA_BYTES]);
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

/// `struct dm_target_spec` and the target's parameters.
fn table(target: &Target) -> Zeroizing<Vec<u8>> {
    let mut spec = Zeroizing::new(vec![0; TARGET_BYTES]);
    put(&mut spec, 8, &target.sectors.to_ne_bytes());
    put(&mut spec, 24, target.kind.as_bytes());
    // At once, so that no copy is left behind where it grew.
    spec.reserve_exact(target.parameters.len() + 1);
    spec.extend(target.parameters.as_bytes());
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
    fn a_table_is_laid_out_as_the_kernel_expects() {
        let parameters = Zeroizing::new("a b".to_owned());
        let table = table(&Target { kind: "crypt", sectors: 7, read_only: false, parameters });
        assert_eq!((&table[TARGET_BYTES..], &table[24..30]), (&b"a b\0"[..], &b"crypt\0"[..]));
        assert_eq!(u64::from_ne_bytes(bytes(&table, 8)), 7);
    }
}
