//! Namespaces that a step enters and that nobody is in before. They are made beside its sandbox: the first ones by the caller, which
//! has nothing else to do while its launcher settles, all others by the launcher, while the sandbox's init makes ready.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, openat};

use crate::layer::Layer;
use crate::stage::{self, At as _, Staged};
use crate::sys::{self, SingleThread};

/// One of each for one step.
#[derive(Debug)]
pub(super) struct Spaces {
    /// Without a network, and owned by the initial user namespace: no capability in the step's own counts in it.
    pub(super) network: OwnedFd,
    /// Without a user yet, and no namespace can be made in it.
    pub(super) user: OwnedFd,
}

impl Spaces {
    /// Makes them, in a child that enters them. `proc`: a procfs, for settings.
    ///
    /// # Errors
    /// If the kernel refuses one of them, or a setting.
    pub(super) fn make(proc: &OwnedFd, left_out: &BTreeSet<Layer>, alone: &SingleThread) -> Staged<Self> {
        let open = |name: &str| {
            openat(proc, format!("self/ns/{name}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .at(Layer::Namespaces, "open of a namespace")
        };
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).at(Layer::Namespaces, "unshare of net")?;
            let network = open("net")?;
            unshare(CloneFlags::CLONE_NEWUSER).at(Layer::Namespaces, "unshare of user")?;
            stage::forbid_namespaces(proc, left_out)?;
            Ok(Self { network, user: open("user")? })
        };
        sys::in_child(alone, make).at(Layer::Namespaces, "clone of a child for namespaces")?
    }
}
