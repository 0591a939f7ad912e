//! Walks a tree that somebody hostile made, by descriptors only: a directory before what is in it, names of one directory in byte
//! order. What is found is opened and judged by its descriptor; a [`Visitor`] decides what it means.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat2, readlinkat, statat};

use super::{Bounds, Error, PATH_BYTES_MAX, beneath, join, kind, refused, rules};

/// The bytes of all names that are held at once, of a directory and those above it: a million entries of common length.
const NAMES_BYTES_MAX: usize = 64 << 20;

/// What a walk is for.
pub(super) trait Visitor {
    /// Which bits no mode may have.
    const REFUSED_MODE: u32;

    /// All names of a directory, in order, before any of its entries.
    fn names(&mut self, directory: &[u8], names: &[OsString]) -> Result<(), Error>;
    /// A directory, before what is in it.
    fn directory(&mut self, path: &[u8], directory: BorrowedFd<'_>) -> Result<(), Error>;
    /// A regular file.
    fn file(&mut self, path: &[u8], file: File, stat: &Stat) -> Result<(), Error>;
    /// A symbolic link in a directory that is `depth` levels below the root.
    fn link(&mut self, path: &[u8], depth: usize, target: &CStr) -> Result<(), Error>;
}

/// One directory that is being walked: its entries still to do, last first.
struct Level {
    directory: OwnedFd,
    path: Vec<u8>,
    names: Vec<OsString>,
    names_bytes: usize,
}

struct Walk<'a, V> {
    bounds: &'a Bounds,
    visitor: &'a mut V,
    entries: u64,
    names_bytes: usize,
}

/// Walks everything below `root`, which is not visited itself. Returns how many entries there were.
pub(super) fn walk<V: Visitor>(root: BorrowedFd<'_>, bounds: &Bounds, visitor: &mut V) -> Result<u64, Error> {
    let mut walk = Walk { bounds, visitor, entries: 0, names_bytes: 0 };
    let root = root.try_clone_to_owned().map_err(|source| Error::Io { operation: "open", path: Vec::new(), source })?;
    let mut levels = vec![walk.level(root, Vec::new())?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            walk.names_bytes -= level.names_bytes;
            levels.pop();
            continue;
        };
        let path = join(&level.path, &name);
        let depth = levels.len();
        let Some(level) = levels.last() else { break };
        if let Some(directory) = walk.entry(level.directory.as_fd(), &name, &path, depth - 1)? {
            if depth >= bounds.depth_max {
                return Err(Error::TooDeep { path, limit: bounds.depth_max });
            }
            levels.push(walk.level(directory, path)?);
        }
    }
    Ok(walk.entries)
}

impl<V: Visitor> Walk<'_, V> {
    /// Reads a directory's names, the first in byte order last.
    fn level(&mut self, directory: OwnedFd, path: Vec<u8>) -> Result<Level, Error> {
        let failed = |error| refused("list", &path, error);
        let (mut names, mut names_bytes) = (Vec::new(), 0);
        for entry in Dir::read_from(&directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            self.entries += 1;
            names_bytes += name.len() + size_of::<OsString>();
            if self.entries > self.bounds.entries_max || self.names_bytes + names_bytes > NAMES_BYTES_MAX {
                return Err(Error::TooMany { limit: self.bounds.entries_max });
            }
            names.push(OsString::from_vec(name));
        }
        self.names_bytes += names_bytes;
        names.sort_unstable();
        self.visitor.names(&path, &names)?;
        names.reverse();
        Ok(Level { directory, path, names, names_bytes })
    }

    /// Visits one entry; returns it opened if it is a directory.
    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        depth: usize,
    ) -> Result<Option<OwnedFd>, Error> {
        if path.len() > PATH_BYTES_MAX {
            return Err(Error::Path { path: path.to_vec() });
        }
        let failed = |error| refused("open", path, error);
        let open = |flags| openat2(parent, name, flags | OFlags::CLOEXEC, Mode::empty(), beneath()).map_err(failed);
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        rules::mode(path, stat.st_mode & V::REFUSED_MODE)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let directory = open(OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
                self.visitor.directory(path, directory.as_fd())?;
                Ok(Some(directory))
            }
            FileType::RegularFile => {
                let file = open(OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY)?;
                let stat = fstat(&file).map_err(failed)?;
                rules::mode(path, stat.st_mode & V::REFUSED_MODE)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => self.visitor.file(path, file.into(), &stat)?,
                    other => return Err(Error::Kind { path: path.to_vec(), kind: kind(other) }),
                }
                Ok(None)
            }
            FileType::Symlink => {
                let target = readlinkat(parent, name, Vec::new()).map_err(failed)?;
                self.visitor.link(path, depth, &target)?;
                Ok(None)
            }
            other => Err(Error::Kind { path: path.to_vec(), kind: kind(other) }),
        }
    }
}
