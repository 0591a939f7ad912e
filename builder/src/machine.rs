//! What the builder has of the machine that it runs in.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use kiln_formats::uplink::SCRATCH_NAME;
use kiln_sandbox::Launcher;
use kiln_sandbox::scratch::{self, Scratch};
use rustix::mount::{MountFlags, mount_remount};

use crate::admit::{Disks, Images};
use crate::partitions;

/// Storage in memory for what is too large for the heap. Source: PID 1's mount table.
const SCRATCH: &str = "/scratch";

/// Where the kernel lists disks, and where their nodes are.
const BLOCK: &str = "/sys/block";
const DEVICES: &str = "/dev";

/// The parts of the machine that a job is run with.
pub struct Machine {
    /// Starts confined steps.
    pub launcher: Launcher,
    /// Opens toolchain images.
    pub images: Box<dyn Images>,
    /// How much memory a job may plan with, in bytes.
    pub memory_bytes: u64,
    /// An empty directory in memory that nobody else uses.
    pub scratch: PathBuf,
}

impl Machine {
    /// The machine that this program was booted in.
    ///
    /// # Errors
    /// If the kernel does not say how much memory there is.
    pub fn booted(launcher: Launcher) -> io::Result<Self> {
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let memory_bytes = available_bytes(&meminfo).ok_or(io::ErrorKind::InvalidData)?;
        let images = Box::new(Disks::new(Path::new(BLOCK), Path::new(DEVICES)));
        Ok(Self { launcher, images, memory_bytes, scratch: SCRATCH.into() })
    }
}

/// A server's scratch: the partition that is for it, if there is one.
///
/// # Errors
/// What the kernel says to using it; `InvalidInput` if there is more than one.
pub(crate) fn scratch() -> io::Result<Option<Scratch>> {
    match partitions::named(Path::new(BLOCK), SCRATCH_NAME)?.as_slice() {
        [] => Ok(None),
        [partition] => {
            let scratch = scratch::open(&Path::new(DEVICES).join(partition))?;
            grow(scratch.bytes())?;
            tracing::info!(partition, bytes = scratch.bytes(), "scratch, encrypted");
            Ok(Some(scratch))
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Lets what is stored in memory be larger by this, because it need not be in memory any more.
fn grow(bytes: u64) -> io::Result<()> {
    let held = rustix::fs::statvfs(SCRATCH)?;
    let size = format!("size={}", (held.f_blocks * held.f_frsize).saturating_add(bytes));
    let size = CString::new(size).map_err(io::Error::other)?;
    Ok(mount_remount(SCRATCH, MountFlags::NOSUID | MountFlags::NODEV, &size)?)
}

/// `MemAvailable` and `SwapFree`, in bytes; the latter is scratch, and 0 without it. Source: proc_meminfo(5).
fn available_bytes(meminfo: &str) -> Option<u64> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    bytes("MemAvailable:")?.checked_add(bytes("SwapFree:").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_how_much_memory_is_free() {
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:    1024 kB\nBuffers: 1 kB\n"), Some(1 << 20));
        assert_eq!(available_bytes("MemAvailable: 1 kB\nSwapFree: 2 kB\n"), Some(3 << 10));
        assert_eq!(available_bytes("MemTotal: 9 kB\nSwapFree: 2 kB\n"), None);
        assert!(available_bytes(&std::fs::read_to_string("/proc/meminfo").unwrap()).is_some());
    }
}
