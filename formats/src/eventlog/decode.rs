//! Event data, decoded to names and values.
//!
//! A [`Decoded`] is what the data *says*. Whether it says so truly is for [`super::Content`] to tell, which is the only way to get
//! one. Decoding never fails: data that is not of its type's form is [`Decoded::Opaque`].

mod device_path;
mod loader;
mod platform;
mod signatures;
mod text;
mod variable;
mod windows;
mod words;

pub use device_path::{DevicePath, Node};
pub use loader::{Loader, Tag, UKI_SECTIONS, Word};
pub use platform::{Blob, Image, Manifest, Partition, PartitionTable, Tables, TrustDomain};
pub use signatures::{Signature, SignatureDatabase, SignatureKind};
pub use text::{Guid, plain};
#[cfg(test)]
pub(super) use variable::written as written_variable;
pub use variable::{LoadOption, Variable, VariableValue};
pub use windows::{WindowsEvent, WindowsEvents};

pub(super) use loader::{grub_label, uki_section};
pub(super) use platform::trust_domain;

use super::EventType;

/// Announces the locality from which the TPM was started.
///
/// Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.5.3.
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// What an event's data says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A separator: the firmware hands over, or failed.
    Separator(Separator),
    /// Words: actions, versions, post codes, microcode.
    Text(String),
    /// A variable and its value.
    Variable(Variable<'a>),
    /// An image that was started.
    Image(Image<'a>),
    /// A piece of firmware in memory.
    Blob(Blob),
    /// Tables handed over.
    Tables(Tables),
    /// The partition table of the boot disk.
    Partitions(PartitionTable<'a>),
    /// What a boot loader measured.
    Loader(Loader),
    /// A tagged structure.
    Tag(Tag<'a>),
    /// What Windows measured.
    Windows(WindowsEvents<'a>),
    /// What a trust domain was given.
    TrustDomain(TrustDomain<'a>),
    /// How the cloud isolates the machine.
    Isolation(&'static str),
    /// The locality from which PCR 0 starts.
    StartupLocality(u8),
    /// Where reference values are to be had.
    Manifest(Manifest),
    /// Nothing at all.
    Empty,
    /// Data of no form that we know.
    Opaque(&'a [u8]),
}

/// What a separator says. Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.1 (EV_SEPARATOR).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// The firmware ended as it should.
    HandOver,
    /// The firmware could not measure: what follows cannot be trusted. With its error code.
    Error(u32),
    /// Windows closes its part of a register.
    Windows,
}

/// Reads data by the event's type.
pub(super) fn decode(event_type: EventType, data: &[u8]) -> Decoded<'_> {
    if data.is_empty() {
        return Decoded::Empty;
    }
    by_type(event_type, data).unwrap_or(Decoded::Opaque(data))
}

fn by_type(event_type: EventType, data: &[u8]) -> Option<Decoded<'_>> {
    match event_type {
        EventType::NO_ACTION => no_action(data),
        EventType::SEPARATOR => separator(data),
        EventType::VARIABLE_DRIVER_CONFIG | EventType::VARIABLE_BOOT | EventType::VARIABLE_BOOT2 => {
            Variable::parse(data, false).map(Decoded::Variable)
        }
        EventType::VARIABLE_AUTHORITY => Variable::parse(data, true).map(Decoded::Variable),
        EventType::BOOT_SERVICES_APPLICATION | EventType::BOOT_SERVICES_DRIVER | EventType::RUNTIME_SERVICES_DRIVER => {
            platform::image(data).map(Decoded::Image)
        }
        EventType::GPT | EventType::GPT2 => platform::partition_table(data).map(Decoded::Partitions),
        EventType::HANDOFF_TABLES => platform::tables(data).map(Decoded::Tables),
        // U-Boot measures its device tree here, and calls it by a word.
        EventType::TABLE_OF_DEVICES => platform::tables(data).map(Decoded::Tables).or_else(|| words(data)),
        EventType::HANDOFF_TABLES2 => platform::tables2(data).map(Decoded::Tables),
        EventType::IPL => loader::loader(data).map(Decoded::Loader),
        EventType::EVENT_TAG => tag(data),
        EventType::NONHOST_INFO => platform::isolation(data).map(Decoded::Isolation).or_else(|| words(data)),
        // Text, or a GUID that names the version.
        EventType::S_CRTM_VERSION => {
            words(data).or_else(|| Some(Decoded::Text(Guid(data.try_into().ok()?).to_string())))
        }
        EventType::PLATFORM_CONFIG_FLAGS => {
            trust_domain(data).map(Decoded::TrustDomain).or_else(|| blob(data)).or_else(|| words(data))
        }
        // Text, or a place in memory with or without a description: firmware uses either for the rest.
        _ => words(data).or_else(|| blob(data)),
    }
}

fn no_action(data: &[u8]) -> Option<Decoded<'_>> {
    if let Some(locality) = startup_locality(data) {
        return Some(Decoded::StartupLocality(locality));
    }
    let manifest = platform::manifest(data).map(Decoded::Manifest);
    manifest.or_else(|| WindowsEvents::trust_points(data).map(Decoded::Windows)).or_else(|| words(data))
}

/// The locality that the data of an `EV_NO_ACTION` announces.
pub(super) fn startup_locality(data: &[u8]) -> Option<u8> {
    data.strip_prefix(STARTUP_LOCALITY)?.first().copied()
}

fn separator(data: &[u8]) -> Option<Decoded<'_>> {
    if data == b"WBCL" {
        return Some(Decoded::Separator(Separator::Windows));
    }
    let code = u32::from_le_bytes(data.try_into().ok()?);
    let separator = if matches!(code, 0 | u32::MAX) { Separator::HandOver } else { Separator::Error(code) };
    Some(Decoded::Separator(separator))
}

fn tag(data: &[u8]) -> Option<Decoded<'_>> {
    let tag = loader::tag(data)?;
    match WindowsEvents::parse(data).filter(|_| tag.name.is_none()) {
        Some(events) => Some(Decoded::Windows(events)),
        None => Some(Decoded::Tag(tag)),
    }
}

fn blob(data: &[u8]) -> Option<Decoded<'_>> {
    platform::blob(data).or_else(|| platform::blob2(data)).map(Decoded::Blob)
}

fn words(data: &[u8]) -> Option<Decoded<'_>> {
    let wide = || text::utf16_text(data).filter(|text| text.is_ascii() && data.len() >= 4);
    text::ascii_text(data).map(str::to_owned).or_else(wide).map(Decoded::Text)
}
