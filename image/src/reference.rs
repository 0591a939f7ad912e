//! What booting a UKI must leave in PCR 4, 9 and 11, computed from its bytes alone.
//!
//! Pure. Holds for firmware that starts the UKI itself, with no other loader, add-on or command line. Source for what is measured
//! where: TCG PC Client Platform Firmware Profile 1.06, section 2.3.4.5 (PCR 4); Linux, drivers/firmware/efi/libstub/
//! efi-stub-helper.c (PCR 9, see also [`crate::stub`]); UAPI.5 Unified Kernel Image, "UKI TPM PCR Measurements", in the order of systemd's
//! src/fundamental/uki.h (PCR 11). Deliberately absent: PCR 7, which depends on the machine's keys, and PCR 15, which depends on
//! the site.

use std::collections::BTreeMap;

use kiln_formats::digest::Sha256Digest;
use kiln_formats::pcr::{Bank, BankDigest, PcrIndex, PcrValues};
use kiln_formats::reference::{EventReference, PcrReference};

use crate::pe::{Pe, PeError};
use crate::stub::combined_initrd;

/// The sections that the stub measures, in its order. `.pcrsig` is skipped, for it signs the result.
const MEASURED_SECTIONS: [&str; 14] = [
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile",
    ".dtbauto", ".hwids", ".efifw",
];
/// Sections that the stub would pass on to the kernel in an initrd of its own; ours have none of them.
const FOREIGN_SECTIONS: [&str; 4] = [".ucode", ".pcrsig", ".pcrpkey", ".profile"];
/// The section that holds the kernel.
const KERNEL: &str = ".linux";

/// The values of a UKI cannot be predicted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The UKI, or the kernel in it, is not a PE file.
    #[error("cannot read the {part}")]
    Pe {
        /// `UKI`, or `kernel in the UKI`.
        part: &'static str,
        /// What is wrong.
        source: PeError,
    },
    /// A section that every UKI of ours has once, or that none has.
    #[error("the UKI has {count} sections {name}, not {expected}")]
    Section {
        /// The section.
        name: &'static str,
        /// How often it is there.
        count: usize,
        /// How often it should be.
        expected: usize,
    },
    /// The command line is not text.
    #[error("the command line in the UKI is not UTF-8 text")]
    CommandLine,
    /// The bank's algorithm is one that we do not compute.
    #[error("cannot compute the {bank} bank")]
    Bank {
        /// The bank.
        bank: Bank,
    },
}

/// One measurement that must happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predicted {
    /// The register.
    pub pcr: PcrIndex,
    /// What is measured, in words.
    pub name: String,
    /// What is extended.
    pub digest: BankDigest,
}

/// The measurements of booting `uki`, in the order in which they happen within each register.
///
/// # Errors
/// [`ReferenceError`] if `uki` is not a UKI, or `bank` is one that we do not compute.
pub fn predict(uki: &[u8], bank: Bank) -> Result<Vec<Predicted>, ReferenceError> {
    let pe = parse(uki, "UKI")?;
    let sections = Sections::of(&pe)?;
    for name in FOREIGN_SECTIONS {
        sections.none(name)?;
    }
    let mut events = Events { bank, list: Vec::new() };

    events.add(4, "boot attempt", b"Calling EFI Application from Boot Option")?;
    events.add(4, "separator", &[0; 4])?;
    events.add(4, "UKI", &pe.authenticode().map_err(|source| ReferenceError::Pe { part: "UKI", source })?)?;
    let kernel = parse(sections.one(KERNEL)?, "kernel in the UKI")?;
    let kernel = kernel.authenticode().map_err(|source| ReferenceError::Pe { part: "kernel in the UKI", source })?;
    events.add(4, "kernel", &kernel)?;

    events.add(9, "kernel command line", &load_options(sections.one(".cmdline")?)?)?;
    let initrd = combined_initrd(sections.one(".initrd")?, sections.one(".osrel")?);
    events.add(9, "initrd", &initrd)?;

    for name in MEASURED_SECTIONS {
        for content in sections.all(name) {
            events.add(11, &format!("{name} name"), &[name.as_bytes(), &[0]].concat())?;
            events.add(11, &format!("{name} content"), content)?;
        }
    }
    Ok(events.list)
}

/// The SHA-256 values that `predicted` leads to, by register number. Measurements of other banks are left out.
#[must_use]
pub fn values(predicted: &[Predicted]) -> BTreeMap<String, PcrReference> {
    let mut registers = PcrValues::new();
    let mut events: BTreeMap<String, (PcrIndex, Vec<EventReference>)> = BTreeMap::new();
    for event in predicted {
        let Ok(bytes) = <[u8; 32]>::try_from(event.digest.as_bytes()) else { continue };
        if event.digest.bank() != Bank::Sha256 {
            continue;
        }
        registers.extend(event.pcr, &event.digest);
        let list = &mut events.entry(event.pcr.get().to_string()).or_insert_with(|| (event.pcr, Vec::new())).1;
        list.push(EventReference { name: event.name.clone(), sha256: Sha256Digest::from_bytes(bytes) });
    }
    let value = |index| registers.get_or_reset(Bank::Sha256, index);
    let reference = |(index, events)| {
        let bytes = <[u8; 32]>::try_from(value(index).as_bytes()).unwrap_or_default();
        PcrReference { value: Sha256Digest::from_bytes(bytes), events }
    };
    events.into_iter().map(|(number, register)| (number, reference(register))).collect()
}

fn parse<'a>(bytes: &'a [u8], part: &'static str) -> Result<Pe<'a>, ReferenceError> {
    Pe::parse(bytes).map_err(|source| ReferenceError::Pe { part, source })
}

/// What the kernel's EFI stub measures of the command line: UTF-16, little endian, with its terminating zero.
fn load_options(cmdline: &[u8]) -> Result<Vec<u8>, ReferenceError> {
    let text = std::str::from_utf8(cmdline).map_err(|_| ReferenceError::CommandLine)?;
    Ok(text.trim_end_matches('\0').encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect())
}

/// The sections of a UKI.
struct Sections<'a>(Vec<crate::pe::Section<'a>>);

impl<'a> Sections<'a> {
    fn of(pe: &Pe<'a>) -> Result<Self, ReferenceError> {
        pe.sections().map(Self).map_err(|source| ReferenceError::Pe { part: "UKI", source })
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |section| section.name == name).map(|section| section.content)
    }

    fn one(&self, name: &'static str) -> Result<&'a [u8], ReferenceError> {
        match self.all(name).collect::<Vec<_>>().as_slice() {
            [content] => Ok(content),
            other => Err(ReferenceError::Section { name, count: other.len(), expected: 1 }),
        }
    }

    fn none(&self, name: &'static str) -> Result<(), ReferenceError> {
        match self.all(name).count() {
            0 => Ok(()),
            count => Err(ReferenceError::Section { name, count, expected: 0 }),
        }
    }
}

/// Measurements in the making.
struct Events {
    bank: Bank,
    list: Vec<Predicted>,
}

impl Events {
    fn add(&mut self, pcr: u32, name: &str, measured: &[u8]) -> Result<(), ReferenceError> {
        let (Some(digest), Ok(pcr)) = (self.bank.hash(measured), PcrIndex::new(pcr)) else {
            return Err(ReferenceError::Bank { bank: self.bank });
        };
        self.list.push(Predicted { pcr, name: name.into(), digest });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
