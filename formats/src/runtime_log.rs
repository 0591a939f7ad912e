//! The log of what PID 1 extended into PCR 15, in the form that systemd writes.
//!
//! One record is `0x1e`, one line of JSON, `0x0a` (RFC 7464), with the fields that `systemd-pcrlock` reads. Holding a
//! [`RuntimeLog`] tells you that every record is one of ours: for PCR 15, in this machine's vocabulary, its digest in every bank
//! is the hash of its text, all records come from one boot and time does not run backwards. It does not tell you that the log is
//! whole or true: only the value of PCR 15 in a quote does.
//!
//! Reading is exact: bytes that the writer would not have written are refused. Deliberately absent: other registers, NV
//! registers and torn logs, which belong to audits of foreign machines.
//!
//! Source: systemd `docs/TPM2_PCR_MEASUREMENTS.md`, `src/shared/tpm2-util.c` (`tpm2_userspace_log`); TCG Canonical Event Log 1.0,
//! section 4 (JSON).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::{EVENT_BYTES_MAX, Event};
use crate::pcr::{Bank, BankDigest, PcrIndex, PcrValues};

/// The most records of one log: a job of the largest size has fewer.
pub const RECORDS_MAX: usize = 2048;

/// The longest record in bytes: the event's text, a digest in every bank, and the frame, with room.
pub const RECORD_BYTES_MAX: usize = EVENT_BYTES_MAX + 1024;

/// The largest log in bytes.
pub const LOG_BYTES_MAX: usize = RECORDS_MAX * RECORD_BYTES_MAX;

/// What starts a record. Source: RFC 7464, section 2.2.
const RECORD_START: u8 = 0x1e;
/// What ends a record.
const RECORD_END: u8 = b'\n';

/// How `systemd-pcrlock` knows that `content` has the fields below.
const CONTENT_TYPE: &str = "systemd";
/// Our own event type; `systemd-pcrlock` passes over those that it does not know.
const EVENT_TYPE: &str = "kiln";

/// The kernel's identifier of one boot: 128 bits, written as 32 lowercase hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId([u8; 16]);

/// Why a record cannot be written, or bytes are not a log of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeLogError {
    /// SHA-256 is missing from the banks, one is there twice, they are out of order, or one cannot be computed.
    #[error("the banks of a runtime log are computable, ascending, and contain sha256")]
    Banks,
    /// More than [`RECORDS_MAX`] records or [`LOG_BYTES_MAX`] bytes.
    #[error("a runtime log has at most {RECORDS_MAX} records and {LOG_BYTES_MAX} bytes")]
    TooLarge,
    /// A log without a record.
    #[error("the runtime log is empty")]
    Empty,
    /// The bytes of a record are not those that a writer of ours makes.
    #[error("record {record} of the runtime log is malformed")]
    Malformed {
        /// Its number, from 0.
        record: usize,
    },
    /// A digest is not the hash of the record's text.
    #[error("record {record} of the runtime log: the {bank} digest is not that of its text {text:?}")]
    DigestMismatch {
        /// Its number, from 0.
        record: usize,
        /// In which bank.
        bank: Bank,
        /// The text.
        text: String,
    },
    /// A record of another boot, with other banks, or from before the record above it.
    #[error("record {record} of the runtime log does not continue the one before it")]
    Discontinuous {
        /// Its number, from 0.
        record: usize,
    },
}

impl BootId {
    /// Takes the text of `/proc/sys/kernel/random/boot_id`: a UUID, with or without dashes and line end.
    #[must_use]
    pub fn from_kernel_text(text: &str) -> Option<Self> {
        let digits: String = text.trim_end().chars().filter(|c| *c != '-').collect();
        let mut bytes = [0; 16];
        hex::decode_to_slice(digits, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The JSON of one record; the order of fields is systemd's.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordText {
    pcr: u8,
    digests: Vec<DigestText>,
    content_type: String,
    content: ContentText,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DigestText {
    #[serde(rename = "hashAlg")]
    hash_alg: Bank,
    digest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ContentText {
    string: String,
    boot_id: String,
    timestamp: u64,
    event_type: String,
}

/// What a new event means for the TPM and for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The digests to extend, one a bank.
    pub digests: Vec<BankDigest>,
    /// The record to append, once the TPM has taken the digests.
    pub bytes: Vec<u8>,
}

/// Makes the records of one boot, in order.
#[derive(Debug, Clone)]
pub struct Writer {
    boot_id: BootId,
    banks: Vec<Bank>,
    timestamp_us: u64,
    records: usize,
}

impl Writer {
    /// A writer for the TPM's active banks.
    ///
    /// # Errors
    /// [`RuntimeLogError::Banks`].
    pub fn new(boot_id: BootId, banks: &[Bank]) -> Result<Self, RuntimeLogError> {
        check_banks(banks)?;
        Ok(Self { boot_id, banks: banks.to_vec(), timestamp_us: 0, records: 0 })
    }

    /// The next record: `timestamp_us` is `CLOCK_BOOTTIME`; a clock that ran backwards is held at the last value.
    ///
    /// # Errors
    /// [`RuntimeLogError::TooLarge`] after [`RECORDS_MAX`] records.
    pub fn entry(&mut self, event: &Event, timestamp_us: u64) -> Result<Entry, RuntimeLogError> {
        if self.records >= RECORDS_MAX {
            return Err(RuntimeLogError::TooLarge);
        }
        let text = event.to_string();
        let digests: Vec<BankDigest> = self.banks.iter().filter_map(|bank| bank.hash(text.as_bytes())).collect();
        self.timestamp_us = self.timestamp_us.max(timestamp_us);
        let bytes = encode(&text, &digests, self.boot_id, self.timestamp_us)
            .ok_or(RuntimeLogError::Malformed { record: self.records })?;
        self.records += 1;
        Ok(Entry { digests, bytes })
    }
}

fn check_banks(banks: &[Bank]) -> Result<(), RuntimeLogError> {
    let ascending = banks.windows(2).all(|pair| pair.first() < pair.last());
    let sound = ascending && banks.contains(&Bank::Sha256) && !banks.contains(&Bank::Sm3);
    if sound { Ok(()) } else { Err(RuntimeLogError::Banks) }
}

fn encode(text: &str, digests: &[BankDigest], boot_id: BootId, timestamp_us: u64) -> Option<Vec<u8>> {
    let record = RecordText {
        pcr: PcrIndex::RUNTIME.get(),
        digests: digests.iter().map(|d| DigestText { hash_alg: d.bank(), digest: d.to_string() }).collect(),
        content_type: CONTENT_TYPE.to_owned(),
        content: ContentText {
            string: text.to_owned(),
            boot_id: boot_id.to_string(),
            timestamp: timestamp_us,
            event_type: EVENT_TYPE.to_owned(),
        },
    };
    let mut bytes = vec![RECORD_START];
    serde_json::to_writer(&mut bytes, &record).ok()?;
    bytes.push(RECORD_END);
    Some(bytes)
}

/// One event that was extended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub event: Event,
    /// When, in microseconds of `CLOCK_BOOTTIME`. The machine's own word: no quote covers it beyond the log's digest.
    pub timestamp_us: u64,
    /// Where the record ends in the log, in bytes.
    pub end_offset: usize,
}

/// A log that holds nothing but well-formed records of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeLog {
    boot_id: BootId,
    banks: Vec<Bank>,
    records: Vec<Record>,
}

impl RuntimeLog {
    /// Reads a log.
    ///
    /// # Errors
    /// [`RuntimeLogError`], naming the first record that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, RuntimeLogError> {
        if bytes.len() > LOG_BYTES_MAX {
            return Err(RuntimeLogError::TooLarge);
        }
        let mut records = Vec::new();
        let mut frame: Option<(BootId, Vec<Bank>)> = None;
        let mut offset = 0;
        for line in bytes.split_inclusive(|byte| *byte == RECORD_END) {
            let record = records.len();
            if record >= RECORDS_MAX || line.len() > RECORD_BYTES_MAX {
                return Err(RuntimeLogError::TooLarge);
            }
            offset += line.len();
            let read = read_record(line, record)?;
            let after = records.last().is_none_or(|last: &Record| last.timestamp_us <= read.timestamp_us);
            let (boot_id, banks) = frame.get_or_insert_with(|| (read.boot_id, read.banks.clone()));
            if !after || *boot_id != read.boot_id || *banks != read.banks {
                return Err(RuntimeLogError::Discontinuous { record });
            }
            records.push(Record { event: read.event, timestamp_us: read.timestamp_us, end_offset: offset });
        }
        let (boot_id, banks) = frame.ok_or(RuntimeLogError::Empty)?;
        Ok(Self { boot_id, banks, records })
    }

    /// The boot that all records come from.
    #[must_use]
    pub const fn boot_id(&self) -> BootId {
        self.boot_id
    }

    /// The banks that every record has a digest in.
    #[must_use]
    pub fn banks(&self) -> &[Bank] {
        &self.banks
    }

    /// The records in order; never empty.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Extends PCR 15 of `values` with the first `count` records, in every bank of the log.
    pub fn fold_into(&self, values: &mut PcrValues, count: usize) {
        for record in self.records.iter().take(count) {
            let text = record.event.to_string();
            for digest in self.banks.iter().filter_map(|bank| bank.hash(text.as_bytes())) {
                values.extend(PcrIndex::RUNTIME, &digest);
            }
        }
    }
}

/// One record with what it must share with its neighbours.
struct ReadRecord {
    event: Event,
    timestamp_us: u64,
    boot_id: BootId,
    banks: Vec<Bank>,
}

fn read_record(line: &[u8], record: usize) -> Result<ReadRecord, RuntimeLogError> {
    let malformed = RuntimeLogError::Malformed { record };
    let json = line.strip_prefix(&[RECORD_START]).and_then(|rest| rest.strip_suffix(&[RECORD_END]));
    let text: RecordText = json.and_then(|json| serde_json::from_slice(json).ok()).ok_or(malformed.clone())?;
    let boot_id = BootId::from_kernel_text(&text.content.boot_id).ok_or(malformed.clone())?;
    let event: Event = text.content.string.parse().map_err(|_| malformed.clone())?;
    let banks: Vec<Bank> = text.digests.iter().map(|digest| digest.hash_alg).collect();
    check_banks(&banks)?;

    let content = text.content.string;
    let digests: Vec<BankDigest> = banks.iter().filter_map(|bank| bank.hash(content.as_bytes())).collect();
    for (digest, claimed) in digests.iter().zip(&text.digests) {
        if digest.to_string() != claimed.digest {
            return Err(RuntimeLogError::DigestMismatch { record, bank: digest.bank(), text: content });
        }
    }
    // Whatever else the bytes could spell differently (the register, the types, white space, escapes) shows here.
    if encode(&content, &digests, boot_id, text.content.timestamp).as_deref() != Some(line) {
        return Err(malformed);
    }
    Ok(ReadRecord { event, timestamp_us: text.content.timestamp, boot_id, banks })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::Sha256Digest;

    const BOOT: BootId = BootId([0x18; 16]);

    fn log(banks: &[Bank]) -> (Vec<u8>, PcrValues) {
        let digest = Sha256Digest::of(b"x");
        let mut writer = Writer::new(BOOT, banks).unwrap();
        let mut values = PcrValues::new();
        let mut bytes = Vec::new();
        let events = [Event::Init(digest), Event::Input("zlib".parse().unwrap(), digest), Event::Final];
        for (event, timestamp_us) in events.iter().zip([10, 5, 30]) {
            let entry = writer.entry(event, timestamp_us).unwrap();
            entry.digests.iter().for_each(|digest| values.extend(PcrIndex::RUNTIME, digest));
            bytes.extend(entry.bytes);
        }
        (bytes, values)
    }

    #[test]
    fn a_record_looks_like_systemds() {
        let mut writer = Writer::new(BOOT, &[Bank::Sha256]).unwrap();
        let bytes = writer.entry(&Event::Final, 1_515_761).unwrap().bytes;
        let expected = concat!(
            "\u{1e}{\"pcr\":15,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":",
            // printf final | sha256sum
            "\"2443630b4620165c8b173e7265e17526fe2787ae594364dd6d839ad58f2fc007\"}],\"content_type\":\"systemd\",",
            "\"content\":{\"string\":\"final\",\"bootId\":\"18181818181818181818181818181818\",",
            "\"timestamp\":1515761,\"eventType\":\"kiln\"}}\n"
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_written_reads_back_and_folds_to_the_same_value() {
        let banks = [Bank::Sha1, Bank::Sha256, Bank::Sha384];
        let (bytes, extended) = log(&banks);
        let read = RuntimeLog::parse(&bytes).unwrap();
        assert_eq!((read.boot_id(), read.banks(), read.records().len()), (BOOT, &banks[..], 3));
        assert_eq!(read.records()[1].timestamp_us, 10, "a clock that ran backwards is held");
        assert_eq!(read.records()[2].end_offset, bytes.len());
        let mut folded = PcrValues::new();
        read.fold_into(&mut folded, 3);
        assert_eq!(folded, extended);
        let mut fewer = PcrValues::new();
        read.fold_into(&mut fewer, 2);
        assert_ne!(fewer, extended);
    }

    #[test]
    fn no_byte_may_differ() {
        let (bytes, extended) = log(&[Bank::Sha256]);
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1 << (at % 8);
            let Ok(read) = RuntimeLog::parse(&other) else { continue };
            // Only the boot's name and the time are not in the register; the bundle binds them by the log's digest.
            let mut folded = PcrValues::new();
            read.fold_into(&mut folded, 3);
            assert_eq!(folded, extended, "byte {at}");
        }
    }

    #[test]
    fn text_under_another_digest_is_named() {
        let (bytes, _) = log(&[Bank::Sha256]);
        let text = String::from_utf8(bytes).unwrap();
        let other = text.replace("\"input:zlib:", "\"input:xlib:");
        let error = RuntimeLog::parse(other.as_bytes()).unwrap_err();
        assert!(matches!(error, RuntimeLogError::DigestMismatch { record: 1, bank: Bank::Sha256, .. }), "{error}");
        for (from, to) in [("\"pcr\":15", "\"pcr\":11"), ("\"systemd\"", "\"cel\""), (",\"digests\"", ", \"digests\"")]
        {
            let other = text.replacen(from, to, 1);
            assert_eq!(RuntimeLog::parse(other.as_bytes()), Err(RuntimeLogError::Malformed { record: 0 }), "{to}");
        }
        let last = text.trim_end_matches('\n');
        assert_eq!(RuntimeLog::parse(last.as_bytes()), Err(RuntimeLogError::Malformed { record: 2 }));
        let other = text.replacen("1818", "1819", 1);
        assert_eq!(RuntimeLog::parse(other.as_bytes()), Err(RuntimeLogError::Discontinuous { record: 1 }));
        let other = text.replacen("\"timestamp\":10,", "\"timestamp\":99,", 1);
        assert_eq!(RuntimeLog::parse(other.as_bytes()), Err(RuntimeLogError::Discontinuous { record: 1 }));
        assert_eq!(RuntimeLog::parse(b""), Err(RuntimeLogError::Empty));
    }

    #[test]
    fn banks_and_sizes_are_bounded() {
        for banks in [&[][..], &[Bank::Sha1], &[Bank::Sha256, Bank::Sha1], &[Bank::Sha256, Bank::Sm3]] {
            assert_eq!(Writer::new(BOOT, banks).unwrap_err(), RuntimeLogError::Banks);
        }
        let mut writer = Writer::new(BOOT, &[Bank::Sha256]).unwrap();
        let bytes: Vec<u8> =
            (0..RECORDS_MAX).flat_map(|at| writer.entry(&Event::Final, at as u64).unwrap().bytes).collect();
        assert_eq!(writer.entry(&Event::Final, 0), Err(RuntimeLogError::TooLarge));
        assert_eq!(RuntimeLog::parse(&bytes).unwrap().records().len(), RECORDS_MAX);
        let mut longer = bytes.clone();
        longer.extend(bytes);
        assert_eq!(RuntimeLog::parse(&longer), Err(RuntimeLogError::TooLarge));
        let name = "n".repeat(64).parse().unwrap();
        let all = [Bank::Sha1, Bank::Sha256, Bank::Sha384, Bank::Sha512];
        let entry = Writer::new(BOOT, &all).unwrap().entry(&Event::StepBegin(name, Sha256Digest::of(b"")), u64::MAX);
        assert!(entry.unwrap().bytes.len() <= RECORD_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, json in "\u{1e}\\{\"pcr\":15.{0,80}\\}\n") {
            let _ = RuntimeLog::parse(&bytes);
            let _ = RuntimeLog::parse(json.as_bytes());
        }
    }
}
