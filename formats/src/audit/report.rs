//! What a person or a program gets: one audit, two boots beside each other, or many at a glance.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Audit, Comparison, Style, Summary, Verdict, html, text};
use crate::digest::Sha256Digest;
use crate::eventlog::decode::plain;
use crate::pcr::Bank;

/// The version of the JSON document.
const VERSION: u32 = 1;
/// How many characters of a path are shown.
const NAME_CHARS_MAX: usize = 240;

/// What was audited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// What it is called, inert.
    pub name: String,
    /// What was read of it.
    pub inputs: Vec<Input>,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Input {
    /// What it is: `firmware log`, `runtime log`, `register values`, `quote`, …
    pub what: &'static str,
    /// Its path, inert.
    pub path: String,
    /// Its size.
    pub bytes: usize,
    /// Its digest.
    pub sha256: Sha256Digest,
}

impl Subject {
    /// Names what was audited.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: plain(name, NAME_CHARS_MAX), inputs: Vec::new() }
    }

    /// Adds a file that was read.
    pub fn read(&mut self, what: &'static str, path: &str, bytes: &[u8]) {
        let path = plain(path, NAME_CHARS_MAX);
        self.inputs.push(Input { what, path, bytes: bytes.len(), sha256: Sha256Digest::of(bytes) });
    }
}

/// One of the three things that an audit can yield.
#[derive(Debug, Clone, Copy)]
pub enum Report<'a> {
    /// One boot.
    Audit(&'a Subject, &'a Audit),
    /// Two boots, the second held against the first.
    Diff(&'a Subject, &'a Subject, &'a Comparison),
    /// Many boots.
    Summary(&'a Summary),
}

#[derive(Serialize)]
struct Document<'a, T> {
    version: u32,
    kind: &'static str,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a Subject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<&'a Subject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'a Subject>,
    /// What the logs lead to, by bank and register.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pcrs: BTreeMap<Bank, BTreeMap<u8, String>>,
    #[serde(flatten)]
    found: &'a T,
}

impl Report<'_> {
    /// What it comes to. Two boots hold if they are the same, many if none of them fails or stands out.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let holds = |holds: bool| if holds { Verdict::Holds } else { Verdict::Fails };
        match self {
            Self::Audit(_, audit) => audit.verdict(),
            Self::Diff(_, _, comparison) => holds(comparison.same()),
            Self::Summary(summary) => holds(summary.is_even()),
        }
    }

    /// The report for programs; `docs/audit.md` describes it. Every text in it is inert.
    ///
    /// # Errors
    /// None in practice: the document has no keys but texts.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        let (version, verdict) = (VERSION, self.verdict());
        let (before, after, pcrs) = (None, None, BTreeMap::new());
        match *self {
            Self::Audit(subject, found) => {
                let (kind, subject, pcrs) = ("audit", Some(subject), replayed(found));
                serde_json::to_string_pretty(&Document { version, kind, verdict, subject, before, after, pcrs, found })
            }
            Self::Diff(before, after, found) => {
                let (kind, subject, before, after) = ("diff", None, Some(before), Some(after));
                serde_json::to_string_pretty(&Document { version, kind, verdict, subject, before, after, pcrs, found })
            }
            Self::Summary(found) => {
                let (kind, subject) = ("summary", None);
                serde_json::to_string_pretty(&Document { version, kind, verdict, subject, before, after, pcrs, found })
            }
        }
    }

    /// The report for a terminal: what there is to say first, then the registers, then the events. No line holds a control
    /// character but those of the style.
    #[must_use]
    pub fn text(&self, style: Style) -> String {
        text::text(self, style)
    }

    /// The report as one page that asks for nothing.
    #[must_use]
    pub fn html(&self) -> String {
        html::page(self)
    }
}

fn replayed(audit: &Audit) -> BTreeMap<Bank, BTreeMap<u8, String>> {
    let mut banks: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for register in audit.registers.iter() {
        banks.entry(register.bank).or_default().insert(register.register.get(), register.replayed.to_string());
    }
    banks
}
