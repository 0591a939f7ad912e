//! Namespaces that a step enters and that nobody is in before. They are made beside its sandbox, while its init makes ready: by the
//! launcher, but for the network of the first one, which the caller makes while its launcher settles.

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
    /// Makes both, in a child that enters them. `proc`: a procfs, for settings.
    ///
    /// # Errors
    /// If the kernel refuses one of them, or a setting.
    pub(super) fn make(proc: &OwnedFd, left_out: &BTreeSet<Layer>, alone: &SingleThread) -> Staged<Self> {
        in_child(alone, || Ok(Self { network: enter_network(proc)?, user: enter_user(proc, left_out)? }))
    }
}

/// Makes the network alone, as [`Spaces::make`].
pub(super) fn network(proc: &OwnedFd, alone: &SingleThread) -> Staged<OwnedFd> {
    in_child(alone, || enter_network(proc))
}

/// Makes the user namespace alone, as [`Spaces::make`].
pub(super) fn user(proc: &OwnedFd, left_out: &BTreeSet<Layer>, alone: &SingleThread) -> Staged<OwnedFd> {
    in_child(alone, || enter_user(proc, left_out))
}

pub(super) fn in_child<T>(alone: &SingleThread, make: impl FnOnce() -> Staged<T>) -> Staged<T> {
    sys::in_child(alone, make).at(Layer::Namespaces, "clone of a child for namespaces")?
}

/// Before the user namespace, which would own it.
fn enter_network(proc: &OwnedFd) -> Staged<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET).at(Layer::Namespaces, "unshare of net")?;
    own(proc, "net")
}

fn enter_user(proc: &OwnedFd, left_out: &BTreeSet<Layer>) -> Staged<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWUSER).at(Layer::Namespaces, "unshare of user")?;
    stage::forbid_namespaces(proc, left_out)?;
    own(proc, "user")
}

/// One of the calling process's namespaces.
pub(super) fn own(proc: &OwnedFd, name: &str) -> Staged<OwnedFd> {
    openat(proc, format!("self/ns/{name}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .at(Layer::Namespaces, "open of a namespace")
}
