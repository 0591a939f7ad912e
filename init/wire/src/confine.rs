//! What the wire gives up before it hears the first byte from the network: its user, every capability, the file system, and every
//! system call but those that move bytes between the sockets that it has.
//!
//! Each is a stop if it does not hold. Deliberately absent: namespaces; with nothing to open there is nothing to hide.

use std::collections::BTreeMap;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetStatus,
    Scope,
};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::fault::Fault;

/// The wire's user, and nobody else's.
const USER: u32 = 65_532;
/// The version of Landlock whose rights are all given up. PID 1 has made sure that the kernel has it.
const LANDLOCK: ABI = ABI::V6;
/// Memory in bytes: what may wait, four times over.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// System calls that move bytes, wait, and manage memory.
const ALLOWED: [i64; 25] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

fn failed<E>(what: &'static str) -> impl FnOnce(E) -> Fault
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |source| Fault::Confine { what, source: source.into() }
}

/// Gives everything up, for good.
///
/// # Errors
/// [`Fault::Confine`], at the first thing that is not given up.
pub(crate) fn confine() -> Result<(), Fault> {
    for (resource, most) in
        [(Resource::Core, 0), (Resource::Fsize, 0), (Resource::Nproc, 0), (Resource::As, MEMORY_BYTES_MAX)]
    {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(failed("limits"))?;
    }
    for (_, capability) in CapabilitySet::all().iter_names() {
        remove_capability_from_bounding_set(capability).map_err(failed("the bounding set"))?;
    }
    let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
    setgroups(&[]).map_err(failed("groups"))?;
    setresgid(group, group, group).map_err(failed("the group"))?;
    // With it go all capabilities. Source: capabilities(7), "Effect of user ID changes on capabilities".
    setresuid(user, user, user).map_err(failed("the user"))?;
    let left = capabilities(None).map_err(failed("capabilities"))?;
    if !(left.effective | left.permitted | left.inheritable).is_empty() {
        return Err(failed("capabilities")("some are left"));
    }
    landlock().map_err(failed("Landlock"))?;
    seccompiler::apply_filter(&filter().map_err(failed("the system call filter"))?)
        .map_err(failed("the system call filter"))
}

fn landlock() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .restrict_self()?;
    let whole = status.ruleset == RulesetStatus::FullyEnforced && status.no_new_privs;
    if whole { Ok(()) } else { Err("it is not fully enforced".into()) }
}

/// Kills the process at any other call. Memory is mapped, and never for execution.
fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.into_iter().map(|call| (call, Vec::new())).collect();
    let execution = u64::from(libc::PROT_EXEC.unsigned_abs());
    let not_executable = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(execution), 0)?;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![not_executable.clone()])?]);
    }
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
    filter.try_into()
}
