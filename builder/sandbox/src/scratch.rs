//! Room beyond memory: a partition that the kernel may swap to, through a cipher whose key is drawn here and kept by nobody.
//!
//! What a machine writes goes to file systems in memory, each with a limit of its own. With scratch, what does not fit into memory
//! at one time goes to the disk, page by page, encrypted (AES-256-XTS by dm-crypt). There is no header: the key is in the
//! kernel's memory until the power is off, and in no other place, so that nobody can read the partition afterwards, not even this
//! machine. What was on it before is lost.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

use crate::device::{Device, Target};
use crate::sys;

/// Two keys of AES-256, as XTS has it.
const KEY_BYTES: usize = 64;
/// What the kernel swaps at once.
const PAGE_BYTES: u64 = 4096;
/// The least that is worth it, in bytes: the kernel refuses a handful of pages.
const BYTES_MIN: u64 = 1 << 20;
/// What ends a page that says it is the first of a swap area. Source: include/linux/swap.h, `union swap_header`.
const MAGIC: &[u8; 10] = b"SWAPSPACE2";
/// Where version and last page stand in it.
const INFO: usize = 1024;

/// Room that is in use until the power is off.
#[derive(Debug)]
pub struct Scratch {
    _device: Device,
    bytes: u64,
}

impl Scratch {
    /// How much room there is, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Lets the kernel swap to `partition`, under a key that nobody knows. Needs `/proc`, and a kernel with dm-crypt and swap.
///
/// # Errors
/// What the kernel says; `InvalidInput` for what is no partition, or a very small one.
pub fn open(partition: &Path) -> io::Result<Scratch> {
    let mut disk = OpenOptions::new().read(true).open(partition)?;
    let metadata = disk.metadata()?;
    let bytes = disk.seek(SeekFrom::End(0))? / PAGE_BYTES * PAGE_BYTES;
    if !metadata.file_type().is_block_device() || bytes < BYTES_MIN {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let drawn = getrandom(key.as_mut_slice(), GetRandomFlags::empty())?;
    if drawn != KEY_BYTES {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let device = Device::create("scratch", &target(metadata.rdev(), bytes, &key))?;
    drop(key);
    device.open()?.write_all(&first_page(bytes))?;
    let path = CString::new(device.path()).map_err(io::Error::other)?;
    sys::swap_on(&path)?;
    Ok(Scratch { _device: device, bytes })
}

/// The crypt target over `disk` (its device number). Source: Documentation/admin-guide/device-mapper/dm-crypt.rst.
fn target(disk: u64, bytes: u64, key: &[u8; KEY_BYTES]) -> Target {
    let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
    // At once, so that no copy of the key is left behind where the text grew.
    let mut parameters = Zeroizing::new(String::with_capacity(2 * KEY_BYTES + 128));
    parameters.push_str("aes-xts-plain64 ");
    for byte in key {
        for digit in [byte >> 4, byte & 15] {
            parameters.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    parameters.push_str(&format!(" 0 {major}:{minor} 0"));
    Target { kind: "crypt", sectors: bytes / 512, read_only: false, parameters }
}

/// What mkswap(8) writes: version 1, and how many pages there are.
fn first_page(bytes: u64) -> Vec<u8> {
    let last = u32::try_from(bytes / PAGE_BYTES - 1).unwrap_or(u32::MAX);
    let mut page = vec![0; INFO];
    page.extend(1_u32.to_le_bytes());
    page.extend(last.to_le_bytes());
    page.resize(PAGE_BYTES as usize - MAGIC.len(), 0);
    page.extend(MAGIC);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_page_is_that_of_mkswap() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(BYTES_MIN).expect("its length");
        let made = std::process::Command::new("mkswap").arg(file.path()).output().expect("mkswap");
        assert!(made.status.success(), "{made:?}");
        let mut theirs = std::fs::read(file.path()).expect("its bytes")[..PAGE_BYTES as usize].to_vec();
        // A UUID and a name, which nobody needs.
        theirs[INFO + 12..INFO + 44].fill(0);
        assert_eq!(first_page(BYTES_MIN), theirs);
    }

    #[test]
    fn a_target_has_the_whole_key() {
        let mut key = [0x0a; KEY_BYTES];
        key[63] = 0xf1;
        let target = target(rustix::fs::makedev(259, 3), 8192, &key);
        assert_eq!(*target.parameters, format!("aes-xts-plain64 {}f1 0 259:3 0", "0a".repeat(63)));
        assert_eq!(target.sectors, 16);
    }

    #[test]
    fn what_is_no_partition_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(BYTES_MIN).expect("its length");
        for path in [file.path(), Path::new("/dev/null"), Path::new("/")] {
            assert!(open(path).is_err(), "{}", path.display());
        }
    }
}
