//! What the kernel must have, asked before anything is started: a missing layer is a refusal that names it, not a surprise on the
//! way. What is asked here is whether a layer can be had; whether a step has it is read back for each step.

use std::fs;
use std::path::Path;

use crate::cgroup;
use crate::layer::{Layer, Requirements};
use crate::policy::Profile;
use crate::readback::table;
use crate::stage::LANDLOCK_ABI;
use crate::sys;

/// What is missing, and for which layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) layer: Layer,
    pub(crate) what: &'static str,
}

/// A question about the machine: the layer that rests on it, whether the answer is yes, and what to say if it is not.
type Question = (Layer, fn() -> bool, &'static str);

/// In the order in which they are asked.
const QUESTIONS: [Question; 12] = [
    (Layer::Identity, || rustix::process::geteuid().is_root(), "only root can set a step up: run as root"),
    (
        Layer::Namespaces,
        has_namespaces,
        "a namespace type is missing: the kernel needs all eight, CONFIG_TIME_NS included",
    ),
    (Layer::View, tells_mounts, "statmount does not tell owner maps: the kernel must be Linux 6.15 or newer"),
    (
        Layer::Process,
        has_cgroup2,
        "no cgroup2 is mounted, by which a step is killed: mount one, at /sys/fs/cgroup for example",
    ),
    (
        Layer::Limits,
        has_controllers,
        "cgroup v2 lacks the controller cpu, io, memory or pids: they must not be bound to cgroup v1",
    ),
    (
        Layer::NestedNamespaces,
        || exists("/proc/sys/user/max_user_namespaces"),
        "user.max_user_namespaces: CONFIG_USER_NS",
    ),
    (
        Layer::AnonymousExec,
        || exists("/proc/sys/vm/memfd_noexec"),
        "vm.memfd_noexec: CONFIG_MEMFD_CREATE, Linux 6.3 or newer",
    ),
    (
        Layer::Landlock,
        has_landlock,
        "Landlock with ABI 7 or newer: CONFIG_SECURITY_LANDLOCK, and landlock in the lsm= parameter",
    ),
    (Layer::Seccomp, || seccomp_offers(&["kill_process", "errno", "allow"]), "seccomp filters: CONFIG_SECCOMP_FILTER"),
    (Layer::Trace, || seccomp_offers(&["user_notif"]), "seccomp notifications: CONFIG_SECCOMP_FILTER"),
    (Layer::Capabilities, || exists("/proc/sys/kernel/cap_last_cap"), "capabilities: CONFIG_MULTIUSER"),
    (Layer::Process, || exists("/proc/self/timens_offsets"), "timens_offsets: CONFIG_TIME_NS"),
];

/// Asks for every layer that is insisted on.
///
/// # Errors
/// The first that cannot be had.
pub(crate) fn check(requirements: &Requirements) -> Result<(), Missing> {
    let asked = QUESTIONS.iter().filter(|(layer, ..)| requirements.require(*layer));
    match asked.into_iter().find(|(_, has, _)| !has()) {
        Some((layer, _, what)) => Err(Missing { layer: *layer, what }),
        None => Ok(()),
    }
}

/// Asks for what a profile needs beyond the layers.
///
/// # Errors
/// [`Profile::Debug`] where Yama lets nobody be traced.
pub(crate) fn check_profile(profile: Profile) -> Result<(), Missing> {
    if profile != Profile::Debug {
        return Ok(());
    }
    // Without Yama there is no such file, and nothing in the way.
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_else(|_| "0".to_owned());
    if may_trace_children(&scope) {
        return Ok(());
    }
    let what = "tracing of children, for the debug profile: kernel.yama.ptrace_scope must be 0 or 1";
    Err(Missing { layer: Layer::Process, what })
}

/// 0: any process of one's own; 1: descendants; 2 and 3: with a capability that no step has, and none at all.
/// Source: Documentation/admin-guide/LSM/Yama.rst.
fn may_trace_children(scope: &str) -> bool {
    matches!(scope.trim(), "0" | "1")
}

fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

fn has_namespaces() -> bool {
    crate::readback::NAMESPACES.iter().all(|name| exists(&format!("/proc/self/ns/{name}")))
}

fn tells_mounts() -> bool {
    table::is_told().is_ok()
}

fn has_cgroup2() -> bool {
    cgroup::controllers().is_ok()
}

fn has_controllers() -> bool {
    let found = cgroup::controllers().unwrap_or_default();
    cgroup::CONTROLLERS.iter().all(|controller| found.split_whitespace().any(|word| word == *controller))
}

fn has_landlock() -> bool {
    sys::landlock_abi().is_ok_and(|abi| abi >= i64::from(LANDLOCK_ABI))
}

/// Source: seccomp(2), /proc interfaces.
fn seccomp_offers(actions: &[&str]) -> bool {
    let offered = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    actions.iter().all(|action| offered.split_whitespace().any(|word| word == *action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_given_up_is_not_asked_for() {
        let limited = Requirements::all().without(Layer::Limits).expect("can be given up");
        assert_eq!(check(&limited), Ok(()));
        let missing = check(&Requirements::all());
        assert!(has_controllers() || missing.is_err_and(|missing| missing.layer == Layer::Limits));
    }

    #[test]
    fn only_two_scopes_let_children_be_traced() {
        assert!(may_trace_children("0\n") && may_trace_children("1\n"));
        assert!(!may_trace_children("2\n") && !may_trace_children("3\n") && !may_trace_children(""));
    }
}
