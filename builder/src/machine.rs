//! What the builder has of the machine that it runs in.

use std::io;
use std::path::{Path, PathBuf};

use kiln_sandbox::Launcher;

use crate::admit::{Disks, Images};

/// Storage in memory for what is too large for the heap. Source: PID 1's mount table.
const SCRATCH: &str = "/scratch";

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
        let images = Box::new(Disks::new(Path::new("/sys/block"), Path::new("/dev")));
        Ok(Self { launcher, images, memory_bytes, scratch: SCRATCH.into() })
    }
}

/// `MemAvailable`, in bytes. Source: proc_meminfo(5).
fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_how_much_memory_is_free() {
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:    1024 kB\nBuffers: 1 kB\n"), Some(1 << 20));
        assert_eq!(available_bytes("MemTotal: 9 kB\n"), None);
        assert!(available_bytes(&std::fs::read_to_string("/proc/meminfo").unwrap()).is_some());
    }
}
