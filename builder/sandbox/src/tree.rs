//! Mounts that are attached nowhere: the only thing a view is made of.
//!
//! A detached mount has no path, so nobody can reach it by name, and its attributes can be set before anyone sees it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};
use serde::{Serialize, Serializer};

use crate::policy::Source;

/// A mount that is attached nowhere, with a name for the record. Cheap to clone; unmounted when the last clone goes and no
/// step holds it.
#[derive(Clone, Debug)]
pub struct DetachedTree {
    mount: Arc<OwnedFd>,
    name: String,
}

impl DetachedTree {
    pub(crate) fn new(mount: OwnedFd, name: String) -> Self {
        Self { mount: Arc::new(mount), name }
    }

    /// A new, empty, writable workspace in memory, owned by root with mode 0755, `nosuid` and `nodev`.
    ///
    /// # Errors
    /// Whatever the kernel answers to mounting a tmpfs.
    pub fn workspace(name: &str, size_bytes_max: u64, inodes_max: u64) -> io::Result<Self> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let options =
            [("size", size_bytes_max.to_string()), ("nr_inodes", inodes_max.to_string()), ("mode", "0755".to_owned())];
        Ok(Self::new(tmpfs(&options, attributes)?, format!("workspace:{name}")))
    }

    /// What the record calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl AsFd for DetachedTree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

impl Serialize for DetachedTree {
    /// As its name: a descriptor's number says nothing.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

/// A new detached tmpfs.
pub(crate) fn tmpfs(options: &[(&str, String)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, value.as_str())?;
    }
    match fsconfig_set_flag(context.as_fd(), "noswap") {
        // A kernel without swap support has no such option and needs none.
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A detached copy of one mount (not of what is mounted below it).
///
/// Must run in the mount namespace that the source belongs to or was made in: the kernel copies no other.
/// Source: `may_copy_tree` in fs/namespace.c, Linux 6.15.
pub(crate) fn detach(source: &Source) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    match source {
        Source::Tree(tree) => Ok(open_tree(tree.as_fd(), "", flags)?),
        Source::Path(path) => {
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let at = openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
            Ok(open_tree(at.as_fd(), "", flags)?)
        }
    }
}
