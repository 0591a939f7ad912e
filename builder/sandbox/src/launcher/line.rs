//! The caller's line to the launcher process: empty sandboxes, one asked for ahead, and owner maps.
//!
//! An empty sandbox is a set of namespaces in a cgroup of its own, with a sandbox init of ours that waits for its one order: nobody
//! has been in it, it is given out once, and what it is gets read back like everything else. A launcher has one asked for when it
//! starts; from its second step on it asks for the next one with each step, so that who starts one step only leaves none.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::Error;
use super::channel::Channel;
use super::order::{Failed, REPORT_BYTES_MAX, Reply, Request};
use super::owners::Owners;
use super::spaces::Spaces;
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
    /// Those of its step, in which nobody is.
    pub(super) spaces: Spaces,
    pub(super) cgroup: Cgroup,
}

/// One that the launcher may not have made yet.
#[derive(Debug)]
struct Asked {
    control: Channel,
    cgroup: Cgroup,
    /// The network of its step, if it does not come with one.
    network: Option<OwnedFd>,
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

/// What the launcher was asked for and did not answer yet.
#[derive(Debug)]
enum Waiting {
    Sandbox(Asked),
    /// For this host user.
    Owners(u32),
}

/// The channel to the launcher, and what came over it and was not used yet.
#[derive(Debug)]
pub(super) struct Line {
    channel: Channel,
    prepared: Option<Prepared>,
    /// In the order in which it answers.
    waiting: VecDeque<Waiting>,
    made: Option<Sandbox>,
    given: u64,
    owners: BTreeMap<u32, Arc<Owners>>,
}

impl Line {
    pub(super) fn new(channel: Channel) -> Self {
        let (waiting, owners) = (VecDeque::new(), BTreeMap::new());
        Self { channel, prepared: None, waiting, made: None, given: 0, owners }
    }

    /// Has an empty sandbox made, unless there is one or one is on its way, and the maps of owners to `host_id`; does not wait.
    pub(super) fn ask(&mut self, hierarchy: &Hierarchy, host_id: u32) -> Result<(), Error> {
        self.ask_sandbox(hierarchy)?;
        let is_asked = |waiting: &Waiting| matches!(waiting, Waiting::Owners(id) if *id == host_id);
        if !self.owners.contains_key(&host_id) && !self.waiting.iter().any(is_asked) {
            self.request(Request::Owners { host_id }, &[])?;
            self.waiting.push_back(Waiting::Owners(host_id));
        }
        Ok(())
    }

    fn ask_sandbox(&mut self, hierarchy: &Hierarchy) -> Result<(), Error> {
        let is_sandbox = |waiting: &Waiting| matches!(waiting, Waiting::Sandbox(_));
        if self.made.is_some() || self.waiting.iter().any(is_sandbox) {
            return Ok(());
        }
        let prepared = self.prepared.take().map_or_else(|| Prepared::make(hierarchy), Ok)?;
        let Prepared { control, far, cgroup } = prepared;
        self.request(Request::Sandbox { network: true }, &[far.as_fd(), cgroup.as_fd()])?;
        self.waiting.push_back(Waiting::Sandbox(Asked { control, cgroup, network: None }));
        Ok(())
    }

    /// Has the first one made, and meanwhile makes the network of its step: nobody waits for the caller yet. After an error the line is
    /// of no use.
    pub(super) fn ask_first(
        &mut self,
        hierarchy: &Hierarchy,
        network: impl FnOnce() -> Result<OwnedFd, Failed>,
    ) -> Result<(), Error> {
        let Prepared { control, far, cgroup } = Prepared::make(hierarchy)?;
        self.request(Request::Sandbox { network: false }, &[far.as_fd(), cgroup.as_fd()])?;
        self.waiting.push_back(Waiting::Sandbox(Asked { control, cgroup, network: Some(network()?) }));
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
            let _ = self.ask_sandbox(hierarchy);
        }
    }

    /// An empty sandbox, and the maps of owners to `host_id`.
    pub(super) fn take(&mut self, hierarchy: &Hierarchy, host_id: u32) -> Result<(Sandbox, Arc<Owners>), Error> {
        loop {
            // Another thread may have taken what was asked for.
            self.ask(hierarchy, host_id)?;
            if let Some(owners) = self.owners.get(&host_id).map(Arc::clone)
                && let Some(sandbox) = self.made.take()
            {
                self.given += 1;
                return Ok((sandbox, owners));
            }
            self.hear()?;
        }
    }

    /// Takes in the next answer.
    fn hear(&mut self) -> Result<(), Error> {
        let waiting = self.waiting.pop_front().ok_or(Error::OutOfTurn)?;
        match (waiting, self.reply()?) {
            (Waiting::Sandbox(asked), (Reply::Sandbox { pid }, [Some(pidfd), Some(user), made])) => {
                let Asked { control, cgroup, network } = asked;
                let ((Some(network), None) | (None, Some(network))) = (network, made) else {
                    return Err(Error::OutOfTurn);
                };
                let spaces = Spaces { network, user };
                self.made = Some(Sandbox { control, init: pid, pidfd, spaces, cgroup });
            }
            (Waiting::Owners(host_id), (Reply::Owners, [Some(writable), Some(read_only), Some(root)])) => {
                if self.owners.len() >= OWNERS_MAX {
                    self.owners.clear();
                }
                self.owners.insert(host_id, Arc::new(Owners { writable, read_only, root }));
            }
            _ => return Err(Error::OutOfTurn),
        }
        Ok(())
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
        while !self.waiting.is_empty() && self.hear().is_ok() {}
        if let Some(Sandbox { control, pidfd, cgroup, .. }) = self.made.take() {
            drop(control);
            // Whatever survives is said by nobody: the cgroup's own drop tries once more.
            let _ = cgroup.end(pidfd.as_fd()).and_then(|()| cgroup.clear());
        }
    }

    fn request(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.channel.send(&request, descriptors).map_err(|source| Error::Channel { with: "launcher", source })
    }

    /// The next reply and its descriptors.
    fn reply(&self) -> Result<(Reply, [Option<OwnedFd>; 3]), Error> {
        let received = self.channel.receive::<Reply>(&mut [0; REPORT_BYTES_MAX]);
        let received = received.map_err(|source| Error::Channel { with: "launcher", source })?;
        let received = received.ok_or(Error::Gone { who: "launcher" })?;
        match received.message {
            Reply::Failed(failed) => Err(failed.into()),
            reply => {
                let mut descriptors = received.descriptors.into_iter();
                Ok((reply, std::array::from_fn(|_| descriptors.next())))
            }
        }
    }
}
