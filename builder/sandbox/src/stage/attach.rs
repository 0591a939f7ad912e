//! Builds the view from detached mounts: attributes first, then the place, so that there never is a writable window.

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
use crate::sys::{attr, mount_setattr};
use crate::tree::tmpfs;
use crate::view::{Attributes, Kind, Place, Point, SHM_BYTES_MAX, SHM_INODES_MAX, TreeAccess};

/// Where the launcher's empty root has a place for the view.
const VIEW: &str = "/view";
/// Where the launcher's empty root has its device nodes.
const DEVICES: &str = "/dev";

/// Makes the view and moves into it; nothing of the launcher's mount table is left.
pub(super) fn enter(handed: &Handed<'_>) -> Staged<()> {
    let root = handed.descriptors.trees.first().ok_or(Errno::INVAL).at(View, "the image's tree")?;
    mount_setattr(root.as_fd(), bits(Kind::Root.attributes()), None).at(View, "mount_setattr of the image")?;
    attach(root.as_fd(), CWD, VIEW).at(View, "move_mount of the image")?;
    let mut scaffolds = Vec::new();
    for place in handed.order.places.iter().filter(|place| place.kind != Kind::Root) {
        let mount = prepare(place, handed)?;
        if place.make {
            make_point(root, &place.target, mount.as_fd())?;
        }
        let at = open_point(root.as_fd(), &place.target).at(View, &format!("mount point {}", place.target))?;
        attach(mount.as_fd(), at.as_fd(), "").at(View, &format!("move_mount to {}", place.target))?;
        if let Kind::Scaffold { .. } = place.kind {
            scaffolds.push((mount, place.kind.attributes()));
        }
    }
    for (mount, attributes) in scaffolds {
        mount_setattr(mount.as_fd(), bits(attributes), None).at(View, "mount_setattr of a scaffold")?;
    }
    fchdir(root).at(View, "fchdir to the view")?;
    // The same directory twice stacks the old root on the new one, from where it is taken off at once (pivot_root(2), NOTES).
    pivot_root(".", ".").at(View, "pivot_root")?;
    unmount(".", UnmountFlags::DETACH).at(View, "umount of the old root")?;
    rustix::process::chdir("/").at(View, "chdir")
}

/// A procfs of the current pid namespace, attached nowhere. `subset`: processes only, and of those only one's own.
pub(crate) fn proc(subset: bool) -> Result<OwnedFd, Errno> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if subset {
        fsconfig_set_string(context.as_fd(), "subset", "pid")?;
        fsconfig_set_string(context.as_fd(), "hidepid", "ptraceable")?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// The detached mount of a place, with its attributes set (a scaffold is still writable).
fn prepare(place: &Place, handed: &Handed<'_>) -> Staged<OwnedFd> {
    let what = |operation: &str| format!("{operation} of {}", place.target);
    let set = bits(place.kind.attributes());
    let (mount, set, owners) = match &place.kind {
        Kind::Root => return Err(Errno::INVAL).at(View, "a second root"),
        Kind::Tree { number, access: TreeAccess::ReadOnly | TreeAccess::ReadWrite } => {
            let tree = handed.descriptors.trees.get(*number).ok_or(Errno::INVAL).at(View, &what("tree"))?;
            (tree.try_clone().at(View, &what("dup"))?, set, Some(handed.owners.as_fd()))
        }
        Kind::Temporary { size_bytes_max, inodes_max } => {
            (memory(*size_bytes_max, *inodes_max, "1777").at(View, &what("tmpfs"))?, set, None)
        }
        Kind::SharedMemory => (memory(SHM_BYTES_MAX, SHM_INODES_MAX, "1777").at(View, &what("tmpfs"))?, set, None),
        Kind::Scaffold { points } => {
            let mount = memory(64 * 1024, points.len() as u64 + 8, "0755").at(View, &what("tmpfs"))?;
            points.iter().try_for_each(|point| make(mount.as_fd(), point)).at(View, &what("mount points"))?;
            (mount, 0, None)
        }
        Kind::Proc => (proc(true).at(View, &what("procfs"))?, set, None),
        Kind::Devices => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            (open_tree(CWD, DEVICES, flags).at(View, &what("open_tree"))?, set, None)
        }
    };
    mount_setattr(mount.as_fd(), set, owners).at(View, &what("mount_setattr"))?;
    Ok(mount)
}

fn bits(attributes: Attributes) -> u64 {
    let Attributes { read_only, no_devices, no_exec } = attributes;
    let bit = |on, bit| if on { bit } else { 0 };
    attr::NOSUID | bit(read_only, attr::RDONLY) | bit(no_devices, attr::NODEV) | bit(no_exec, attr::NOEXEC)
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
