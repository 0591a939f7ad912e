//! Were all layers of confinement in force before the step's first instruction?
//!
//! The sandbox reads back what the kernel enforces and a record carries it whole. Here it is held against what no step of ours
//! runs without. Names are those of the sandbox's report (`enforced` in `docs/predicates/record/v1.md`).

use kiln_formats::job::{Access, INPUTS, WORKSPACES};
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

/// What limits are rounded down to. Source: Linux, `page_counter` counts whole pages; x86-64 pages.
const PAGE_BYTES: u64 = 4096;

/// The period of `cpu.max`. Source: Linux, Documentation/admin-guide/cgroup-v2.rst.
const CPU_PERIOD_US: u64 = 100_000;

/// Appends a finding for each layer that the report does not show in force.
pub(super) fn check(record: &StepRecord, file: &str, findings: &mut Vec<Finding>) {
    let report = &record.enforced;
    let number = |pointer: &str| report.pointer(pointer).and_then(|value| value.as_u64());
    let text = |pointer: &str| report.pointer(pointer).and_then(|value| value.as_str());
    let limit = |name: &str| text(&format!("/cgroup/files/{name}"));
    let own_namespace = |name: &&str| number(&format!("/namespaces/{name}")).is_some_and(|inode| inode > 0);
    let no_nested = |name: &&str| text(&format!("/confirmed/namespaces_max/max_{name}_namespaces")) == Some("0");
    // The sandbox's own init counts as one more process.
    let pids = (u64::from(record.limits.pids) + 1).to_string();
    let memory = (record.limits.memory_bytes / PAGE_BYTES * PAGE_BYTES).to_string();
    let quota = record.limits.cpu_percent.map(|percent| (u64::from(percent) * CPU_PERIOD_US / 100).to_string());
    let cpu = format!("{} {CPU_PERIOD_US}", quota.as_deref().unwrap_or("max"));
    let seccomp =
        number("/process/seccomp_mode") == Some(2) && number("/process/seccomp_filters").is_some_and(|n| n > 0);
    let landlock = number("/confirmed/landlock/abi").is_some_and(|abi| abi >= LANDLOCK_ABI_MIN);
    let descriptors = report.pointer("/descriptors").and_then(|v| v.as_array()).map(|list| list.len());
    let layers = [
        ("given_up", report.pointer("/given_up").and_then(|v| v.as_array()).is_some_and(Vec::is_empty)),
        ("limits", limit("pids.max") == Some(&pids) && limit("memory.max") == Some(&memory)),
        ("limits", limit("cpu.max") == Some(&cpu) && limit_of_disks(record, limit("io.max"))),
        ("namespaces", NAMESPACES.iter().all(own_namespace)),
        ("view", view_fits(record)),
        (
            "identity",
            number("/process/uid").is_some_and(|uid| uid > 0) && number("/process/gid").is_some_and(|gid| gid > 0),
        ),
        ("nested_namespaces", NAMESPACES.iter().all(no_nested)),
        ("anonymous_exec", text("/confirmed/memfd_noexec") == Some("2")),
        ("capabilities", number("/process/capabilities") == Some(0)),
        ("capabilities", number("/confirmed/securebits").is_some_and(|bits| bits & SECUREBITS == SECUREBITS)),
        ("no_new_privileges", report.pointer("/process/no_new_privileges").and_then(|v| v.as_bool()) == Some(true)),
        ("landlock", landlock && text("/confirmed/landlock/ruleset_sha256").is_some_and(|digest| digest.len() == 64)),
        ("seccomp", seccomp && text("/seccomp_sha256").is_some_and(|digest| digest.len() == 64)),
        (
            "process_limits",
            report.pointer("/process_limits").and_then(|v| v.as_object()).is_some_and(|l| !l.is_empty()),
        ),
        // The standard three, and the socket that closes when the step's program starts.
        ("descriptors", descriptors.is_some_and(|open| open <= 4)),
    ];
    for (layer, in_force) in layers {
        if !in_force {
            let reason = "the record does not show that the kernel enforced this layer";
            findings.push(Finding::new(Gate::Step, "not_enforced", format!("{file}: enforced.{layer}"), reason));
        }
    }
}

/// Every disk that the file names is limited in both directions as the job has it, and there is one; or no limit was asked for.
/// Source of the form: Linux, Documentation/admin-guide/cgroup-v2.rst, `io.max`.
fn limit_of_disks(record: &StepRecord, file: Option<&str>) -> bool {
    let Some(bytes) = record.limits.io_bytes_per_second else { return true };
    let wanted = [format!("rbps={bytes}"), format!("wbps={bytes}")];
    let limited = |line: &str| wanted.iter().all(|wanted| line.split_whitespace().any(|word| word == wanted));
    file.is_some_and(|file| !file.is_empty() && file.lines().all(limited))
}

/// The root and every input are mounted read-only, every workspace as the record says.
fn view_fits(record: &StepRecord) -> bool {
    let mounts = record.enforced.pointer("/mounts").and_then(|mounts| mounts.as_array());
    let mounted = |target: &str, option: &str| {
        let mut at_target = mounts.into_iter().flatten().filter(|mount| mount["target"] == target);
        let attributes = at_target.next().and_then(|mount| mount["attributes"].as_array());
        // A place that is mounted twice is one whose attributes nobody knows.
        attributes.into_iter().flatten().any(|word| word == option) && at_target.next().is_none()
    };
    mounted("/", "ro")
        && record.inputs.iter().all(|input| mounted(&format!("{INPUTS}/{}", input.name), "ro"))
        && record.workspaces.iter().all(|seen| {
            let option = if seen.access == Access::Rw { "rw" } else { "ro" };
            mounted(&format!("{WORKSPACES}/{}", seen.name), option)
        })
}
