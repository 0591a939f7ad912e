//! One record's text, read.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, Visitor};

use super::{Record, RecordContent, Target};
use crate::eventlog::EventType;
use crate::pcr::{Bank, BankDigest, PcrIndex};

/// The most digests of one record: those of every bank that exists, with room.
const DIGESTS_MAX: usize = 16;

/// Every field but the content's.
#[derive(Deserialize)]
struct Envelope<'a> {
    pcr: Option<u32>,
    nv_index: Option<u32>,
    recnum: Option<u64>,
    #[serde(borrow)]
    digests: Vec<DigestText<'a>>,
    #[serde(borrow)]
    content_type: Option<Cow<'a, str>>,
    #[serde(default)]
    #[expect(dead_code, reason = "read again by its type; here it must only be JSON")]
    content: IgnoredAny,
}

#[derive(Deserialize)]
struct DigestText<'a> {
    #[serde(rename = "hashAlg", borrow)]
    hash_alg: Cow<'a, str>,
    #[serde(borrow)]
    digest: Cow<'a, str>,
}

#[derive(Deserialize)]
struct SystemdRecord<'a> {
    #[serde(borrow)]
    content: SystemdContent<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SystemdContent<'a> {
    #[serde(default, borrow)]
    string: Cow<'a, str>,
    #[serde(default, borrow)]
    boot_id: Cow<'a, str>,
    timestamp: Option<u64>,
    #[serde(default, borrow)]
    event_type: Cow<'a, str>,
}

#[derive(Deserialize)]
struct FirmwareRecord<'a> {
    #[serde(borrow)]
    content: FirmwareContent<'a>,
}

#[derive(Deserialize)]
struct FirmwareContent<'a> {
    #[serde(deserialize_with = "event_type")]
    event_type: EventType,
    #[serde(default, borrow)]
    event_data: Cow<'a, str>,
}

/// Reads a record; `None` if the text is none.
pub(super) fn read(offset: usize, text: &[u8]) -> Option<Record> {
    let envelope: Envelope<'_> = serde_json::from_slice(text).ok()?;
    let digests = digests(&envelope.digests)?;
    let content_type = envelope.content_type.unwrap_or_default();
    let content = content(&content_type, text)?;
    let is_no_action = matches!(content, RecordContent::Firmware { event_type: EventType::NO_ACTION, .. });
    let target = match (envelope.pcr, envelope.nv_index) {
        (Some(register), None) if is_no_action || PcrIndex::new(register).is_ok() => Target::Register(register),
        (None, Some(index)) => Target::NvIndex(index),
        _ => return None,
    };
    Some(Record { offset, number: envelope.recnum, target, digests, content })
}

/// The digests of the banks that we know, each bank once. A digest of another length than its bank's is damage.
fn digests(texts: &[DigestText<'_>]) -> Option<Vec<BankDigest>> {
    let mut digests: Vec<BankDigest> = Vec::new();
    if texts.len() > DIGESTS_MAX {
        return None;
    }
    for text in texts {
        let Some(bank) = bank(&text.hash_alg) else { continue };
        let digest = BankDigest::new(bank, &hex::decode(text.digest.as_bytes()).ok()?)?;
        if digests.iter().any(|other| other.bank() == bank) {
            return None;
        }
        digests.push(digest);
    }
    Some(digests)
}

/// The bank of a name, or of a `TPM_ALG_ID` (`0x000B`); systemd and FAPI write SM3 differently.
fn bank(name: &str) -> Option<Bank> {
    let by_number = || u16::from_str_radix(name.strip_prefix("0x")?, 16).ok().and_then(Bank::from_algorithm);
    if name == "sm3_256" || name == "sm3-256" { Some(Bank::Sm3) } else { Bank::from_name(name).or_else(by_number) }
}

fn content(content_type: &str, text: &[u8]) -> Option<RecordContent> {
    match content_type {
        "systemd" => {
            let SystemdRecord { content } = serde_json::from_slice(text).ok()?;
            Some(RecordContent::Systemd {
                text: content.string.into_owned(),
                boot_id: content.boot_id.into_owned(),
                timestamp_us: content.timestamp,
                event_type: content.event_type.into_owned(),
            })
        }
        "pcclient_std" => {
            let FirmwareRecord { content } = serde_json::from_slice(text).ok()?;
            let data = hex::decode(content.event_data.as_bytes()).ok()?;
            Some(RecordContent::Firmware { event_type: content.event_type, data })
        }
        other => Some(RecordContent::Other { content_type: other.to_owned() }),
    }
}

/// An event type by its name or its number.
fn event_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EventType, D::Error> {
    struct ByNameOrNumber;
    impl Visitor<'_> for ByNameOrNumber {
        type Value = EventType;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the name or number of an event type")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<EventType, E> {
            u32::try_from(number).map(EventType).map_err(E::custom)
        }

        fn visit_str<E: Error>(self, name: &str) -> Result<EventType, E> {
            EventType::from_name(name).ok_or_else(|| E::custom("no event type has this name"))
        }
    }
    deserializer.deserialize_any(ByNameOrNumber)
}
