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
mod compare;
mod diff;
mod event;
mod expected;
mod explain;
mod html;
mod registers;
mod report;
mod search;
mod state;
mod summary;
#[cfg(test)]
mod tests;
mod text;
mod words;

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};

pub use compare::{Compared, Comparison, compare};
pub use diff::{Change, Difference, diff};
pub use explain::{Stage, register as register_meaning};
pub use report::{Input, Report, Subject};
use state::State;
pub use summary::{Differing, Group, Member, Summary, Unread, summarise};
pub use text::Style;

use crate::boot::Boot;
use crate::pcr::{Bank, BankDigest, PcrIndex, PcrValues};
use crate::prediction::Registers;
use crate::quote::Quoted;

/// How many findings are listed. A hostile log could make any number of them.
pub const FINDINGS_MAX: usize = 500;

/// How many boots are summarised at once.
pub const BOOTS_MAX: usize = 10_000;

/// What a boot is held against. Everything may be missing; less to hold against proves less.
#[derive(Debug, Clone, Copy, Default)]
pub struct Against<'a> {
    /// What the TPM's registers hold, read or quoted.
    pub values: Option<&'a PcrValues>,
    /// What a quote signs.
    pub quoted: Option<&'a Quoted>,
    /// What the image must yield, in any of the log's banks.
    pub reference: Option<&'a Registers>,
    /// A boot to compare with.
    pub other: Option<&'a Boot<'a>>,
    /// Command lines that may have been measured: a log has only their digest, and one that hashes to it is a fact.
    pub command_lines: &'a [&'a str],
    /// What was found before: of a quote's signature, of a file's state.
    pub said: &'a [Finding],
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// The locality from which PCR 0 starts, if the events say anything about it.
    pub locality: Option<u8>,
    /// Whether the log is of a trust domain (TDX): its registers 1 to 4 are RTMR 0 to 3, and no PCRs.
    pub trust_domain: bool,
    /// Every register that an event names or that was given a value, bank by bank.
    pub registers: Vec<Register>,
    /// What the events lead to; in JSON it is under `registers`.
    #[serde(skip)]
    pub replayed: PcrValues,
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
    /// How far the boot was.
    pub stage: Stage,
    /// The register that it extends; none if it extends nothing.
    pub register: Option<PcrIndex>,
    /// Which log it is in.
    pub runtime: bool,
    /// The firmware's type, `runtime` for a word of the running system.
    pub kind: String,
    /// What it extends, by bank.
    #[serde(serialize_with = "by_bank")]
    pub digests: Vec<BankDigest>,
    /// What the reference values say, if they say anything of this event.
    pub expected: Option<String>,
    /// Whether it was extended as it says, and is the expected one.
    pub verdict: Verdict,
    /// What its data is worth.
    pub worth: Worth,
    /// What an event of its kind is.
    pub meaning: &'static str,
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
    /// A finding about nothing in particular.
    #[must_use]
    pub fn new(severity: Severity, code: &'static str, words: impl Into<String>) -> Self {
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
        self.verdict() == Verdict::Holds
    }

    /// What holds of the logs as a whole. One bank that is proven proves a register's events; no register may be left over.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let with = |verdict| {
            let registers = self.registers.iter().filter(move |register| register.verdict == verdict);
            registers.map(|register| register.register).collect::<BTreeSet<_>>()
        };
        let failed = self.findings.iter().any(|finding| finding.severity == Severity::Failure);
        let proven = with(Verdict::Holds);
        let is_proven = |register: &Register| register.events == 0 || proven.contains(&register.register);
        if failed || !with(Verdict::Fails).is_empty() {
            Verdict::Fails
        } else if !proven.is_empty() && self.registers.iter().all(is_proven) {
            Verdict::Holds
        } else {
            Verdict::Unproven
        }
    }
}

/// Holds a boot against what there is.
#[must_use]
pub fn audit(boot: &Boot<'_>, against: &Against<'_>) -> Audit {
    let read = boot.read();
    let replayed = read.replay();
    let network_devices = event::network_devices(&read.events);
    let context =
        words::Context { bank: Bank::Sha256, command_lines: against.command_lines, network_devices: &network_devices };
    let mut state = State::new(&context);
    let mut lines = event::lines(&read.events, |number, event, content| state.see(number, event, content));
    let trust_domain = state.is_trust_domain(&read.banks);
    let mut findings = [against.said.to_vec(), state.findings(boot)].concat();
    if trust_domain {
        let words = "the log is of a trust domain (Intel TDX): its registers 1 to 4 are RTMR 0 to 3, and no PCRs";
        findings.push(Finding::new(Severity::Note, "trust_domain", words));
    }
    let registers = registers::check(&read, &replayed, against, &mut findings);
    let expected = against.reference.map(|it| expected::check(it, &read, &replayed, &context, &mut findings));
    if let Some(other) = against.other {
        findings.extend(diff(other, boot, against.command_lines).into_iter().map(Difference::into_finding));
    }
    findings.sort_by_key(|finding| finding.severity);
    let findings_unlisted = findings.len().saturating_sub(FINDINGS_MAX);
    findings.truncate(FINDINGS_MAX);
    event::judge(&mut lines, &registers, &findings, &expected.unwrap_or_default());
    Audit { locality: read.locality, trust_domain, registers, replayed, events: lines, findings, findings_unlisted }
}

fn as_text<S: Serializer>(digest: &BankDigest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

fn as_text_option<S: Serializer>(digest: &Option<BankDigest>, serializer: S) -> Result<S::Ok, S::Error> {
    match digest {
        Some(digest) => serializer.collect_str(digest),
        None => serializer.serialize_none(),
    }
}

fn by_bank<S: Serializer>(digests: &[BankDigest], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(digests.iter().map(|digest| (digest.bank(), digest.to_string())))
}
