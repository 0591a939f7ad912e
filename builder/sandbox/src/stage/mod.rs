//! What runs between clone3 and execve, in the step's own namespaces: the sandbox init, then the step process.
//!
//! Everything here is executed by a forked, single-threaded process. An error ends that process after one report to the caller.

mod attach;
mod init;
mod landlock;
mod step;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open, openat};

use crate::filter::{Filter, StepFilters};
use crate::launcher::Owners;
use crate::launcher::channel::Channel;
use crate::launcher::order::{Failed, Order};
use crate::layer::Layer;
use crate::sys::{self, SingleThread};

use attach::Furniture;
pub(crate) use attach::proc;
pub(crate) use init::run;
pub(crate) use landlock::PINNED_NUMBER as LANDLOCK_ABI;
pub(crate) use step::{LOCKED_BYTES, PENDING_SIGNALS, STACK_BYTES, drop_bounding_set, forbid_namespaces, identity};

/// What is the same for all sandboxes of a launcher, made before it was forked.
#[derive(Debug)]
pub(crate) struct Kit {
    /// Filters of steps, by profile.
    pub(crate) filters: StepFilters,
    /// The sandbox init's filter.
    pub(crate) init_filter: Filter,
    /// Layers that are not to be there.
    pub(crate) left_out: BTreeSet<Layer>,
}

/// What the launcher hands to the process it cloned: namespaces, and no order yet.
#[derive(Debug)]
pub(crate) struct Empty<'a> {
    pub(crate) control: Channel,
    /// The launcher's procfs, for settings.
    pub(crate) proc: &'a OwnedFd,
    pub(crate) kit: &'a Kit,
    pub(crate) alone: &'a SingleThread,
}

/// A sandbox with its order.
#[derive(Debug)]
struct Handed<'a> {
    order: Order,
    descriptors: Descriptors,
    furniture: Furniture,
    proc: &'a OwnedFd,
    kit: &'a Kit,
    alone: &'a SingleThread,
}

/// The control socket, and the descriptors that came with an order.
#[derive(Debug)]
struct Descriptors {
    control: Channel,
    stdout: OwnedFd,
    stderr: OwnedFd,
    owners: Owners,
    /// The step's own network namespace, in which nobody is.
    network: OwnedFd,
    /// The step's own user namespace, in which nobody is and nobody can make another namespace.
    user: OwnedFd,
    /// The image, then the policy's mounts.
    trees: Vec<OwnedFd>,
}

impl Descriptors {
    /// Closes every descriptor of the process, whoever owns it, but the standard three and the control socket.
    fn keep_only_control(self, alone: &SingleThread) -> Staged<Channel> {
        let layer = Layer::Descriptors;
        nix::unistd::dup2_stdin(&self.control).at(layer, "dup2")?;
        sys::close_from(alone, 3).at(layer, "close_range")?;
        // Closed just now; dropping it would close whatever gets its numbers next.
        std::mem::forget(self);
        let control = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).at(layer, "dup")?;
        let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at(layer, "open /dev/null")?;
        nix::unistd::dup2_stdin(&null).at(layer, "stdin")?;
        Ok(Channel::from_fd(control))
    }
}

pub(crate) type Staged<T> = Result<T, Failed>;

/// Names the layer and the operation of an error.
pub(crate) trait At<T> {
    fn at(self, layer: Layer, operation: &str) -> Staged<T>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, layer: Layer, operation: &str) -> Staged<T> {
        self.map_err(|error| {
            let errno = error.into().raw_os_error().unwrap_or(0);
            Failed { layer, operation: operation.to_owned(), errno }
        })
    }
}

/// Writes a setting through a procfs that only we hold, and reads it back.
fn set(proc: &OwnedFd, path: &str, value: &str) -> io::Result<String> {
    let file = openat(proc, path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes())?;
    value_of(&file)
}

/// Writes a setting that the kernel itself refuses if it is not to be.
pub(crate) fn write(proc: &OwnedFd, path: &str, value: &str) -> io::Result<()> {
    let file = openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

/// Reads a short setting.
fn read(proc: &OwnedFd, path: &str) -> io::Result<String> {
    value_of(&openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Asks the kernel for the value of an open setting.
fn value_of(file: &OwnedFd) -> io::Result<String> {
    let mut text = [0; 64];
    let length = rustix::io::pread(file, &mut text, 0)?;
    Ok(String::from_utf8_lossy(text.get(..length).unwrap_or_default()).trim().to_owned())
}
