//! Every system call that neither nix nor rustix offers as a safe function, each as one small safe function.
//!
//! Promises: this file and those below it are the only ones of the package with `unsafe`; one operation a block, each with the
//! clause that makes it sound.
//! Absent: policy. Nothing here decides anything.
#![expect(unsafe_code, reason = "the package's only place for raw system calls")]

mod mount;

use std::ffi::CStr;
use std::fs::{File, read_dir};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) use mount::{LSMT_ROOT, attr, list_mounts, mount_setattr, stat_mount};

/// `CLONE_INTO_CGROUP`: libc's constant overflows to 0 on glibc targets (rust-lang/libc issue 3584), so we have our own.
/// Source: include/uapi/linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// `CLONE_CLEAR_SIGHAND`. Source: include/uapi/linux/sched.h.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// `CLONE_PIDFD`. Source: include/uapi/linux/sched.h.
const CLONE_PIDFD: u64 = 0x1000;
/// Stack of a child that opens some files for us.
const CHILD_STACK_BYTES: usize = 64 << 10;
/// Mount, pid, ipc, uts and cgroup namespaces. Like that of the network they must exist before, and so be owned above, the user
/// namespace.
const STEP_NAMESPACES: u64 =
    (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP) as u64;

/// Holding one proves that the process had exactly one thread when it was made, and it cannot be sent to another thread:
/// what makes it sound to go on with ordinary Rust after a fork.
#[derive(Debug)]
pub(crate) struct SingleThread(PhantomData<*const ()>);

impl SingleThread {
    /// Counts the process's threads; `Err(count)` if there is more than one.
    pub(crate) fn prove() -> io::Result<Result<Self, usize>> {
        match read_dir("/proc/self/task")?.count() {
            1 => Ok(Ok(Self(PhantomData))),
            threads => Ok(Err(threads)),
        }
    }
}

/// Which side of a fork the caller is on.
#[derive(Debug)]
pub(crate) enum Forked {
    /// In the new process.
    Child,
    /// In the old process, with the new one's pid in its own pid namespace.
    Parent(i32),
}

/// `fork(2)`.
pub(crate) fn fork(_: &SingleThread) -> io::Result<Forked> {
    // SAFETY: the token proves that no other thread exists, so no lock can be left held in the child (fork(3p)).
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// `struct clone_args`, first version with a cgroup (88 bytes). Source: include/uapi/linux/sched.h.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of a clone the caller is on.
#[derive(Debug)]
pub(crate) enum Cloned {
    /// In the new process.
    Child,
    /// In the old process.
    Parent {
        /// The new process in the caller's pid namespace.
        pid: i32,
        /// Becomes readable when the new process has died.
        pidfd: OwnedFd,
    },
}

/// Clones a sandbox's init into its new namespaces and, at once, into `cgroup`. Memory is copied as by fork.
pub(crate) fn clone_step(_: &SingleThread, cgroup: BorrowedFd<'_>) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    let args = CloneArgs {
        flags: STEP_NAMESPACES | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM and with no stack given, clone3 behaves like fork; the token proves that there is one thread; `args`
    // and `pidfd` outlive the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: CLONE_PIDFD succeeded, so the kernel stored a new descriptor there that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as i32, pidfd })
        }
    }
}

/// Runs `work` in a child that shares our memory and descriptors, while we stand still: what it enters, we do not. Nothing is copied:
/// a fork would take longer than all that is done in the child.
pub(crate) fn in_child<T>(_: &SingleThread, work: impl FnOnce() -> T) -> io::Result<T> {
    struct Job<W, T> {
        work: Option<W>,
        done: Option<T>,
    }
    extern "C" fn run<W: FnOnce() -> T, T>(job: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `in_child` hands over its own job and does nothing with it until this has returned.
        let job = unsafe { &mut *job.cast::<Job<W, T>>() };
        // A panic must not unwind into a frame that is not Rust's.
        job.done = job.work.take().and_then(|work| catch_unwind(AssertUnwindSafe(work)).ok());
        0
    }
    fn entry<W: FnOnce() -> T, T>(_: &Job<W, T>) -> extern "C" fn(*mut libc::c_void) -> libc::c_int {
        run::<W, T>
    }
    // Not written to: each page that is takes longer than a file that the child opens.
    let mut stack = Box::<[u128]>::new_uninit_slice(CHILD_STACK_BYTES / size_of::<u128>());
    let mut job = Job { work: Some(work), done: None };
    let entry = entry(&job);
    let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: with CLONE_VFORK the kernel holds us until the child has ended, and the token proves that there is no other thread,
    // so the child alone uses this memory; the stack is its own, aligned by its element type, and it and the job outlive it.
    let pid = unsafe { libc::clone(entry, stack.as_mut_ptr_range().end.cast(), flags, (&raw mut job).cast()) };
    check(libc::c_long::from(pid))?;
    // Fails if the kernel reaps our children: then it has.
    let _ = rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty());
    job.done.ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD))
}

/// `_exit(2)`: ends the process without running what the parent's frames registered.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any value and does not return.
    unsafe { libc::_exit(code) }
}

/// `close_range(2)` from `first` up. Only for a process that is about to become something else: it closes what others own.
pub(crate) fn close_from(_: &SingleThread, first: u32) -> io::Result<()> {
    // SAFETY: takes plain integers. No Rust value that holds such a descriptor is used or dropped afterwards: the callers
    // (launcher start, sandbox init, step) forget theirs, and their process leaves by _exit or execve.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })
}

/// Joins a new, empty session keyring. `Ok(false)`: this kernel has no keyrings.
pub(crate) fn join_empty_keyring() -> io::Result<bool> {
    /// `KEYCTL_JOIN_SESSION_KEYRING`. Source: include/uapi/linux/keyctl.h.
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring (keyctl_join_session_keyring(3)).
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    match check(result) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives every signal its default disposition: ignored ones would survive execve. Asks the kernel itself, because libc keeps its
/// own two signals (32 and 33) out of reach.
pub(crate) fn reset_signals() {
    /// `_NSIG`. Source: arch/x86/include/uapi/asm/signal.h.
    const SIGNALS: libc::c_int = 64;
    // Handler, flags, restorer and mask of the kernel's `struct sigaction`: SIG_DFL, none, none, none.
    let default = [0_u64; 4];
    for signal in 1..=SIGNALS {
        let (new, old, mask_bytes) = (&raw const default, std::ptr::null::<u64>(), size_of::<u64>());
        // SAFETY: the kernel reads one sigaction, which outlives the call; SIGKILL and SIGSTOP answer EINVAL, and change nothing.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, mask_bytes) };
    }
}

/// Back to the ordinary scheduling policy, whatever the caller has.
pub(crate) fn ordinary_scheduling() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: pid 0 is the caller itself; the kernel reads one sched_param, which outlives the call.
    check(libc::c_long::from(unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameter) }))
}

/// Takes off what a caller may have asked for its own memory, timers and disks, and a fork hands on: pages that are merged with equal
/// ones of others, which these can tell by the time that a write takes; no huge pages; late timers; a class of its own at the disk.
pub(crate) fn untuned() -> io::Result<()> {
    /// `PR_SET_MEMORY_MERGE`, which libc lacks. Source: include/uapi/linux/prctl.h.
    const PR_SET_MEMORY_MERGE: libc::c_int = 67;
    /// `IOPRIO_WHO_PROCESS`. Source: include/uapi/linux/ioprio.h.
    const WHO_PROCESS: libc::c_int = 1;
    /// Nanoseconds; 0 would mean what the caller had. Source: `init_task` in init/init_task.c.
    const TIMER_SLACK_NS: libc::c_ulong = 50_000;
    let none: libc::c_ulong = 0;
    for (option, value) in
        [(PR_SET_MEMORY_MERGE, none), (libc::PR_SET_THP_DISABLE, none), (libc::PR_SET_TIMERSLACK, TIMER_SLACK_NS)]
    {
        // SAFETY: these options take plain integers.
        match check(libc::c_long::from(unsafe { libc::prctl(option, value, none, none, none) })) {
            // A kernel without it has nothing to take off.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => result?,
        }
    }
    // SAFETY: takes plain integers: this process, no class.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, 0) })
}

/// The newest Landlock ABI of this kernel.
pub(crate) fn landlock_abi() -> io::Result<libc::c_long> {
    /// `LANDLOCK_CREATE_RULESET_VERSION`. Source: include/uapi/linux/landlock.h.
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel takes a null attribute of size 0 and only answers a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    check(abi)?;
    Ok(abi)
}

/// Lets the kernel reap this process's children.
pub(crate) fn ignore_children() -> io::Result<()> {
    // SAFETY: SIG_IGN is a valid disposition and SIGCHLD a valid signal.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets this process hear of its children again.
pub(crate) fn default_children() -> io::Result<()> {
    // SAFETY: SIG_DFL is a valid disposition and SIGCHLD a valid signal.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Brings the loopback interface of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: plain integers; the result is checked before it is owned.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: socket(2) just returned this descriptor; nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all-zero bytes are a valid ifreq (arrays and integers).
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which outlives the call.
    check(libc::c_long::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }))
}

/// `seccomp(2)`, `SECCOMP_SET_MODE_FILTER`. `listener`: returns its other end, which execve closes.
pub(crate) fn install_filter(program: &[libc::sock_filter], listener: bool) -> io::Result<Option<OwnedFd>> {
    let flags = if listener { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
    // The kernel only reads through the pointer.
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` names its instructions with their true number, and both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    check(result)?;
    // SAFETY: with this flag the call returns a new descriptor that nothing else owns.
    Ok(listener.then(|| unsafe { OwnedFd::from_raw_fd(result as i32) }))
}

/// `SECCOMP_IOCTL_NOTIF_RECV`: the call that waits longest for an answer.
pub(crate) fn receive_notification(listener: BorrowedFd<'_>) -> io::Result<libc::seccomp_notif> {
    // SAFETY: all-zero bytes are a valid seccomp_notif (integers), and what the kernel insists on.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the command's number has the size of what it points to, which outlives the call.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
    check(result.into()).map(|()| asked)
}

/// `SECCOMP_IOCTL_NOTIF_SEND`: the call fails with `errno`.
pub(crate) fn answer_notification(listener: BorrowedFd<'_>, id: u64, errno: i32) -> io::Result<()> {
    let answer = libc::seccomp_notif_resp { id, val: 0, error: -errno, flags: 0 };
    // SAFETY: the command's number has the size of what it points to, which outlives the call.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) }.into())
}

/// Takes a read lease on an open file, for all who hold this description of it. `Ok(false)`: somebody has it open for writing.
///
/// Who wants to write later waits for the lease to end, which raises a signal here that is ignored unless it is handled.
/// Source: fcntl(2), "Leases".
pub(crate) fn lease(file: BorrowedFd<'_>) -> io::Result<bool> {
    /// `F_SETSIG`, which libc lacks. Source: include/uapi/asm-generic/fcntl.h.
    const F_SETSIG: libc::c_int = 10;
    // SAFETY: takes plain integers.
    let set = unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) };
    check(set.into())?;
    // SAFETY: takes plain integers.
    let leased = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    match check(leased.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
        result => result.map(|()| true),
    }
}

/// Whether a read lease is held that nobody waits for.
pub(crate) fn is_leased(file: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: takes plain integers.
    let lease = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) };
    check(lease.into()).map(|()| lease == libc::F_RDLCK)
}

/// One device-mapper ioctl: `buffer` starts with a `struct dm_ioctl`, whose `data_size` (bytes 12 to 16) must be its length.
/// Source: include/uapi/linux/dm-ioctl.h.
pub(crate) fn device_mapper(control: &File, request: u64, buffer: &mut [u8]) -> io::Result<()> {
    let claimed = buffer.get(12..16).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    if claimed.map(|size| size as usize) != Some(buffer.len()) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the kernel reads and writes at most `data_size` bytes from the pointer, which was just checked to be its length.
    check(libc::c_long::from(unsafe { libc::ioctl(control.as_fd().as_raw_fd(), request, buffer.as_mut_ptr()) }))
}

/// `swapon(2)`, without options.
pub(crate) fn swap_on(path: &CStr) -> io::Result<()> {
    // SAFETY: swapon(2): the path is a string that ends in a zero byte and lives through the call; the kernel only reads it.
    check(libc::c_long::from(unsafe { libc::swapon(path.as_ptr(), 0) }))
}

/// Turns a system call's result into a `Result`.
fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
