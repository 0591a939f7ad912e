//! The caller's line to the launcher process: empty sandboxes, one asked for ahead, and owner maps.
//!
//! An empty sandbox is a set of namespaces in a cgroup of its own, with a sandbox init of ours that waits for its one order: nobody
//! has been in it, it is given out once, and what it is gets read back like everything else. A launcher has one asked for when it
//! starts; from its second step on it asks for the next one with each step, so that who starts one step only leaves none.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::Error;
use super::channel::Channel;
use super::order::{REPORT_BYTES_MAX, Reply, Request};
use crate::cgroup::{Cgroup, Hierarchy};

/// Owner maps kept: one for each slot in use; beyond this, all are made again.
const OWNERS_MAX: usize = 64;

/// An empty sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) control: Channel,
    /// Its init in our pid namespace.
    pub(super) init: i32,
    /// Its init, as a pidfd.
    pub(super) pidfd: OwnedFd,
    /// The user namespace of its step, in which nobody is.
    pub(super) user: OwnedFd,
    pub(super) cgroup: Cgroup,
}

/// One that the launcher may not have made yet.
#[derive(Debug)]
struct Asked {
    control: Channel,
    cgroup: Cgroup,
}

/// What is needed to ask for one.
#[derive(Debug)]
struct Prepared {
    control: Channel,
    far: Channel,
    cgroup: Cgroup,
}

impl Prepared {
    fn make(hierarchy: &Hierarchy) -> Result<Self, Error> {
        let cgroup = hierarchy.create()?;
        let (control, far) = Channel::pair_with_sender().map_err(|source| Error::Channel { with: "step", source })?;
        Ok(Self { control, far, cgroup })
    }
}

/// The channel to the launcher, and what came over it and was not used yet.
#[derive(Debug)]
pub(super) struct Line {
    channel: Channel,
    prepared: Option<Prepared>,
    asked: Option<Asked>,
    given: u64,
    owners: BTreeMap<u32, Arc<OwnedFd>>,
}

impl Line {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel, prepared: None, asked: None, given: 0, owners: BTreeMap::new() }
    }

    /// Has an empty sandbox made, unless one is on its way; does not wait for it.
    pub(super) fn ask(&mut self, hierarchy: &Hierarchy) -> Result<(), Error> {
        if self.asked.is_some() {
            return Ok(());
        }
        let prepared = self.prepared.take().map_or_else(|| Prepared::make(hierarchy), Ok)?;
        let Prepared { control, far, cgroup } = prepared;
        self.request(Request::Sandbox, &[far.as_fd(), cgroup.as_fd()])?;
        self.asked = Some(Asked { control, cgroup });
        Ok(())
    }

    /// Makes ready what it takes to ask for the next one, if this launcher is one that starts several.
    pub(super) fn prepare_ahead(&mut self, hierarchy: &Hierarchy) {
        if self.given > 1 && self.prepared.is_none() {
            // Whoever needs it tries again, and is told why it cannot be had.
            self.prepared = Prepared::make(hierarchy).ok();
        }
    }

    /// Has the next one made ahead, if this launcher is one that starts several.
    pub(super) fn ask_ahead(&mut self, hierarchy: &Hierarchy) {
        if self.given > 1 {
            // Whoever needs it asks again, and is told why it cannot be had.
            let _ = self.ask(hierarchy);
        }
    }

    /// An empty sandbox, and the map of owners to `host_id`.
    pub(super) fn take(&mut self, hierarchy: &Hierarchy, host_id: u32) -> Result<(Sandbox, Arc<OwnedFd>), Error> {
        self.ask(hierarchy)?;
        let sandbox = self.made()?;
        self.given += 1;
        if let Some(owners) = self.owners.get(&host_id) {
            return Ok((sandbox, Arc::clone(owners)));
        }
        self.request(Request::Owners { host_id }, &[])?;
        let (Reply::Owners, [Some(owners), None]) = self.reply()? else { return Err(Error::OutOfTurn) };
        if self.owners.len() >= OWNERS_MAX {
            self.owners.clear();
        }
        let owners = Arc::new(owners);
        self.owners.insert(host_id, Arc::clone(&owners));
        Ok((sandbox, owners))
    }

    /// The sandbox that was asked for, once it is there.
    fn made(&mut self) -> Result<Sandbox, Error> {
        let Asked { control, cgroup } = self.asked.take().ok_or(Error::OutOfTurn)?;
        let (Reply::Sandbox { pid }, [Some(pidfd), Some(user)]) = self.reply()? else { return Err(Error::OutOfTurn) };
        Ok(Sandbox { control, init: pid, pidfd, user, cgroup })
    }

    /// Ends the sandbox that nobody used, and leaves to the launcher's last child what it takes the kernel long to close: `slow`.
    pub(super) fn leave(&mut self, slow: &[impl AsFd]) {
        self.end_unused();
        let slow: Vec<BorrowedFd<'_>> = slow.iter().map(AsFd::as_fd).collect();
        // What it does not get is closed here.
        let _ = self.request(Request::Close, &slow);
    }

    /// Ends the launcher.
    pub(super) fn hang_up(&self) {
        // If it is gone already, there is nothing to do.
        let _ = rustix::net::shutdown(self.channel.as_fd(), rustix::net::Shutdown::Both);
    }

    /// Ends the sandbox that nobody used.
    pub(super) fn end_unused(&mut self) {
        self.prepared = None;
        if self.asked.is_some()
            && let Ok(Sandbox { control, pidfd, cgroup, .. }) = self.made()
        {
            drop(control);
            // Whatever survives is said by nobody: the cgroup's own drop tries once more.
            let _ = cgroup.end(pidfd.as_fd()).and_then(|()| cgroup.clear());
        }
    }

    fn request(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.channel.send(&request, descriptors).map_err(|source| Error::Channel { with: "launcher", source })
    }

    /// The next reply and its descriptors.
    fn reply(&self) -> Result<(Reply, [Option<OwnedFd>; 2]), Error> {
        let received = self.channel.receive::<Reply>(&mut [0; REPORT_BYTES_MAX]);
        let received = received.map_err(|source| Error::Channel { with: "launcher", source })?;
        let received = received.ok_or(Error::Gone { who: "launcher" })?;
        match received.message {
            Reply::Failed(failed) => Err(failed.into()),
            reply => {
                let mut descriptors = received.descriptors.into_iter();
                Ok((reply, [descriptors.next(), descriptors.next()]))
            }
        }
    }
}
