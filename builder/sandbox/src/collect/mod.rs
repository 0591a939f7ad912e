//! Takes files and directories out of what a step left: after the kill, by descriptors only, believing no name and no size.
//!
//! Paths are resolved by the kernel beneath the workspace with no symbolic link, no mount and no magic link on the way
//! (openat2(2)); what is found is checked by descriptor, and copied: the step's own inode is never handed on. What may leave at all
//! is the table at the head of `rules.rs`. A file leaves as its bytes ([`Leftovers::copy`]), a directory as an archive that is the
//! same for the same tree ([`Leftovers::pack`]); several leave as a set, all or none ([`take`]).
//! Absent: unpacking anything, and a policy of what outputs a job has.

mod archive;
mod copy;
mod digest;
mod pack;
mod remove;
mod rules;
mod set;
mod walk;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::tree::DetachedTree;

use copy::Copier;
pub use digest::TreeDigest;
pub use set::{Kind, NotTaken, Wanted, take};

/// Bytes of one path below a workspace, and of one name. Source: PATH_MAX and NAME_MAX, limits.h.
pub const PATH_BYTES_MAX: usize = 4096;
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// The path of the workspace itself.
const WHOLE: &str = ".";

/// Why something was not taken. Paths are bytes, shown escaped.
#[derive(Debug, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what its fields are")]
pub enum Error {
    #[error("{path:?} is not a plain relative path")]
    Path { path: Vec<u8> },
    #[error("{:?} does not exist", String::from_utf8_lossy(path))]
    Missing { path: Vec<u8> },
    #[error("{:?} leads over a symbolic link, or is one", String::from_utf8_lossy(path))]
    Link { path: Vec<u8> },
    #[error("{:?} leads out of the workspace or over a mount", String::from_utf8_lossy(path))]
    Outside { path: Vec<u8> },
    #[error("{:?} is a {kind}, which is not taken here", String::from_utf8_lossy(path))]
    Kind { path: Vec<u8>, kind: &'static str },
    #[error("{:?} has {count} names; only one is taken", String::from_utf8_lossy(path))]
    Names { path: Vec<u8>, count: u64 },
    #[error("{:?} has set-user-id, set-group-id or sticky bits ({mode:o})", String::from_utf8_lossy(path))]
    SpecialMode { path: Vec<u8>, mode: u32 },
    #[error("{:?} has the extended attribute {:?}", String::from_utf8_lossy(path), String::from_utf8_lossy(name))]
    Attribute { path: Vec<u8>, name: Vec<u8> },
    #[error("{:?} leads out of the tree: {:?}", String::from_utf8_lossy(path), String::from_utf8_lossy(target))]
    Target { path: Vec<u8>, target: Vec<u8> },
    #[error("the name of {:?}, or what it leads to, is not taken: {why}", String::from_utf8_lossy(path))]
    Name { path: Vec<u8>, why: &'static str },
    #[error("{:?} is, in Unicode's normal form, the name of another file beside it", String::from_utf8_lossy(path))]
    Twin { path: Vec<u8> },
    #[error("{:?} was not declared", String::from_utf8_lossy(path))]
    Undeclared { path: Vec<u8> },
    #[error("{:?} has {found} bytes or more, at most {limit} are taken", String::from_utf8_lossy(path))]
    TooLong { path: Vec<u8>, found: u64, limit: u64 },
    #[error("{:?} had {stated} bytes and gave {found}", String::from_utf8_lossy(path))]
    Changed { path: Vec<u8>, stated: u64, found: u64 },
    #[error("the tree has more than {limit} entries")]
    TooMany { limit: u64 },
    #[error("{:?} is deeper than {limit} directories", String::from_utf8_lossy(path))]
    TooDeep { path: Vec<u8>, limit: usize },
    #[error("cannot {operation} {:?}", String::from_utf8_lossy(path))]
    Io { operation: &'static str, path: Vec<u8>, source: io::Error },
    #[error("cannot write out the copy of {:?}", String::from_utf8_lossy(path))]
    Sink { path: Vec<u8>, source: io::Error },
}

impl Error {
    /// Whether this says something about the step's work; otherwise it says that the copy could not be made.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Sink { .. })
    }
}

/// How much of a tree is looked at before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Files, directories and links.
    pub entries_max: u64,
    /// Bytes of all files together; of an archive, its size.
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

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collected {
    /// How many bytes.
    pub size_bytes: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// Whether anyone may execute it: all of a file's mode that is worth keeping. An archive is no program.
    pub executable: bool,
}

/// A workspace that no step uses any more.
#[derive(Debug)]
pub struct Leftovers {
    root: OwnedFd,
}

impl Leftovers {
    /// The workspace in a directory of the caller's.
    ///
    /// # Errors
    /// [`Error::Link`] if there is a symbolic link on the way; otherwise as the kernel says.
    pub fn in_directory(path: &Path) -> Result<Self, Error> {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = path.as_os_str().as_bytes();
        let root = openat2(CWD, path, flags, Mode::empty(), resolve).map_err(|error| refused("open", name, error))?;
        Ok(Self { root })
    }

    /// The workspace in a detached tree.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn in_tree(tree: &DetachedTree) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(tree.as_fd(), ".", flags, Mode::empty())
            .map_err(|error| refused("open", b".", error))?;
        Ok(Self { root })
    }

    /// Copies one regular file into `sink`, at most `bytes_max`, checked before and while copying.
    ///
    /// # Errors
    /// By what was found instead. Bytes may have reached `sink` by then: what is in it counts only if this returns `Ok`.
    pub fn copy(&self, path: &Path, bytes_max: u64, sink: &mut dyn Write) -> Result<Collected, Error> {
        let name = path.as_os_str().as_bytes();
        check_path(path)?;
        // Not blocking: opening a fifo must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file =
            openat2(&self.root, path, flags, Mode::empty(), beneath()).map_err(|error| refused("open", name, error))?;
        let stat = fstat(&file).map_err(|error| refused("look at", name, error))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            other => return Err(Error::Kind { path: name.to_vec(), kind: kind(other) }),
        }
        rules::mode(name, stat.st_mode & 0o7000)?;
        rules::one_name(name, stat.st_nlink)?;
        rules::no_attributes(name, &file)?;
        let mut hasher = Sha256::new();
        let take = &mut |bytes: &[u8]| {
            hasher.update(bytes);
            sink.write_all(bytes)
        };
        let size_bytes = Copier::new().copy(name, &file.into(), stat.st_size as u64, bytes_max, take)?;
        let executable = stat.st_mode & 0o111 != 0;
        Ok(Collected { size_bytes, sha256: hasher.finalize().into(), executable })
    }

    /// Writes everything below a directory into `sink`, as a tar archive that is the same for the same names, contents and modes.
    /// The path `.` is the whole workspace.
    ///
    /// # Errors
    /// By what was found instead, and by every rule of this module. Bytes may have reached `sink` by then: what is in it counts only
    /// if this returns `Ok`.
    pub fn pack(&self, path: &Path, bounds: &Bounds, sink: &mut dyn Write) -> Result<Collected, Error> {
        if path.as_os_str() == WHOLE {
            return pack::pack(self.root.as_fd(), bounds, sink);
        }
        let name = path.as_os_str().as_bytes();
        check_path(path)?;
        let failed = |error| refused("open", name, error);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let found = openat2(&self.root, path, flags, Mode::empty(), beneath()).map_err(failed)?;
        let stat = fstat(&found).map_err(failed)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {}
            other => return Err(Error::Kind { path: name.to_vec(), kind: kind(other) }),
        }
        rules::mode(name, stat.st_mode & 0o7000)?;
        pack::pack(found.as_fd(), bounds, sink)
    }

    /// Refuses whatever is there beside what was declared and the directories that lead to it.
    ///
    /// # Errors
    /// [`Error::Undeclared`]; what no walk takes, or exceeds `bounds`, is refused as such.
    pub fn only(&self, declared: &[(&Path, Kind)], bounds: &Bounds) -> Result<(), Error> {
        set::only(self, declared, bounds)
    }

    /// The digest of the whole tree, for a workspace that goes from step to step.
    ///
    /// # Errors
    /// What is neither directory, regular file nor symbolic link is refused, and so is whatever exceeds `bounds`.
    pub fn digest(&self, bounds: &Bounds) -> Result<TreeDigest, Error> {
        digest::digest(self.root.as_fd(), bounds)
    }

    /// Removes everything in it, however deep and however much, and then lets go of it.
    ///
    /// # Errors
    /// As the kernel says; then some of it is left.
    pub fn remove(self) -> Result<(), Error> {
        remove::empty(&self.root)
    }
}

/// Relative, of plain names only.
fn check_path(path: &Path) -> Result<(), Error> {
    let bytes = path.as_os_str().as_bytes();
    let plain = |component: Component<'_>| matches!(component, Component::Normal(_));
    let names = bytes.split(|byte| *byte == b'/');
    let normal = names.clone().all(|name| !name.is_empty() && name != b"." && name.len() <= NAME_BYTES_MAX);
    if bytes.len() > PATH_BYTES_MAX || bytes.contains(&0) || !normal || !path.components().all(plain) {
        return Err(Error::Path { path: bytes.to_vec() });
    }
    Ok(())
}

/// How every path below a workspace is resolved.
fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV
}

/// Names the refusal behind an errno of openat2.
fn refused(operation: &'static str, path: &[u8], error: Errno) -> Error {
    let path = path.to_vec();
    match error {
        Errno::NOENT | Errno::NOTDIR => Error::Missing { path },
        Errno::LOOP => Error::Link { path },
        Errno::XDEV => Error::Outside { path },
        // A socket, or a device whose driver is not there.
        Errno::NXIO | Errno::NODEV => Error::Kind { path, kind: "socket or device" },
        error => Error::Io { operation, path, source: error.into() },
    }
}

fn kind(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Directory => "directory",
        FileType::RegularFile => "regular file",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "thing of unknown type",
    }
}

/// Joins a path and a name for messages.
fn join(path: &[u8], name: &OsStr) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend(name.as_bytes());
    joined
}

#[cfg(test)]
mod tests;
