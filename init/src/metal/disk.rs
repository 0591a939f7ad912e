//! The boot disk's EFI system partition: found by its name in the GPT, mounted read-only for one file, and let go.

use std::fs::{File, create_dir, remove_dir};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_builder::partitions;
use kiln_formats::uplink::{ESP_NAME, UPLINK_BYTES_MAX, UPLINK_PATH};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// How long a disk may take to appear: a USB stick behind a hub takes seconds, a large array's controller half a minute.
const APPEAR_MAX: Duration = Duration::from_secs(60);
const APPEAR_PAUSE: Duration = Duration::from_millis(50);
/// Where the kernel lists disks, with their partitions in them.
const BLOCK: &str = "/sys/block";
/// Where the partition is mounted for a moment.
const MOUNT: &str = "/run/esp";

/// Why there is no uplink.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// No disk has such a partition.
    #[error("no disk has a partition with the name {ESP_NAME}")]
    NoPartition,
    /// More than one has, and nothing says which is meant.
    #[error("more than one partition has the name {ESP_NAME}: take the other disk out")]
    Several,
    /// The disks cannot be looked through.
    #[error("cannot look through the disks")]
    Look {
        /// What the kernel said.
        #[from]
        source: io::Error,
    },
    /// The partition cannot be mounted or let go.
    #[error("cannot mount the EFI system partition {}", node.display())]
    Mount {
        /// Its node.
        node: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// It has no such file.
    #[error("the EFI system partition has no file {UPLINK_PATH}: the disk was not made for a site")]
    NoFile,
    /// The file cannot be read.
    #[error("cannot read {UPLINK_PATH} on the EFI system partition")]
    Read {
        /// What the kernel said.
        source: io::Error,
    },
}

/// The bytes of the uplink's file, at most one more than it may have.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn uplink() -> Result<Vec<u8>, DiskError> {
    let node = Path::new("/dev").join(wait_for_partition()?);
    let failed = |source| DiskError::Mount { node: node.clone(), source };
    create_dir(MOUNT)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(&node, MOUNT, "vfat", flags, c"").map_err(failed)?;
    let bytes = read(&Path::new(MOUNT).join(UPLINK_PATH));
    unmount(MOUNT, UnmountFlags::empty()).map_err(failed)?;
    remove_dir(MOUNT)?;
    bytes
}

fn read(path: &Path) -> Result<Vec<u8>, DiskError> {
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => DiskError::NoFile,
        _ => DiskError::Read { source },
    })?;
    let mut bytes = Vec::new();
    // One byte more, so that a larger file shows as one.
    let taken = file.take(UPLINK_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    taken.map_err(|source| DiskError::Read { source })?;
    Ok(bytes)
}

/// The one partition called [`ESP_NAME`], by its kernel name.
fn wait_for_partition() -> Result<String, DiskError> {
    let end = Instant::now() + APPEAR_MAX;
    loop {
        match partitions::named(Path::new(BLOCK), ESP_NAME)?.as_slice() {
            [partition] => return Ok(partition.clone()),
            [] if Instant::now() < end => std::thread::sleep(APPEAR_PAUSE),
            [] => return Err(DiskError::NoPartition),
            _ => return Err(DiskError::Several),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_far_as_it_may_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("uplink");
        assert!(matches!(read(&path), Err(DiskError::NoFile)));
        std::fs::write(&path, vec![b' '; UPLINK_BYTES_MAX + 9]).unwrap();
        assert_eq!(read(&path).unwrap().len(), UPLINK_BYTES_MAX + 1);
    }
}
