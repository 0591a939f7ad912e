//! The test machine's sandbox: what it reports of a step that ran as it should.

use std::collections::BTreeMap;

use kiln_formats::job::{Access, Step};

use super::digest;

pub(super) fn enforced(step: &Step) -> serde_json::Value {
    let namespaces = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let mount = |target: String, options: &str| serde_json::json!({"target": target, "options": format!("{options},nosuid,nodev"), "kind": "tmpfs", "device": "0:42"});
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
            "files": {"memory.max": step.limits.memory_bytes.to_string(), "pids.max": (step.limits.pids + 1).to_string()}
        },
        "confirmed": {
            "landlock": {"abi": 7, "ruleset_sha256": "00"},
            "securebits": 0b1110_1111,
            "memfd_noexec": "2",
            "namespaces_max": namespaces.map(|name| (format!("max_{name}_namespaces"), "0")).into_iter().collect::<BTreeMap<_, _>>(),
            "own_keyring": false
        },
        "seccomp_sha256": digest("filter").to_string()
    })
}
