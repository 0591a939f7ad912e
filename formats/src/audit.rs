//! What a boot's logs are worth, and what they say: every register and event held against what a TPM holds, against reference
//! values, against another boot, in words.
//!
//! [`audit`] is total: it takes logs that were read, and whatever there is to hold them against, and says what it found. It never
//! concludes from data that does not hash to its digest (see [`crate::eventlog::Content`]). Without values of a TPM nothing
//! in a log is proven, and every register's verdict says so.
//!
//! Memory grows with the number of events, to about four times the logs' size at worst. Deliberately absent: reading files,
//! checking quotes' signatures ([`crate::quote`] does), and any opinion on what a site should allow.

mod align;
mod diff;
mod event;
mod registers;
mod render;
mod search;
mod state;
mod summary;
#[cfg(test)]
mod tests;
mod words;

use serde::Serialize;

pub use diff::{Change, Difference, diff};
pub use render::{json, text};
pub use summary::{Differing, Group, Summary, summarise};

use crate::boot::Boot;
use crate::digest::Sha256Digest;
use crate::pcr::{Bank, BankDigest, PcrIndex, PcrValues};
use crate::reference::MachineReference;

/// How many findings are listed. A hostile log could make any number of them.
pub const FINDINGS_MAX: usize = 500;

/// What a boot is held against. Everything may be missing; less to hold against proves less.
#[derive(Debug, Clone, Copy, Default)]
pub struct Against<'a> {
    /// What the TPM's registers hold, read or quoted.
    pub values: Option<&'a PcrValues>,
    /// What a quote signs over SHA-256 PCR 0 to 15.
    pub quoted: Option<Sha256Digest>,
    /// What the image must yield.
    pub reference: Option<&'a MachineReference>,
    /// A boot to compare with.
    pub other: Option<&'a Boot<'a>>,
    /// Command lines that may have been measured: a log has only their digest, and one that hashes to it is a fact.
    pub command_lines: &'a [&'a str],
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Every register that an event names or that was given a value, bank by bank.
    pub registers: Vec<Register>,
    /// Every event, in order.
    pub events: Vec<EventLine>,
    /// What there is to say, the worst first.
    pub findings: Vec<Finding>,
    /// Findings beyond [`FINDINGS_MAX`].
    pub findings_unlisted: usize,
}

/// One register of one bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Register {
    /// The bank.
    pub bank: Bank,
    /// The register.
    pub register: PcrIndex,
    /// How many events extend it in this bank.
    pub events: usize,
    /// What the events lead to.
    #[serde(serialize_with = "as_text")]
    pub replayed: BankDigest,
    /// What the TPM holds.
    #[serde(serialize_with = "as_text_option")]
    pub found: Option<BankDigest>,
    /// What the reference values say.
    #[serde(serialize_with = "as_text_option")]
    pub expected: Option<BankDigest>,
    /// Whether they agree.
    pub verdict: Verdict,
}

/// What holds of a register or an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It contradicts what it is held against.
    Fails,
    /// There is nothing that it could be held against.
    Unproven,
    /// It agrees with everything that it is held against.
    Holds,
}

/// One event in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventLine {
    /// Its place among all events, from 0.
    pub number: usize,
    /// The register that it extends; none if it extends nothing.
    pub register: Option<PcrIndex>,
    /// Which log it is in.
    pub runtime: bool,
    /// The firmware's type, `runtime` for a word of the running system.
    pub kind: String,
    /// What it extends, bank and hex.
    pub digests: Vec<String>,
    /// What its data is worth.
    pub worth: Worth,
    /// What it says, inert; a claim unless it is worth more.
    pub words: String,
}

/// What an event's data is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Worth {
    /// It hashes to the digest.
    Verified,
    /// It has to hash to the digest, and does not.
    Mismatched,
    /// The digest is of something else.
    Claimed,
    /// Nothing was extended, or in no bank that we know.
    Unmeasured,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The logs contradict themselves, the TPM or the reference values: they are not to be relied on.
    Failure,
    /// The boot was another than a careful person would want.
    Warning,
    /// Good to know.
    Note,
}

/// One thing to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of finding it is: stable, for programs.
    pub code: &'static str,
    /// The register, if it is about one.
    pub register: Option<PcrIndex>,
    /// The event's place among all events, if it is about one.
    pub event: Option<usize>,
    /// What should have been there.
    pub expected: Option<String>,
    /// What is there.
    pub found: Option<String>,
    /// In words.
    pub words: String,
}

impl Finding {
    fn new(severity: Severity, code: &'static str, words: impl Into<String>) -> Self {
        Self { severity, code, register: None, event: None, expected: None, found: None, words: words.into() }
    }

    fn at(self, register: Option<PcrIndex>, event: Option<usize>) -> Self {
        Self { register, event, ..self }
    }

    fn values(self, expected: impl ToString, found: impl ToString) -> Self {
        Self { expected: Some(expected.to_string()), found: Some(found.to_string()), ..self }
    }
}

impl Audit {
    /// Whether nothing contradicts the logs and every register with an event was held against a value or a quote.
    #[must_use]
    pub fn holds(&self) -> bool {
        let failed = self.findings.iter().any(|finding| finding.severity == Severity::Failure);
        !failed
            && !self.registers.is_empty()
            && self.registers.iter().all(|r| r.verdict == Verdict::Holds || r.events == 0)
    }
}

/// Holds a boot against what there is.
#[must_use]
pub fn audit(boot: &Boot<'_>, against: &Against<'_>) -> Audit {
    let events: Vec<_> = boot.events().collect();
    let replayed = boot.replay();
    let mut findings = state::findings(boot, &events, against);
    let registers = registers::check(boot, &events, &replayed, against, &mut findings);
    if let Some(reference) = against.reference {
        registers::check_reference(reference, &events, &replayed, against, &mut findings);
    }
    if let Some(other) = against.other {
        findings.extend(diff(other, boot, against.command_lines).into_iter().map(Difference::into_finding));
    }
    findings.sort_by_key(|finding| finding.severity);
    let findings_unlisted = findings.len().saturating_sub(FINDINGS_MAX);
    findings.truncate(FINDINGS_MAX);
    let events = events.iter().enumerate().map(|(number, event)| event::line(number, event)).collect();
    Audit { registers, events, findings, findings_unlisted }
}

fn as_text<S: serde::Serializer>(digest: &BankDigest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

fn as_text_option<S: serde::Serializer>(digest: &Option<BankDigest>, serializer: S) -> Result<S::Ok, S::Error> {
    match digest {
        Some(digest) => serializer.collect_str(digest),
        None => serializer.serialize_none(),
    }
}
