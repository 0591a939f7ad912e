//! Were all layers of confinement in force before the step's first instruction?
//!
//! The sandbox reads back what the kernel enforces and a record carries it whole. Here it is held against what no step of ours
//! runs without. Names are those of the sandbox's report (`enforced` in `docs/predicates/record/v1.md`).

use kiln_formats::record::StepRecord;

use crate::finding::{Finding, Gate};

/// Each must be a namespace of the step's own. Source: namespaces(7).
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
/// `SECBIT_NOROOT`, `SECBIT_NO_SETUID_FIXUP`, `SECBIT_NO_CAP_AMBIENT_RAISE`, each with its lock; `SECBIT_KEEP_CAPS` locked.
/// Source: capabilities(7).
const SECUREBITS: u64 = 0b1110_1111;
/// The least Landlock ABI that restricts what a step of ours must not do (scoped signals and abstract sockets).
/// Source: Linux, `Documentation/userspace-api/landlock.rst`, "Previous limitations".
const LANDLOCK_ABI_MIN: u64 = 6;

/// Appends a finding for each layer that the report does not show in force.
pub(super) fn check(record: &StepRecord, file: &str, findings: &mut Vec<Finding>) {
    let report = &record.enforced;
    let number = |pointer: &str| report.pointer(pointer).and_then(|value| value.as_u64());
    let text = |pointer: &str| report.pointer(pointer).and_then(|value| value.as_str());
    let nothing_given_up = report.pointer("/given_up").and_then(|v| v.as_array()).is_some_and(Vec::is_empty);
    let own_namespaces = NAMESPACES.iter().all(|name| number(&format!("/namespaces/{name}")).is_some_and(|inode| inode > 0));
    let landlock = number("/confirmed/landlock/abi").is_some_and(|abi| abi >= LANDLOCK_ABI_MIN);
    let seccomp = number("/process/seccomp_mode") == Some(2) && number("/process/seccomp_filters").is_some_and(|n| n > 0);
    let pids = text("/cgroup/files/pids.max").and_then(|max| max.trim().parse::<u64>().ok());
    let memory = text("/cgroup/files/memory.max").and_then(|max| max.trim().parse::<u64>().ok());
    let layers = [
        ("given_up", nothing_given_up),
        ("namespaces", own_namespaces),
        ("view", report.pointer("/mounts").and_then(|v| v.as_array()).is_some_and(|mounts| !mounts.is_empty())),
        ("identity", number("/process/uid").is_some_and(|uid| uid > 0) && number("/process/gid").is_some_and(|gid| gid > 0)),
        ("capabilities", number("/process/capabilities") == Some(0)),
        ("securebits", number("/confirmed/securebits").is_some_and(|bits| bits & SECUREBITS == SECUREBITS)),
        ("no_new_privileges", report.pointer("/process/no_new_privileges").and_then(|v| v.as_bool()) == Some(true)),
        ("landlock", landlock),
        ("seccomp", seccomp && text("/seccomp_sha256").is_some_and(|digest| digest.len() == 64)),
        ("limits", pids.is_some_and(|max| max <= u64::from(record.limits.pids))),
        ("limits", memory.is_some_and(|max| max <= record.limits.memory_bytes)),
    ];
    for (layer, in_force) in layers {
        if !in_force {
            let reason = "the record does not show that the kernel enforced this layer";
            findings.push(Finding::new(Gate::Step, "not_enforced", format!("{file}: enforced.{layer}"), reason));
        }
    }
}
