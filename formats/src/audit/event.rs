//! One event, as an audit lists and names it.

use std::collections::{BTreeMap, BTreeSet};

use super::explain::{self, Stage};
use super::{EventLine, Finding, Register, Severity, Verdict, Worth};
use crate::boot::BootEvent;
use crate::cel::{Record, RecordContent};
use crate::event::Event as Word;
use crate::eventlog::decode::{Decoded, Loader, VariableValue};
use crate::eventlog::{Content, Coverage, EventType};

/// Every event as a line. Nothing is judged yet: an event is unproven until a register says otherwise.
///
/// `see` is called for each event with its content: weighing it hashes it, so that is done once and not kept.
pub(super) fn lines(
    events: &[BootEvent<'_>],
    mut see: impl FnMut(usize, &BootEvent<'_>, Option<&Content<'_>>),
) -> Vec<EventLine> {
    // A boot never goes back to an earlier stage.
    let mut stage = Stage::Firmware;
    let line = |(number, event): (usize, &BootEvent<'_>)| {
        let content = event.content();
        see(number, event, content.as_ref());
        stage = stage.max(explain::begins(event, content.as_ref()));
        line(number, event, content.as_ref(), stage)
    };
    events.iter().enumerate().map(line).collect()
}

fn line(number: usize, event: &BootEvent<'_>, content: Option<&Content<'_>>, stage: Stage) -> EventLine {
    let kind = event.event_type().map_or_else(|| "runtime".to_owned(), |event_type| event_type.to_string());
    EventLine {
        number,
        stage,
        register: event.extends(),
        runtime: event.is_runtime(),
        kind,
        digests: event.digests(),
        expected: None,
        verdict: Verdict::Unproven,
        worth: worth_of(event, content),
        meaning: explain::event(event, content),
        words: content.map_or_else(|| event.to_string(), ToString::to_string),
    }
}

/// Gives every event its verdict: it fails if a finding says so, and holds if its register's value was reached with it.
pub(super) fn judge(
    lines: &mut [EventLine],
    registers: &[Register],
    findings: &[Finding],
    expected: &BTreeMap<usize, String>,
) {
    let with = |verdict| -> BTreeSet<_> {
        registers.iter().filter(|register| register.verdict == verdict).map(|register| register.register).collect()
    };
    let (failed, held) = (with(Verdict::Fails), with(Verdict::Holds));
    let failures = findings.iter().filter(|finding| finding.severity == Severity::Failure);
    let wrong: BTreeSet<_> = failures.filter_map(|finding| finding.event).collect();
    for line in lines {
        line.expected = expected.get(&line.number).cloned();
        let is_reached = line.register.is_some_and(|index| held.contains(&index) && !failed.contains(&index));
        line.verdict = match (wrong.contains(&line.number), is_reached) {
            (true, _) => Verdict::Fails,
            (false, true) => Verdict::Holds,
            (false, false) => Verdict::Unproven,
        };
    }
}

pub(super) fn worth(event: &BootEvent<'_>) -> Worth {
    worth_of(event, event.content().as_ref())
}

pub(super) fn worth_of(event: &BootEvent<'_>, content: Option<&Content<'_>>) -> Worth {
    match (content, event) {
        (Some(Content::Verified(_)), _) => Worth::Verified,
        (Some(Content::Mismatched(_)), _) => Worth::Mismatched,
        (Some(Content::NotHashed(_)), _) => Worth::Claimed,
        (Some(Content::Unmeasured(_) | Content::Uncheckable(_)), _) => Worth::Unmeasured,
        (None, BootEvent::Runtime(record)) => match record.text_holds() {
            Some(true) => Worth::Verified,
            Some(false) => Worth::Mismatched,
            None => Worth::Claimed,
        },
        (None, BootEvent::Firmware(_)) => Worth::Claimed,
    }
}

/// The bytes or text that an event shows.
pub(super) fn data<'e>(event: &'e BootEvent<'_>) -> Option<&'e [u8]> {
    match event {
        BootEvent::Firmware(event) => Some(event.data),
        BootEvent::Runtime(Record { content: RecordContent::Firmware { data, .. }, .. }) => Some(data),
        BootEvent::Runtime(Record { content: RecordContent::Systemd { text, .. }, .. }) => Some(text.as_bytes()),
        BootEvent::Runtime(_) => None,
    }
}

/// The PCI devices that are network cards: a boot entry that hashes to its digest leads through them to a MAC address.
pub(super) fn network_devices(events: &[BootEvent<'_>]) -> Vec<String> {
    let mut devices = Vec::new();
    for event in events.iter().filter(|event| event.event_type() == Some(EventType::VARIABLE_BOOT)) {
        let content = event.content();
        if let Some(Decoded::Variable(variable)) = content.as_ref().and_then(Content::fact)
            && let VariableValue::LoadOption(option) = &variable.value
        {
            devices.extend(option.path.pci_device().filter(|_| option.path.is_network()));
        }
    }
    devices.sort_unstable();
    devices.dedup();
    devices
}

/// What an event is about, so that it can be found again in another boot. Two events with the same key measure the same thing.
/// Keys only pair events: no conclusion is drawn from them.
pub(super) fn key(event: &BootEvent<'_>) -> String {
    let (Some(event_type), Some(content)) = (event.event_type(), event.content()) else {
        return runtime_key(event);
    };
    let is_name = matches!(&content, Content::Verified(fact) if fact.coverage() == Coverage::SectionName);
    let about = match content.alleged() {
        Decoded::Variable(variable) => variable.name.clone(),
        Decoded::Loader(Loader::Section(name)) => format!("{name} {}", if is_name { "name" } else { "content" }),
        Decoded::Loader(Loader::Shim(name)) => (*name).to_owned(),
        Decoded::Loader(Loader::Grub { word, .. }) => format!("{word:?}"),
        Decoded::Loader(Loader::File(path)) => path.clone(),
        Decoded::Loader(Loader::Words(_) | Loader::Text(_)) => "text".to_owned(),
        Decoded::Tag(tag) => tag.id.to_string(),
        Decoded::TrustDomain(domain) => domain.name.to_owned(),
        _ => String::new(),
    };
    format!("{event_type} {about}")
}

fn runtime_key(event: &BootEvent<'_>) -> String {
    let BootEvent::Runtime(Record { content, .. }) = event else { return String::new() };
    match content {
        RecordContent::Systemd { text, event_type, .. } => match text.parse::<Word>() {
            // All but the digest at the end.
            Ok(_) => text.rsplit_once(":sha256:").map_or_else(|| text.clone(), |(about, _)| about.to_owned()),
            Err(_) => event_type.clone(),
        },
        RecordContent::Firmware { .. } => String::new(),
        RecordContent::Other { content_type } => content_type.clone(),
    }
}
