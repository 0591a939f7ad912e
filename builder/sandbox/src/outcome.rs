//! How a step ended and what it used: observations, not judgements.

use serde::{Deserialize, Serialize};

use crate::enforced::Enforced;
use crate::trace::Trace;

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how", deny_unknown_fields)]
pub enum Exit {
    /// The main process exited.
    Code {
        /// Its exit status, 0 to 255.
        code: i32,
    },
    /// A signal ended the main process.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// The time limit was reached.
    Timeout {
        /// Whether the main process ended by itself when it was asked to; else it was killed.
        in_grace: bool,
    },
    /// The memory limit was reached and the kernel killed the step.
    OutOfMemory,
    /// The step failed, and the kernel had refused it a process because of the limit.
    PidLimit {
        /// Exit status of the main process, if it exited.
        code: Option<i32>,
    },
    /// The step failed, and a file system of its view was full when it ended: no block or no file left.
    DiskLimit {
        /// Where in its view.
        target: String,
        /// Exit status of the main process, if it exited.
        code: Option<i32>,
    },
    /// The main process wrote beyond the size limit of one file and was killed for it (SIGXFSZ).
    FileLimit,
    /// The system call filter killed the main process (SIGSYS): a foreign system call interface.
    PolicyViolation,
    /// The program could not be executed.
    NotExecutable {
        /// What execve said.
        errno: i32,
    },
    /// The caller killed the step.
    Killed,
}

impl Exit {
    /// Whether the step did what it was asked to.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == Self::Code { code: 0 }
    }
}

/// What a step used, by the kernel's account of its whole cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// From the first instruction until nothing of the step was left, in milliseconds.
    pub wall_ms: u64,
    /// Processor time in microseconds, set-up included.
    pub cpu_us: u64,
    /// Most memory at one time; `None`: limits were given up and the kernel does not count.
    pub memory_peak_bytes: Option<u64>,
    /// Most processes and threads at one time, the sandbox init included.
    pub pids_peak: Option<u64>,
    /// Processes that the kernel killed for memory.
    pub oom_kills: u64,
    /// How often the kernel refused a process.
    pub pids_refused: u64,
    /// Bytes read from block devices; `None`: limits were given up and the kernel does not count.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices, likewise.
    pub io_written_bytes: Option<u64>,
}

/// All there is to say about a step that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// How it ended.
    pub exit: Exit,
    /// What it used.
    pub usage: Usage,
    /// How it was confined.
    pub enforced: Enforced,
    /// What it did; `None` only if given up.
    pub trace: Option<Trace>,
}
