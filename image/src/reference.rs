//! What booting a UKI must leave in the TPM, computed from its bytes and a description of the machine.
//!
//! Pure. In reading order: [`predict`] says for each register which measurements must happen, or why that cannot be said;
//! [`sections`] is which of the UKI's sections count; [`variables`] is Secure Boot (PCR 7). Holds for firmware that starts the UKI
//! itself: no other loader, no option ROM, no add-on, no other command line.
//!
//! Sources of what is measured where: TCG PC Client Platform Firmware Profile 1.06, section 2.3.4 (PCR 2, 4, 7); Linux,
//! drivers/firmware/efi/libstub/efi-stub-helper.c (PCR 9); UAPI.5 Unified Kernel Image, "UKI TPM PCR Measurements" (PCR 11 to 13).
//! Each was compared with live boots; `docs/reference-values.md` says which. Deliberately absent: PCR 0, 1, 3, 5 and 6, which the
//! machine's maker and its settings decide, and PCR 15, which depends on the site.

mod sections;
mod variables;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use kiln_formats::digest::Sha256Digest;
use kiln_formats::pcr::{Bank, BankDigest, PcrIndex};
use kiln_formats::prediction::{
    BootPath, Digests, EventPrediction, Firmware, MachineDescription, PcrPrediction, Prediction, SecureBoot,
};
use kiln_formats::reference::PcrReference;

use crate::across::across;
use crate::pe::{Pe, PeError};
use crate::stub::{StubVersion, load_options};
use sections::Sections;
pub use sections::{SectionDigest, sections};
pub use variables::{Variables, VariablesError};

/// The registers that the image alone decides, whatever the machine.
const IMAGE_REGISTERS: [&str; 3] = ["4", "9", "11"];
/// The most zeros that a measured section ends in: tools that make UKIs write none.
const ZEROS_BYTES_MAX: usize = 1 << 20;
/// Source: Linux, drivers/firmware/efi/libstub/, version 5.17: the first that measures initrd and command line.
const MEASURING_KERNEL: (u32, u32) = (5, 17);

/// The values of an image cannot be predicted at all.
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
    /// A PE file that is no UKI.
    #[error("it is no UKI: it has no section {name}")]
    NoUki {
        /// The section that every UKI has.
        name: &'static str,
    },
    /// The UKI has fewer profiles.
    #[error("the UKI has no profile {profile}")]
    NoProfile {
        /// The profile that was asked for, from 0.
        profile: u32,
    },
    /// The UKI has fewer sections of that name.
    #[error("the UKI has no section {name} number {index}")]
    NoSection {
        /// The section.
        name: &'static str,
        /// Which was asked for, from 0.
        index: u32,
    },
    /// Secure Boot's variables do not let this image start, or cannot be read.
    #[error("cannot predict PCR 7")]
    Variables(#[from] VariablesError),
    /// The machine's description names no bank.
    #[error("the machine's description names no bank")]
    NoBank,
}

/// One measurement that must happen: the bytes that are hashed, in pieces.
struct Measurement<'a> {
    register: u8,
    name: String,
    parts: Vec<Cow<'a, [u8]>>,
}

impl Measurement<'_> {
    fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }
}

/// Measurements in the making, and the registers that cannot be predicted.
#[derive(Default)]
struct Plan<'a> {
    measured: Vec<Measurement<'a>>,
    untouched: Vec<u8>,
    not_predicted: BTreeMap<u8, &'static str>,
}

impl<'a> Plan<'a> {
    fn add(&mut self, register: u8, name: impl Into<String>, parts: impl IntoIterator<Item = Cow<'a, [u8]>>) {
        let parts = parts.into_iter().filter(|part| !part.is_empty()).collect();
        self.measured.push(Measurement { register, name: name.into(), parts });
    }

    fn bytes(&mut self, register: u8, name: &str, bytes: impl Into<Cow<'a, [u8]>>) {
        self.add(register, name, [bytes.into()]);
    }

    fn separator(&mut self, register: u8) {
        self.bytes(register, "separator", vec![0; 4]);
    }
}

/// What booting `uki` on such a machine must leave in every bank. `variables` are what its firmware keeps for Secure Boot.
///
/// # Errors
/// [`ReferenceError`] if `uki` is no UKI, or the description does not fit it.
pub fn predict(uki: &[u8], machine: &MachineDescription, variables: &Variables) -> Result<Prediction, ReferenceError> {
    if machine.banks.is_empty() {
        return Err(ReferenceError::NoBank);
    }
    let pe = parse(uki, "UKI")?;
    let sections = Sections::of(&pe, machine)?;
    let mut plan = Plan::default();
    firmware(&pe, &sections, machine, &mut plan)?;
    variables.measure(&pe, machine.secure_boot, &mut plan)?;
    kernel(&sections, &mut plan);
    stub(&sections, machine, &mut plan);
    Ok(plan.hash(machine))
}

/// What booting `uki` must leave in the SHA-256 bank whatever the machine: PCR 4, 9 and 11, by number.
///
/// # Errors
/// Those of [`predict`].
pub fn image_registers(uki: &[u8]) -> Result<BTreeMap<String, PcrReference>, ReferenceError> {
    let machine = MachineDescription { banks: vec![Bank::Sha256], ..MachineDescription::default() };
    let prediction = predict(uki, &machine, &Variables::default())?;
    let mut values = prediction.sha256().unwrap_or_default();
    values.retain(|register, _| IMAGE_REGISTERS.contains(&register.as_str()));
    Ok(values)
}

/// PCR 2 and 4: what firmware starts.
fn firmware<'a>(
    pe: &Pe<'a>,
    sections: &Sections<'a>,
    machine: &MachineDescription,
    plan: &mut Plan<'a>,
) -> Result<(), ReferenceError> {
    let programs = match machine.firmware {
        Firmware::Edk2 => 4,
        Firmware::Gce => 2,
    };
    let borrowed = |parts: Vec<&'a [u8]>| parts.into_iter().map(Cow::Borrowed);
    let image = pe.authenticode_parts().map_err(|source| ReferenceError::Pe { part: "UKI", source })?;
    let attempt = b"Calling EFI Application from Boot Option".as_slice();
    plan.separator(2);
    match machine.boot {
        BootPath::Esp => {
            plan.bytes(4, "boot attempt", attempt);
            plan.separator(4);
            plan.add(programs, "UKI", borrowed(image));
        }
        // The monitor's image is loaded first, and then firmware says that it is ready to boot.
        BootPath::Kernel => {
            plan.add(programs, "UKI", borrowed(image));
            plan.bytes(4, "boot attempt", attempt);
            plan.separator(4);
        }
    }
    match sections.stub {
        Some(stub) if stub < StubVersion::OLDEST => {
            plan.not_predicted.insert(programs, "this stub is older than version 252");
        }
        Some(stub) if stub >= StubVersion::LOADS_KERNEL => {}
        // The stub vouches for the kernel in it, and firmware then neither checks nor measures it.
        Some(_) if machine.secure_boot == SecureBoot::On => {}
        Some(_) => {
            let kernel = parse(sections.kernel.content, "kernel in the UKI")?;
            let kernel = kernel.authenticode_parts();
            let kernel = kernel.map_err(|source| ReferenceError::Pe { part: "kernel in the UKI", source })?;
            plan.add(programs, "kernel", borrowed(kernel));
        }
        None => {
            plan.not_predicted
                .insert(programs, "the stub is not systemd's: whether it has the kernel measured is not known");
        }
    }
    if machine.firmware == Firmware::Gce {
        plan.not_predicted.insert(2, "this firmware measures the disk's partition table into it");
    }
    Ok(())
}

/// PCR 9: what the kernel's own stub is given.
fn kernel<'a>(sections: &Sections<'a>, plan: &mut Plan<'a>) {
    let stub = match sections.stub {
        Some(stub) if (StubVersion::OLDEST..=StubVersion::NEWEST).contains(&stub) => stub,
        Some(_) => {
            plan.not_predicted.insert(9, "which initrds this version of the stub joins is not known");
            return;
        }
        None => {
            plan.not_predicted.insert(9, "the stub is not systemd's: which initrds it joins is not known");
            return;
        }
    };
    match sections.kernel_version() {
        Some(version) if version >= MEASURING_KERNEL => {}
        Some(_) => {
            plan.not_predicted.insert(9, "the kernel is older than 5.17, which first measured initrd and command line");
            return;
        }
        None => {
            plan.not_predicted.insert(9, "the kernel does not say its version");
            return;
        }
    }
    if sections.has_zeros() {
        plan.not_predicted.insert(9, "a section is longer in memory than in the file");
        return;
    }
    if let Some(cmdline) = sections.content(".cmdline") {
        match load_options(cmdline) {
            Some(options) => plan.bytes(9, "kernel command line", options),
            None => {
                plan.not_predicted.insert(9, "the command line is not text");
            }
        }
    }
    if let Some(initrd) = stub.initrd(|name| sections.content(name)) {
        plan.add(9, "initrd", initrd);
    }
}

/// PCR 8 and 11 to 14: what the stub measures, and what nothing may.
fn stub<'a>(sections: &Sections<'a>, machine: &MachineDescription, plan: &mut Plan<'a>) {
    plan.untouched = vec![8, 13, 14];
    let Some(stub) = sections.stub else {
        let why = "the stub is not systemd's: what it measures is not known";
        plan.not_predicted.extend([8, 11, 12, 13, 14].map(|register| (register, why)));
        return;
    };
    if stub < StubVersion::OLDEST {
        plan.not_predicted.insert(11, "this stub is older than version 252");
    }
    for name in stub.measured() {
        let Some(section) = sections.get(name) else { continue };
        plan.bytes(11, &format!("{name} name"), [name.as_bytes(), &[0]].concat());
        if section.zeros > ZEROS_BYTES_MAX {
            plan.not_predicted.insert(11, "a section is far longer in memory than in the file");
            continue;
        }
        let zeros = (section.zeros > 0).then(|| Cow::Owned(vec![0; section.zeros]));
        plan.add(11, format!("{name} content"), [Cow::Borrowed(section.content)].into_iter().chain(zeros));
    }
    if let Some(why) = sections.undecided(stub, machine) {
        plan.not_predicted.insert(11, why);
    }
    match machine.profile {
        0 => plan.untouched.push(12),
        profile => {
            let number = profile.to_string();
            let number: Vec<u8> = number.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
            plan.bytes(12, "profile", number);
        }
    }
}

impl Plan<'_> {
    /// Hashes everything, the longest first, and what two registers are given (the initrd) once.
    fn hash(self, machine: &MachineDescription) -> Prediction {
        let first = |wanted: &Measurement<'_>| self.measured.iter().position(|other| other.parts == wanted.parts);
        let places: Vec<usize> = self.measured.iter().filter_map(first).collect();
        let once = self.measured.iter().enumerate().filter(|(at, _)| places.get(*at) == Some(at));
        let in_banks = |(at, measurement)| machine.banks.iter().map(move |bank| (at, *bank, measurement));
        let mut work: Vec<(usize, Bank, &Measurement<'_>)> = once.flat_map(in_banks).collect();
        work.sort_by_key(|(_, _, measurement)| Reverse(measurement.bytes()));
        let hash = |(at, bank, measurement): &(usize, Bank, &Measurement<'_>)| {
            let digest = bank.hash_parts(measurement.parts.iter().map(|part| part.as_ref()));
            digest.map(|digest| (*at, digest))
        };
        let mut digests: BTreeMap<usize, Vec<BankDigest>> = BTreeMap::new();
        for (at, digest) in across(&work, hash).into_iter().flatten() {
            digests.entry(at).or_default().push(digest);
        }
        let mut events: BTreeMap<u8, Vec<EventPrediction>> = BTreeMap::new();
        events.extend(self.untouched.iter().map(|register| (*register, Vec::new())));
        for (measurement, place) in self.measured.iter().zip(&places) {
            let digests: Digests = digests.get(place).cloned().unwrap_or_default().into_iter().collect();
            let event = EventPrediction { name: measurement.name.clone(), digests };
            events.entry(measurement.register).or_default().push(event);
        }
        let register = |(register, events): (u8, Vec<EventPrediction>)| {
            let index = PcrIndex::new(register.into()).ok()?;
            let known = !self.not_predicted.contains_key(&register);
            known.then(|| (register.to_string(), PcrPrediction::of(index, &machine.banks, events)))
        };
        let pcrs = events.into_iter().filter_map(register).collect();
        let not_predicted =
            self.not_predicted.iter().map(|(register, why)| (register.to_string(), (*why).to_owned())).collect();
        Prediction { machine: machine.clone(), pcrs, not_predicted }
    }
}

fn parse<'a>(bytes: &'a [u8], part: &'static str) -> Result<Pe<'a>, ReferenceError> {
    Pe::parse(bytes).map_err(|source| ReferenceError::Pe { part, source })
}

#[cfg(test)]
mod tests;
