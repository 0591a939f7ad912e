//! The firmware's event log (`binary_bios_measurements`, CCEL): what was extended into which register before the system ran.
//!
//! [`EventLog::parse`] walks the whole log once; holding an [`EventLog`] tells you that every event in it lies within the input
//! and has a register and digests of known length. It does not tell you that the log is true: only values that [`EventLog::replay`]
//! yields *and a quote carries* do that, and event data counts only where it hashes to its digest.
//!
//! Nothing is copied: an event borrows from the input, so memory does not grow with a hostile log. An event's data is decoded when
//! it is asked for ([`Event::content`]), and comes out as a fact only if it hashes to its digest. Deliberately absent: repair of
//! torn logs.

mod content;
#[cfg(test)]
pub(crate) mod corpus;
mod cursor;
pub mod decode;
mod describe;
mod kind;
mod parse;
pub(crate) mod replay;
#[cfg(test)]
mod tests;

use std::fmt;

pub use content::{Claim, Content, Coverage, Fact};
pub use describe::describe;
pub use kind::EventType;
pub use parse::Events;
use replay::Locality;

use crate::pcr::{Bank, BankDigest, PcrIndex};

/// The largest log that we read.
///
/// A CCEL area is 1 MiB on Google's TDX machines; real logs stay under 100 KiB. 16 MiB leaves room for hostile tests.
pub const LOG_BYTES_MAX: usize = 16 << 20;

/// How many events a log may have. Real logs have fewer than 1000; every extend costs a hash in each bank, so this bounds what a
/// hostile log costs.
pub const EVENTS_MAX: usize = 8192;

/// How many digest algorithms a log's header may declare. A TPM 2.0 has at most five banks in the field.
pub const ALGORITHMS_MAX: usize = 16;

/// Which of the two record layouts a log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `TCG_PCR_EVENT2` records behind a `Spec ID Event03` header: several digests an event.
    CryptoAgile,
    /// `TCG_PCClientPCREvent` records: one SHA-1 digest an event.
    Sha1,
}

/// One digest algorithm that the log's header declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Algorithm {
    /// `TPM_ALG_ID`.
    pub id: u16,
    /// Bytes of one digest.
    pub digest_bytes: u16,
}

/// A whole, well-formed event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    layout: Layout,
    algorithms: Vec<Algorithm>,
    header: Option<&'a [u8]>,
    /// The events of the log, header and padding cut off.
    body: &'a [u8],
    /// Where `body` starts in the input.
    body_offset: usize,
    padding_bytes: usize,
    event_count: usize,
    locality: Option<Locality>,
}

/// One event of the log; it borrows from the log and its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Where the event starts in the log, in bytes.
    pub offset: usize,
    /// The register's number as written; above 23 only in events that extend nothing.
    pub register: u32,
    /// What kind of event it is.
    pub event_type: EventType,
    /// The event's data. Not proven by itself: for some types the digest is over something else.
    pub data: &'a [u8],
    /// The digests as they lie in the log: each behind its `TPM_ALG_ID`, or one bare SHA-1 digest.
    raw_digests: &'a [u8],
    layout: Layout,
    algorithms: &'a [Algorithm],
}

/// Why bytes are not an event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventLogError {
    /// More than [`LOG_BYTES_MAX`].
    #[error("the log has {bytes} bytes, more than the {LOG_BYTES_MAX} that are read")]
    TooLarge {
        /// Bytes of the input.
        bytes: usize,
    },
    /// More than [`EVENTS_MAX`].
    #[error("the log has more than {EVENTS_MAX} events: no boot of a real machine has that many")]
    TooManyEvents,
    /// No event at all.
    #[error("the log holds no event")]
    Empty,
    /// A field or an event's claimed size leaves the input.
    #[error("the event at byte {offset} does not fit into the log")]
    Truncated {
        /// Where the event starts.
        offset: usize,
    },
    /// The `Spec ID Event03` header contradicts itself.
    #[error("the log's header is malformed")]
    MalformedHeader,
    /// Events of the crypto-agile layout, and no header before them.
    #[error("the log's beginning is missing: its events are of the layout that a header announces, and there is none")]
    HeaderMissing,
    /// A digest of an algorithm that neither the header nor we know the size of.
    #[error("the event at byte {offset} has a digest of unknown algorithm {algorithm:#06x}")]
    UnknownAlgorithm {
        /// Where the event starts.
        offset: usize,
        /// `TPM_ALG_ID`.
        algorithm: u16,
    },
    /// Two digests of one algorithm in one event: a replay could choose.
    #[error("the event at byte {offset} has two digests of algorithm {algorithm:#06x}")]
    RepeatedAlgorithm {
        /// Where the event starts.
        offset: usize,
        /// `TPM_ALG_ID`.
        algorithm: u16,
    },
    /// An event that extends, into a register that does not exist.
    #[error("the event at byte {offset} extends register {register}, which does not exist")]
    UnknownRegister {
        /// Where the event starts.
        offset: usize,
        /// As written.
        register: u32,
    },
}

impl<'a> EventLog<'a> {
    /// Reads a log: crypto-agile or SHA-1, with or without padding (`0xff` or `0x00`) behind the last event.
    ///
    /// # Errors
    /// [`EventLogError`] for anything that is not wholly a log; never panics, never reads twice what it has no need to.
    ///
    /// Source: TCG PC Client Platform Firmware Profile 1.06, section 10; TCG EFI Platform Specification 1.22, section 7 (SHA-1).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EventLogError> {
        parse::parse(bytes)
    }

    /// The record layout.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// The algorithms of the header; SHA-1 alone for the old layout.
    #[must_use]
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// The data of the `Spec ID` header, if the log has one.
    #[must_use]
    pub const fn header(&self) -> Option<&'a [u8]> {
        self.header
    }

    /// How many events there are, the `Spec ID` header not counted.
    #[must_use]
    pub const fn event_count(&self) -> usize {
        self.event_count
    }

    /// How many bytes of padding follow the last event.
    #[must_use]
    pub const fn padding_bytes(&self) -> usize {
        self.padding_bytes
    }

    /// The events in order, the `Spec ID` header left out.
    #[must_use]
    pub fn events(&self) -> Events<'_> {
        Events::new(self)
    }
}

impl<'a> Event<'a> {
    /// The register that the event extends; `None` if it extends nothing.
    #[must_use]
    pub fn extends(&self) -> Option<PcrIndex> {
        if self.event_type == EventType::NO_ACTION {
            return None;
        }
        PcrIndex::new(self.register).ok()
    }

    /// The digests of the banks that we know; others are passed over by the size that the header gives.
    pub fn digests(&self) -> impl Iterator<Item = BankDigest> + use<'a> {
        self.raw_digests().filter_map(|(algorithm, bytes)| BankDigest::new(Bank::from_algorithm(algorithm)?, bytes))
    }

    /// The data decoded, by what it is worth. Every call decodes and hashes anew.
    #[must_use]
    pub fn content(&self) -> Content<'a> {
        let digests: Vec<BankDigest> = self.digests().collect();
        Content::of(self.event_type, self.data, &digests)
    }

    /// All digests, those of algorithms that we do not know among them: the `TPM_ALG_ID` and the bytes.
    pub fn raw_digests(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        parse::digests(self.layout, self.algorithms, self.raw_digests)
    }

    /// The digest in one bank.
    #[must_use]
    pub fn digest(&self, bank: Bank) -> Option<BankDigest> {
        self.digests().find(|digest| digest.bank() == bank)
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(self))
    }
}
