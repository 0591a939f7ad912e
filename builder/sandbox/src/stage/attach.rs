//! Builds the view from detached mounts: attributes first, then the place, so that there never is a writable window.
//!
//! A masked `/proc` is a whole procfs in which everything that is not on a list is covered, before anyone is in the view, by
//! descriptor, and with the kernel's own listing as what there is to cover. The read-back lists it again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::{fchdir, pivot_root};

use super::{At, Handed, Staged};
use crate::layer::Layer::View;
use crate::sys::mount_setattr;
use crate::tree::tmpfs;
use crate::view::{Kind, Place, Point, SHM_BYTES_MAX, SHM_INODES_MAX, TreeAccess};

/// Where the launcher's empty root has a place for the view.
const VIEW: &str = "/view";
/// Where the launcher's empty root has its device nodes.
const DEVICES: &str = "/dev";
/// A detached copy of one mount.
const CLONED: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// What covers files and directories in a masked `/proc`.
const COVER_FILE: &str = "file";
const COVER_DIRECTORY: &str = "directory";

/// Mounts that are the same for all steps, made before there is an order, with their attributes, attached nowhere.
#[derive(Debug)]
pub(super) struct Furniture {
    /// Of processes only.
    proc: OwnedFd,
    devices: OwnedFd,
    shared_memory: OwnedFd,
}

impl Furniture {
    /// Makes them in the sandbox's own namespaces and cgroup.
    pub(super) fn make() -> Staged<Self> {
        let attributed = |mount: OwnedFd, kind: Kind| {
            let set = kind.attributes().bits();
            mount_setattr(mount.as_fd(), set, None).at(View, &format!("mount_setattr of {kind:?}")).map(|()| mount)
        };
        let devices = open_tree(CWD, DEVICES, CLONED).at(View, "open_tree of /dev")?;
        let shared_memory = memory(SHM_BYTES_MAX, SHM_INODES_MAX, "1777").at(View, "tmpfs of /dev/shm")?;
        Ok(Self {
            proc: attributed(proc(false).at(View, "procfs of /proc")?, Kind::Proc { masked: false })?,
            devices: attributed(devices, Kind::Devices)?,
            shared_memory: attributed(shared_memory, Kind::SharedMemory)?,
        })
    }
}

/// A mount to attach: made for its place, or there already.
enum Ready<'a> {
    Made(OwnedFd),
    There(BorrowedFd<'a>),
}

impl AsFd for Ready<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Made(mount) => mount.as_fd(),
            Self::There(mount) => *mount,
        }
    }
}

/// Makes the view and moves into it. The launcher's mount table is still on top of its root, until [`leave`].
pub(super) fn enter(handed: &Handed<'_>) -> Staged<()> {
    let root = handed.descriptors.trees.first().ok_or(Errno::INVAL).at(View, "the image's tree")?;
    let owners = &handed.descriptors.owners;
    let set = Kind::Root.attributes().bits();
    mount_setattr(root.as_fd(), set, Some(owners.root.as_fd())).at(View, "mount_setattr of /")?;
    attach(root.as_fd(), CWD, VIEW).at(View, "move_mount of the image")?;
    let (mut scaffolds, mut covers) = (Vec::new(), None);
    for place in handed.order.places.iter().filter(|place| place.kind != Kind::Root) {
        let mount = prepare(place, covers.as_ref(), handed)?;
        if place.make {
            make_point(root, &place.target, mount.as_fd())?;
        }
        let at = open_point(root.as_fd(), &place.target).at(View, &format!("mount point {}", place.target))?;
        attach(mount.as_fd(), at.as_fd(), "").at(View, &format!("move_mount to {}", place.target))?;
        match place.kind {
            Kind::Scaffold { .. } => scaffolds.push((mount, place.kind.attributes())),
            Kind::Proc { masked: true } => covers = Some(covering()?),
            _ => {}
        }
    }
    for (mount, attributes) in scaffolds {
        mount_setattr(mount.as_fd(), attributes.bits(), None).at(View, "mount_setattr of a scaffold")?;
    }
    fchdir(root).at(View, "fchdir to the view")?;
    // The same directory twice stacks the old root on the new one, from where it is taken off (pivot_root(2), NOTES).
    pivot_root(".", ".").at(View, "pivot_root")
}

/// Nothing of the launcher's mount table is left.
pub(super) fn leave() -> Staged<()> {
    unmount(".", UnmountFlags::DETACH).at(View, "umount of the old root")?;
    rustix::process::chdir("/").at(View, "chdir")
}

/// A new procfs of the current pid namespace, attached nowhere. `whole`: with everything; else processes only. Of processes, one
/// sees those that one may trace.
pub(crate) fn proc(whole: bool) -> Result<OwnedFd, Errno> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Now or never: a procfs cannot be restricted later. Source: proc_apply_options in fs/proc/root.c, Linux 7.3.
    if !whole {
        fsconfig_set_string(context.as_fd(), "subset", "pid")?;
    }
    fsconfig_set_string(context.as_fd(), "hidepid", "ptraceable")?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// A file system with an empty file and an empty directory to cover others with; read-only as every cover.
fn covering() -> Staged<OwnedFd> {
    let mount = memory(4096, 4, "0555").at(View, "tmpfs of the covers")?;
    let file = Point { name: COVER_FILE.to_owned(), directory: false };
    let directory = Point { name: COVER_DIRECTORY.to_owned(), directory: true };
    [file, directory].iter().try_for_each(|point| make(mount.as_fd(), point)).at(View, "covers")?;
    let attributes = Kind::Cover { directory: true }.attributes().bits();
    mount_setattr(mount.as_fd(), attributes, None).at(View, "mount_setattr of the covers")?;
    Ok(mount)
}

/// The detached mount of a place, with its attributes set (a scaffold is still writable).
fn prepare<'a>(place: &Place, covers: Option<&OwnedFd>, handed: &'a Handed<'_>) -> Staged<Ready<'a>> {
    let what = |operation: &str| format!("{operation} of {}", place.target);
    let set = place.kind.attributes().bits();
    let there = |mount: &'a OwnedFd| Ok(Ready::There(mount.as_fd()));
    let (mount, set) = match &place.kind {
        Kind::Root => return Err(Errno::INVAL).at(View, "a second root"),
        Kind::Tree { number, access } => {
            let tree = handed.descriptors.trees.get(*number).ok_or(Errno::INVAL).at(View, &what("tree"))?;
            let owners = match access {
                TreeAccess::ReadOnly => &handed.descriptors.owners.read_only,
                TreeAccess::ReadWrite => &handed.descriptors.owners.writable,
            };
            mount_setattr(tree.as_fd(), set, Some(owners.as_fd())).at(View, &what("mount_setattr"))?;
            return there(tree);
        }
        Kind::Temporary { size_bytes_max, inodes_max } => {
            (memory(*size_bytes_max, *inodes_max, "1777").at(View, &what("tmpfs"))?, set)
        }
        Kind::SharedMemory => return there(&handed.furniture.shared_memory),
        Kind::Devices => return there(&handed.furniture.devices),
        Kind::Proc { masked: false } => return there(&handed.furniture.proc),
        Kind::Scaffold { points } => {
            let mount = memory(64 * 1024, points.len() as u64 + 8, "0755").at(View, &what("tmpfs"))?;
            points.iter().try_for_each(|point| make(mount.as_fd(), point)).at(View, &what("mount points"))?;
            (mount, 0)
        }
        Kind::Proc { masked: true } => (proc(true).at(View, &what("procfs"))?, set),
        Kind::Cover { directory } => {
            let covers = covers.ok_or(Errno::INVAL).at(View, &what("cover"))?;
            let name = if *directory { COVER_DIRECTORY } else { COVER_FILE };
            // With the attributes of its file system.
            return open_tree(covers, name, CLONED).at(View, &what("open_tree")).map(Ready::Made);
        }
    };
    mount_setattr(mount.as_fd(), set, None).at(View, &what("mount_setattr"))?;
    Ok(Ready::Made(mount))
}

fn memory(size_bytes_max: u64, inodes_max: u64, mode: &str) -> std::io::Result<OwnedFd> {
    let options =
        [("size", size_bytes_max.to_string()), ("nr_inodes", inodes_max.to_string()), ("mode", mode.to_owned())];
    tmpfs(&options, MountAttrFlags::empty())
}

fn make(parent: BorrowedFd<'_>, point: &Point) -> Result<(), Errno> {
    if point.directory {
        return mkdirat(parent, point.name.as_str(), Mode::from_raw_mode(0o755));
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(parent, point.name.as_str(), flags, Mode::from_raw_mode(0o644)).map(|_| ())
}

/// Makes a place to mount at, of the type of what is mounted, in a file system of the view's own, with the directories on the way.
fn make_point(root: &OwnedFd, target: &str, mount: BorrowedFd<'_>) -> Staged<()> {
    let kind = FileType::from_raw_mode(fstat(mount).at(View, &format!("fstat of {target}"))?.st_mode);
    let ends = target.match_indices('/').map(|(end, _)| end).filter(|end| *end > 0).chain([target.len()]);
    for path in ends.filter_map(|end| target.get(1..end)) {
        let directory = kind == FileType::Directory || path.len() + 1 < target.len();
        match make(root.as_fd(), &Point { name: path.to_owned(), directory }) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).at(View, &format!("making of {target}")),
        }
    }
    Ok(())
}

fn open_point(root: BorrowedFd<'_>, target: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn attach(mount: BorrowedFd<'_>, at: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
    let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    let to = if path.is_empty() { MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH } else { MoveMountFlags::empty() };
    move_mount(mount, "", at, path, from | to)
}
