//! The three kinds of page: one boot, two boots, many boots.

use std::collections::BTreeSet;

use super::super::{Audit, Comparison, Difference, EventLine, Group, Report, Subject, Summary, Verdict};
use super::Page;
use super::parts::{self, Selects};

/// By which states events can be picked.
const OF_EVENTS: Selects = &[
    ("verdict", "Verdict", &[("", "every verdict"), ("fails", "fails"), ("unproven", "unproven"), ("holds", "holds")]),
    (
        "worth",
        "Data",
        &[
            ("", "all data"),
            ("verified", "verified data"),
            ("altered", "altered data"),
            ("claimed", "claimed data"),
            ("unmeasured", "unmeasured data"),
        ],
    ),
];
/// By which states groups can be picked.
const OF_GROUPS: Selects =
    &[("state", "State", &[("", "every group"), ("odd", "stands out"), ("usual", "does not stand out")])];

/// The page's title.
pub(super) fn title(report: &Report<'_>) -> String {
    match report {
        Report::Audit(subject, _) => format!("Boot audit: {}", subject.name),
        Report::Diff(before, after, _) => format!("Boot audit: {} and {}", before.name, after.name),
        Report::Summary(summary) => format!("Boot audit: {} boots", summary.boots),
    }
}

/// Everything that is to be seen.
pub(super) fn body(page: &mut Page, report: &Report<'_>) {
    page.raw("<main id=\"content\" class=\"wrap\">\n");
    match report {
        Report::Audit(subject, audit) => of_audit(page, subject, audit),
        Report::Diff(before, after, comparison) => of_comparison(page, before, after, comparison),
        Report::Summary(summary) => of_summary(page, summary),
    }
    page.raw("<footer>Made by <code>kiln audit</code>, version ").raw(env!("CARGO_PKG_VERSION"));
    page.raw(
        ". This page is one file and makes no request. What an event says is a fact only where its data is verified ",
    );
    page.raw("and its verdict holds.</footer>\n</main>\n");
}

fn top(page: &mut Page, kind: &'static str) {
    page.raw("<header class=\"top\"><p class=\"kind\">").raw(kind).raw("</p>\n<h1 class=\"foreign\">");
}

fn of_audit(page: &mut Page, subject: &Subject, audit: &Audit) {
    top(page, "Boot audit");
    page.text(&subject.name).raw("</h1>\n");
    let (headline, words) = match audit.verdict() {
        Verdict::Holds => {
            ("The logs hold", "Every register with an event leads to exactly the value that it was held against.")
        }
        Verdict::Unproven => (
            "The logs are not proven",
            "Nothing contradicts them, but not every register was held against a value of the TPM or a quote.",
        ),
        Verdict::Fails => {
            ("The logs do not hold", "They contradict themselves or what they were held against. See the findings.")
        }
    };
    parts::verdict(page, audit.verdict(), headline, words);
    parts::facts(page, &facts(audit));
    page.raw("</header>\n");
    parts::findings(page, audit);
    page.raw("<section aria-labelledby=\"timeline\"><h2 id=\"timeline\">The boot, event by event</h2>\n");
    let registers: BTreeSet<_> = audit.events.iter().filter_map(|event| event.register).collect();
    parts::controls(page, "events", &registers, OF_EVENTS);
    parts::timeline(page, &audit.events);
    page.raw("</section>\n<section aria-labelledby=\"registers\"><h2 id=\"registers\">Registers</h2>\n");
    parts::registers(page, audit);
    page.raw("</section>\n<section aria-labelledby=\"inputs\"><h2 id=\"inputs\">What was read</h2>\n");
    parts::inputs(page, &subject.inputs);
    page.raw("</section>\n");
}

fn facts(audit: &Audit) -> Vec<(&'static str, String)> {
    let banks: BTreeSet<_> = audit.registers.iter().map(|register| register.bank).collect();
    let banks: Vec<_> = banks.iter().map(ToString::to_string).collect();
    let says = |code: &str| audit.findings.iter().any(|finding| finding.code == code);
    let secure_boot = match (says("secure_boot_on"), says("secure_boot_off")) {
        (true, false) => "on",
        (false, true) => "off",
        _ => "not known",
    };
    let proven = audit.events.iter().filter(|event| event.verdict == Verdict::Holds).count();
    let mut facts = vec![
        ("Events", audit.events.len().to_string()),
        ("Proven to be extended", proven.to_string()),
        ("Banks", banks.join(", ")),
        ("Secure Boot", secure_boot.to_owned()),
    ];
    facts.extend(audit.locality.map(|locality| ("PCR 0 starts from", format!("locality {locality}"))));
    facts
}

fn of_comparison(page: &mut Page, before: &Subject, after: &Subject, comparison: &Comparison) {
    top(page, "Two boots");
    page.text(&before.name).raw(" <span class=\"soft\">and</span> ").text(&after.name).raw("</h1>\n");
    let count = comparison.differences.len();
    let (verdict, headline, words) = if comparison.same() {
        (Verdict::Holds, "The boots are the same".to_owned(), "Both measured the same things in the same order.")
    } else {
        let headline = if count == 1 { "1 difference".to_owned() } else { format!("{count} differences") };
        (
            Verdict::Fails,
            headline,
            "The second boot is not the first. Nothing here says which of them is the right one.",
        )
    };
    parts::verdict(page, verdict, &headline, words);
    page.raw("</header>\n<section aria-labelledby=\"timeline\"><h2 id=\"timeline\">What differs</h2>\n");
    let registers: BTreeSet<_> = comparison.differences.iter().filter_map(|difference| difference.register).collect();
    parts::controls(page, "differences", &registers, &[]);
    page.raw("<ol class=\"line\">\n");
    comparison.differences.iter().for_each(|difference| of_difference(page, difference, comparison));
    page.raw("</ol><p class=\"empty\" id=\"empty\" hidden>Nothing fits. <kbd>Esc</kbd> shows everything again.</p>\n");
    page.raw("</section>\n<section aria-labelledby=\"registers\"><h2 id=\"registers\">Registers</h2>\n");
    parts::compared(page, &comparison.registers);
    page.raw("</section>\n<section aria-labelledby=\"inputs\"><h2 id=\"inputs\">What was read</h2>\n<h3>Before</h3>");
    parts::inputs(page, &before.inputs);
    page.raw("<h3>After</h3>");
    parts::inputs(page, &after.inputs);
    page.raw("</section>\n");
}

fn of_difference(page: &mut Page, difference: &Difference, comparison: &Comparison) {
    page.raw("<li data-item class=\"different\" data-pcr=\"");
    page.text(difference.register.map(|register| register.get().to_string()).unwrap_or_default());
    page.raw("\"><details><summary><span class=\"number\">");
    page.text(difference.after.or(difference.before).map(|number| number.to_string()).unwrap_or_default());
    page.raw("</span><span class=\"pcr\">");
    page.text(difference.register.map(|register| register.to_string()).unwrap_or_default());
    page.raw("</span><span class=\"says\"><span class=\"foreign\">").text(&difference.words).raw("</span></span>");
    page.raw("<span class=\"tag\">").raw(difference.change.name()).raw("</span></summary><div class=\"about\"><dl>");
    let find = |events: &'_ [EventLine], number: Option<usize>| {
        events.iter().find(|event| Some(event.number) == number).cloned()
    };
    let before = find(&comparison.events_before, difference.before);
    let after = find(&comparison.events_after, difference.after);
    for (name, event) in [("before", before), ("after", after)] {
        page.raw("<dt>").raw(name).raw("</dt><dd>");
        let Some(event) = event else {
            page.raw("no such event</dd>");
            continue;
        };
        page.raw("event ")
            .text(event.number)
            .raw(", <code>")
            .text(&event.kind)
            .raw("</code><br><span class=\"foreign\">");
        page.text(&event.words).raw("</span>");
        for digest in &event.digests {
            page.raw("<br><code>").raw(digest.bank().name()).raw(" ").text(digest).raw("</code>");
        }
        page.raw("</dd>");
    }
    page.raw("</dl></div></details></li>\n");
}

fn of_summary(page: &mut Page, summary: &Summary) {
    top(page, "Many boots");
    let (boots, distinct) = (summary.boots, summary.groups.len());
    page.text(boots).raw(if boots == 1 { " boot" } else { " boots" }).raw("</h1>\n");
    let standing = summary.groups.iter().filter(|group| group.stands_out());
    let odd = standing.fold(0_usize, |sum, group| sum.saturating_add(group.members.len()));
    let (verdict, headline) = if summary.is_even() {
        (Verdict::Holds, "No boot stands out".to_owned())
    } else {
        (Verdict::Fails, format!("{odd} of {boots} stand out, {} could not be read", summary.unread.len()))
    };
    parts::verdict(
        page,
        verdict,
        &headline,
        "A boot stands out if it fails its audit, or if it differs where most agree.",
    );
    parts::facts(
        page,
        &[
            ("Boots", boots.to_string()),
            ("Distinct", distinct.to_string()),
            ("Stand out", odd.to_string()),
            ("Not read", summary.unread.len().to_string()),
        ],
    );
    if !summary.varying.is_empty() {
        page.raw("<p class=\"varying soft\">No value is shared by most boots, so that none can stand out, in ");
        page.text(parts::names(&summary.varying)).raw(".</p>\n");
    }
    page.raw("</header>\n<section aria-labelledby=\"groups\"><h2 id=\"groups\">Boots with the same values</h2>\n");
    parts::controls(page, "boots", &BTreeSet::new(), OF_GROUPS);
    // What stands out first: that is what the page is opened for.
    let (odd, usual): (Vec<_>, Vec<_>) = summary.groups.iter().partition(|group| group.stands_out());
    odd.into_iter().chain(usual).for_each(|group| of_group(page, group, boots));
    for unread in &summary.unread {
        page.raw("<article class=\"group fails\" data-item tabindex=\"-1\" data-state=\"odd\"><header><span class=\"tag\">not read</span>");
        page.raw("<h3 class=\"foreign\">").text(&unread.name).raw("</h3></header><p class=\"soft foreign\">");
        page.text(&unread.reason).raw("</p></article>\n");
    }
    page.raw(
        "<p class=\"empty\" id=\"empty\" hidden>Nothing fits. <kbd>Esc</kbd> shows everything again.</p></section>\n",
    );
}

fn of_group(page: &mut Page, group: &Group, boots: usize) {
    let (class, state, word) = match (group.stands_out(), group.verdict) {
        (true, _) => ("fails", "odd", "stands out"),
        (false, Verdict::Holds) => ("holds", "usual", "holds"),
        (false, _) => ("unproven", "usual", "unproven"),
    };
    page.raw("<article class=\"group ").raw(class).raw("\" data-item tabindex=\"-1\" data-state=\"").raw(state);
    page.raw("\"><header><span class=\"tag\">").raw(word).raw("</span><h3>").text(group.members.len()).raw(" of ");
    page.text(boots).raw("</h3>");
    if !group.differs_in.is_empty() {
        page.raw("<span class=\"soft\">differs in ").text(parts::names(&group.differs_in)).raw("</span>");
    }
    page.raw("</header>\n<ul class=\"changes\">");
    for words in group.failures.iter().chain(&group.changes) {
        page.raw("<li class=\"foreign\">").text(words).raw("</li>");
    }
    if group.changes_unlisted > 0 {
        page.raw("<li class=\"soft\">and ").text(group.changes_unlisted).raw(" changes more</li>");
    }
    page.raw("</ul><ul class=\"members\">");
    for member in &group.members {
        page.raw("<li class=\"foreign\">").text(member).raw("</li>");
    }
    page.raw("</ul></article>\n");
}
