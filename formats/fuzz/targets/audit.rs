//! An audit of whatever parses, against the values of another part of the input.
#![no_main]

use kiln_formats::audit::{Against, Member, Report, Style, Subject, Verdict, audit, compare, summarise};
use kiln_formats::boot::Boot;
use kiln_formats::cel::CelLog;
use kiln_formats::eventlog::EventLog;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (Vec<u8>, Vec<u8>, Vec<u8>)| {
    let boot = Boot { firmware: EventLog::parse(&parts.0).ok(), runtime: CelLog::parse(&parts.1).ok() };
    let other = Boot { firmware: EventLog::parse(&parts.2).ok(), runtime: None };
    let values = other.replay();
    let found = audit(&boot, &Against { values: Some(&values), other: Some(&other), ..Against::default() });
    let subject = Subject::new("fuzz");
    let comparison = compare(&other, &boot, &[]);
    let many = [&boot, &other].map(|boot| Member {
        name: String::new(),
        boot: boot.clone(),
        verdict: Verdict::Unproven,
        values: boot.replay(),
        failures: Vec::new(),
    });
    let summary = summarise(&many, Vec::new());
    for report in
        [Report::Audit(&subject, &found), Report::Diff(&subject, &subject, &comparison), Report::Summary(&summary)]
    {
        let (text, page) = (report.text(Style::Plain), report.html());
        assert!(text.chars().chain(page.chars()).all(|c| c == '\n' || !c.is_control()));
        assert_eq!(page.matches("<script").count(), 1);
        assert!(report.json().is_ok());
    }
    let own = boot.replay();
    let sound = audit(&boot, &Against { values: Some(&own), ..Against::default() });
    assert!(sound.registers.iter().all(|register| register.found == Some(register.replayed)));
});
