//! What an event's data is worth: whether the digest that was extended is really the hash of what it says.
//!
//! The worth is in the type. [`Content::Verified`] alone holds a [`Fact`]; every other kind holds a [`Claim`], whose words can be
//! shown but not had as a fact, so that no conclusion can be drawn from data that anyone could have written.
//!
//! A fact is one *about the log*: the digest belongs to the data. That the digest was extended is for a quote to say.

use std::borrow::Cow;
use std::fmt;

use super::EventType;
use super::decode::{self, Decoded, Loader};
use crate::pcr::{Bank, BankDigest};

/// An event's data, by what it is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content<'a> {
    /// In every bank that we know, the digest is the hash of the part of the data that [`Fact::coverage`] names.
    Verified(Fact<'a>),
    /// The digest has to be the hash of the data, and is not: the data was altered, or the firmware is at fault.
    Mismatched(Claim<'a>),
    /// The digest is of something that is not in the log: an image, a file, a table. Or it is of so little that nothing follows:
    /// a value of one byte, and not which variable's.
    NotHashed(Claim<'a>),
    /// The event extends nothing: anyone could have written it, at any time.
    Unmeasured(Claim<'a>),
    /// The event has no digest of an algorithm that we know.
    Uncheckable(Claim<'a>),
}

/// Data that hashes to its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact<'a> {
    decoded: Decoded<'a>,
    coverage: Coverage,
}

/// Data that nothing ties to its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim<'a> {
    decoded: Decoded<'a>,
}

/// Which part of the data a digest is the hash of. What is outside of it is still only claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// All of it.
    Whole,
    /// All but the NUL at its end, or with one more.
    Text,
    /// The variable's value; its name is only claimed.
    VariableData,
    /// The whole variable, and not the last byte of the padding behind it.
    Padded,
    /// The text behind a loader's label; the label is only claimed.
    AfterLabel,
    /// The section's name, in ASCII with its NUL.
    SectionName,
    /// The bytes behind a tag and its length; the tag is only claimed.
    TagData,
}

impl<'a> Fact<'a> {
    /// What the data says.
    #[must_use]
    pub const fn decoded(&self) -> &Decoded<'a> {
        &self.decoded
    }

    /// Which part of it the digest proves.
    #[must_use]
    pub const fn coverage(&self) -> Coverage {
        self.coverage
    }
}

impl<'a> Claim<'a> {
    /// What the data says, for display and for finding one's way; no conclusion may rest on it.
    #[must_use]
    pub const fn alleged(&self) -> &Decoded<'a> {
        &self.decoded
    }
}

impl<'a> Content<'a> {
    /// The fact, if there is one.
    #[must_use]
    pub const fn fact(&self) -> Option<&Decoded<'a>> {
        match self {
            Self::Verified(fact) => Some(&fact.decoded),
            _ => None,
        }
    }

    /// What the data says, fact or not: for display and for finding one's way.
    #[must_use]
    pub const fn alleged(&self) -> &Decoded<'a> {
        match self {
            Self::Verified(fact) => &fact.decoded,
            Self::Mismatched(claim) | Self::NotHashed(claim) | Self::Unmeasured(claim) | Self::Uncheckable(claim) => {
                &claim.decoded
            }
        }
    }
}

impl fmt::Display for Content<'_> {
    /// One inert line. Data that does not hash to its digest says so before anything else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified(fact) if fact.coverage == Coverage::SectionName => write!(f, "name of {}", fact.decoded),
            Self::Verified(fact) => write!(f, "{}", fact.decoded),
            Self::Mismatched(claim) => write!(f, "NOT WHAT WAS MEASURED, claims: {}", claim.decoded),
            Self::NotHashed(claim) => match &claim.decoded {
                Decoded::Loader(Loader::Section(_)) => write!(f, "content of {}", claim.decoded),
                decoded => write!(f, "{decoded}"),
            },
            Self::Unmeasured(claim) => write!(f, "not measured, claims: {}", claim.decoded),
            Self::Uncheckable(claim) => write!(f, "unchecked, claims: {}", claim.decoded),
        }
    }
}

/// What an event is weighed by.
struct Weighed<'a, 'd> {
    event_type: EventType,
    data: &'a [u8],
    digests: &'d [BankDigest],
}

impl<'a> Content<'a> {
    /// Reads and weighs the data of an event of `event_type` that extended `digests`.
    #[must_use]
    pub fn of(event_type: EventType, data: &'a [u8], digests: &[BankDigest]) -> Self {
        weigh(&Weighed { event_type, data, digests })
    }
}

fn weigh<'a>(event: &Weighed<'a, '_>) -> Content<'a> {
    let decoded = decode::decode(event.event_type, event.data);
    if event.event_type == EventType::NO_ACTION {
        return Content::Unmeasured(Claim { decoded });
    }
    if event.digests.is_empty() {
        return Content::Uncheckable(Claim { decoded });
    }
    if is_of_something_else(event.event_type) {
        return Content::NotHashed(Claim { decoded });
    }
    let covering = candidates(event).find(|(_, bytes)| hashes_to(event, bytes.as_ref())).map(|(coverage, _)| coverage);
    match covering {
        Some(coverage) => Content::Verified(Fact { decoded, coverage }),
        None if is_value_alone(event, &decoded) => Content::NotHashed(Claim { decoded }),
        None if must_hash(event, &decoded) => Content::Mismatched(Claim { decoded }),
        None => Content::NotHashed(Claim { decoded }),
    }
}

/// The digest is by definition not of the data.
///
/// Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.1, table 27.
fn is_of_something_else(event_type: EventType) -> bool {
    matches!(
        event_type,
        EventType::BOOT_SERVICES_APPLICATION | EventType::BOOT_SERVICES_DRIVER | EventType::RUNTIME_SERVICES_DRIVER
    )
}

/// How coreboot names regions and files of the flash in `EV_ACTION`. Source: coreboot `src/security/tpm/tspi/crtm.c`.
const COREBOOT_NAMES: &[&str] = &["FMAP: ", "CBFS: "];

/// The digest is by definition of the data.
///
/// Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.1, table 27; for loaders as in `decode/loader.rs`.
fn must_hash(event: &Weighed<'_, '_>, decoded: &Decoded<'_>) -> bool {
    match event.event_type {
        // coreboot names what it measured where others hash what they say.
        EventType::ACTION => !COREBOOT_NAMES.iter().any(|name| event.data.starts_with(name.as_bytes())),
        EventType::SEPARATOR
        | EventType::EFI_ACTION
        | EventType::S_CRTM_VERSION
        | EventType::OMIT_BOOT_DEVICE_EVENTS
        | EventType::VARIABLE_DRIVER_CONFIG
        | EventType::VARIABLE_BOOT
        | EventType::VARIABLE_BOOT2
        | EventType::VARIABLE_AUTHORITY
        | EventType::GPT
        | EventType::GPT2 => true,
        EventType::IPL | EventType::EVENT_TAG => {
            matches!(decoded, Decoded::Loader(Loader::Grub { .. }) | Decoded::Windows(_))
        }
        _ => false,
    }
}

/// The digest is of a Secure Boot variable's value without its name, as firmware for a TPM 1.2 extends it. That a byte was 1 is no
/// fact about Secure Boot.
///
/// Source: go-eventlog's log of a Lenovo with a TPM 1.2 (`linux_tpm12`), whose registers are known; no crypto-agile log does this.
fn is_value_alone(event: &Weighed<'_, '_>, decoded: &Decoded<'_>) -> bool {
    let is_of_old_firmware = event.digests.iter().all(|digest| digest.bank() == Bank::Sha1);
    match decoded {
        Decoded::Variable(variable) if event.event_type == EventType::VARIABLE_DRIVER_CONFIG => {
            is_of_old_firmware && hashes_to(event, variable.data)
        }
        _ => false,
    }
}

/// Whether every digest that we can compute is the hash of `bytes`.
fn hashes_to(event: &Weighed<'_, '_>, bytes: &[u8]) -> bool {
    event.digests.iter().all(|digest| digest.bank().hash(bytes).is_none_or(|hash| hash == *digest))
}

/// The parts of the data that its kind may be hashed over, the whole first.
fn candidates<'a>(event: &Weighed<'a, '_>) -> impl Iterator<Item = (Coverage, Cow<'a, [u8]>)> + use<'a> {
    let (data, event_type) = (event.data, event.event_type);
    let is_boot_variable = matches!(event_type, EventType::VARIABLE_BOOT | EventType::VARIABLE_BOOT2);
    let is_loader = matches!(event_type, EventType::IPL);
    let behind_tag = || data.get(8..).filter(|_| event_type == EventType::EVENT_TAG);
    let behind_domain = || decode::trust_domain(data).map(|domain| domain.data);
    let without_nul = |bytes: &'a [u8]| bytes.strip_suffix(b"\0");
    let with_nul = || is_loader.then(|| [data, b"\0"].concat());
    let of_variable = || variable_data(data).filter(|_| is_boot_variable);
    let padded = || padded_variable(data).filter(|_| event_type == EventType::VARIABLE_AUTHORITY);
    let behind_label = || decode::grub_label(data).map(|(_, text)| text).filter(|_| is_loader);
    let section = || decode::uki_section(data).map(|name| [name.as_bytes(), b"\0"].concat()).filter(|_| is_loader);
    let borrowed = |coverage, bytes: Option<&'a [u8]>| bytes.map(|bytes| (coverage, bytes.into()));
    let owned = |coverage, bytes: Option<Vec<u8>>| bytes.map(|bytes| (coverage, bytes.into()));
    [
        Some((Coverage::Whole, data.into())),
        owned(Coverage::SectionName, section()),
        borrowed(Coverage::AfterLabel, behind_label().and_then(without_nul)),
        borrowed(Coverage::AfterLabel, behind_label()),
        borrowed(Coverage::VariableData, of_variable()),
        borrowed(Coverage::Padded, padded()),
        borrowed(Coverage::TagData, behind_tag()),
        borrowed(Coverage::TagData, behind_domain()),
        borrowed(Coverage::Text, without_nul(data)),
        owned(Coverage::Text, with_nul()),
    ]
    .into_iter()
    .flatten()
}

/// A `UEFI_VARIABLE_DATA` with what stands behind it, but for the last byte. Shims of 2018 and 2019 have six bytes too many in
/// their event, of which they hash five.
///
/// Source: go-eventlog's logs of Debian 10 and of Container-Optimized OS 85 and 93, go-attestation's `sb_cert_eventlog`.
fn padded_variable(data: &[u8]) -> Option<&[u8]> {
    let (_, measured) = data.split_last()?;
    matches!(decode::decode(EventType::VARIABLE_AUTHORITY, measured), Decoded::Variable(_)).then_some(measured)
}

/// The value in a `UEFI_VARIABLE_DATA`.
fn variable_data(data: &[u8]) -> Option<&[u8]> {
    match decode::decode(EventType::VARIABLE_BOOT, data) {
        Decoded::Variable(variable) => Some(variable.data),
        _ => None,
    }
}
