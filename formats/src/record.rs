//! The record of one step: what was run, on what, within which walls, and what came of it.
//!
//! A record is the predicate of a signed statement whose subjects are the workspaces that the step wrote and its log. It holds
//! only what the machine outside of the step observed or the kernel confirmed; the step contributes nothing but bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Sha256Digest;
use crate::job::{Access, Limits, Proc, Profile};
use crate::names::Name;

/// The predicate of a step's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StepRecord {
    /// The build that the step belongs to.
    pub build_id: Name,
    /// Its place in the order in which steps ran, from 0.
    pub sequence: u32,
    /// The payload digest of the record before; that of the decision for the first step.
    pub previous: Sha256Digest,
    /// The step's name in the job.
    pub step: Name,
    /// The digest of the step's canonical text in the job.
    pub step_sha256: Sha256Digest,
    /// The image that it ran on, by its dm-verity root hash.
    pub image_root_hash: Sha256Digest,
    /// The program and its arguments, as executed.
    pub argv: Vec<String>,
    /// The whole environment, as executed.
    pub env: BTreeMap<String, String>,
    /// Where it started.
    pub workdir: String,
    /// The inputs that it saw.
    pub inputs: Vec<InputSeen>,
    /// The workspaces that it saw.
    pub workspaces: Vec<WorkspaceSeen>,
    /// What it was allowed to do beyond its own files.
    pub profile: Profile,
    /// What it saw of `/proc`.
    pub proc: Proc,
    /// What it was allowed to use up.
    pub limits: Limits,
    /// How it ended.
    pub exit: Exit,
    /// What it used up.
    pub usage: Usage,
    /// Its output and error output.
    pub log: LogSeen,
    /// The payload digest of its runtime trace (`crate::runtime_trace`): what it executed and what it was denied.
    pub trace: Sha256Digest,
    /// What the kernel confirmed before the step's first instruction, layer by layer, as the sandbox reports it.
    pub enforced: Value,
}

/// An input in a step's view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSeen {
    /// Its name.
    pub name: Name,
    /// Its digest.
    pub sha256: Sha256Digest,
}

/// A workspace in a step's view. The digest of a workspace covers names, kinds, modes and contents of all that it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceSeen {
    /// Its name.
    pub name: Name,
    /// Whether the step could write there.
    pub access: Access,
    /// What it held before the step started.
    pub before: Sha256Digest,
    /// What it held after every process of the step was dead. Missing if it held what no digest covers (a device, more entries or
    /// levels than are looked at): such a step has not succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Sha256Digest>,
}

/// How a step ended. Anything but `code` 0 ends the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "snake_case")]
pub enum Exit {
    /// The program ended by itself.
    Code {
        /// With this status; 0 is success.
        code: i32,
    },
    /// A signal ended it.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// Its program could not be executed: nothing of it ran.
    NotExecuted {
        /// The system's reason, by its number (errno(3)): 2 if there is no such program.
        errno: i32,
    },
    /// It met a limit or broke the rules of its sandbox.
    Limit {
        /// Which: `wall` (its time was over), `memory`, `pids`, `disk` (a file system of its view was full), `file` (one file grew
        /// too large), `policy` (a system call by a foreign interface), `output` (an output is not as declared).
        limit: Name,
        /// The program's own exit status, if it ended by itself: it may, after `pids` and `disk`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        /// For `disk`: which file system, by its place in the step's view.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// For `wall`: the program ended by itself when it was asked to, within `grace_ms`; else it was killed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_grace: bool,
    },
}

impl Exit {
    /// A limit that was met, and no more to say of it.
    #[must_use]
    pub fn limit(limit: Name) -> Self {
        Self::Limit { limit, code: None, target: None, in_grace: false }
    }

    /// Whether the step did what it was asked to.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Code { code: 0 })
    }
}

/// What a step used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Usage {
    /// Time from start to the death of its last process, in milliseconds.
    pub wall_ms: u64,
    /// Processor time of all its processes, in microseconds.
    pub cpu_us: u64,
    /// The most memory that it held, in bytes.
    pub memory_peak_bytes: u64,
    /// The most processes at once.
    pub pids_peak: u64,
    /// What it read from disks, in bytes.
    pub io_read_bytes: u64,
    /// What it wrote to disks, in bytes; its files are in memory, so there is little to write.
    pub io_written_bytes: u64,
}

/// A step's output and error output, framed in the order in which they came (`crate::log`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSeen {
    /// The digest of the log's file: of the frames that were kept, and the notes about those that were not.
    pub sha256: Sha256Digest,
    /// How many frames there were, kept or not.
    pub frames: u64,
    /// The output.
    pub out: StreamSeen,
    /// The error output.
    pub err: StreamSeen,
}

/// One stream of a step, from its first byte to its last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StreamSeen {
    /// The digest of everything that the step wrote to it, kept or not.
    pub sha256: Sha256Digest,
    /// How many bytes the step wrote.
    pub written_bytes: u64,
    /// How many of them end a line.
    pub written_lines: u64,
    /// How many bytes were kept.
    pub kept_bytes: u64,
    /// How many of those end a line.
    pub kept_lines: u64,
}
