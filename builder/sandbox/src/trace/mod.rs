//! What a step did, heard from the kernel while it ran: every execution, and every denial with the layer that denied.
//!
//! The sources are the kernel's own and out of the step's reach. A list that is cut says by how much; a trace that is not whole
//! is an error of the step, not a shorter trace.

mod audit;
mod call;
mod denials;
mod executions;
mod hearing;
mod record;
mod refusal;
mod watch;

use serde::{Deserialize, Serialize};

pub(crate) use audit::Rules;
pub use audit::{AuditBefore, switch_on};
pub(crate) use hearing::Hearing;
pub use watch::Error;
pub(crate) use watch::{Sources, Watch};

use crate::layer::Layer;

/// Executions and denials of a whole process tree, the step's main process first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// Programs executed, in the order in which the kernel allowed them.
    pub executions: Vec<Execution>,
    /// How many more there were than are listed.
    pub executions_unlisted: u64,
    /// Denials by layer, operation and object, in that order.
    pub denials: Vec<Denial>,
    /// How many denials, each counted, are in no entry of the list.
    pub denials_unlisted: u64,
}

/// One program that began to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Execution {
    /// When, in microseconds since the step's first instruction.
    pub time_us: u64,
    /// The process, in the caller's pid namespace.
    pub pid: i32,
    /// Its parent when it began to run, likewise.
    pub parent: i32,
    /// The file in the step's view, bytes that are not text escaped as `\xNN`.
    pub path: String,
    /// SHA-256 of the file that ran: of a script, the script, not its interpreter. Empty only for a file in memory, which can
    /// run only if the layer against that was given up.
    pub sha256: String,
    /// Its arguments, escaped likewise.
    pub argv: Vec<String>,
    /// Whether arguments are left out or cut.
    pub argv_cut: bool,
}

/// One thing that was denied, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// Which layer said no.
    pub layer: Layer,
    /// What was tried: a system call, an access right, or a limit.
    pub operation: String,
    /// On what: a path, arguments, or a process; escaped as paths are.
    pub object: String,
    /// How often, at least 1.
    pub count: u64,
}

/// Reads `bytes` as audit records, one a line, each after its type as two bytes; for the fuzz target.
#[cfg(feature = "mutation")]
pub fn read_records(bytes: &[u8]) -> usize {
    let mut calls = call::Calls::of(1);
    let records = bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let (kind, text) = line.split_first_chunk::<2>()?;
        Some((u16::from_le_bytes(*kind), record::Record::parse(text)?))
    });
    records.filter(|(kind, record)| matches!(calls.take(*kind, record), Ok(Some(_)))).count()
}
