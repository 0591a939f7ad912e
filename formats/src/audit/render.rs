//! An audit for a terminal and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Audit, Severity, Verdict, Worth};

/// The version of the JSON document.
const VERSION: u32 = 1;

/// The JSON document: `version`, `holds`, and the fields of [`Audit`] as they are.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    holds: bool,
    #[serde(flatten)]
    audit: &'a Audit,
}

/// The audit as JSON, for programs.
///
/// `version` is 1. `registers`: `bank`, `register`, `events`, `replayed`, `found`, `expected` (hex or null) and `verdict`
/// (`holds`, `unproven`, `fails`). `events`: `number`, `register`, `runtime`, `kind`, `digests` (`bank:hex`), `worth`
/// (`verified`, `mismatched`, `claimed`, `unmeasured`) and `words`. `findings`: `severity` (`failure`, `warning`, `note`),
/// `code`, `register`, `event`, `expected`, `found`, `words`. Every text in it is inert.
///
/// # Errors
/// None in practice: the document has no keys but texts.
pub fn json(audit: &Audit) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&Document { version: VERSION, holds: audit.holds(), audit })
}

/// The audit as text: findings first, then registers, then events. No line holds a control character.
#[must_use]
pub fn text(audit: &Audit) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_all(&mut out, audit);
    out
}

fn write_all(out: &mut String, audit: &Audit) -> std::fmt::Result {
    let verdict = if audit.holds() { "The logs hold." } else { "The logs are not proven." };
    writeln!(out, "{verdict}")?;
    for finding in &audit.findings {
        let severity = match finding.severity {
            Severity::Failure => "FAILURE",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let register = finding.register.map(|register| format!("{register}: ")).unwrap_or_default();
        // Most sentences name their register themselves.
        let register = if finding.words.starts_with(register.trim_end_matches(": ")) { "" } else { register.as_str() };
        writeln!(out, "{severity:<8} {register}{}", finding.words)?;
        if let Some((expected, found)) = finding.expected.as_ref().zip(finding.found.as_ref()) {
            writeln!(out, "         expected {expected}\n         found    {found}")?;
        }
    }
    if audit.findings_unlisted > 0 {
        writeln!(out, "and {} findings more", audit.findings_unlisted)?;
    }
    writeln!(out, "\n{:<7} {:<7} {:>6}  {:<9} value", "bank", "PCR", "events", "verdict")?;
    for register in &audit.registers {
        let verdict = match register.verdict {
            Verdict::Holds => "holds",
            Verdict::Unproven => "unproven",
            Verdict::Fails => "FAILS",
        };
        let (bank, index) = (register.bank.name(), register.register.get());
        writeln!(out, "{bank:<7} {index:<7} {:>6}  {verdict:<9} {}", register.events, register.replayed)?;
    }
    writeln!(out, "\n{:>5} {:<4} {:<10} what", "event", "PCR", "worth")?;
    for event in &audit.events {
        let worth = match event.worth {
            Worth::Verified => "verified",
            Worth::Mismatched => "ALTERED",
            Worth::Claimed => "claimed",
            Worth::Unmeasured => "unmeasured",
        };
        let register = event.register.map_or_else(|| "-".to_owned(), |register| register.get().to_string());
        writeln!(out, "{:>5} {register:<4} {worth:<10} {} {}", event.number, event.kind, event.words)?;
    }
    Ok(())
}
