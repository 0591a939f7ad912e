//! Builds the view from detached mounts: attributes first, then the place, so that there never is a writable window.
//!
//! A masked `/proc` is a whole procfs at first. Each file that a step may see is mounted on itself, and then the file system is
//! told to show processes only (`subset=pid`). What was not mounted on can no longer be looked up, by any name and for whoever
//! asks; what was, is found, because a mount point stays in the kernel's cache of names. So the list says what is there, not
//! what is hidden, and a file that a later kernel adds is not there. Source: proc_lookup and proc_reconfigure in fs/proc.
//! Linux 7.3 refuses that last change: there a step with a masked `/proc` does not start. Any other `/proc` is made with
//! `subset=pid` at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_string, fsmount, fsopen, fspick, move_mount, open_tree,
    unmount,
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

/// Makes the view and moves into it; nothing of the launcher's mount table is left.
pub(super) fn enter(handed: &Handed<'_>) -> Staged<()> {
    let root = handed.descriptors.trees.first().ok_or(Errno::INVAL).at(View, "the image's tree")?;
    mount_setattr(root.as_fd(), Kind::Root.attributes().bits(), None).at(View, "mount_setattr of the image")?;
    attach(root.as_fd(), CWD, VIEW).at(View, "move_mount of the image")?;
    let (mut scaffolds, mut proc) = (Vec::new(), None);
    for place in handed.order.places.iter().filter(|place| place.kind != Kind::Root) {
        let mount = prepare(place, root.as_fd(), handed)?;
        if place.make {
            make_point(root, &place.target, mount.as_fd())?;
        }
        let at = open_point(root.as_fd(), &place.target).at(View, &format!("mount point {}", place.target))?;
        attach(mount.as_fd(), at.as_fd(), "").at(View, &format!("move_mount to {}", place.target))?;
        match place.kind {
            Kind::Scaffold { .. } => scaffolds.push((mount, place.kind.attributes())),
            Kind::Proc => proc = Some(mount),
            _ => {}
        }
    }
    if let Some(proc) = proc.filter(|_| is_masked(handed)) {
        show_processes_only(proc.as_fd()).at(View, "subset=pid of a masked /proc")?;
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

/// Whether the step sees files of `/proc` beside its processes.
fn is_masked(handed: &Handed<'_>) -> bool {
    handed.order.places.iter().any(|place| place.kind == Kind::ProcFile)
}

/// A new procfs of the current pid namespace, attached nowhere: whole, or processes only. Of its processes, one sees those that
/// one may trace.
pub(crate) fn proc(whole: bool) -> Result<OwnedFd, Errno> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !whole {
        fsconfig_set_string(context.as_fd(), "subset", "pid")?;
    }
    fsconfig_set_string(context.as_fd(), "hidepid", "ptraceable")?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Takes everything but processes, and what is mounted on, out of a procfs.
fn show_processes_only(proc: BorrowedFd<'_>) -> Result<(), Errno> {
    let context = fspick(proc, "", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)?;
    fsconfig_set_string(context.as_fd(), "subset", "pid")?;
    fsconfig_reconfigure(context.as_fd())
}

/// The detached mount of a place, with its attributes set (a scaffold is still writable). A file of `/proc` is itself.
fn prepare(place: &Place, root: BorrowedFd<'_>, handed: &Handed<'_>) -> Staged<OwnedFd> {
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
        Kind::Proc => (proc(is_masked(handed)).at(View, &what("procfs"))?, set, None),
        Kind::ProcFile => {
            let flags = flags | OpenTreeFlags::AT_EMPTY_PATH;
            let file = open_point(root, &place.target).at(View, &what("lookup"))?;
            (open_tree(file.as_fd(), "", flags).at(View, &what("open_tree"))?, set, None)
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
