//! The report: what was asked for, enforced, executed, denied and used, and how it ended. docs/kiln-confine.md has the schema.
//!
//! Where it goes is [`crate::place`]'s.

use kiln_sandbox::{Denial, Enforced, Execution, Layer, Outcome, Trace, Usage};
use serde::Serialize;

use crate::document::Document;
use crate::end::End;

/// Version of the schema: another number if a field changes its meaning or goes; fields may be added.
const SCHEMA: u32 = 1;

/// A report.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    kiln_confine_report: u32,
    version: &'static str,
    command: &'a [String],
    /// As `--print-policy` has it; `null`: there was none.
    policy: Option<&'a Document>,
    /// Layers that were given up by name.
    given_up: Vec<Layer>,
    slot: Option<u16>,
    status: u8,
    end: &'a End,
    /// As on standard error; `null`: it did what it was asked to.
    message: Option<&'a str>,
    used: Option<Usage>,
    enforced: Option<&'a Enforced>,
    executed: Option<List<'a, Execution>>,
    denied: Option<List<'a, Denial>>,
}

/// A list that may have been cut.
#[derive(Debug, Serialize)]
struct List<'a, T> {
    listed: &'a [T],
    /// How many more there were.
    unlisted: u64,
}

/// What a report is about, beside the outcome.
#[derive(Debug)]
pub(crate) struct About<'a> {
    pub(crate) command: &'a [String],
    pub(crate) policy: Option<&'a Document>,
    pub(crate) slot: Option<u16>,
    pub(crate) status: u8,
    pub(crate) end: &'a End,
    pub(crate) message: Option<&'a str>,
}

impl<'a> Report<'a> {
    /// `outcome`: `None` if the command was not run.
    pub(crate) fn new(about: &About<'a>, outcome: Option<&'a Outcome>) -> Self {
        let trace = outcome.and_then(|outcome| outcome.trace.as_ref());
        let executed = |trace: &'a Trace| List { listed: &trace.executions, unlisted: trace.executions_unlisted };
        let denied = |trace: &'a Trace| List { listed: &trace.denials, unlisted: trace.denials_unlisted };
        Self {
            kiln_confine_report: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            command: about.command,
            policy: about.policy,
            given_up: about.policy.map(|policy| policy.without.iter().copied().collect()).unwrap_or_default(),
            slot: about.slot,
            status: about.status,
            end: about.end,
            message: about.message,
            used: outcome.map(|outcome| outcome.usage),
            enforced: outcome.map(|outcome| &outcome.enforced),
            executed: trace.map(executed),
            denied: trace.map(denied),
        }
    }

    /// As it is written: JSON for people and programs, and a newline.
    ///
    /// # Errors
    /// If a value cannot be told in JSON; there is none.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}
