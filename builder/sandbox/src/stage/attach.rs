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

/// What covers files and directories in a masked `/proc`.
const COVER_FILE: &str = "file";
const COVER_DIRECTORY: &str = "directory";

/// Makes the view and moves into it; nothing of the launcher's mount table is left.
pub(super) fn enter(handed: &Handed<'_>) -> Staged<()> {
    let root = handed.descriptors.trees.first().ok_or(Errno::INVAL).at(View, "the image's tree")?;
    mount_setattr(root.as_fd(), Kind::Root.attributes().bits(), None).at(View, "mount_setattr of the image")?;
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
    // The same directory twice stacks the old root on the new one, from where it is taken off at once (pivot_root(2), NOTES).
    pivot_root(".", ".").at(View, "pivot_root")?;
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
fn prepare(place: &Place, covers: Option<&OwnedFd>, handed: &Handed<'_>) -> Staged<OwnedFd> {
    let what = |operation: &str| format!("{operation} of {}", place.target);
    let set = place.kind.attributes().bits();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
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
        Kind::Proc { masked } => (proc(*masked).at(View, &what("procfs"))?, set, None),
        Kind::Cover { directory } => {
            let covers = covers.ok_or(Errno::INVAL).at(View, &what("cover"))?;
            let name = if *directory { COVER_DIRECTORY } else { COVER_FILE };
            // With the attributes of its file system.
            return open_tree(covers, name, flags).at(View, &what("open_tree"));
        }
        Kind::Devices => (open_tree(CWD, DEVICES, flags).at(View, &what("open_tree"))?, set, None),
    };
    mount_setattr(mount.as_fd(), set, owners).at(View, &what("mount_setattr"))?;
    Ok(mount)
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
