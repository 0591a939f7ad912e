//! The test machine's sandbox: what it reports and hears of a step that ran as it should.

use std::collections::BTreeMap;

use kiln_formats::job::{Access, Step};
use kiln_formats::names::{self, Name};
use kiln_formats::runtime_trace::{
    Denial, Execution, Metadata, Monitor, MonitorLog, MonitoredProcess, RuntimeTrace, TracePolicy, Unlisted, escaped,
    event, network,
};
use kiln_formats::statement::{ResourceDescriptor, Statement, Subject};

use super::{at, digest, name};

pub(super) fn trace(build_id: &Name, step: &Step, subject: Vec<Subject>) -> Statement<RuntimeTrace> {
    let execution = |pid, program: &str, argv: Vec<String>| Execution {
        time_us: u64::from(pid) * 1000,
        pid,
        parent: pid - 1,
        binary: ResourceDescriptor::new(format!("/usr/bin/{program}"), digest(program)),
        argv,
        argv_cut: false,
    };
    let argv = step.argv.iter().map(|word| escaped(word.as_bytes())).collect();
    let predicate = RuntimeTrace {
        monitor: Monitor { kind: names::MONITOR.into(), trace_policy: TracePolicy::of(step.profile) },
        monitored_process: MonitoredProcess {
            host_id: names::BUILDER_FIRMWARE.into(),
            kind: names::BUILD_TYPE.into(),
            event: event(build_id, &step.name),
        },
        monitor_log: MonitorLog {
            process: vec![execution(40, "make", argv), execution(41, "cc", vec!["cc".into(), "-DX=1".into()])],
            network: network(step.profile),
            kiln_denials: vec![Denial {
                layer: name("seccomp"),
                operation: "socket".into(),
                object: "10, 3, 0".into(),
                count: 2,
            }],
            kiln_unlisted: Unlisted::default(),
        },
        metadata: Metadata { build_started_on: at(2), build_finished_on: at(3) },
    };
    Statement::new(names::PREDICATE_RUNTIME_TRACE, subject, predicate)
}

pub(super) fn enforced(step: &Step) -> serde_json::Value {
    let namespaces = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let mount = |target: String, options: &str| serde_json::json!({"target": target, "attributes": [options, "nosuid", "nodev"], "kind": "tmpfs", "device": "0:42"});
    let mut mounts = vec![mount("/".into(), "ro"), mount("/tmp".into(), "rw")];
    mounts.extend(step.inputs.iter().map(|input| mount(format!("/inputs/{input}"), "ro")));
    mounts.extend(
        step.workspaces
            .iter()
            .map(|usage| mount(format!("/work/{}", usage.name), if usage.access == Access::Rw { "rw" } else { "ro" })),
    );
    serde_json::json!({
        "given_up": [],
        "namespaces": namespaces.map(|name| (name, 4_026_532_000u64)).into_iter().collect::<BTreeMap<_, _>>(),
        "mounts": mounts,
        "process": {
            "uid": 100_000, "gid": 100_000, "capabilities": 0, "no_new_privileges": true, "seccomp_mode": 2, "seccomp_filters": 1
        },
        "process_limits": {"Max core file size": ["0", "0"]},
        "descriptors": [0, 1, 2, 3],
        "cgroup": {
            "path": "/step",
            "files": {
                "memory.max": step.limits.memory_bytes.to_string(),
                "pids.max": (step.limits.pids + 1).to_string(),
                "cpu.max": step.limits.cpu_percent.map_or("max 100000".into(), |percent| format!("{percent}000 100000")),
                "io.max": step.limits.io_bytes_per_second.map_or(String::new(), |bytes| {
                    format!("254:0 rbps={bytes} wbps={bytes} riops=max wiops=max")
                }),
            }
        },
        "confirmed": {
            "landlock": {"abi": 7, "ruleset_sha256": digest("ruleset").to_string()},
            "securebits": 0b1110_1111,
            "memfd_noexec": "2",
            "namespaces_max": namespaces.map(|name| (format!("max_{name}_namespaces"), "0")).into_iter().collect::<BTreeMap<_, _>>(),
            "own_keyring": false
        },
        "seccomp_sha256": digest("filter").to_string()
    })
}
