//! The order of what happened: the words of PCR 15, read as the sentence that they must form.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::event::Event;
use kiln_formats::manifest::path;
use kiln_formats::names::Name;
use kiln_formats::runtime_log::Record;

use crate::finding::{Finding, Gate};

/// How many events the boot part has: init, configuration, trust. The first quote follows them.
const BOOT_EVENTS: usize = 3;

/// How many of these records are the boot part: a server has one event more, its uplink, behind the first.
pub(crate) fn boot_events(records: &[Record]) -> usize {
    let uplink = records.get(1).is_some_and(|record| matches!(record.event, Event::Uplink(_)));
    BOOT_EVENTS + usize::from(uplink)
}

/// What PID 1 measured before the first quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BootEvents {
    pub(crate) init: Sha256Digest,
    pub(crate) configuration: Sha256Digest,
    pub(crate) trust: Sha256Digest,
}

/// A step's three events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StepEvents {
    pub(crate) name: Name,
    pub(crate) begin: Sha256Digest,
    pub(crate) trace: Sha256Digest,
    pub(crate) end: Sha256Digest,
}

/// What PID 1 measured from the job on, up to and with `final`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobEvents {
    pub(crate) job: Sha256Digest,
    pub(crate) decision: Sha256Digest,
    pub(crate) inputs: Vec<(Name, Sha256Digest)>,
    pub(crate) steps: Vec<StepEvents>,
    pub(crate) outputs: Vec<(Name, Sha256Digest)>,
    pub(crate) provenance: Option<Sha256Digest>,
    pub(crate) manifest: Sha256Digest,
}

/// The records of a log, taken one after another.
struct Reader<'a> {
    records: &'a [Record],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a Event> {
        self.records.get(self.at).map(|record| &record.event)
    }

    /// Takes the next event if `pick` wants it.
    fn optional<T>(&mut self, pick: impl FnOnce(&Event) -> Option<T>) -> Option<T> {
        let picked = self.peek().and_then(pick)?;
        self.at += 1;
        Some(picked)
    }

    fn expect<T>(&mut self, expected: &str, pick: impl FnOnce(&Event) -> Option<T>) -> Result<T, Finding> {
        let at = self.at;
        self.optional(pick).ok_or_else(|| self.out_of_order(at, expected))
    }

    fn out_of_order(&self, at: usize, expected: &str) -> Finding {
        let found = self.records.get(at).map_or_else(|| "the log's end".to_owned(), |r| format!("`{}`", r.event));
        let object = format!("{}: event {at}", path::RUNTIME_LOG);
        // `final` is the last event of a machine, wherever the reader is.
        let closed = self.records.iter().rev().skip(1).any(|record| record.event == Event::Final);
        let code = match self.records.get(at) {
            None => "log_truncated",
            Some(_) if closed => "event_after_final",
            Some(_) => "event_order",
        };
        Finding::new(Gate::Boot, code, object, format!("expected {expected}, found {found}"))
    }

    fn end(&self) -> Result<(), Finding> {
        if self.peek().is_none() { Ok(()) } else { Err(self.out_of_order(self.at, "nothing more")) }
    }
}

/// Reads a log that ends with the boot part.
pub(crate) fn boot_part(records: &[Record]) -> Result<BootEvents, Finding> {
    let mut reader = Reader { records, at: 0 };
    let events = read_boot_part(&mut reader)?;
    reader.end()?;
    Ok(events)
}

fn read_boot_part(reader: &mut Reader<'_>) -> Result<BootEvents, Finding> {
    let init = reader.expect("init", |event| match event {
        Event::Init(digest) => Some(*digest),
        _ => None,
    })?;
    // Whether there must be one, and which, is for the reference values to say.
    reader.optional(|event| matches!(event, Event::Uplink(_)).then_some(()));
    Ok(BootEvents {
        init,
        configuration: reader.expect("configuration", |event| match event {
            Event::Configuration(digest) => Some(*digest),
            _ => None,
        })?,
        trust: reader.expect("trust", |event| match event {
            Event::Trust(digest) => Some(*digest),
            _ => None,
        })?,
    })
}

/// Reads a whole log.
pub(crate) fn whole(records: &[Record]) -> Result<(BootEvents, JobEvents), Finding> {
    let mut reader = Reader { records, at: 0 };
    let boot = read_boot_part(&mut reader)?;
    let job = reader.expect("job", |event| match event {
        Event::Job(digest) => Some(*digest),
        _ => None,
    })?;
    let decision = reader.expect("decision", |event| match event {
        Event::Decision(digest) => Some(*digest),
        _ => None,
    })?;
    let mut inputs = Vec::new();
    while let Some(input) = reader.optional(|event| match event {
        Event::Input(name, digest) => Some((name.clone(), *digest)),
        _ => None,
    }) {
        inputs.push(input);
    }
    let mut steps = Vec::new();
    while let Some((name, begin)) = reader.optional(|event| match event {
        Event::StepBegin(name, digest) => Some((name.clone(), *digest)),
        _ => None,
    }) {
        let trace = reader.expect(&format!("step-trace of {name}"), |event| match event {
            Event::StepTrace(traced, digest) if *traced == name => Some(*digest),
            _ => None,
        })?;
        let end = reader.expect(&format!("step-end of {name}"), |event| match event {
            Event::StepEnd(ended, digest) if *ended == name => Some(*digest),
            _ => None,
        })?;
        steps.push(StepEvents { name, begin, trace, end });
    }
    let mut outputs = Vec::new();
    while let Some(output) = reader.optional(|event| match event {
        Event::Output(name, digest) => Some((name.clone(), *digest)),
        _ => None,
    }) {
        outputs.push(output);
    }
    let provenance = reader.optional(|event| match event {
        Event::Provenance(digest) => Some(*digest),
        _ => None,
    });
    let manifest = reader.expect("manifest", |event| match event {
        Event::Manifest(digest) => Some(*digest),
        _ => None,
    })?;
    reader.expect("final", |event| (*event == Event::Final).then_some(()))?;
    reader.end()?;
    Ok((boot, JobEvents { job, decision, inputs, steps, outputs, provenance, manifest }))
}
