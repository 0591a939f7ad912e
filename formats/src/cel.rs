//! Event logs in JSON of any writer: what systemd logs while the system runs, whole or torn, and the canonical event log (CEL).
//!
//! [`CelLog::parse`] walks the records once; holding a [`CelLog`] tells you where each record lies and that each is either well
//! formed or listed as damaged. It does not tell you that the log is whole or true: only a quote does. Where
//! [`crate::runtime_log`] refuses what our own writer would not have written, this reads what others wrote, and says what it could
//! not read: a machine that lost power in the middle of a record leaves a torn log, and systemd appends to it all the same.
//!
//! Nothing is kept but the input: records are read when they are asked for, so memory does not grow with a hostile log beyond
//! its longest record. Deliberately absent: CEL in TLV and CBOR, IMA templates.
//!
//! Source: TCG Canonical Event Log Format 1.0, section 4 (JSON); RFC 7464; systemd `docs/TPM2_PCR_MEASUREMENTS.md`,
//! `src/shared/measurement-log.c`; tpm2-tss `src/tss2-fapi/ifapi_json_eventlog_serialize.c`.

mod export;
mod record;
mod split;
#[cfg(test)]
mod tests;

use crate::eventlog::EventType;
use crate::pcr::{BankDigest, PcrIndex};

pub use export::export;

/// The largest log that is read: a firmware log of the largest size takes four times its bytes in JSON.
pub const LOG_BYTES_MAX: usize = 4 * crate::eventlog::LOG_BYTES_MAX;

/// How many records a log may have, damaged ones among them: both logs of a boot of the largest size, with room.
pub const RECORDS_MAX: usize = 2 * crate::eventlog::EVENTS_MAX;

/// A log whose records are found, and each read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CelLog<'a> {
    bytes: &'a [u8],
    form: Form,
    record_count: usize,
    damaged_count: usize,
}

/// How the records follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Each behind a `0x1e` and before a line end (RFC 7464): systemd's way.
    Sequence,
    /// One JSON array: the canonical event log.
    Array,
    /// One on each line.
    Lines,
}

/// Why bytes are not a log in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CelError {
    /// More than [`LOG_BYTES_MAX`].
    #[error("the log has {bytes} bytes, more than the {LOG_BYTES_MAX} that are read")]
    TooLarge {
        /// Bytes of the input.
        bytes: usize,
    },
    /// More than [`RECORDS_MAX`].
    #[error("the log has more than {RECORDS_MAX} records")]
    TooManyRecords,
    /// No record at all.
    #[error("the log holds no record")]
    Empty,
    /// The input starts neither with a record nor with an array.
    #[error("the log is neither a sequence of JSON records nor an array of them")]
    UnknownForm,
}

/// One record: what was extended into which register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where the record starts in the log, in bytes.
    pub offset: usize,
    /// Its number in its register, if the log counts.
    pub number: Option<u64>,
    /// What was extended.
    pub target: Target,
    /// The digests of the banks that we know.
    pub digests: Vec<BankDigest>,
    /// What the record says was measured.
    pub content: RecordContent,
}

/// What a record extends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A register by its number as written; above 23 only in records that extend nothing.
    Register(u32),
    /// An index of the TPM's memory that is used like a register (NvPCR).
    NvIndex(u32),
}

/// What a record says was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordContent {
    /// A word of systemd, or of a writer that keeps to its form.
    Systemd {
        /// The text whose hash is extended; empty if the writer keeps it to itself, as for keys.
        text: String,
        /// The kernel's identifier of the boot.
        boot_id: String,
        /// Microseconds since the boot.
        timestamp_us: Option<u64>,
        /// `phase`, `filesystem`, `machine-id`, and so on.
        event_type: String,
    },
    /// An event of the firmware's log.
    Firmware {
        /// Its type.
        event_type: EventType,
        /// Its data.
        data: Vec<u8>,
    },
    /// Another kind.
    Other {
        /// As written.
        content_type: String,
    },
}

/// Bytes where a record should be and none can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Where they start in the log.
    pub offset: usize,
    /// How many there are.
    pub damaged_bytes: usize,
}

impl<'a> CelLog<'a> {
    /// Reads a log of any of the forms, damaged records and all.
    ///
    /// # Errors
    /// [`CelError`]. A log in which every record is damaged is still a log.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CelError> {
        if bytes.len() > LOG_BYTES_MAX {
            return Err(CelError::TooLarge { bytes: bytes.len() });
        }
        let form = split::form(bytes)?;
        let mut log = Self { bytes, form, record_count: 0, damaged_count: 0 };
        let (mut records, mut damaged) = (0_usize, 0_usize);
        for (at, entry) in log.entries().enumerate() {
            if at >= RECORDS_MAX {
                return Err(CelError::TooManyRecords);
            }
            match entry {
                Ok(_) => records = records.saturating_add(1),
                Err(_) => damaged = damaged.saturating_add(1),
            }
        }
        (log.record_count, log.damaged_count) = (records, damaged);
        if records == 0 && damaged == 0 { Err(CelError::Empty) } else { Ok(log) }
    }

    /// How the records follow each other.
    #[must_use]
    pub const fn form(&self) -> Form {
        self.form
    }

    /// How many records can be read.
    #[must_use]
    pub const fn record_count(&self) -> usize {
        self.record_count
    }

    /// How many stretches of bytes are no record. Anything but zero means that the log is torn.
    #[must_use]
    pub const fn damaged_count(&self) -> usize {
        self.damaged_count
    }

    /// The records in order, and what is damaged between them.
    pub fn entries(&self) -> impl Iterator<Item = Result<Record, Damage>> + use<'a> {
        split::pieces(self.bytes, self.form).map(|(offset, piece)| {
            let damage = Damage { offset, damaged_bytes: piece.len() };
            record::read(offset, piece).ok_or(damage)
        })
    }

    /// The records in order, without what is damaged.
    pub fn records(&self) -> impl Iterator<Item = Record> + use<'a> {
        self.entries().filter_map(Result::ok)
    }
}

impl Record {
    /// The register that the record extends; `None` if it extends nothing, or an NvPCR.
    #[must_use]
    pub fn extends(&self) -> Option<PcrIndex> {
        match (self.target, &self.content) {
            (_, RecordContent::Firmware { event_type: EventType::NO_ACTION, .. }) | (Target::NvIndex(_), _) => None,
            (Target::Register(register), _) => PcrIndex::new(register).ok(),
        }
    }

    /// Whether the text that the record shows hashes to its digest in every bank that it has; `None` if it shows none.
    #[must_use]
    pub fn text_holds(&self) -> Option<bool> {
        let RecordContent::Systemd { text, .. } = &self.content else { return None };
        let holds = |digest: &BankDigest| digest.bank().hash(text.as_bytes()).is_none_or(|hash| hash == *digest);
        (!text.is_empty() && !self.digests.is_empty()).then(|| self.digests.iter().all(holds))
    }
}
