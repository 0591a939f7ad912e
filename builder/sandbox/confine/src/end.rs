//! How the command ended: one word for programs, one number for scripts, one line for people. All three are told apart for every
//! end; the numbers are stable.

use kiln_sandbox::{Exit, Usage};
use nix::sys::signal::Signal;
use rustix::io::Errno;
use serde::Serialize;

use crate::document::Document;
use crate::quantity::Size;
use crate::refusal::Refusal;

/// The arguments or the policy file are mistaken. Also what `clap` answers.
pub(crate) const USAGE: u8 = 2;
/// A system call of a foreign interface.
const POLICY_VIOLATION: u8 = 119;
const OUT_OF_MEMORY: u8 = 120;
const PID_LIMIT: u8 = 121;
const DISK_LIMIT: u8 = 122;
const FILE_LIMIT: u8 = 123;
/// Source: timeout(1).
const TIMEOUT: u8 = 124;
/// Nothing was run, or it is not known how it ended. Source: env(1), timeout(1): the command itself failed.
pub(crate) const REFUSED: u8 = 125;
/// Source: POSIX, 2.8.2: found, and not executable.
const NOT_EXECUTABLE: u8 = 126;
/// Source: POSIX, 2.8.2: not found.
const NOT_FOUND: u8 = 127;
/// Source: shells add this to a signal's number.
const SIGNAL_BASE: i32 = 128;

/// How it ended, as the report and the status descriptor say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub(crate) enum End {
    Exited { code: i32 },
    Signalled { signal: i32, name: String },
    Timeout { in_grace: bool },
    OutOfMemory,
    PidLimit { code: Option<i32> },
    DiskLimit { target: String, code: Option<i32> },
    FileLimit,
    PolicyViolation,
    NotExecutable { errno: i32 },
    NotFound,
    Interrupted { signal: i32, name: String },
    Refused { layer: Option<String>, causes: Vec<String>, help: Option<String> },
}

impl End {
    /// `interrupted`: the signal that made us kill it.
    pub(crate) fn of(exit: &Exit, interrupted: Option<Signal>) -> Self {
        match exit {
            Exit::Code { code } => Self::Exited { code: *code },
            Exit::Signal { signal } => Self::Signalled { signal: *signal, name: signal_name(*signal) },
            Exit::Timeout { in_grace } => Self::Timeout { in_grace: *in_grace },
            Exit::OutOfMemory => Self::OutOfMemory,
            Exit::PidLimit { code } => Self::PidLimit { code: *code },
            Exit::DiskLimit { target, code } => Self::DiskLimit { target: target.clone(), code: *code },
            Exit::FileLimit => Self::FileLimit,
            Exit::PolicyViolation => Self::PolicyViolation,
            Exit::NotExecutable { errno } if *errno == Errno::NOENT.raw_os_error() => Self::NotFound,
            Exit::NotExecutable { errno } => Self::NotExecutable { errno: *errno },
            Exit::Killed => {
                let signal = interrupted.unwrap_or(Signal::SIGKILL) as i32;
                Self::Interrupted { signal, name: signal_name(signal) }
            }
        }
    }

    pub(crate) fn refused(refusal: &Refusal) -> Self {
        let layer = refusal.layer().map(|layer| layer.to_string());
        Self::Refused { layer, causes: refusal.causes(), help: refusal.help() }
    }

    /// What the process answers; a refusal has its own.
    pub(crate) fn status(&self) -> u8 {
        let number = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        match self {
            Self::Exited { code } => number(*code),
            Self::Signalled { signal, .. } | Self::Interrupted { signal, .. } => number(SIGNAL_BASE + signal),
            Self::Timeout { .. } => TIMEOUT,
            Self::OutOfMemory => OUT_OF_MEMORY,
            Self::PidLimit { .. } => PID_LIMIT,
            Self::DiskLimit { .. } => DISK_LIMIT,
            Self::FileLimit => FILE_LIMIT,
            Self::PolicyViolation => POLICY_VIOLATION,
            Self::NotExecutable { .. } => NOT_EXECUTABLE,
            Self::NotFound => NOT_FOUND,
            Self::Refused { .. } => REFUSED,
        }
    }

    /// One line for people; `None`: it did what it was asked to. `command` and `policy` are what it ran and under what.
    pub(crate) fn message(&self, command: &str, policy: &Document) -> Option<String> {
        let limits = &policy.limits;
        let size = |size: Option<Size>| size.map(|size| size.to_string()).unwrap_or_default();
        let ended =
            |code: &Option<i32>| code.map_or("was killed".to_owned(), |code| format!("exited with status {code}"));
        Some(match self {
            Self::Exited { code: 0 } | Self::Refused { .. } => return None,
            Self::Exited { code } => format!("the command exited with status {code}"),
            Self::Signalled { signal, name } => format!("the command was ended by signal {signal} ({name})"),
            Self::Timeout { in_grace } => format!(
                "timeout: the command took longer than {} and {}",
                policy.timeout.map(|timeout| timeout.to_string()).unwrap_or_default(),
                if *in_grace { "ended when it was asked to" } else { "was killed" }
            ),
            Self::OutOfMemory => {
                format!("out of memory: the command reached its limit of {} and was killed", size(limits.memory))
            }
            Self::PidLimit { code } => format!(
                "out of processes: the command was refused one at its limit of {} and {}",
                limits.pids.unwrap_or_default(),
                ended(code)
            ),
            Self::DiskLimit { target, code } => {
                format!("out of disk: {target} was full when the command {}", ended(code))
            }
            Self::FileLimit => {
                format!(
                    "file too large: the command wrote a file beyond {} and was killed (SIGXFSZ)",
                    size(limits.file_size)
                )
            }
            Self::PolicyViolation => {
                "policy violation: the command used a forbidden system call interface and was killed (SIGSYS)"
                    .to_owned()
            }
            Self::NotExecutable { errno } => {
                format!("{command:?} cannot be executed: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::NotFound => {
                format!("{command:?} is not in the view, or the interpreter or loader that it names is not")
            }
            Self::Interrupted { name, .. } => format!("interrupted by {name}: the command was killed"),
        })
    }
}

/// What a step used, for the same line.
pub(crate) fn used(usage: &Usage) -> String {
    let seconds = |us: u64| format!("{}.{:03} s", us / 1_000_000, us % 1_000_000 / 1000);
    let bytes =
        |bytes: Option<u64>| bytes.map_or("not counted".to_owned(), |bytes| format!("{} KiB", bytes.div_ceil(1024)));
    format!(
        "{} elapsed, {} of processor, memory peak {}, read {}, written {}",
        seconds(usage.wall_ms * 1000),
        seconds(usage.cpu_us),
        bytes(usage.memory_peak_bytes),
        bytes(usage.io_read_bytes),
        bytes(usage.io_written_bytes),
    )
}

/// `SIGSEGV` for 11; real-time signals have no names.
fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("SIG{signal}"), |signal| signal.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_ends_have_one_number_or_one_line() {
        let exits = [
            Exit::Code { code: 3 },
            Exit::Signal { signal: 11 },
            Exit::Timeout { in_grace: false },
            Exit::OutOfMemory,
            Exit::PidLimit { code: Some(3) },
            Exit::DiskLimit { target: "/tmp".to_owned(), code: Some(3) },
            Exit::FileLimit,
            Exit::PolicyViolation,
            Exit::NotExecutable { errno: 13 },
            Exit::NotExecutable { errno: 2 },
            Exit::Killed,
        ];
        let ends: Vec<_> = exits.iter().map(|exit| End::of(exit, Some(Signal::SIGTERM))).collect();
        let statuses: Vec<_> = ends.iter().map(End::status).collect();
        assert_eq!(statuses, [3, 139, 124, 120, 121, 122, 123, 119, 126, 127, 143]);
        let lines: BTreeSet<_> = ends.iter().map(|end| end.message("make", &Document::default())).collect();
        assert_eq!(lines.len(), exits.len());
        assert_eq!(End::of(&Exit::Code { code: 0 }, None).message("make", &Document::default()), None);
    }
}
