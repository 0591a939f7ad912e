//! The launcher process: forked while the caller was still single-threaded, so that everything it forks may run ordinary code.
//! It holds an almost empty mount table (copying it is part of the price of each step) and clones empty sandboxes. What a step is
//! to be is not its business: the order goes from the caller to the sandbox.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, accessat, makedev, mkdirat, mknodat, open, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};
use rustix::process::{DumpableBehavior, chdir, fchdir, pivot_root, set_dumpable_behavior, setpriority_process, umask};

use super::channel::{Channel, Received};
use super::order::{Failed, REQUEST_BYTES_MAX, Reply, Request};
use super::owners::Owners;
use super::spaces::{self, Spaces};
use crate::layer::Layer;
use crate::stage::{self, At as _, Empty, Kit, Staged};
use crate::sys::{self, Cloned, Forked, SingleThread, attr, mount_setattr};
use crate::trace::Rules;
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
/// Nice value of a launcher that makes sandboxes ahead, and of their inits until they have an order. Not the highest, with which it
/// would hold the kernel's locks for long when all processors are busy.
const AHEAD_NICE: i32 = 10;

/// Runs the launcher until the caller closes its end of the channel, of which the fork has a copy to drop.
pub(super) fn run(channel: &Channel, callers: Channel, kit: &Kit, alone: &SingleThread) -> ! {
    drop(callers);
    // Without a channel the caller hears nothing, and takes that for the failure that it is.
    let Ok(channel) = only_channel(channel, alone) else { sys::exit_now(1) };
    // An error is the answer to every request: nobody listens earlier.
    let settled = settle();
    let mut slow = Vec::new();
    while let Ok(Some(received)) = channel.receive::<Request>(&mut [0; REQUEST_BYTES_MAX]) {
        match received.message {
            Request::Close => slow.extend(received.descriptors),
            _ if answer(&channel, &settled, received, kit, alone).is_err() => break,
            // From the second on they are made ahead, while a step runs: that goes first.
            _ => drop(setpriority_process(None, AHEAD_NICE)),
        }
    }
    drop(channel);
    if !kit.left_out.contains(&Layer::Trace) {
        remove_behind(&Rules::of(std::process::id()), settled.as_ref().ok(), alone);
    }
    sys::exit_now(0)
}

/// Leaves to a last child what the kernel takes long for, and nobody waits for: the rules go (10 ms each, as the kernel waits for
/// all that read them), and so does what was to be closed. It comes to this as well if the caller is killed; if the launcher is,
/// the next one's last child sees to it.
fn remove_behind(rules: &Rules, proc: Option<&OwnedFd>, alone: &SingleThread) {
    if let Ok(Forked::Child) = sys::fork(alone) {
        let is_gone =
            |proc, pid: u32| accessat(proc, pid.to_string(), Access::EXISTS, AtFlags::empty()) == Err(Errno::NOENT);
        let lives = |pid| proc.is_none_or(|proc| !is_gone(proc, pid));
        rules.remove(lives);
        sys::exit_now(0)
    }
}

/// Leaves the caller's mount table behind. Returns a procfs of our own, which no step ever sees: settings in it are those of whoever
/// opens them. Making one for each step would cost as much as a Landlock domain.
fn settle() -> Staged<OwnedFd> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Layer::View, "PR_SET_DUMPABLE")?;
    // What each sandbox init begins with, done once.
    stage::drop_bounding_set()?;
    sys::reset_signals();
    sys::ignore_children().at(Layer::View, "SIGCHLD")?;
    let proc = stage::proc(true).at(Layer::View, "procfs for the set-up")?;
    enter_empty_root().at(Layer::View, "empty root of the launcher")?;
    Ok(proc)
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

/// Carries out one request; an error means that the caller cannot be answered.
fn answer(
    channel: &Channel,
    settled: &Result<OwnedFd, Failed>,
    received: Received<Request>,
    kit: &Kit,
    alone: &SingleThread,
) -> io::Result<()> {
    let proc = match settled {
        Ok(proc) => proc,
        Err(failed) => return channel.send(&Reply::Failed(failed.clone()), &[]),
    };
    let made = match received.message {
        Request::Sandbox { network } => sandbox(received.descriptors, network, proc, kit, alone),
        Request::Owners { host_id } => Owners::make(proc, host_id, alone).map(|owners| {
            let Owners { writable, read_only, root } = owners;
            (Reply::Owners, vec![writable, read_only, root])
        }),
        // Taken in by whoever read it.
        Request::Close => return Ok(()),
    };
    match made {
        Ok((reply, descriptors)) => channel.send(&reply, &descriptors.iter().map(AsFd::as_fd).collect::<Vec<_>>()),
        Err(failed) => channel.send(&Reply::Failed(failed), &[]),
    }
}

/// Clones an empty sandbox, whose init makes ready what is the same for all steps and then waits for its order. Meanwhile makes
/// the namespaces of its step, that of the network if it is wanted. Comes with the init's pidfd and with those.
fn sandbox(
    descriptors: Vec<OwnedFd>,
    network: bool,
    proc: &OwnedFd,
    kit: &Kit,
    alone: &SingleThread,
) -> Staged<(Reply, Vec<OwnedFd>)> {
    let descriptors = <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| Errno::BADF);
    let [control, cgroup] = descriptors.at(Layer::Namespaces, "request with other descriptors")?;
    match sys::clone_step(alone, cgroup.as_fd()).at(Layer::Namespaces, "clone3")? {
        Cloned::Child => {
            drop(cgroup);
            stage::run(Empty { control: Channel::from_fd(control), proc, kit, alone })
        }
        Cloned::Parent { pid, pidfd } => {
            let descriptors = if network {
                let Spaces { network, user } = Spaces::make(proc, &kit.left_out, alone)?;
                vec![pidfd, user, network]
            } else {
                vec![pidfd, spaces::user(proc, &kit.left_out, alone)?]
            };
            Ok((Reply::Sandbox { pid }, descriptors))
        }
    }
}
