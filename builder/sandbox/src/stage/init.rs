//! The sandbox init: pid 1 of the step's pid namespace. It makes ready what is the same for all steps, waits for its one order,
//! makes the view as real root, forks the step, gives everything up, and reports how the step ended. When it exits the kernel
//! kills whatever the step left behind.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::SigSet;
use rustix::fs::{FileType, Mode, OFlags, fchown, fstat, open};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Gid, Signal, Uid, WaitOptions, set_dumpable_behavior, set_parent_process_death_signal,
    setpriority_process, wait,
};
use rustix::thread::set_thread_groups;
use rustix::time::{ClockId, clock_gettime};

use super::attach::Furniture;
use super::{At, Descriptors, Empty, Handed, Staged, attach, set, step, write};
use crate::filter::Filter;
use crate::launcher::Owners;
use crate::launcher::channel::Channel;
use crate::launcher::order::{FIXED_DESCRIPTORS, Failed, Order, Report};
use crate::layer::Layer;
use crate::policy::{INIT_HOST_ID, Profile};
use crate::sys::{self, Forked};

/// Runs the process that the launcher cloned, to its end.
pub(crate) fn run(empty: Empty<'_>) -> ! {
    // A panic must not unwind into the launcher's frames.
    let outcome = catch_unwind(AssertUnwindSafe(|| live(empty)));
    sys::exit_now(i32::from(outcome.is_err()));
}

fn live(empty: Empty<'_>) {
    // What failed is said once there is an order that it keeps from being carried out.
    let furniture = furnish(&empty);
    let Empty { control, proc, kit, alone } = empty;
    let (order, descriptors) = match take_order(control) {
        Ok(Some(taken)) => taken,
        // No step is wanted here any more.
        Ok(None) => return,
        Err((control, failed)) => return drop(control.send(&Report::Failed(failed), &[])),
    };
    // If the caller is gone, nobody is left to tell what failed.
    let furniture = match furniture {
        Ok(furniture) => furniture,
        Err(failed) => return drop(descriptors.control.send(&Report::Failed(failed), &[])),
    };
    let handed = Handed { order, descriptors, furniture, proc, kit, alone };
    let step = match begin(&handed) {
        Ok(Forked::Parent(step)) => step,
        Ok(Forked::Child) => step::run(handed),
        Err(failed) => return drop(handed.descriptors.control.send(&Report::Failed(failed), &[])),
    };
    // Without the control socket the caller hears nothing more, and takes that for the failure that it is.
    let Ok(control) = handed.descriptors.keep_only_control(handed.alone) else { return };
    let report = retire(&handed.kit.init_filter, &control).and_then(|()| reap_until(step));
    let report = report.unwrap_or_else(Report::Failed);
    let sent = control.send(&report, &[]);
    // At once: to close a descriptor is none of the few system calls that are left.
    sys::exit_now(i32::from(sent.is_err()))
}

/// The one order, with its descriptors; `None`: the caller has gone.
fn take_order(control: Channel) -> Result<Option<(Order, Descriptors)>, (Channel, Failed)> {
    // Room for what comes and not for what may come: each page that is touched is copied first.
    let received = control.next_bytes().and_then(|bytes| control.receive::<Order>(&mut vec![0; bytes]));
    let received = match received {
        Ok(Some(received)) => received,
        Ok(None) => return Ok(None),
        Err(error) => return Err((control, refused(error, "order"))),
    };
    let order = received.message;
    let expected = FIXED_DESCRIPTORS + 1 + order.places.iter().filter(|place| place.is_tree()).count();
    let count = received.descriptors.len();
    let mut descriptors = received.descriptors.into_iter();
    let fixed: [_; FIXED_DESCRIPTORS] = std::array::from_fn(|_| descriptors.next());
    if let (
        true,
        [Some(stdout), Some(stderr), Some(writable), Some(read_only), Some(root), Some(network), Some(user)],
    ) = (count == expected, fixed)
    {
        let (owners, trees) = (Owners { writable, read_only, root }, descriptors.collect());
        return Ok(Some((order, Descriptors { control, stdout, stderr, owners, network, user, trees })));
    }
    Err((control, refused(Errno::BADF.into(), "order with other descriptors than mounts")))
}

fn refused(error: io::Error, operation: &str) -> Failed {
    Failed { layer: Layer::Process, operation: operation.to_owned(), errno: error.raw_os_error().unwrap_or(0) }
}

fn begin(handed: &Handed<'_>) -> Staged<Forked> {
    // Somebody waits from here on.
    setpriority_process(None, 0).at(Layer::Process, "setpriority")?;
    prepare(handed)?;
    let forked = sys::fork(handed.alone).at(Layer::Process, "fork of the step")?;
    if matches!(forked, Forked::Parent(_)) {
        // Takes the kernel a while, in which the step goes on. It cannot get there: it has the new root for its own.
        attach::leave()?;
    }
    Ok(forked)
}

/// Waits for all processes of the namespace until the step's main process ends.
fn reap_until(step: i32) -> Staged<Report> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == step => {
                return Ok(Report::Exited { status: status.as_raw() });
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).at(Layer::Process, "wait"),
        }
    }
}

/// Everything that needs no order: what all steps have alike.
fn furnish(empty: &Empty<'_>) -> Staged<Furniture> {
    bind_to_launcher()?;
    // The launcher ignored no other. Source: CLONE_CLEAR_SIGHAND in clone(2), which leaves ignored ones alone.
    sys::default_children().at(Layer::Process, "SIGCHLD")?;
    // A caller that waits for signals has them blocked, and a mask outlives fork and execve.
    SigSet::empty().thread_set_mask().at(Layer::Process, "sigprocmask")?;
    set_thread_groups(&[]).at(Layer::Identity, "setgroups")?;
    rustix::system::setdomainname(b"(none)").at(Layer::Namespaces, "setdomainname")?;
    if !empty.kit.left_out.contains(&Layer::AnonymousExec) {
        // Scoped to the pid namespace; only its owner may, so before the user namespace. Source: mm/memfd.c.
        set(empty.proc, "sys/vm/memfd_noexec", "2").at(Layer::AnonymousExec, "vm.memfd_noexec")?;
    }
    // What the caller is protected from must not protect a step: the kernel would not kill it for memory.
    set(empty.proc, "self/oom_score_adj", "0").at(Layer::Process, "oom_score_adj")?;
    // Children enter it; until one has, its clocks can be set.
    unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME)).at(Layer::Namespaces, "unshare of time")?;
    Furniture::make()
}

/// Everything else that needs root outside of a user namespace.
fn prepare(handed: &Handed<'_>) -> Staged<()> {
    setns(&handed.descriptors.network, CloneFlags::CLONE_NEWNET).at(Layer::Namespaces, "setns of net")?;
    attach::enter(handed)?;
    rustix::system::sethostname(handed.order.hostname.as_bytes()).at(Layer::Namespaces, "sethostname")?;
    if handed.order.require(Layer::Trace) {
        // Gives this process and all that come of it a session of their own in the audit records, which no step can change.
        let session = handed.order.host_id.to_string();
        write(handed.proc, "self/loginuid", &session).at(Layer::Trace, "loginuid")?;
    }
    if handed.order.profile == Profile::Loopback {
        sys::loopback_up().at(Layer::Namespaces, "loopback")?;
    }
    start_clocks_at_zero(handed.proc)?;
    for stream in [&handed.descriptors.stdout, &handed.descriptors.stderr] {
        own_pipe(stream, handed.order.host_id).at(Layer::Process, "fchown of an output pipe")?;
    }
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at(Layer::View, "open /dev/null")?;
    nix::unistd::dup2_stdin(&null).at(Layer::Process, "stdin")?;
    Ok(())
}

/// Dies with the launcher, and can be inspected by nobody but root. A change of user undoes both.
fn bind_to_launcher() -> Staged<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).at(Layer::Process, "PR_SET_PDEATHSIG")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Layer::Process, "PR_SET_DUMPABLE")
}

/// The clocks (but not the wall clock) of the time namespace that children enter start about now.
fn start_clocks_at_zero(proc: &OwnedFd) -> Staged<()> {
    let seconds = |clock| clock_gettime(clock).tv_sec;
    let (monotonic, boottime) = (seconds(ClockId::Monotonic), seconds(ClockId::Boottime));
    let file = rustix::fs::openat(proc, "self/timens_offsets", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .at(Layer::Namespaces, "open timens_offsets")?;
    let offsets = format!("monotonic -{monotonic} 0\nboottime -{boottime} 0\n");
    rustix::io::write(&file, offsets.as_bytes()).at(Layer::Namespaces, "timens_offsets")?;
    Ok(())
}

/// Lets the step open its output pipes again by name (`/dev/stderr`); files are left alone.
fn own_pipe(stream: &OwnedFd, host_id: u32) -> Result<(), Errno> {
    if FileType::from_raw_mode(fstat(stream)?.st_mode) == FileType::Fifo {
        fchown(stream.as_fd(), Some(Uid::from_raw(host_id)), Some(Gid::from_raw(host_id)))?;
    }
    Ok(())
}

/// Another user than the step's, no capabilities, hardly a system call.
fn retire(filter: &Filter, control: &Channel) -> Staged<()> {
    step::drop_privileges(INIT_HOST_ID)?;
    bind_to_launcher()?;
    filter.install().at(Layer::Seccomp, "seccomp")?;
    control.send(&Report::Retired, &[]).at(Layer::Process, "report")
}
