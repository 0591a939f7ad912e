//! The argument rules: system calls that are allowed only with some arguments. What matches a rule here is denied.
//!
//! Compares 32 bits where the kernel does: an ioctl command or a socket domain with high bits set is the same command
//! (CVE-2019-10063 was the 64-bit comparison).

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::Answer;
use crate::policy::Profile;

/// Flags of `clone(2)` that make namespaces. (`CLONE_NEWTIME` is part of the exit signal there and cannot be asked for.)
const NAMESPACE_FLAGS: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// Terminal injection, line disciplines, controlling terminals, inode flags. Source: asm-generic/ioctls.h, linux/fs.h.
const IOCTLS: [u64; 6] = [
    0x5412,      // TIOCSTI
    0x541C,      // TIOCLINUX
    0x5423,      // TIOCSETD
    0x540E,      // TIOCSCTTY
    0x4008_6602, // FS_IOC_SETFLAGS
    0x401C_5820, // FS_IOC_FSSETXATTR
];
/// `PR_SET_MEMORY_MERGE` and `MADV_MERGEABLE`: who shares equal pages with others can tell what they have by how long a write takes.
/// Source: include/uapi/linux/prctl.h, asm-generic/mman-common.h.
const MERGING: [(libc::c_long, u8, u64); 2] = [(libc::SYS_prctl, 0, 67), (libc::SYS_madvise, 2, 12)];
/// The only personalities: the plain one, without address randomisation, and asking.
const PERSONALITIES: [u64; 3] = [0, 0x0004_0000, 0xFFFF_FFFF];
/// Set-user-id and set-group-id: nothing that could outlive the step's confinement is made.
const SET_ID_BITS: [u64; 2] = [0o4000, 0o2000];
/// `O_CREAT` and `__O_TMPFILE`: only with them does open take a mode.
const CREATING: [u64; 2] = [0o100, 0o20_000_000];
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`: a step may tighten its own filter, not supervise others.
const NEW_LISTENER: u64 = 8;
/// Source: include/uapi/linux/fs.h.
const RENAME_WHITEOUT: u64 = 4;
/// `SOCK_TYPE_MASK`. Source: include/linux/net.h.
const SOCK_TYPE_MASK: u64 = 0xF;

/// What the compiled rules answer to what they deny, until it is replaced by what denying means.
pub(super) const DENIED: Answer = Answer::Errno(libc::EPERM as u16);

/// Rules by system call number.
pub(super) type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The argument rules of a profile.
pub(super) fn rules(profile: Profile) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    for flag in NAMESPACE_FLAGS {
        deny(&mut rules, libc::SYS_clone, &[has(0, flag as u64)?])?;
    }
    for command in IOCTLS {
        deny(&mut rules, libc::SYS_ioctl, &[is(1, command)?])?;
    }
    for (nr, argument, value) in MERGING {
        deny(&mut rules, nr, &[is(argument, value)?])?;
    }
    let others = PERSONALITIES.iter().map(|value| not(0, *value)).collect::<Result<Vec<_>, _>>()?;
    deny(&mut rules, libc::SYS_personality, &others)?;
    deny(&mut rules, libc::SYS_seccomp, &[has(1, NEW_LISTENER)?])?;
    modes(&mut rules)?;
    sockets(&mut rules, profile)?;
    Ok(rules)
}

/// Compiles rules to a program that starts by itself, from the architecture on.
pub(super) fn compile(rules: Rules) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32), TargetArch::x86_64)?
        .try_into()
}

/// No set-id bits and no device nodes, by whichever call.
fn modes(rules: &mut Rules) -> Result<(), BackendError> {
    for bit in SET_ID_BITS {
        for (nr, mode) in [
            (libc::SYS_chmod, 1),
            (libc::SYS_fchmod, 1),
            (libc::SYS_fchmodat, 2),
            (libc::SYS_fchmodat2, 2),
            (libc::SYS_creat, 1),
            (libc::SYS_mkdir, 1),
            (libc::SYS_mkdirat, 2),
            (libc::SYS_mknod, 1),
            (libc::SYS_mknodat, 2),
        ] {
            deny(rules, nr, &[has(mode, bit)?])?;
        }
        for creating in CREATING {
            deny(rules, libc::SYS_open, &[has(1, creating)?, has(2, bit)?])?;
            deny(rules, libc::SYS_openat, &[has(2, creating)?, has(3, bit)?])?;
        }
    }
    // A rename that leaves a character device 0:0 behind; Landlock takes it for a rename like any other.
    deny(rules, libc::SYS_renameat2, &[has(4, RENAME_WHITEOUT)?])?;
    for device in [libc::S_IFCHR, libc::S_IFBLK] {
        for (nr, mode) in [(libc::SYS_mknod, 1), (libc::SYS_mknodat, 2)] {
            deny(rules, nr, &[masked(mode, u64::from(libc::S_IFMT), u64::from(device))?])?;
        }
    }
    Ok(())
}

/// Which sockets exist at all. An empty network namespace is not enough: a guest's vsock ignores it.
fn sockets(rules: &mut Rules, profile: Profile) -> Result<(), BackendError> {
    let unix = libc::AF_UNIX as u64;
    deny(rules, libc::SYS_socketpair, &[not(0, unix)?])?;
    match profile {
        Profile::Strict | Profile::Debug => deny(rules, libc::SYS_socket, &[not(0, unix)?]),
        Profile::Loopback => {
            let (inet, inet6) = (libc::AF_INET as u64, libc::AF_INET6 as u64);
            deny(rules, libc::SYS_socket, &[not(0, unix)?, not(0, inet)?, not(0, inet6)?])?;
            for domain in [inet, inet6] {
                // Streams and datagrams of TCP and UDP, nothing raw, nothing multipath.
                for kind in (0..=SOCK_TYPE_MASK).filter(|kind| ![1, 2].contains(kind)) {
                    deny(rules, libc::SYS_socket, &[is(0, domain)?, masked(1, SOCK_TYPE_MASK, kind)?])?;
                }
                deny(rules, libc::SYS_socket, &[is(0, domain)?, not(2, 0)?, not(2, 6)?, not(2, 17)?])?;
            }
            Ok(())
        }
    }
}

/// Adds one rule: all of `conditions` together.
fn deny(rules: &mut Rules, nr: i64, conditions: &[SeccompCondition]) -> Result<(), BackendError> {
    rules.entry(nr).or_default().push(SeccompRule::new(conditions.to_vec())?);
    Ok(())
}

fn is(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn not(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}

fn has(argument: u8, bits: u64) -> Result<SeccompCondition, BackendError> {
    masked(argument, bits, bits)
}
