//! What the kernel confirmed about one step before its first instruction: the record that goes into the evidence.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::layer::Layer;

/// Everything read back. Holding one from [`crate::Step`] means that each value was compared with the policy and matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enforced {
    /// Layers that the caller gave up by name; empty on a machine that vouches for its steps.
    pub given_up: BTreeSet<Layer>,
    /// Inode numbers of the step's namespaces, all different from the caller's. Source: namespaces(7).
    pub namespaces: BTreeMap<String, u64>,
    /// The whole mount table that the step sees.
    pub mounts: Vec<MountFact>,
    /// `/proc/PID/status` of the waiting step.
    pub process: ProcessFacts,
    /// What else the kernel says about the waiting step.
    pub surroundings: Surroundings,
    /// The same of the sandbox init: always another user, no capabilities and a filter of its own.
    pub init: ProcessFacts,
    /// Soft and hard limits, as in `/proc/PID/limits`.
    pub process_limits: BTreeMap<String, (String, String)>,
    /// Open descriptors: standard input, output, error, and the socket that execve closes.
    pub descriptors: Vec<u32>,
    /// The step's cgroup and its interface files, read after they were written.
    pub cgroup: CgroupFacts,
    /// What the step's own system calls returned, told by our code in it.
    pub confirmed: Confirmed,
    /// SHA-256 of the system call filter's programs.
    pub seccomp_sha256: String,
}

/// One mount that the step sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountFact {
    /// Where.
    pub target: String,
    /// The kernel's number for it, never used twice.
    pub id: u64,
    /// On which other mount it is; for `/`, one that the step cannot see.
    pub parent: u64,
    /// What of its file system it shows.
    pub root: String,
    /// `ro` or `rw`, `nosuid`, `nodev`, `noexec`. None propagates in any direction: all are private.
    pub attributes: Vec<String>,
    /// File system type.
    pub kind: String,
    /// Device number of the file system, `major:minor`.
    pub device: String,
    /// Whether the whole file system is read-only.
    pub read_only: bool,
    /// The file system's own options.
    pub options: String,
    /// How owners are shown, each `first shown, first on disk, count` in numbers of users; empty: as on disk.
    pub owners: Vec<String>,
}

/// Where the step stands and how the kernel treats it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surroundings {
    /// Users of its user namespace: `inside outside count`.
    pub uid_map: String,
    /// Groups, likewise.
    pub gid_map: String,
    /// What its clocks add to the machine's, in seconds.
    pub clock_offsets: BTreeMap<String, i64>,
    /// Its session is its own: the id of the main process.
    pub session_is_own: bool,
    /// `Umask`, octal.
    pub umask: String,
    /// Signals that it ignores or blocks, as bits.
    pub signals_held: u64,
    /// Scheduling policy (0: the ordinary one) and nice value.
    pub scheduling: (i64, i64),
    /// Readiness to be killed for memory: 0 is ordinary.
    pub oom_score_adj: String,
}

/// Identity and privileges of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessFacts {
    /// Host user: real, effective, saved and file system user are this one.
    pub uid: u32,
    /// Host group, likewise.
    pub gid: u32,
    /// All five capability sets together, as bits.
    pub capabilities: u64,
    /// `NoNewPrivs`.
    pub no_new_privileges: bool,
    /// `Seccomp`: 2 is filter mode.
    pub seccomp_mode: u8,
    /// `Seccomp_filters`: how many programs the kernel holds.
    pub seccomp_filters: u32,
}

/// The step's cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupFacts {
    /// Its path below the cgroup2 mount, as `/proc/PID/cgroup` has it.
    pub path: String,
    /// Interface files and their content. Absent: a file that this kernel does not have (no swap support, for example).
    pub files: BTreeMap<String, String>,
}

/// What only the step's own process can see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmed {
    /// `None` only if given up.
    pub landlock: Option<Landlock>,
    /// `personality(0xffffffff)`: where tracing is forbidden to all, nobody else may ask.
    pub personality: u32,
    /// `PR_GET_SECUREBITS`. Source: capabilities(7).
    pub securebits: u32,
    /// `vm.memfd_noexec` of the step's pid namespace.
    pub memfd_noexec: String,
    /// `user.max_*_namespaces` of the step's user namespace.
    pub namespaces_max: BTreeMap<String, String>,
    /// Its host name.
    pub hostname: String,
    /// Whether the step has a session keyring of its own; `false`: this kernel has no keyrings.
    pub own_keyring: bool,
}

/// The ruleset that the kernel took and that then refused a forbidden directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Landlock {
    /// ABI version that all rights are from.
    pub abi: u8,
    /// SHA-256 of the ruleset's description.
    pub ruleset_sha256: String,
}
