//! The step process: takes everything off itself in an order in which nothing taken off is needed again, lets the caller check,
//! and executes the program.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid, chdir, setpriority_process, setrlimit, setsid, umask};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities_secure_bits, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits, set_no_new_privs,
    set_thread_res_gid, set_thread_res_uid,
};

use super::{At, Descriptors, Handed, Kit, Staged, landlock, set};
use crate::enforced::Confirmed;
use crate::filter::Filter;
use crate::launcher::channel::Channel;
use crate::launcher::order::{AGAIN, GO, Order, Report};
use crate::layer::Layer;
use crate::policy::VIEW_ID;
use crate::sys::{self, SingleThread};

/// Namespaces that a step may create none of. Source: namespaces(7), `/proc/sys/user`.
const NAMESPACES_MAX: [&str; 8] = [
    "max_user_namespaces",
    "max_pid_namespaces",
    "max_uts_namespaces",
    "max_ipc_namespaces",
    "max_net_namespaces",
    "max_mnt_namespaces",
    "max_cgroup_namespaces",
    "max_time_namespaces",
];
/// Stack: soft as usual, hard what gcc raises it to.
pub(crate) const STACK_BYTES: (u64, u64) = (8 << 20, 64 << 20);
/// Memory that can be locked: what a kernel gives by default (`RLIMIT_MEMLOCK` before Linux 5.16).
pub(crate) const LOCKED_BYTES: u64 = 64 << 10;
/// Signals that can be pending.
pub(crate) const PENDING_SIGNALS: u64 = 1024;

/// Runs the step process to its end.
pub(super) fn run(handed: Handed<'_>) -> ! {
    let Handed { order, descriptors, proc, kit, alone, .. } = handed;
    let (control, result) = match confine(&order, &descriptors, proc) {
        Err(failed) => (Ok(descriptors.control), Err(failed)),
        Ok(confirmed) => match settle(&order, descriptors, alone) {
            Ok(control) => {
                let result = finish(&order, kit, confirmed, &control);
                (Ok(control), result)
            }
            Err(failed) => (Err(()), Err(failed)),
        },
    };
    if let (Ok(control), Err(failed)) = (control, result) {
        // If the caller is gone, nobody is left to tell.
        let _ = control.send(&Report::Failed(failed), &[]);
    }
    sys::exit_now(1)
}

/// Everything up to the capabilities, while the set-up's descriptors are still open.
fn confine(order: &Order, descriptors: &Descriptors, proc: &OwnedFd) -> Staged<Confirmed> {
    let own_keyring = new_process(descriptors)?;
    if order.require(Layer::ProcessLimits) {
        process_limits(order).at(Layer::ProcessLimits, "setrlimit")?;
    }
    setns(&descriptors.user, CloneFlags::CLONE_NEWUSER).at(Layer::Namespaces, "setns of user")?;
    descriptors.control.send(&Report::Unmapped, &[]).at(Layer::Identity, "asking for the user")?;
    // Needs no user, so it is done while the caller makes one.
    if order.require(Layer::Capabilities) {
        drop_bounding_set()?;
    }
    let mut namespaces_max = BTreeMap::new();
    if order.require(Layer::NestedNamespaces) {
        let settings = settings_of_user(proc)?;
        for setting in NAMESPACES_MAX {
            let value = super::read(&settings, setting).at(Layer::NestedNamespaces, setting)?;
            namespaces_max.insert(setting.to_owned(), value);
        }
    }
    let memfd_noexec = super::read(proc, "sys/vm/memfd_noexec").at(Layer::AnonymousExec, "vm.memfd_noexec")?;
    let names = rustix::system::uname();
    let hostname = names.nodename().to_string_lossy().into_owned();
    let personality = nix::sys::personality::get().at(Layer::Process, "personality")?.bits() as u32;
    wait_for_go(&descriptors.control)?;
    Ok(Confirmed { landlock: None, personality, securebits: 0, memfd_noexec, namespaces_max, own_keyring, hostname })
}

/// The settings of the caller's user namespace, in a procfs.
fn settings_of_user(proc: &OwnedFd) -> Staged<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(proc, "sys/user", flags, Mode::empty()).at(Layer::NestedNamespaces, "open of sys/user")
}

/// No namespace can be made in the caller's user namespace from here on, unless the layer is not to be there.
pub(crate) fn forbid_namespaces(proc: &OwnedFd, left_out: &BTreeSet<Layer>) -> Staged<()> {
    if left_out.contains(&Layer::NestedNamespaces) {
        return Ok(());
    }
    let settings = settings_of_user(proc)?;
    NAMESPACES_MAX
        .iter()
        .try_for_each(|setting| set(&settings, setting, "0").at(Layer::NestedNamespaces, setting).map(drop))
}

/// Identity, capabilities and descriptors. Returns the control socket, the only descriptor left beside the standard three.
fn settle(order: &Order, descriptors: Descriptors, alone: &SingleThread) -> Staged<Channel> {
    if order.require(Layer::Capabilities) {
        drop_privileges(VIEW_ID)?;
    } else {
        identity(VIEW_ID)?;
    }
    if order.require(Layer::Descriptors) {
        return descriptors.keep_only_control(alone);
    }
    Ok(descriptors.control)
}

/// The last three layers, the caller's check, and execve.
fn finish(order: &Order, kit: &Kit, mut confirmed: Confirmed, control: &Channel) -> Staged<()> {
    if order.require(Layer::NoNewPrivileges) {
        set_no_new_privs(true).at(Layer::NoNewPrivileges, "PR_SET_NO_NEW_PRIVS")?;
    }
    chdir(order.workdir.as_str()).at(Layer::View, &format!("chdir to {}", order.workdir))?;
    if order.require(Layer::Landlock) {
        confirmed.landlock = Some(landlock::confine(order)?);
    }
    confirmed.securebits = capabilities_secure_bits().at(Layer::Capabilities, "PR_GET_SECUREBITS")?.bits();
    let program = Program::new(order).at(Layer::Process, "arguments")?;
    if order.require(Layer::Seccomp) {
        let filter = kit.filters.of(order.profile).map_err(|_| Errno::INVAL).at(Layer::Seccomp, "compiling")?;
        listen(filter, control)?;
    }
    control.send(&Report::Ready(Box::new(confirmed)), &[]).at(Layer::Process, "report")?;
    while hear(control)? == *AGAIN {
        landlock::try_forbidden()?;
        control.send(&Report::Tried, &[]).at(Layer::Process, "report")?;
    }
    let errno = program.execute();
    control.send(&Report::NotExecuted { errno }, &[]).at(Layer::Process, "report")
}

/// Puts the filter on and hands its listener to the caller, so that nobody in here has it.
fn listen(filter: &Filter, control: &Channel) -> Staged<()> {
    let Some(listener) = filter.install().at(Layer::Seccomp, "seccomp")? else { return Ok(()) };
    control.send(&Report::Listening, &[listener.as_fd()]).at(Layer::Trace, "handing over the listener")
}

/// A session, streams, a file mode mask, a personality and a keyring of its own.
fn new_process(descriptors: &Descriptors) -> Staged<bool> {
    setsid().at(Layer::Process, "setsid")?;
    nix::unistd::dup2_stdout(&descriptors.stdout).at(Layer::Process, "stdout")?;
    nix::unistd::dup2_stderr(&descriptors.stderr).at(Layer::Process, "stderr")?;
    umask(Mode::from_raw_mode(0o022));
    nix::sys::signal::SigSet::empty().thread_set_mask().at(Layer::Process, "signal mask")?;
    setpriority_process(None, 0).at(Layer::Process, "setpriority")?;
    sys::ordinary_scheduling().at(Layer::Process, "sched_setscheduler")?;
    sys::untuned().at(Layer::Process, "prctl and ioprio_set")?;
    nix::sys::personality::set(nix::sys::personality::Persona::empty()).at(Layer::Process, "personality")?;
    sys::join_empty_keyring().at(Layer::Process, "KEYCTL_JOIN_SESSION_KEYRING")
}

fn process_limits(order: &Order) -> Result<(), Errno> {
    let same = |value| (Some(value), Some(value));
    // Limited by the cgroup, or not at all: the caller's own limits are not the step's. That on processes stays, because it
    // counts a user's on the whole machine and cannot be raised by everyone who may start a step.
    let none = (None, None);
    let limits = [
        (Resource::Core, same(0)),
        (Resource::Fsize, same(order.file_bytes)),
        (Resource::Nofile, same(order.open_files)),
        (Resource::Stack, (Some(STACK_BYTES.0), Some(STACK_BYTES.1))),
        (Resource::Memlock, same(LOCKED_BYTES)),
        (Resource::Msgqueue, same(0)),
        (Resource::Sigpending, same(PENDING_SIGNALS)),
        (Resource::Rtprio, same(0)),
        (Resource::Nice, same(0)),
        (Resource::Cpu, none),
        (Resource::Data, none),
        (Resource::As, none),
    ];
    limits.into_iter().try_for_each(|(resource, (current, maximum))| setrlimit(resource, Rlimit { current, maximum }))
}

/// All ids and no group.
pub(crate) fn identity(id: u32) -> Staged<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_res_gid(gid, gid, gid).at(Layer::Identity, "setresgid")?;
    set_thread_res_uid(uid, uid, uid).at(Layer::Identity, "setresuid")
}

/// No program that is executed from here on gains a capability. A new user namespace begins with all of them again.
pub(crate) fn drop_bounding_set() -> Staged<()> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The one after the last: how many there are is the kernel's to say.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error).at(Layer::Capabilities, "PR_CAPBSET_DROP"),
        }
    }
    Ok(())
}

/// Becomes `id` without any capability, for good, the bounding set apart: securebits first, while that is still allowed.
pub(super) fn drop_privileges(id: u32) -> Staged<()> {
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(bits).at(Layer::Capabilities, "PR_SET_SECUREBITS")?;
    identity(id)?;
    clear_ambient_capability_set().at(Layer::Capabilities, "PR_CAP_AMBIENT")?;
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, none).at(Layer::Capabilities, "capset")
}

fn wait_for_go(control: &Channel) -> Staged<()> {
    if hear(control)? == *GO { Ok(()) } else { Err(Errno::PROTO).at(Layer::Process, "waiting for the caller") }
}

/// One of the caller's words, [`GO`] or [`AGAIN`].
fn hear(control: &Channel) -> Staged<[u8; GO.len()]> {
    let mut word = [0; GO.len()];
    let heard = control.receive_bytes(&mut word).map(drop);
    match heard {
        Ok(()) if [*GO, *AGAIN].contains(&word) => Ok(word),
        Ok(()) => Err(Errno::PIPE).at(Layer::Process, "waiting for the caller"),
        Err(error) => Err(error).at(Layer::Process, "waiting for the caller"),
    }
}

/// What execve takes, allocated before the filter is on.
struct Program {
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    fn new(order: &Order) -> io::Result<Self> {
        let strings = |texts: &[String]| texts.iter().map(|text| CString::new(text.as_str())).collect::<Result<_, _>>();
        let name = order.argv.first().map_or("", String::as_str);
        let candidates = if name.contains('/') {
            vec![CString::new(name)?]
        } else {
            let named = order.path.iter().map(|directory| CString::new(format!("{directory}/{name}")));
            named.collect::<Result<_, _>>()?
        };
        Ok(Self { candidates, argv: strings(&order.argv)?, env: strings(&order.env)? })
    }

    /// Returns only if no candidate could be executed: the error that says most.
    fn execute(&self) -> i32 {
        let mut answer = nix::errno::Errno::ENOENT;
        for candidate in &self.candidates {
            let Err(error) = nix::unistd::execve(candidate, &self.argv, &self.env);
            if error != nix::errno::Errno::ENOENT {
                answer = error;
            }
        }
        answer as i32
    }
}
