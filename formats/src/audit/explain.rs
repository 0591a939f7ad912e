//! What registers and kinds of events are for, in plain words. Never a basis for a decision.

use serde::Serialize;

use crate::boot::BootEvent;
use crate::eventlog::decode::{Decoded, Loader};
use crate::eventlog::{Content, EventType};
use crate::pcr::PcrIndex;

/// How far the boot was when an event was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The firmware sets the machine up.
    Firmware,
    /// The firmware is done and picks what to start.
    Handover,
    /// Boot loader and kernel run under the firmware.
    Loader,
    /// The operating system runs.
    System,
}

impl Stage {
    /// In order.
    pub const ALL: [Self; 4] = [Self::Firmware, Self::Handover, Self::Loader, Self::System];

    /// What people call it.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Firmware => "Firmware",
            Self::Handover => "Hand-over",
            Self::Loader => "Boot loader and kernel",
            Self::System => "Running system",
        }
    }

    /// What happens in it.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Firmware => "the machine sets itself up, and measures its own code, settings and keys",
            Self::Handover => "the firmware is done and turns to what is to be started",
            Self::Loader => "what was started loads the operating system, still under the firmware",
            Self::System => "the operating system measures for itself",
        }
    }
}

/// The stage that an event shows the boot to have reached at least.
pub(super) fn begins(event: &BootEvent<'_>, content: Option<&Content<'_>>) -> Stage {
    let register = event.extends().map_or(0, PcrIndex::get);
    match event.event_type() {
        None => Stage::System,
        Some(EventType::IPL) => Stage::Loader,
        Some(EventType::EVENT_TAG) if register >= 8 => Stage::Loader,
        Some(EventType::SEPARATOR) if register < 7 => Stage::Handover,
        Some(EventType::BOOT_SERVICES_APPLICATION) => match content.map(Content::alleged) {
            // A part of the firmware itself, such as its menu.
            Some(Decoded::Image(image)) if image.path.firmware_file().is_some() => Stage::Firmware,
            _ => Stage::Loader,
        },
        Some(EventType::EFI_ACTION) => match content.map(Content::alleged) {
            Some(Decoded::Text(text)) if text.starts_with("Calling EFI Application") => Stage::Handover,
            _ => Stage::Firmware,
        },
        Some(_) => Stage::Firmware,
    }
}

/// What a register is for.
///
/// Source: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4; UAPI.7 (Linux TPM PCR registry); Windows
/// `wbcl.h`; TCG PC Client Platform TPM Profile 1.05, section 4.6.
#[must_use]
pub fn register(index: PcrIndex, trust_domain: bool) -> &'static str {
    match index.get() {
        0 if trust_domain => "MRTD: what the trust domain began with",
        1 if trust_domain => "RTMR 0: firmware, settings, keys",
        2 if trust_domain => "RTMR 1: boot loader and kernel",
        3 if trust_domain => "RTMR 2: command line, initrd, files",
        4 if trust_domain => "RTMR 3: for applications",
        0 => "firmware code",
        1 => "firmware settings, machine description",
        2 => "drivers and option ROMs",
        3 => "settings of drivers and option ROMs",
        4 => "boot loader and kernel images",
        5 => "partition table, boot loader settings",
        6 => "the vendor's own",
        7 => "Secure Boot: state, keys, who vouched",
        8 => "GRUB's commands and command lines",
        9 => "files that the loader read; kernel command line, initrd",
        10 => "files that the kernel measured (IMA)",
        11 => "the unified kernel image and boot phases; Windows: BitLocker",
        12 => "overrides, credentials, add-ons; Windows: events",
        13 => "system extensions; Windows: modules",
        14 => "shim's keys (MOK); Windows: who vouched",
        15 => "what the running system says of itself",
        16 => "for debugging: anyone may reset it",
        17 => "dynamic launch: code and policy",
        18 => "dynamic launch: who vouched",
        19..=22 => "dynamic launch: the launched system's own",
        _ => "for applications: anyone may reset it",
    }
}

/// Whether an event is one that only the firmware of a trust domain writes.
///
/// Source: Intel TDX Virtual Firmware Design Guide, section 8; UEFI 2.10, section 38.4.1 (register 1 is RTMR 0).
pub(super) fn marks_trust_domain(content: Option<&Content<'_>>) -> bool {
    match content.map(Content::alleged) {
        Some(Decoded::TrustDomain(_)) => true,
        Some(Decoded::Tables(tables)) => tables.description.as_deref() == Some("TdxTable"),
        _ => false,
    }
}

/// What an event is, by its kind.
///
/// Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.1, table 27; Intel TXT MLE Developer's Guide, appendix F.
pub(super) fn event(event: &BootEvent<'_>, content: Option<&Content<'_>>) -> &'static str {
    let Some(event_type) = event.event_type() else { return "a measurement by the running system" };
    match (event_type, content.map(Content::alleged)) {
        (EventType::NO_ACTION, Some(Decoded::StartupLocality(_))) => {
            "a remark: who started the TPM, which PCR 0 begins with"
        }
        (EventType::NO_ACTION, Some(Decoded::Manifest(_))) => {
            "a remark: where reference values of the firmware are to be had"
        }
        (EventType::NO_ACTION, Some(Decoded::Windows(_))) => "a remark: signed quotes of earlier boots (Windows)",
        (_, Some(Decoded::Windows(_))) => "what Windows measured of itself",
        (EventType::IPL, Some(Decoded::Loader(loader))) => match loader {
            Loader::Grub { .. } => "a line that GRUB ran or handed on",
            Loader::File(_) => "a file that the boot loader read",
            Loader::Section(_) => "a section of the unified kernel image",
            Loader::Shim(_) => "what shim keeps: keys, revocations, state",
            Loader::Text(_) | Loader::Words(_) => "something that the boot loader measured",
        },
        (EventType::EVENT_TAG, Some(Decoded::Tag(tag))) if tag.name.is_some() => {
            "what the kernel or its stub was given"
        }
        _ => by_type(event_type.0),
    }
}

fn by_type(event_type: u32) -> &'static str {
    match event_type {
        0x0000_0000 => "a certificate from before the system starts (reserved)",
        0x0000_0001 | 0x0000_0013 => "firmware code that the platform ran",
        0x0000_0003 => "a remark: nothing is extended",
        0x0000_0004 => "a separator: one part of the boot ends here",
        0x0000_0005 | 0x8000_0007 => "something that the firmware did",
        0x0000_0006 => "a tagged structure",
        0x0000_0007 => "the first code that ran",
        0x0000_0008 => "the version of the first code that ran",
        0x0000_0009 => "a microcode update of the processor",
        0x0000_000a => "settings of the platform",
        0x0000_000b => "the devices that the platform found",
        0x0000_000c => "a digest alone: what it is of is agreed elsewhere",
        0x0000_000d => "what boots the machine",
        0x0000_000e => "settings of what boots the machine",
        0x0000_000f => "code beside the host, such as a management engine",
        0x0000_0010 => "settings beside the host, such as a management engine's",
        0x0000_0011 => "what runs beside the host, such as a management engine or the cloud",
        0x0000_0012 => "attempts to boot are not measured one by one",
        0x0000_0402 => "a dynamic launch begins and resets its registers",
        0x0000_0401 | 0x0000_0403..=0x0000_04ff => "a dynamic launch (Intel TXT): code, policy or settings of it",
        0x0000_0500..=0x0000_05ff => "a dynamic launch: code, policy or settings of it",
        0x8000_0001 => "a variable that steers the firmware, such as those of Secure Boot",
        0x8000_0002 | 0x8000_000c => "a boot variable: what is to be started, in which order",
        0x8000_0003 => "a program that was started: boot loader or kernel",
        0x8000_0004 => "a driver that was loaded; a device's option ROM is one",
        0x8000_0005 => "a driver that was loaded and stays",
        0x8000_0006 | 0x8000_000d => "the partition table of the disk that is booted from",
        0x8000_0008 | 0x8000_000a => "a piece of firmware",
        0x8000_0009 | 0x8000_000b => "tables that the firmware hands over",
        0x8000_0010 => "the hardware measured the firmware before the processor ran it",
        0x8000_00e0 => "the key or hash that vouched for what was started",
        0x8000_00e1..=0x8000_00e4 => "a device's own firmware, settings or identity (SPDM)",
        0x0000_8000..=0x0000_ffff => "the platform maker's own",
        _ => "of a kind that we do not know",
    }
}
