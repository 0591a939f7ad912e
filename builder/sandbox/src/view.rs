//! The plan of a step's view: which mount goes where, with which attributes. Made once from the policy by the caller's side,
//! carried out by the sandbox init, and compared with what the kernel shows afterwards.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, open, openat2, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::policy::{Access, Policy, Proc, Temporary};
use crate::sys::attr;

/// Bytes and files of `/dev/shm`: what POSIX semaphores and multiprocess Python need; charged to the step's memory.
pub(crate) const SHM_BYTES_MAX: u64 = 64 << 20;
pub(crate) const SHM_INODES_MAX: u64 = 1024;

/// What [`Proc::Masked`] adds: what tools ask about the machine, the same for every process on it, none of it writable. Not
/// here: interrupts, keys, symbols, settings, devices, the network.
pub(crate) const PROC_FILES: [&str; 7] = ["cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version"];

/// Links into processes, in the root of every procfs.
const PROC_LINKS: [&str; 4] = ["mounts", "net", "self", "thread-self"];
/// Names in the root of a procfs beside those: about 50 on Linux 7.3 with everything built in.
pub(crate) const COVERS_MAX: usize = 128;

/// One mount of the view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Absolute path in the view.
    pub(crate) target: String,
    /// What is mounted there.
    pub(crate) kind: Kind,
    /// Whether the mount point is made first, in a file system of the view's own.
    pub(crate) make: bool,
}

impl Place {
    /// Whether it takes one of the trees after the image.
    pub(crate) fn is_tree(&self) -> bool {
        matches!(self.kind, Kind::Tree { .. })
    }
}

/// What is mounted at a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// The image: tree number 0.
    Root,
    /// Another of the policy's trees, by its number.
    Tree { number: usize, access: TreeAccess },
    /// A file system in memory.
    Temporary { size_bytes_max: u64, inodes_max: u64 },
    /// Directories for mount points that the image lacks; read-only once they are used.
    Scaffold { points: Vec<Point> },
    /// `/proc`: processes, and if masked whatever no [`Kind::Cover`] is on.
    Proc { masked: bool },
    /// Something empty over a name in a masked `/proc`.
    Cover { directory: bool },
    /// `/dev`: null, zero, full, random, urandom.
    Devices,
    /// `/dev/shm`.
    SharedMemory,
}

/// A mount point to make in a scaffold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) name: String,
    /// A directory, or else a file: a mount point is of the type of what is mounted.
    pub(crate) directory: bool,
}

/// [`Access`], as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TreeAccess {
    ReadOnly,
    ReadWrite,
}

/// The attributes that a mount must have, and that it must not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) read_only: bool,
    pub(crate) no_devices: bool,
    pub(crate) no_exec: bool,
}

impl Attributes {
    /// As `MOUNT_ATTR_*`.
    pub(crate) fn bits(self) -> u64 {
        let bit = |on, bit| if on { bit } else { 0 };
        let Self { read_only, no_devices, no_exec } = self;
        attr::NOSUID | bit(read_only, attr::RDONLY) | bit(no_devices, attr::NODEV) | bit(no_exec, attr::NOEXEC)
    }
}

impl Kind {
    /// Every mount is also `nosuid`.
    pub(crate) fn attributes(&self) -> Attributes {
        let (read_only, no_devices, no_exec) = match self {
            Self::Root | Self::Tree { access: TreeAccess::ReadOnly, .. } => (true, true, false),
            Self::Tree { access: TreeAccess::ReadWrite, .. } | Self::Temporary { .. } => (false, true, false),
            Self::Scaffold { .. } | Self::Proc { .. } | Self::Cover { .. } => (true, true, true),
            Self::Devices => (true, false, true),
            Self::SharedMemory => (false, true, true),
        };
        Attributes { read_only, no_devices, no_exec }
    }
}

/// Why there is no view.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The image has no such directory.
    #[error("the image has no directory {target:?} to mount at")]
    Missing {
        /// Where.
        target: String,
    },
    /// A mount point would have to be made in a directory that has something in it, which the scaffold would hide.
    #[error("{target:?} does not exist, and {parent:?} is not empty, so it cannot be made there")]
    ParentInUse {
        /// The mount point.
        target: String,
        /// The directory that would be hidden.
        parent: String,
    },
    /// The image could not be looked at.
    #[error("cannot look up {target:?} in the image")]
    Look {
        /// Where.
        target: String,
        /// What the kernel said.
        source: Errno,
    },
}

/// Plans the view of `policy` on its detached trees, the image first: in the order in which the mounts are made, parents first.
pub(crate) fn plan(policy: &Policy, root: BorrowedFd<'_>, trees: &[OwnedFd]) -> Result<Vec<Place>, Error> {
    let mut wanted: Vec<(&str, Kind, bool)> = Vec::new();
    for (position, (mount, tree)) in policy.mounts.iter().zip(trees).enumerate() {
        let access = match mount.access {
            Access::ReadOnly => TreeAccess::ReadOnly,
            Access::ReadWrite => TreeAccess::ReadWrite,
        };
        let directory =
            is_directory(tree.as_fd()).map_err(|source| Error::Look { target: mount.target.clone(), source })?;
        wanted.push((&mount.target, Kind::Tree { number: position + 1, access }, directory));
    }
    for Temporary { target, size_bytes_max, inodes_max } in &policy.temporaries {
        let kind = Kind::Temporary { size_bytes_max: *size_bytes_max, inodes_max: *inodes_max };
        wanted.push((target, kind, true));
    }
    let mut places = Vec::new();
    let mut scaffolds: Vec<(String, Vec<Point>)> = Vec::new();
    for (target, kind, directory) in wanted {
        let make = covered_by_temporary(policy, target);
        if !make && !covered_by_mount(policy, target) && !exists(root, target)? {
            scaffold(root, target, directory, &mut scaffolds)?;
        }
        places.push(Place { target: target.into(), kind, make });
    }
    let scaffolds = scaffolds.into_iter();
    places.extend(scaffolds.map(|(target, points)| Place { target, kind: Kind::Scaffold { points }, make: false }));
    places.sort_by(|a, b| a.target.cmp(&b.target));
    places.insert(0, Place { target: "/".into(), kind: Kind::Root, make: false });
    for (target, kind) in [("/proc", Kind::Proc { masked: policy.proc == Proc::Masked }), ("/dev", Kind::Devices)] {
        if lookup(root, target, OFlags::PATH | OFlags::DIRECTORY)?.is_none() {
            return Err(Error::Missing { target: target.into() });
        }
        places.push(Place { target: target.into(), kind, make: false });
    }
    places.push(Place { target: "/dev/shm".into(), kind: Kind::SharedMemory, make: false });
    if policy.proc == Proc::Masked {
        places.extend(covers()?);
    }
    Ok(places)
}

/// A cover for every name in this machine's `/proc` that a step with a masked one must not use.
fn covers() -> Result<Vec<Place>, Error> {
    let look = |source| Error::Look { target: "/proc".into(), source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = open("/proc", flags, Mode::empty()).map_err(look)?;
    let hidden = hidden_in_proc(&proc).map_err(look)?;
    let cover =
        |(name, directory)| Place { target: format!("/proc/{name}"), kind: Kind::Cover { directory }, make: false };
    Ok(hidden.into_iter().map(cover).collect())
}

/// The names in the root of a procfs that are neither processes nor links to them nor [`PROC_FILES`], and whether each is a
/// directory. The links are `self`, `thread-self`, `mounts` and `net`: all lead into a process.
pub(crate) fn hidden_in_proc(proc: &OwnedFd) -> Result<Vec<(String, bool)>, Errno> {
    let mut hidden = Vec::new();
    for entry in Dir::read_from(proc)? {
        let entry = entry?;
        let name = entry.file_name().to_str().map_err(|_| Errno::ILSEQ)?;
        let is_process = name.bytes().all(|byte| byte.is_ascii_digit());
        if is_process || [".", ".."].contains(&name) || PROC_FILES.contains(&name) || PROC_LINKS.contains(&name) {
            continue;
        }
        if hidden.len() >= COVERS_MAX {
            return Err(Errno::TOOBIG);
        }
        hidden.push((name.to_owned(), entry.file_type() == FileType::Directory));
    }
    hidden.sort();
    Ok(hidden)
}

/// What tells a file from every other: device and inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(u64, u64);

impl Identity {
    /// Of a file, or of what a mount shows.
    pub(crate) fn of(file: BorrowedFd<'_>) -> Result<Self, Errno> {
        let stat = statat(file, "", AtFlags::EMPTY_PATH)?;
        Ok(Self(stat.st_dev, stat.st_ino))
    }
}

fn is_below(target: &str, place: &str) -> bool {
    target.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'))
}

fn covered_by_temporary(policy: &Policy, target: &str) -> bool {
    policy.temporaries.iter().any(|temporary| is_below(target, &temporary.target))
}

fn covered_by_mount(policy: &Policy, target: &str) -> bool {
    policy.mounts.iter().any(|mount| is_below(target, &mount.target))
}

/// Looks `target` up in a view without following any link.
pub(crate) fn lookup(root: BorrowedFd<'_>, target: &str, flags: OFlags) -> Result<Option<OwnedFd>, Error> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, target, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(source) => Err(Error::Look { target: target.into(), source }),
    }
}

fn exists(root: BorrowedFd<'_>, target: &str) -> Result<bool, Error> {
    Ok(lookup(root, target, OFlags::PATH)?.is_some())
}

/// Notes that `target` is to be made in a scaffold over its parent, which must be an empty directory of the image.
fn scaffold(
    root: BorrowedFd<'_>,
    target: &str,
    directory: bool,
    scaffolds: &mut Vec<(String, Vec<Point>)>,
) -> Result<(), Error> {
    let missing = || Error::Missing { target: target.into() };
    let (parent, name) = target.rsplit_once('/').ok_or_else(missing)?;
    let point = Point { name: name.into(), directory };
    if let Some((_, points)) = scaffolds.iter_mut().find(|(place, _)| place == parent) {
        points.push(point);
        return Ok(());
    }
    if parent.is_empty() {
        return Err(missing());
    }
    let found = lookup(root, parent, OFlags::RDONLY | OFlags::DIRECTORY)?.ok_or_else(missing)?;
    let look = |source| Error::Look { target: parent.into(), source };
    for entry in Dir::read_from(&found).map_err(look)? {
        let entry = entry.map_err(look)?;
        if ![b".".as_slice(), b".."].contains(&entry.file_name().to_bytes()) {
            return Err(Error::ParentInUse { target: target.into(), parent: parent.into() });
        }
    }
    scaffolds.push((parent.into(), vec![point]));
    Ok(())
}

/// Whether a detached tree is a directory (mount points must be of its type).
fn is_directory(tree: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = statat(tree, "", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
