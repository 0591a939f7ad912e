//! One boot: the firmware's log and the runtime's log, read as one sequence of events.
//!
//! A [`Boot`] is what the logs *claim*. Its [`Boot::replay`] says which register values they would lead to; whether a TPM holds
//! these is for [`crate::audit`] to tell.

use std::collections::BTreeSet;
use std::fmt;

use crate::cel::{CelLog, Record, RecordContent, Target};
use crate::eventlog::replay::{self, Fold, Locality};
use crate::eventlog::{Content, Event, EventLog, EventType, decode};
use crate::pcr::{Bank, BankDigest, PcrIndex, PcrValues};

/// How many characters of a record's text are shown.
const TEXT_CHARS_MAX: usize = 512;

/// The logs of one boot; either may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Boot<'a> {
    /// The firmware's log.
    pub firmware: Option<EventLog<'a>>,
    /// What was logged while the system ran; or a whole canonical event log, firmware records and all.
    pub runtime: Option<CelLog<'a>>,
}

/// One event of a boot, from either log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootEvent<'a> {
    /// Of the firmware's log.
    Firmware(Event<'a>),
    /// Of the runtime's log.
    Runtime(Record),
}

/// What a boot's logs hold, each event read once: what audits and comparisons work on.
#[derive(Debug)]
pub(crate) struct ReadBoot<'b> {
    /// The events in order, the firmware's first.
    pub(crate) events: Vec<BootEvent<'b>>,
    /// The banks that any event has a digest in, ascending.
    pub(crate) banks: Vec<Bank>,
    /// The locality from which PCR 0 starts, if the events say anything about it.
    pub(crate) locality: Option<u8>,
}

impl Boot<'_> {
    /// The events in order, the firmware's first.
    pub fn events(&self) -> impl Iterator<Item = BootEvent<'_>> {
        let firmware = self.firmware.iter().flat_map(EventLog::events).map(BootEvent::Firmware);
        firmware.chain(self.runtime.iter().flat_map(CelLog::records).map(BootEvent::Runtime))
    }

    /// Reads every event.
    pub(crate) fn read(&self) -> ReadBoot<'_> {
        let events: Vec<_> = self.events().collect();
        let locality = events.iter().filter_map(BootEvent::locality).reduce(Locality::and).map(Locality::number);
        let mut banks: BTreeSet<Bank> = self.firmware.iter().flat_map(EventLog::banks).collect();
        for event in &events {
            if let BootEvent::Runtime(record) = event {
                banks.extend(record.digests.iter().map(BankDigest::bank));
            }
        }
        ReadBoot { events, banks: banks.into_iter().collect(), locality }
    }

    /// The register values that the logs claim together.
    #[must_use]
    pub fn replay(&self) -> PcrValues {
        self.read().replay()
    }
}

impl ReadBoot<'_> {
    /// The register values that the events lead to: PCR 0 starts at the locality that they announce.
    pub(crate) fn replay(&self) -> PcrValues {
        let mut fold = Fold::new(&self.banks, self.locality);
        for event in &self.events {
            event.extend(&mut fold);
        }
        fold.finish()
    }
}

impl BootEvent<'_> {
    /// Extends what the event says.
    fn extend(&self, fold: &mut Fold<'_>) {
        match (self, self.extends()) {
            (Self::Firmware(event), Some(index)) => fold.extend(Some(event.event_type), index, event.digests()),
            (Self::Runtime(record), Some(index)) => {
                fold.extend(self.event_type(), index, record.digests.iter().copied());
            }
            (_, None) => {}
        }
    }

    /// The register that the event extends; `None` if it extends nothing, or an NvPCR.
    #[must_use]
    pub fn extends(&self) -> Option<PcrIndex> {
        match self {
            Self::Firmware(event) => event.extends(),
            Self::Runtime(record) => record.extends(),
        }
    }

    /// The firmware's type of the event; `None` for a word of the running system.
    #[must_use]
    pub fn event_type(&self) -> Option<EventType> {
        match self {
            Self::Firmware(event) => Some(event.event_type),
            Self::Runtime(Record { content: RecordContent::Firmware { event_type, .. }, .. }) => Some(*event_type),
            Self::Runtime(_) => None,
        }
    }

    /// The digests of the banks that we know.
    #[must_use]
    pub fn digests(&self) -> Vec<BankDigest> {
        match self {
            Self::Firmware(event) => event.digests().collect(),
            Self::Runtime(record) => record.digests.clone(),
        }
    }

    /// The digest in one bank.
    #[must_use]
    pub fn digest(&self, bank: Bank) -> Option<BankDigest> {
        match self {
            Self::Firmware(event) => event.digest(bank),
            Self::Runtime(record) => record.digests.iter().find(|digest| digest.bank() == bank).copied(),
        }
    }

    /// Whether the event was logged while the system ran.
    #[must_use]
    pub fn is_runtime(&self) -> bool {
        self.event_type().is_none()
    }

    /// The text of a record whose hash is its digest: a fact about the log.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Runtime(record @ Record { content: RecordContent::Systemd { text, .. }, .. }) => {
                record.text_holds().filter(|holds| *holds).map(|_| text.as_str())
            }
            _ => None,
        }
    }

    /// The firmware's data, weighed; `None` for a word of the running system.
    #[must_use]
    pub fn content(&self) -> Option<Content<'_>> {
        match self {
            Self::Firmware(event) => Some(event.content()),
            Self::Runtime(record) => match &record.content {
                RecordContent::Firmware { event_type, data } => Some(Content::of(*event_type, data, &record.digests)),
                _ => None,
            },
        }
    }

    fn locality(&self) -> Option<Locality> {
        match self {
            Self::Firmware(event) => replay::locality(event.event_type, event.register, event.data),
            Self::Runtime(record) => match (&record.content, record.target) {
                (RecordContent::Firmware { event_type, data }, Target::Register(register)) => {
                    replay::locality(*event_type, register, data)
                }
                _ => None,
            },
        }
    }
}

impl fmt::Display for BootEvent<'_> {
    /// One inert line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(event_type), Some(content)) = (self.event_type(), self.content()) {
            return write!(f, "{event_type}: {content}");
        }
        let Self::Runtime(record) = self else { return Ok(()) };
        match &record.content {
            RecordContent::Systemd { text, event_type, .. } => {
                let kind = decode::plain(event_type, TEXT_CHARS_MAX);
                match record.text_holds() {
                    Some(true) => write!(f, "{kind}: {}", decode::plain(text, TEXT_CHARS_MAX)),
                    Some(false) => {
                        write!(f, "{kind}: NOT WHAT WAS MEASURED, claims: {}", decode::plain(text, TEXT_CHARS_MAX))
                    }
                    None => write!(f, "{kind}: text not shown"),
                }
            }
            RecordContent::Firmware { .. } => Ok(()),
            RecordContent::Other { content_type } => {
                write!(f, "record of type {}", decode::plain(content_type, TEXT_CHARS_MAX))
            }
        }
    }
}
