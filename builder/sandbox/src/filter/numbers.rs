//! System call numbers by what a step gets for them. What is in no list answers ENOSYS: io_uring, clone3, openat2, whatever
//! comes next. So do the calls of Landlock: a step's own domain would be the one that is logged, and could be told to be quiet.
//! Source of names and numbers: arch/x86/entry/syscalls/syscall_64.tbl; those that libc lacks are given by number.

use libc::*;

/// A number and the name of its constant.
pub(super) type Named = (c_long, &'static str);

macro_rules! named {
    ($($number:ident),* $(,)?) => { &[$(($number, stringify!($number))),*] };
}

/// The name of a system call of one of the lists, as in its manual page.
pub(crate) fn name(number: c_long) -> Option<String> {
    let lists = [ALLOWED, DEBUGGING, DANGEROUS, ATTRIBUTES];
    let (_, constant) = lists.into_iter().flatten().find(|(listed, _)| *listed == number)?;
    constant.strip_prefix("SYS_").map(str::to_ascii_lowercase)
}

/// `mseal`, `getxattrat`, `listxattrat`: newer than the libc crate's table.
const SYS_MSEAL: c_long = 462;
const SYS_SETXATTRAT: c_long = 463;
const SYS_GETXATTRAT: c_long = 464;
const SYS_LISTXATTRAT: c_long = 465;
const SYS_REMOVEXATTRAT: c_long = 466;
const SYS_OPEN_TREE_ATTR: c_long = 467;
const SYS_STATMOUNT: c_long = 457;
const SYS_LISTMOUNT: c_long = 458;
const SYS_LISTNS: c_long = 470;
const SYS_CACHESTAT: c_long = 451;
const SYS_MAP_SHADOW_STACK: c_long = 453;
const SYS_FUTEX_WAKE: c_long = 454;
const SYS_FUTEX_WAIT: c_long = 455;
const SYS_FUTEX_REQUEUE: c_long = 456;

/// What builds need. Some are further restricted by `arguments`.
#[rustfmt::skip]
pub(super) const ALLOWED: &[Named] = named![
    // Files and directories.
    SYS_read, SYS_write, SYS_open, SYS_close, SYS_stat, SYS_fstat, SYS_lstat, SYS_lseek, SYS_pread64, SYS_pwrite64, SYS_readv,
    SYS_writev, SYS_access, SYS_dup, SYS_dup2, SYS_dup3, SYS_sendfile, SYS_fcntl, SYS_flock, SYS_fsync, SYS_fdatasync,
    SYS_truncate, SYS_ftruncate, SYS_getdents, SYS_getdents64, SYS_getcwd, SYS_chdir, SYS_fchdir, SYS_rename, SYS_renameat,
    SYS_renameat2, SYS_mkdir, SYS_mkdirat, SYS_rmdir, SYS_creat, SYS_link, SYS_linkat, SYS_unlink, SYS_unlinkat, SYS_symlink,
    SYS_symlinkat, SYS_readlink, SYS_readlinkat, SYS_chmod, SYS_fchmod, SYS_fchmodat, SYS_fchmodat2, SYS_chown, SYS_fchown,
    SYS_lchown, SYS_fchownat, SYS_umask, SYS_utime, SYS_utimes, SYS_futimesat, SYS_utimensat, SYS_mknod, SYS_mknodat,
    SYS_statfs, SYS_fstatfs, SYS_sync, SYS_syncfs, SYS_sync_file_range, SYS_readahead, SYS_fadvise64, SYS_fallocate,
    SYS_openat, SYS_newfstatat, SYS_faccessat, SYS_faccessat2, SYS_statx, SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2,
    SYS_copy_file_range, SYS_close_range, SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_listxattr, SYS_llistxattr,
    SYS_flistxattr, SYS_GETXATTRAT, SYS_LISTXATTRAT, SYS_CACHESTAT, SYS_ioctl,
    // Memory.
    SYS_mmap, SYS_mprotect, SYS_munmap, SYS_brk, SYS_mremap, SYS_msync, SYS_mincore, SYS_madvise, SYS_mlock, SYS_mlock2,
    SYS_munlock, SYS_mlockall, SYS_munlockall, SYS_memfd_create, SYS_membarrier, SYS_pkey_mprotect, SYS_pkey_alloc,
    SYS_pkey_free, SYS_MAP_SHADOW_STACK, SYS_MSEAL,
    // Processes and threads.
    SYS_clone, SYS_fork, SYS_vfork, SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid, SYS_kill,
    SYS_tkill, SYS_tgkill, SYS_getpid, SYS_getppid, SYS_gettid, SYS_getpgid, SYS_setpgid, SYS_getpgrp, SYS_getsid, SYS_setsid,
    SYS_set_tid_address, SYS_set_robust_list, SYS_get_robust_list, SYS_futex, SYS_futex_waitv, SYS_FUTEX_WAKE, SYS_FUTEX_WAIT,
    SYS_FUTEX_REQUEUE, SYS_rseq, SYS_arch_prctl, SYS_prctl, SYS_personality, SYS_pidfd_open, SYS_pidfd_send_signal,
    SYS_getrlimit, SYS_setrlimit, SYS_prlimit64, SYS_getrusage, SYS_times, SYS_getpriority, SYS_setpriority, SYS_ioprio_get,
    SYS_ioprio_set, SYS_sched_yield, SYS_sched_setparam, SYS_sched_getparam, SYS_sched_setscheduler, SYS_sched_getscheduler,
    SYS_sched_get_priority_max, SYS_sched_get_priority_min, SYS_sched_rr_get_interval, SYS_sched_setaffinity,
    SYS_sched_getaffinity, SYS_sched_setattr, SYS_sched_getattr, SYS_getcpu, SYS_restart_syscall,
    // Signals, events, time.
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_rt_sigtimedwait, SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo, SYS_rt_sigsuspend, SYS_sigaltstack, SYS_pause, SYS_alarm, SYS_getitimer, SYS_setitimer,
    SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_time, SYS_timer_create,
    SYS_timer_settime, SYS_timer_gettime, SYS_timer_getoverrun, SYS_timer_delete, SYS_timerfd_create, SYS_timerfd_settime,
    SYS_timerfd_gettime, SYS_signalfd, SYS_signalfd4, SYS_eventfd, SYS_eventfd2, SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6,
    SYS_epoll_create, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_inotify_init,
    SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch,
    // Pipes, UNIX sockets, System V IPC (in its own namespace).
    SYS_pipe, SYS_pipe2, SYS_splice, SYS_tee, SYS_vmsplice, SYS_socket, SYS_socketpair, SYS_connect, SYS_accept, SYS_accept4,
    SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg, SYS_recvmmsg, SYS_shutdown, SYS_bind, SYS_listen,
    SYS_getsockname, SYS_getpeername, SYS_setsockopt, SYS_getsockopt, SYS_shmget, SYS_shmat, SYS_shmctl, SYS_shmdt, SYS_semget,
    SYS_semop, SYS_semctl, SYS_semtimedop, SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_msgctl,
    // Identity: asking, and changes that the kernel refuses to who has no capability.
    SYS_getuid, SYS_getgid, SYS_geteuid, SYS_getegid, SYS_getgroups, SYS_setgroups, SYS_setuid, SYS_setgid, SYS_setreuid,
    SYS_setregid, SYS_setresuid, SYS_getresuid, SYS_setresgid, SYS_getresgid, SYS_setfsuid, SYS_setfsgid, SYS_capget,
    SYS_capset, SYS_uname, SYS_sysinfo, SYS_getrandom,
    // Confining oneself further.
    SYS_seccomp,
];

/// Known and refused aloud (EPERM): a build that tries one of these should hear so, and so does the trace.
#[rustfmt::skip]
pub(super) const DANGEROUS: &[Named] = named![
    // The view.
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_open_tree,
    SYS_OPEN_TREE_ATTR, SYS_move_mount, SYS_mount_setattr, SYS_STATMOUNT, SYS_LISTMOUNT, SYS_name_to_handle_at,
    SYS_open_by_handle_at, SYS_quotactl, SYS_quotactl_fd, SYS_sysfs, SYS_ustat, SYS_fanotify_init, SYS_fanotify_mark,
    // Namespaces.
    SYS_unshare, SYS_setns, SYS_LISTNS,
    // Other processes.
    SYS_process_madvise, SYS_process_mrelease, SYS_pidfd_getfd,
    SYS_kcmp, SYS_move_pages, SYS_migrate_pages, SYS_mbind, SYS_set_mempolicy, SYS_get_mempolicy, SYS_set_mempolicy_home_node,
    // The kernel.
    SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_keyctl, SYS_add_key, SYS_request_key, SYS_init_module, SYS_finit_module,
    SYS_delete_module, SYS_kexec_load, SYS_kexec_file_load, SYS_reboot, SYS_swapon, SYS_swapoff, SYS_acct, SYS_syslog,
    SYS_iopl, SYS_ioperm, SYS_modify_ldt, SYS_vhangup, SYS_uselib,
    // The machine's names and clocks.
    SYS_sethostname, SYS_setdomainname, SYS_settimeofday, SYS_clock_settime, SYS_adjtimex, SYS_clock_adjtime,
];

/// What debuggers and leak checkers need: allowed in the debug profile, refused aloud (EPERM) in every other.
pub(super) const DEBUGGING: &[Named] = named![SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev];

/// Extended attributes and ACLs cannot be written: not supported (ENOTSUP), which every copying tool understands.
#[rustfmt::skip]
pub(super) const ATTRIBUTES: &[Named] = named![
    SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr, SYS_SETXATTRAT,
    SYS_REMOVEXATTRAT,
];

/// What the sandbox init still does once the step runs: wait, say how the step ended (which allocates), exit.
#[rustfmt::skip]
pub(super) const INIT: &[Named] = named![
    SYS_wait4, SYS_sendmsg, SYS_sendto, SYS_exit_group, SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_madvise,
    SYS_restart_syscall,
];
