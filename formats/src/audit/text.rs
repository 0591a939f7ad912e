//! A report for a terminal.

use std::fmt::{self, Write as _};

use super::{
    Audit, Comparison, Differing, Group, Report, Severity, Stage, Subject, Summary, Verdict, Worth, register_meaning,
};

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Text alone.
    Plain,
    /// Verdicts in the colours of a terminal.
    Colour,
}

/// What a word is coloured for.
#[derive(Clone, Copy)]
enum Tone {
    Bad,
    Doubtful,
    Good,
    Faint,
}

/// See [`Report::text`].
pub(super) fn text(report: &Report<'_>, style: Style) -> String {
    let mut out = Text { text: String::new(), style };
    // Writing to a string cannot fail.
    let _ = match report {
        Report::Audit(subject, audit) => out.audit(subject, audit),
        Report::Diff(before, after, comparison) => out.comparison(before, after, comparison),
        Report::Summary(summary) => out.summary(summary),
    };
    out.text
}

struct Text {
    text: String,
    style: Style,
}

impl Text {
    fn tone(&self, tone: Tone, word: &str) -> String {
        // Source: ECMA-48, section 8.3.117 (SGR).
        let code = match tone {
            Tone::Bad => "31;1",
            Tone::Doubtful => "33",
            Tone::Good => "32",
            Tone::Faint => "2",
        };
        match self.style {
            Style::Plain => word.to_owned(),
            Style::Colour => format!("\x1b[{code}m{word}\x1b[0m"),
        }
    }

    fn audit(&mut self, subject: &Subject, audit: &Audit) -> fmt::Result {
        let verdict = match audit.verdict() {
            Verdict::Holds => self.tone(Tone::Good, "HOLDS: the logs lead to exactly what they were held against"),
            Verdict::Unproven => {
                self.tone(Tone::Doubtful, "UNPROVEN: nothing contradicts the logs, and not all of them is proven")
            }
            Verdict::Fails => self.tone(Tone::Bad, "DOES NOT HOLD: the logs are not to be relied on"),
        };
        writeln!(self.text, "{}\n{verdict}\n", subject.name)?;
        self.findings(audit)?;
        self.registers(audit)?;
        self.events(audit)
    }

    fn findings(&mut self, audit: &Audit) -> fmt::Result {
        for finding in &audit.findings {
            let severity = match finding.severity {
                Severity::Failure => self.tone(Tone::Bad, "FAILURE "),
                Severity::Warning => self.tone(Tone::Doubtful, "warning "),
                Severity::Note => self.tone(Tone::Faint, "note    "),
            };
            let register = finding.register.map(|register| format!("{register}: ")).unwrap_or_default();
            // Most sentences name their register themselves.
            let is_named = finding.words.starts_with(register.trim_end_matches(": "));
            let register = if is_named { "" } else { register.as_str() };
            writeln!(self.text, "{severity} {register}{}", finding.words)?;
            if let Some((expected, found)) = finding.expected.as_ref().zip(finding.found.as_ref()) {
                writeln!(self.text, "         expected {expected}\n         found    {found}")?;
            }
        }
        match audit.findings_unlisted {
            0 => Ok(()),
            more => writeln!(self.text, "and {more} findings more"),
        }
    }

    fn registers(&mut self, audit: &Audit) -> fmt::Result {
        writeln!(self.text, "\n{:<7} {:<3} {:>6}  {:<8}  value", "bank", "PCR", "events", "verdict")?;
        for register in &audit.registers {
            let verdict = self.verdict(register.verdict);
            let (bank, index) = (register.bank.name(), register.register.get());
            let meaning = self.tone(Tone::Faint, register_meaning(register.register, audit.trust_domain));
            let (events, replayed) = (register.events, register.replayed);
            writeln!(self.text, "{bank:<7} {index:<3} {events:>6}  {verdict}  {replayed}  {meaning}")?;
        }
        Ok(())
    }

    fn verdict(&self, verdict: Verdict) -> String {
        match verdict {
            Verdict::Holds => self.tone(Tone::Good, "holds   "),
            Verdict::Unproven => self.tone(Tone::Doubtful, "unproven"),
            Verdict::Fails => self.tone(Tone::Bad, "FAILS   "),
        }
    }

    fn events(&mut self, audit: &Audit) -> fmt::Result {
        let mut stage: Option<Stage> = None;
        for event in &audit.events {
            if stage != Some(event.stage) {
                let meaning = self.tone(Tone::Faint, event.stage.meaning());
                writeln!(self.text, "\n{}: {meaning}", event.stage.title())?;
                writeln!(self.text, "{:>5} {:<3} {:<8}  {:<10} what", "event", "PCR", "verdict", "data")?;
            }
            stage = Some(event.stage);
            let worth = match event.worth {
                Worth::Verified => "verified  ".to_owned(),
                Worth::Mismatched => self.tone(Tone::Bad, "ALTERED   "),
                Worth::Claimed => self.tone(Tone::Faint, "claimed   "),
                Worth::Unmeasured => self.tone(Tone::Faint, "unmeasured"),
            };
            let verdict = match event.register {
                Some(_) => self.verdict(event.verdict),
                None => self.tone(Tone::Faint, "-       "),
            };
            let register = event.register.map_or_else(|| "-".to_owned(), |register| register.get().to_string());
            let (number, kind, words) = (event.number, &event.kind, &event.words);
            let meaning = self.tone(Tone::Faint, &format!("({kind}: {})", event.meaning));
            writeln!(self.text, "{number:>5} {register:<3} {verdict}  {worth} {words} {meaning}")?;
        }
        Ok(())
    }

    fn comparison(&mut self, before: &Subject, after: &Subject, comparison: &Comparison) -> fmt::Result {
        let verdict = match (comparison.same(), comparison.differences.len()) {
            (true, _) => self.tone(Tone::Good, "SAME: both boots measured the same things in the same order"),
            (false, count) => self.tone(Tone::Bad, &format!("DIFFERENT: differences: {count}")),
        };
        writeln!(self.text, "before: {}\nafter:  {}\n{verdict}\n", before.name, after.name)?;
        for difference in &comparison.differences {
            let register = difference.register.map(|register| register.to_string()).unwrap_or_default();
            let place = |number: Option<usize>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            let (before, after) = (place(difference.before), place(difference.after));
            writeln!(self.text, "{register:<6} event {before} -> {after}: {}", difference.words)?;
        }
        writeln!(self.text, "\n{:<7} {:<3} {:<9}  value", "bank", "PCR", "")?;
        for register in &comparison.registers {
            let (bank, index) = (register.bank.name(), register.register.get());
            let shown = |value: Option<_>| {
                value.map_or_else(|| "no event".to_owned(), |v: crate::pcr::BankDigest| v.to_string())
            };
            if register.same {
                let same = self.tone(Tone::Good, "same     ");
                writeln!(self.text, "{bank:<7} {index:<3} {same}  {}", shown(register.after))?;
            } else {
                let different = self.tone(Tone::Bad, "different");
                writeln!(self.text, "{bank:<7} {index:<3} {different}  before {}", shown(register.before))?;
                writeln!(self.text, "{:<22}  after  {}", "", shown(register.after))?;
            }
        }
        Ok(())
    }

    fn summary(&mut self, summary: &Summary) -> fmt::Result {
        let standing = summary.groups.iter().filter(|group| group.stands_out());
        let odd = standing.fold(0_usize, |sum, group| sum.saturating_add(group.members.len()));
        let (boots, distinct) = (summary.boots, summary.groups.len());
        let verdict = match (summary.is_even(), odd) {
            (true, _) => self.tone(Tone::Good, "none stands out"),
            (false, odd) => self.tone(Tone::Bad, &format!("{odd} standing out, {} not read", summary.unread.len())),
        };
        writeln!(self.text, "{boots} boots, {distinct} of them distinct; {verdict}")?;
        if !summary.varying.is_empty() {
            writeln!(self.text, "no value is shared by most boots in {}", names(&summary.varying))?;
        }
        for group in &summary.groups {
            self.group(group, summary.boots)?;
        }
        for unread in &summary.unread {
            let word = self.tone(Tone::Bad, "not read");
            writeln!(self.text, "\n{word} {}: {}", unread.name, unread.reason)?;
        }
        Ok(())
    }

    fn group(&mut self, group: &Group, boots: usize) -> fmt::Result {
        let word = match (group.stands_out(), group.verdict) {
            (true, _) => self.tone(Tone::Bad, "STANDS OUT"),
            (false, Verdict::Holds) => self.tone(Tone::Good, "usual, holds"),
            (false, _) => self.tone(Tone::Doubtful, "usual, unproven"),
        };
        writeln!(self.text, "\n{word}: {} of {boots}: {}", group.members.len(), group.members.join(", "))?;
        if !group.differs_in.is_empty() {
            writeln!(self.text, "  differs in {}", names(&group.differs_in))?;
        }
        for failure in &group.failures {
            let word = self.tone(Tone::Bad, "FAILURE");
            writeln!(self.text, "  {word} {failure}")?;
        }
        for change in &group.changes {
            writeln!(self.text, "  {change}")?;
        }
        match group.changes_unlisted {
            0 => Ok(()),
            more => writeln!(self.text, "  and {more} changes more"),
        }
    }
}

fn names(differing: &[Differing]) -> String {
    differing.iter().map(|one| format!("{}:{}", one.bank, one.register.get())).collect::<Vec<_>>().join(", ")
}
