//! How the owners of a step's files are mapped: user namespaces in which nobody ever is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, setfsuid};
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};

use super::spaces::{in_child, own};
use crate::layer::Layer;
use crate::policy::NO_ID;
use crate::stage::{self, At as _, Staged};
use crate::sys::SingleThread;

/// One map for each kind of mount. Where a map lacks a file's owner or group, the kernel lets nobody write to it by any way, whatever
/// the file's mode and type: not to a socket either. Source: inode_permission in fs/namei.c, HAS_UNMAPPED_ID.
#[derive(Debug)]
pub(crate) struct Owners {
    /// Root on disk is the step's user and group.
    pub(crate) writable: OwnedFd,
    /// Root on disk is the step's user, so that it can read what only root may; no group is anybody's.
    pub(crate) read_only: OwnedFd,
    /// No user and no group is anybody's.
    pub(crate) root: OwnedFd,
}

impl Owners {
    /// Makes the maps for a step that is `host_id`. `proc`: a procfs of our own.
    ///
    /// # Errors
    /// If the kernel refuses one of them.
    pub(super) fn make(proc: &OwnedFd, host_id: u32, alone: &SingleThread) -> Staged<Self> {
        let map = |user, group| in_child(alone, || enter_map(proc, user, group, host_id));
        Ok(Self { writable: map(0, 0)?, read_only: map(0, NO_ID)?, root: map(NO_ID, NO_ID)? })
    }

    /// In the order in which they travel.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [&self.writable, &self.read_only, &self.root].map(AsFd::as_fd)
    }
}

/// The user namespace that maps `user` and `group` on disk to `host_id` and nothing else. Whoever made it may map their own user there,
/// from within: so this process becomes that user, but stays root for the files of its `/proc`, and keeps its capabilities.
/// Source: new_idmap_permitted in kernel/user_namespace.c.
fn enter_map(proc: &OwnedFd, user: u32, group: u32, host_id: u32) -> Staged<OwnedFd> {
    let layer = Layer::Namespaces;
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP).at(layer, "securebits of an owner map")?;
    stage::identity(host_id)?;
    // Cannot fail with the capability that is kept; if it does, no file below can be opened.
    setfsuid(Uid::from_raw(0));
    unshare(CloneFlags::CLONE_NEWUSER).at(layer, "unshare of user for an owner map")?;
    for (file, line) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{user} {host_id} 1\n")),
        ("gid_map", format!("{group} {host_id} 1\n")),
    ] {
        stage::write(proc, &format!("self/{file}"), &line).at(layer, &format!("{file} of an owner map"))?;
    }
    own(proc, "user")
}
