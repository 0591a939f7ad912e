//! One digest of a whole tree: the same for the same names, types, modes and contents, whatever the order on disk, the times,
//! owners and inode numbers.
//!
//! SHA-256 over one line for each entry, a directory before what is in it, names of one directory in byte order:
//! `KIND MODE LENGTH-OF-PATH PATH LENGTH-OF-CONTENT SHA-256-OF-CONTENT\n`, where KIND is `d`, `f` or `l` (its content is the
//! target), MODE is `x` if anyone may execute a file and `-` otherwise, and a directory's content is empty. The root is not listed.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat2, readlinkat, statat};
use sha2::{Digest, Sha256};

use super::{Error, PATH_BYTES_MAX, beneath, copy_hashed, join, kind, refused};

/// How much of a tree is looked at before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Files, directories and links.
    pub entries_max: u64,
    /// Bytes of all files together.
    pub bytes_max: u64,
    /// Directories in one another; each holds a descriptor open.
    pub depth_max: usize,
}

impl Default for Bounds {
    /// A million entries, 64 GiB, 128 levels.
    fn default() -> Self {
        Self { entries_max: 1_000_000, bytes_max: 64 << 30, depth_max: 128 }
    }
}

/// The digest of a tree and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeDigest {
    /// Over the listing.
    pub sha256: [u8; 32],
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

struct Walk<'a> {
    bounds: &'a Bounds,
    hasher: Sha256,
    entries: u64,
    bytes: u64,
}

/// One directory that is being walked: its entries still to do, last first.
struct Level {
    directory: OwnedFd,
    path: Vec<u8>,
    names: Vec<OsString>,
}

pub(super) fn digest(root: BorrowedFd<'_>, bounds: &Bounds) -> Result<TreeDigest, Error> {
    let mut walk = Walk { bounds, hasher: Sha256::new(), entries: 0, bytes: 0 };
    let root = root.try_clone_to_owned().map_err(|source| Error::Io { operation: "open", path: Vec::new(), source })?;
    let mut levels = vec![walk.level(root, Vec::new())?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            levels.pop();
            continue;
        };
        let path = join(&level.path, &name);
        if let Some(directory) = walk.entry(level.directory.as_fd(), &name, &path)? {
            if levels.len() >= bounds.depth_max {
                return Err(Error::TooDeep { path, limit: bounds.depth_max });
            }
            levels.push(walk.level(directory, path)?);
        }
    }
    Ok(TreeDigest { sha256: walk.hasher.finalize().into(), entries: walk.entries, bytes: walk.bytes })
}

impl Walk<'_> {
    /// Reads a directory's names, the first in byte order last.
    fn level(&mut self, directory: OwnedFd, path: Vec<u8>) -> Result<Level, Error> {
        let failed = |error| refused("list", &path, error);
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            self.entries += 1;
            if self.entries > self.bounds.entries_max {
                return Err(Error::TooMany { limit: self.bounds.entries_max });
            }
            names.push(OsString::from_vec(name));
        }
        names.sort_unstable_by(|a, b| b.as_bytes().cmp(a.as_bytes()));
        Ok(Level { directory, path, names })
    }

    /// Adds one entry; returns it opened if it is a directory.
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> Result<Option<OwnedFd>, Error> {
        if path.len() > PATH_BYTES_MAX {
            return Err(Error::Path { path: path.to_vec() });
        }
        let failed = |error| refused("open", path, error);
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let open = |flags| openat2(parent, name, flags | OFlags::CLOEXEC, Mode::empty(), beneath()).map_err(failed);
        if stat.st_mode & 0o6000 != 0 {
            return Err(Error::SetId { path: path.to_vec() });
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let directory = open(OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
                self.line('d', '-', path, 0, &Sha256::digest([]).into());
                Ok(Some(directory))
            }
            FileType::RegularFile => {
                let file = open(OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
                let stat = rustix::fs::fstat(&file).map_err(failed)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(Error::Kind { path: path.to_vec(), kind: "file that changed its type" });
                }
                let left = self.bounds.bytes_max - self.bytes;
                let sink = &mut std::io::sink();
                let (bytes, sha256) = copy_hashed(path, file.into(), stat.st_size as u64, left, sink)?;
                self.bytes += bytes;
                self.line('f', if stat.st_mode & 0o111 == 0 { '-' } else { 'x' }, path, bytes, &sha256);
                Ok(None)
            }
            FileType::Symlink => {
                let target = readlinkat(parent, name, Vec::new()).map_err(failed)?;
                let target = target.as_bytes();
                self.line('l', '-', path, target.len() as u64, &Sha256::digest(target).into());
                Ok(None)
            }
            other => Err(Error::Kind { path: path.to_vec(), kind: kind(other) }),
        }
    }

    fn line(&mut self, kind: char, mode: char, path: &[u8], bytes: u64, sha256: &[u8; 32]) {
        self.hasher.update(format!("{kind} {mode} {} ", path.len()));
        self.hasher.update(path);
        self.hasher.update(format!(" {bytes} {}\n", hex::encode(sha256)));
    }
}
