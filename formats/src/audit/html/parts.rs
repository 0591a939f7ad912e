//! The pieces of a page: what the whole comes to, findings, events on a line, registers in tables.

use std::collections::BTreeSet;

use super::super::{
    Audit, Compared, Differing, EventLine, Finding, Input, Register, Severity, Stage, Verdict, Worth, register_meaning,
};
use super::Page;
use crate::pcr::{Bank, BankDigest, PcrIndex};

/// How a class of the style calls a verdict.
pub(super) const fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Fails => "fails",
        Verdict::Unproven => "unproven",
        Verdict::Holds => "holds",
    }
}

/// What the whole comes to.
pub(super) fn verdict(page: &mut Page, verdict: Verdict, headline: &str, words: &str) {
    let sign = match verdict {
        Verdict::Fails => "!",
        Verdict::Unproven => "?",
        Verdict::Holds => "✓",
    };
    page.raw("<div class=\"verdict ")
        .raw(class(verdict))
        .raw("\"><span class=\"sign\" aria-hidden=\"true\">")
        .raw(sign);
    page.raw("</span><p><strong id=\"verdict\">").text(headline).raw("</strong>").text(words).raw("</p></div>\n");
}

/// Facts in a row.
pub(super) fn facts(page: &mut Page, facts: &[(&'static str, String)]) {
    page.raw("<dl class=\"facts\">\n");
    for (name, value) in facts {
        page.raw("<div><dt>").raw(name).raw("</dt><dd>").text(value).raw("</dd></div>\n");
    }
    page.raw("</dl>\n");
}

/// What there is to say.
pub(super) fn findings(page: &mut Page, audit: &Audit) {
    page.raw("<section aria-labelledby=\"findings\"><h2 id=\"findings\">Findings</h2>\n");
    if audit.findings.is_empty() {
        page.raw("<p class=\"soft\">There is nothing to say.</p>");
    }
    page.raw("<ul class=\"findings\">\n");
    audit.findings.iter().for_each(|found| finding(page, found, audit.trust_domain));
    if audit.findings_unlisted > 0 {
        page.raw("<li><span class=\"tag note\">more</span><span>and ").text(audit.findings_unlisted);
        page.raw(" findings that are not listed</span></li>\n");
    }
    page.raw("</ul></section>\n");
}

fn finding(page: &mut Page, finding: &Finding, trust_domain: bool) {
    let (class, word) = match finding.severity {
        Severity::Failure => ("failure", "failure"),
        Severity::Warning => ("warning", "warning"),
        Severity::Note => ("note", "note"),
    };
    page.raw("<li class=\"").raw(class).raw("\"><span class=\"tag\">").raw(word).raw("</span><div>");
    page.raw("<p class=\"foreign\">").text(&finding.words).raw("</p>");
    if let Some((expected, found)) = finding.expected.as_ref().zip(finding.found.as_ref()) {
        page.raw("<dl class=\"pair\"><dt>expected</dt><dd><code class=\"foreign\">").text(expected);
        page.raw("</code></dd><dt>found</dt><dd><code class=\"foreign\">").text(found).raw("</code></dd></dl>");
    }
    page.raw("</div>");
    if finding.register.is_some() || finding.event.is_some() {
        page.raw("<p class=\"more\">");
        if let Some(register) = finding.register {
            page.text(register).raw(": ").raw(register_meaning(register, trust_domain)).raw(" ");
        }
        if let Some(event) = finding.event {
            page.raw("· <a href=\"#e").text(event).raw("\">event ").text(event).raw("</a>");
        }
        page.raw("</p>");
    }
    page.raw("</li>\n");
}

/// Search, filters and what the keys do; shown by the script.
pub(super) fn controls(page: &mut Page, what: &'static str, registers: &BTreeSet<PcrIndex>, selects: Selects) {
    page.raw("<div class=\"controls\" hidden><div class=\"row\" role=\"search\">\n");
    page.raw("<input id=\"search\" type=\"search\" autocomplete=\"off\" spellcheck=\"false\" aria-label=\"Search\" placeholder=\"Search ");
    page.raw(what).raw("\">\n");
    if !registers.is_empty() {
        page.raw("<select name=\"pcr\" aria-label=\"Register\"><option value=\"\">every PCR</option>");
        for register in registers {
            page.raw("<option value=\"").text(register.get()).raw("\">").text(register).raw("</option>");
        }
        page.raw("</select>\n");
    }
    for (name, label, options) in selects {
        page.raw("<select name=\"").raw(name).raw("\" aria-label=\"").raw(label).raw("\">");
        for (value, word) in *options {
            page.raw("<option value=\"").raw(value).raw("\">").raw(word).raw("</option>");
        }
        page.raw("</select>\n");
    }
    page.raw("<button id=\"reset\" type=\"button\">Reset</button>\n");
    if !registers.is_empty() {
        page.raw("<button id=\"unfold\" type=\"button\">Open all</button>\n");
    }
    page.raw("<span class=\"count\" id=\"count\" role=\"status\" aria-live=\"polite\"></span></div>\n");
    page.raw("<p class=\"keys\"><kbd>/</kbd> search &nbsp; <kbd>j</kbd> <kbd>k</kbd> next, previous &nbsp; ");
    page.raw("<kbd>Enter</kbd> open &nbsp; <kbd>o</kbd> open all &nbsp; <kbd>Esc</kbd> reset</p></div>\n");
}

/// Name, label, and the options' values and words of a select.
pub(super) type Selects = &'static [(&'static str, &'static str, &'static [(&'static str, &'static str)])];

/// The events of a boot on a line, stage by stage.
pub(super) fn timeline(page: &mut Page, events: &[EventLine]) {
    for stage in Stage::ALL {
        let of_stage = || events.iter().filter(|event| event.stage == stage);
        if of_stage().next().is_none() {
            continue;
        }
        page.raw("<section class=\"stage\"><header><h3>").raw(stage.title()).raw("</h3><span>").raw(stage.meaning());
        page.raw("</span></header>\n<ol class=\"line\">\n");
        of_stage().for_each(|line| event(page, line));
        page.raw("</ol></section>\n");
    }
    page.raw("<p class=\"empty\" id=\"empty\" hidden>Nothing fits. <kbd>Esc</kbd> shows everything again.</p>\n");
}

const fn worth(worth: Worth) -> (&'static str, &'static str) {
    match worth {
        Worth::Verified => ("verified", "its data hashes to the digest"),
        Worth::Mismatched => ("altered", "its data does not hash to the digest: what it says is no fact"),
        Worth::Claimed => ("claimed", "the digest is of something that is not in the log: what it says is a claim"),
        Worth::Unmeasured => {
            ("unmeasured", "nothing was extended, or in no bank that we know: what it says is a claim")
        }
    }
}

fn event(page: &mut Page, event: &EventLine) {
    let tone = if event.register.is_none() { "none" } else { class(event.verdict) };
    let (worth, worth_means) = worth(event.worth);
    page.raw("<li data-item id=\"e").text(event.number).raw("\" class=\"").raw(tone);
    page.raw("\" data-verdict=\"").raw(class(event.verdict)).raw("\" data-worth=\"").raw(worth).raw("\" data-pcr=\"");
    page.text(event.register.map(|register| register.get().to_string()).unwrap_or_default());
    page.raw("\"><details><summary><span class=\"number\">").text(event.number).raw("</span>");
    register(page, event.register);
    page.raw("<span class=\"says\"><span class=\"foreign\">")
        .text(&event.words)
        .raw("</span><small>")
        .raw(event.meaning);
    page.raw(short(event.worth))
        .raw("</small></span><span class=\"tag ")
        .raw(tone)
        .raw("\">")
        .raw(tag(event))
        .raw("</span></summary>\n");
    page.raw("<div class=\"about\"><dl><dt>type</dt><dd><code>").text(&event.kind).raw("</code></dd>");
    page.raw("<dt>verdict</dt><dd>").raw(verdict_means(event)).raw("</dd>");
    page.raw("<dt>data</dt><dd>").raw(worth).raw(": ").raw(worth_means).raw("</dd>");
    if let Some(expected) = &event.expected {
        page.raw("<dt>expected</dt><dd><code>").text(expected).raw("</code></dd>");
    }
    for digest in &event.digests {
        page.raw("<dt>").raw(digest.bank().name()).raw("</dt><dd><code>").text(digest).raw("</code></dd>");
    }
    page.raw("</dl></div></details></li>\n");
}

fn register(page: &mut Page, register: Option<PcrIndex>) {
    match register {
        Some(register) => page.raw("<span class=\"pcr\">").text(register).raw("</span>"),
        None => page.raw("<span class=\"pcr none\">no PCR</span>"),
    };
}

const fn tag(event: &EventLine) -> &'static str {
    match (event.worth, event.verdict, event.register) {
        (Worth::Mismatched, _, _) => "altered",
        (_, Verdict::Fails, _) => "fails",
        (_, _, None) => "remark",
        (_, Verdict::Unproven, _) => "unproven",
        (_, Verdict::Holds, _) => "holds",
    }
}

/// What a reader must know of an event's words without opening it.
const fn short(worth: Worth) -> &'static str {
    match worth {
        Worth::Verified => "",
        Worth::Mismatched => " · not what was measured",
        Worth::Claimed => " · as the log claims",
        Worth::Unmeasured => " · not measured",
    }
}

const fn verdict_means(event: &EventLine) -> &'static str {
    match (event.verdict, event.register) {
        (Verdict::Fails, _) => "fails: a finding is about this event",
        (_, None) => "it extends nothing, so nothing can prove it",
        (Verdict::Unproven, _) => "unproven: its register was not held against a value, or does not lead to it",
        (Verdict::Holds, _) => "holds: its register's value is reached with it",
    }
}

/// The registers of an audit, bank by bank.
pub(super) fn registers(page: &mut Page, audit: &Audit) {
    let mut open = true;
    for bank in banks(audit.registers.iter().map(|register| register.bank)) {
        let of_bank: Vec<_> = audit.registers.iter().filter(|register| register.bank == bank).collect();
        bank_table(page, bank, of_bank.len(), open, "<th>PCR<th>events<th>verdict<th>value");
        of_bank.iter().for_each(|row| register_row(page, row, audit.trust_domain));
        page.raw("</tbody></table></details>\n");
        open = false;
    }
}

fn banks(found: impl Iterator<Item = Bank>) -> Vec<Bank> {
    let mut banks = Vec::new();
    found.for_each(|bank| {
        if !banks.contains(&bank) {
            banks.push(bank)
        }
    });
    banks
}

fn bank_table(page: &mut Page, bank: Bank, count: usize, open: bool, heads: &'static str) {
    page.raw("<details class=\"bank\"").raw(if open { " open" } else { "" }).raw("><summary>").raw(bank.name());
    page.raw("<span>").text(count).raw(" registers</span></summary>\n<table><thead><tr>").raw(heads);
    page.raw("</tr></thead><tbody>\n");
}

fn index(page: &mut Page, register: PcrIndex, trust_domain: bool) {
    page.raw("<tr><td class=\"index\">")
        .text(register)
        .raw("<small>")
        .raw(register_meaning(register, trust_domain))
        .raw("</small></td>");
}

fn register_row(page: &mut Page, row: &Register, trust_domain: bool) {
    index(page, row.register, trust_domain);
    page.raw("<td class=\"amount\">").text(row.events).raw("</td><td class=\"").raw(class(row.verdict));
    page.raw("\"><span class=\"tag\">").raw(class(row.verdict)).raw("</span></td><td class=\"value\">");
    let others = [("the TPM holds", row.found), ("expected", row.expected)];
    let differing: Vec<_> = others.into_iter().filter(|(_, value)| value.is_some_and(|v| v != row.replayed)).collect();
    if differing.is_empty() {
        page.raw("<code>").text(row.replayed).raw("</code>");
    } else {
        page.raw("<dl><dt>the log leads to</dt><dd><code>").text(row.replayed).raw("</code></dd>");
        for (name, value) in differing {
            page.raw("<dt>")
                .raw(name)
                .raw("</dt><dd><code>")
                .text(value.map(hex).unwrap_or_default())
                .raw("</code></dd>");
        }
        page.raw("</dl>");
    }
    page.raw("</td></tr>\n");
}

fn hex(digest: BankDigest) -> String {
    digest.to_string()
}

/// The registers of two boots, bank by bank.
pub(super) fn compared(page: &mut Page, registers: &[Compared]) {
    let mut open = true;
    for bank in banks(registers.iter().map(|register| register.bank)) {
        let of_bank: Vec<_> = registers.iter().filter(|register| register.bank == bank).collect();
        bank_table(page, bank, of_bank.len(), open, "<th>PCR<th>verdict<th>value");
        for row in of_bank {
            let class = if row.same { "same" } else { "different" };
            index(page, row.register, false);
            page.raw("<td class=\"").raw(class).raw("\"><span class=\"tag\">").raw(class);
            page.raw("</span></td><td class=\"value\">");
            let shown = |value: Option<BankDigest>| value.map_or_else(|| "no event".to_owned(), hex);
            if row.same {
                page.raw("<code>").text(shown(row.after)).raw("</code>");
            } else {
                page.raw("<dl><dt>before</dt><dd><code>")
                    .text(shown(row.before))
                    .raw("</code></dd><dt>after</dt><dd><code>");
                page.text(shown(row.after)).raw("</code></dd></dl>");
            }
            page.raw("</td></tr>\n");
        }
        page.raw("</tbody></table></details>\n");
        open = false;
    }
}

/// The files that were read.
pub(super) fn inputs(page: &mut Page, inputs: &[Input]) {
    page.raw("<ul class=\"inputs\">\n");
    for input in inputs {
        page.raw("<li><span>").raw(input.what).raw(" <span class=\"soft\">").text(input.bytes);
        page.raw(" bytes</span></span><code class=\"foreign\">")
            .text(&input.path)
            .raw("</code><code class=\"soft\">sha256 ");
        page.text(input.sha256).raw("</code></li>\n");
    }
    page.raw("</ul>\n");
}

/// Registers by bank: `sha256 PCR 3, 6; sha384 PCR 7`.
pub(super) fn names(differing: &[Differing]) -> String {
    let of = |bank| {
        let of_bank = differing.iter().filter(move |one| one.bank == bank);
        of_bank.map(|one| one.register.get().to_string()).collect::<Vec<_>>().join(", ")
    };
    let named = |bank: Bank| format!("{bank} PCR {}", of(bank));
    banks(differing.iter().map(|one| one.bank)).into_iter().map(named).collect::<Vec<_>>().join("; ")
}
