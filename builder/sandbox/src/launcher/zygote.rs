//! The launcher process: forked while the caller was still single-threaded, so that everything it forks may run ordinary code.
//! It holds an almost empty mount table (copying it is part of the price of each step), takes orders and clones.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat, open, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};
use rustix::process::{DumpableBehavior, chdir, fchdir, pivot_root, set_dumpable_behavior, umask};

use super::channel::{Channel, Received};
use super::order::{FIXED_DESCRIPTORS, Failed, ORDER_BYTES_MAX, Order, Reply};
use crate::filter::{Filter, StepFilters};
use crate::layer::Layer;
use crate::stage::{self, Descriptors, Handed};
use crate::sys::{self, Cloned, Forked, SingleThread, attr, mount_setattr};
use crate::tree::tmpfs;

/// The only device nodes of a step. Source: Documentation/admin-guide/devices.txt.
const NODES: [(&str, u32, u32); 5] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)];
/// What programs expect beside them.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// Owner maps kept: one for each slot in use; beyond this, the oldest is made again.
const OWNERS_MAX: usize = 64;

/// Filters by profile, and the sandbox init's.
#[derive(Debug)]
pub(super) struct Filters {
    pub(super) steps: StepFilters,
    pub(super) init: Filter,
}

/// Runs the launcher until the caller closes its end of the channel, of which the fork has a copy to drop.
pub(super) fn run(channel: &Channel, callers: Channel, filters: &Filters, alone: &SingleThread) -> ! {
    drop(callers);
    // Without a channel the caller hears nothing, and takes that for the failure that it is.
    let Ok(channel) = only_channel(channel, alone) else { sys::exit_now(1) };
    // An error is the answer to every order: nobody listens earlier.
    let mut state = settle();
    // One buffer for all orders: pages that are touched here are copied for every step.
    let mut buffer = vec![0; ORDER_BYTES_MAX];
    while let Ok(Some(received)) = channel.receive::<Order>(&mut buffer) {
        if answer(&channel, &mut state, received, filters, alone).is_err() {
            break;
        }
    }
    sys::exit_now(0)
}

/// What the launcher has once it is on its own.
struct Settled {
    /// A procfs of our own, which no step ever sees: settings in it are those of whoever opens them. Making one for each step
    /// would cost as much as a Landlock domain.
    proc: OwnedFd,
    owners: Vec<(u32, OwnedFd)>,
}

/// Leaves the caller's mount table behind.
fn settle() -> Result<Settled, Failed> {
    let failed = |operation: &'static str| {
        move |error: io::Error| Failed {
            layer: Layer::View,
            operation: operation.to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
        }
    };
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| failed("PR_SET_DUMPABLE")(e.into()))?;
    // What each sandbox init begins with, done once.
    stage::drop_bounding_set()?;
    sys::reset_signals();
    sys::ignore_children().map_err(failed("SIGCHLD"))?;
    let proc = stage::proc(true).map_err(|e| failed("procfs for the set-up")(e.into()))?;
    enter_empty_root().map_err(failed("empty root of the launcher"))?;
    Ok(Settled { proc, owners: Vec::new() })
}

/// Closes every descriptor of the caller's but the channel; the standard three become /dev/null.
fn only_channel(channel: &Channel, alone: &SingleThread) -> io::Result<Channel> {
    nix::unistd::dup2_stdin(channel)?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    drop(null);
    sys::close_from(alone, 3)?;
    let channel = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(Channel::from_fd(channel))
}

/// A mount namespace whose root is an empty read-only tmpfs with `/view` and `/dev`.
///
/// Works from an initramfs as well since Linux 7.0, where that is itself mounted on an empty root; older kernels refuse to
/// pivot_root there, and then every order is answered with that error.
fn enter_empty_root() -> io::Result<()> {
    umask(Mode::empty());
    let devices = device_nodes()?;
    let options = [("size", "64k".to_owned()), ("nr_inodes", "16".to_owned()), ("mode", "0755".to_owned())];
    let root = tmpfs(&options, MountAttrFlags::MOUNT_ATTR_NOSUID)?;
    for directory in ["view", "dev"] {
        mkdirat(&root, directory, Mode::from_raw_mode(0o755))?;
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", CWD, "/", from)?;
    fchdir(&root)?;
    // The same directory twice stacks the old root on the new one, from where it is taken off at once (pivot_root(2), NOTES).
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    move_mount(&devices, "", CWD, "/dev", from)?;
    mount_setattr(root.as_fd(), attr::RDONLY | attr::NODEV | attr::NOEXEC, None)
}

fn device_nodes() -> io::Result<OwnedFd> {
    let options = [("size", "64k".to_owned()), ("nr_inodes", "32".to_owned()), ("mode", "0755".to_owned())];
    let mount = tmpfs(&options, MountAttrFlags::empty())?;
    for (name, major, minor) in NODES {
        mknodat(&mount, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, &mount, name)?;
    }
    mkdirat(&mount, "shm", Mode::from_raw_mode(0o755))?;
    mount_setattr(mount.as_fd(), attr::RDONLY | attr::NOSUID | attr::NOEXEC, None)?;
    Ok(mount)
}

/// Carries out one order; an error means that the caller cannot be answered.
fn answer(
    channel: &Channel,
    state: &mut Result<Settled, Failed>,
    received: Received<Order>,
    filters: &Filters,
    alone: &SingleThread,
) -> io::Result<()> {
    let settled = match state {
        Ok(settled) => settled,
        Err(failed) => return channel.send(&Reply::Failed(failed.clone()), &[]),
    };
    match start(settled, received, filters, alone) {
        Ok((pid, pidfd)) => channel.send(&Reply::Started { pid }, &[pidfd.as_fd()]),
        Err((operation, error)) => {
            let errno = error.raw_os_error().unwrap_or(0);
            let failed = Failed { layer: Layer::Namespaces, operation: operation.to_owned(), errno };
            channel.send(&Reply::Failed(failed), &[])
        }
    }
}

fn start(
    settled: &mut Settled,
    received: Received<Order>,
    filters: &Filters,
    alone: &SingleThread,
) -> Result<(i32, OwnedFd), (&'static str, io::Error)> {
    let order = received.message;
    let expected = FIXED_DESCRIPTORS + 1 + order.places.iter().filter(|place| place.is_tree()).count();
    let mut descriptors = received.descriptors.into_iter();
    let count = descriptors.len();
    let (Some(control), Some(stdout), Some(stderr), Some(cgroup)) =
        (descriptors.next(), descriptors.next(), descriptors.next(), descriptors.next())
    else {
        return Err(("order without descriptors", Errno::BADF.into()));
    };
    if count != expected {
        return Err(("order with other descriptors than mounts", Errno::BADF.into()));
    }
    let owners = owners(&mut settled.owners, &settled.proc, order.host_id, alone)
        .map_err(|error| ("user namespace of the owner map", error))?;
    let handed = Handed {
        filter: filters.steps.of(order.profile),
        init_filter: &filters.init,
        order,
        descriptors: Descriptors { control: Channel::from_fd(control), stdout, stderr, trees: descriptors.collect() },
        owners,
        proc: &settled.proc,
        alone,
    };
    match sys::clone_step(alone, cgroup.as_fd()) {
        Ok(Cloned::Child) => stage::run(handed),
        Ok(Cloned::Parent { pid, pidfd }) => Ok((pid, pidfd)),
        Err(error) => Err(("clone3", error)),
    }
}

/// The user namespace that maps root on disk to `host_id` and nothing else. Made by a child that does nothing but hold it open.
fn owners<'a>(
    kept: &'a mut Vec<(u32, OwnedFd)>,
    proc: &OwnedFd,
    host_id: u32,
    alone: &SingleThread,
) -> io::Result<&'a OwnedFd> {
    if let Some(position) = kept.iter().position(|(id, _)| *id == host_id) {
        let latest = kept.remove(position);
        kept.push(latest);
    } else {
        if kept.len() >= OWNERS_MAX {
            kept.remove(0);
        }
        let made = make_owners(proc, host_id, alone)?;
        kept.push((host_id, made));
    }
    kept.last().map(|(_, owners)| owners).ok_or_else(|| Errno::NOENT.into())
}

fn make_owners(proc: &OwnedFd, host_id: u32, alone: &SingleThread) -> io::Result<OwnedFd> {
    let (ours, theirs) = Channel::pair()?;
    let pid = match sys::fork(alone)? {
        Forked::Child => {
            drop(ours);
            let entered = unshare(CloneFlags::CLONE_NEWUSER).is_ok();
            if entered && theirs.send_bytes(b"+", &[]).is_ok() {
                // Returns when the launcher drops its end.
                let _ = theirs.receive_bytes(&mut [0]);
            }
            sys::exit_now(0)
        }
        Forked::Parent(pid) => pid,
    };
    drop(theirs);
    if ours.receive_bytes(&mut [0])?.is_none() {
        return Err(Errno::NOSPC.into());
    }
    for map in ["uid_map", "gid_map"] {
        let map = openat(proc, format!("{pid}/{map}"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&map, format!("0 {host_id} 1\n").as_bytes())?;
    }
    Ok(openat(proc, format!("{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}
