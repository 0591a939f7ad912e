//! Slots: no two steps of a host share a user at one time. A slot is a locked file; the lock goes with the process, however that
//! ends, so a file that can be locked has nobody who uses it.
//!
//! The file holds its owner's process id, by which the cgroup is found that a killed owner left. Whoever comes next clears away
//! what such owners left, before it starts anything itself. Slot files go with their owners; the directory and its lock stay, and so does whatever else
//! somebody put there: what is no regular file is nobody's slot.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use kiln_sandbox::{CgroupError, SLOTS, remove_abandoned};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

/// Where the slots of this host are. Source: FHS 3.0, 3.15: run-time data, emptied at boot.
const DIRECTORY: &str = "/run/kiln-confine";
/// Held while slots are given out and cleared, never while a step runs.
const LOCK: &str = "lock";
/// Bytes of a slot file: a process id and a newline.
const FILE_BYTES_MAX: u64 = 16;

/// A slot that is ours. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Its number.
    pub(crate) number: u16,
    path: PathBuf,
    /// Held for the lock on it.
    _file: File,
}

/// Why there is no slot.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("all {SLOTS} slots of this host are taken")]
    Full,
    #[error("cannot clear away what process {pid} left when it was killed")]
    Abandoned { pid: u32, source: CgroupError },
}

impl Slot {
    /// Clears away what killed owners left, and takes the first slot that is free.
    ///
    /// # Errors
    /// If the files cannot be made, the remains not be removed, or all slots are taken.
    pub(crate) fn take() -> Result<Self, Error> {
        Self::take_in(Path::new(DIRECTORY))
    }

    fn take_in(directory: &Path) -> Result<Self, Error> {
        let at = |action, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| Error::File { action, path, source }
        };
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at("make", directory)(error)),
            _ => {}
        }
        let lock = directory.join(LOCK);
        let everybody = open(&lock).map_err(at("open", &lock))?;
        flock(&everybody, FlockOperation::LockExclusive).map_err(|error| at("lock", &lock)(error.into()))?;
        clear(directory)?;
        for number in 0..SLOTS {
            let path = directory.join(format!("slot-{number}"));
            if let Some(mut file) = locked(&path).map_err(at("lock", &path))? {
                // Its owner may have been killed since the clearing.
                clear_one(&mut file, &path)?;
                writeln!(file, "{}", std::process::id()).map_err(at("write", &path))?;
                return Ok(Self { number, path, _file: file });
            }
        }
        Err(Error::Full)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Still locked, so it is nobody else's; if it stays, the next caller removes it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what owners left that are no more.
fn clear(directory: &Path) -> Result<(), Error> {
    let listed = |source| Error::File { action: "list", path: directory.to_owned(), source };
    for entry in fs::read_dir(directory).map_err(listed)? {
        let path = entry.map_err(listed)?.path();
        if path.file_name().is_none_or(|name| !name.as_encoded_bytes().starts_with(b"slot-")) {
            continue;
        }
        let failed = |source| Error::File { action: "clear", path: path.clone(), source };
        let Some(mut file) = locked(&path).map_err(failed)? else { continue };
        clear_one(&mut file, &path)?;
        fs::remove_file(&path).map_err(failed)?;
    }
    Ok(())
}

/// Removes what the owner named in a locked slot file left, and the name.
fn clear_one(file: &mut File, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::File { action: "clear", path: path.to_owned(), source };
    let mut text = Vec::new();
    Read::by_ref(file).take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
    // New, or its owner was killed between making it and starting anything. Not cut off for nothing: ext4 would write it out when it
    // is closed. Source: auto_da_alloc in Documentation/admin-guide/ext4.rst.
    if text.is_empty() {
        return Ok(());
    }
    // What says nothing of an owner has none. One with our own id was another: what it left, our launcher has taken over already, and
    // the cgroup of that name is ours.
    let owner: Option<u32> = std::str::from_utf8(&text).ok().and_then(|text| text.trim_end().parse().ok());
    if let Some(pid) = owner.filter(|owner| *owner != std::process::id()) {
        remove_abandoned(pid).map_err(|source| Error::Abandoned { pid, source })?;
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed)
}

/// The file, locked, if nobody else has it; made if it is not there. `None` as well if something else than a file is there.
fn locked(path: &Path) -> io::Result<Option<File>> {
    loop {
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            return Ok(None);
        }
        let file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            result => result?,
        }
        // Its owner may have removed it between the two calls; then this lock is on a file that nobody else will find.
        match fs::symlink_metadata(path) {
            Ok(found) if found.ino() == file.metadata()?.ino() => return Ok(Some(file)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_share_a_slot_and_none_is_left() {
        let scratch = tempfile::tempdir().expect("directory");
        let directory = scratch.path().join("slots");
        let take = || Slot::take_in(&directory).expect("slot");
        let (first, second) = (take(), take());
        assert_eq!((first.number, second.number), (0, 1));
        drop(first);
        let third = take();
        assert_eq!(third.number, 0);
        drop((second, third));
        let left: Vec<_> =
            fs::read_dir(&directory).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
        assert_eq!(left, [LOCK]);
    }

    #[test]
    fn a_killed_owner_with_our_own_id_costs_us_nothing() {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let cgroups = table.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup2 mount");
        let mount = cgroups.split(' ').nth(4).expect("where");
        let ours = Path::new(mount).join(format!("kiln-{}", std::process::id()));
        fs::create_dir(&ours).expect("a cgroup of ours (needs root)");
        let scratch = tempfile::tempdir().expect("directory");
        fs::write(scratch.path().join("slot-5"), format!("{}\n", std::process::id())).expect("file");
        let slot = Slot::take_in(scratch.path());
        fs::remove_dir(&ours).expect("it is still there");
        assert_eq!(slot.expect("slot").number, 0);
        assert!(!scratch.path().join("slot-5").exists());
    }

    #[test]
    fn a_file_without_an_owner_is_cleared_away() {
        let scratch = tempfile::tempdir().expect("directory");
        // Above the largest process id there can be (PID_MAX_LIMIT, 4,194,304): nobody has such a cgroup.
        fs::write(scratch.path().join("slot-5"), "4194305\n").expect("file");
        fs::write(scratch.path().join("slot-6"), "").expect("file");
        let slot = Slot::take_in(scratch.path()).expect("slot");
        assert_eq!(slot.number, 0);
        let left = fs::read_dir(scratch.path()).expect("list").count();
        assert_eq!(left, 2, "the slot and the lock");
    }

    #[test]
    fn what_is_no_slot_is_in_nobodys_way() {
        let scratch = tempfile::tempdir().expect("directory");
        let at = |name: &str| scratch.path().join(name);
        fs::write(at("slot-9"), b"\xff\xfe").expect("file");
        fs::write(at("slot-8"), "-1 or so").expect("file");
        for directory in ["slot-dir", "slot-0"] {
            fs::create_dir(at(directory)).expect("directory");
        }
        std::os::unix::fs::symlink("elsewhere", at("slot-1")).expect("link");
        let slot = Slot::take_in(scratch.path()).expect("slot");
        assert_eq!(slot.number, 2);
        assert!(at("slot-dir").exists() && at("slot-0").exists() && !at("elsewhere").exists());
        assert!(!at("slot-9").exists() && !at("slot-8").exists());
    }
}
