//! Removes a tree that somebody hostile made: any depth with two descriptors, any number of entries with the memory of one batch.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat2, renameat, unlinkat};
use rustix::io::Errno;

use super::{Error, beneath, refused};

/// Entries taken from one listing before it is read anew.
const BATCH: usize = 4096;

/// Empties a directory. Depth costs nothing: a directory found inside a directory is moved up to the root before its turn comes, so
/// that only the root's own entries are ever walked.
pub(super) fn empty(root: &OwnedFd) -> Result<(), Error> {
    let mut moved = 0_u64;
    loop {
        let names = list(root)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if !unlink(root, &name)? {
                let directory = open(root, &name)?;
                clear(root, &directory, &mut moved)?;
                unlinkat(root, &name, AtFlags::REMOVEDIR)
                    .or_else(|error| if error == Errno::NOTEMPTY { Ok(()) } else { Err(error) })
                    .map_err(|error| refused("remove", name.as_bytes(), error))?;
            }
        }
    }
}

/// Unlinks a directory's files and moves its directories up to the root, under names that nobody has.
fn clear(root: &OwnedFd, directory: &OwnedFd, moved: &mut u64) -> Result<(), Error> {
    loop {
        let names = list(directory)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if unlink(directory, &name)? {
                continue;
            }
            loop {
                *moved += 1;
                let up = format!(".removing-{moved}");
                match renameat(directory, &name, root, up.as_str()) {
                    Ok(()) => break,
                    // The step had that idea first.
                    Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                    Err(error) => return Err(refused("move", name.as_bytes(), error)),
                }
            }
        }
    }
}

/// Whether `name` was removed; `false`: it is a directory.
fn unlink(parent: &OwnedFd, name: &CString) -> Result<bool, Error> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(refused("remove", name.as_bytes(), error)),
    }
}

fn open(parent: &OwnedFd, name: &CString) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(parent, name, flags, Mode::empty(), beneath()).map_err(|error| refused("open", name.as_bytes(), error))
}

/// At most one batch of a directory's names.
fn list(directory: &OwnedFd) -> Result<Vec<CString>, Error> {
    let failed = |error| refused("list", b"a directory", error);
    let mut names = Vec::new();
    for entry in Dir::read_from(directory.as_fd()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if ![b".".as_slice(), b".."].contains(&entry.file_name().to_bytes()) {
            names.push(entry.file_name().to_owned());
        }
        if names.len() >= BATCH {
            break;
        }
    }
    Ok(names)
}
