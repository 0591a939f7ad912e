//! Which of a UKI's sections count on one machine.
//!
//! The stub takes the sections in front of the first `.profile`, then those of the profile that is started in their place. Of
//! several sections of one name it takes the first, but for `.dtbauto` and `.efifw`, of which it takes the one that fits the
//! machine. Source: systemd, src/boot/pe.c, at v257.

use kiln_formats::prediction::{MachineDescription, Pick};

use super::{ReferenceError, Sha256Digest, StubVersion, parse};
use crate::pe::{Pe, PeError, Section};

/// Begins a profile.
const PROFILE: &str = ".profile";
/// The kernel.
const KERNEL: &str = ".linux";
/// Where the stub says its version.
const MAGIC: &str = ".sdmagic";
/// What the machine's hardware chooses among.
const CHOSEN: [&str; 2] = [".dtbauto", ".efifw"];
/// Where an x86 kernel says so, and where it points to its version. Source: Linux, Documentation/arch/x86/boot.rst.
const KERNEL_MAGIC_OFFSET: usize = 0x202;
const KERNEL_VERSION_OFFSET: usize = 0x20e;
const KERNEL_SECTOR_BYTES: usize = 0x200;

/// A section's digest, as `ukify inspect` gives it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SectionDigest {
    /// The section, such as `.linux`.
    pub name: String,
    /// Its length in memory, in bytes.
    pub bytes: u64,
    /// The digest of that many bytes of the file.
    pub sha256: Sha256Digest,
}

/// The sections of any PE file, in the order of its table.
///
/// # Errors
/// [`ReferenceError::Pe`] if it is none.
pub fn sections(file: &[u8]) -> Result<Vec<SectionDigest>, ReferenceError> {
    let found = parse(file, "UKI")?.sections().map_err(|source| ReferenceError::Pe { part: "UKI", source })?;
    let digest = |section: Section<'_>| SectionDigest {
        bytes: (section.content.len() + section.zeros) as u64,
        sha256: Sha256Digest::of(section.content),
        name: section.name,
    };
    Ok(found.into_iter().map(digest).collect())
}

/// The sections that count.
pub(super) struct Sections<'a> {
    pub(super) stub: Option<StubVersion>,
    pub(super) kernel: Section<'a>,
    counted: Vec<Section<'a>>,
    /// What was there to choose among, though nobody chose.
    undecided: Vec<&'static str>,
}

impl<'a> Sections<'a> {
    pub(super) fn of(pe: &Pe<'a>, machine: &MachineDescription) -> Result<Self, ReferenceError> {
        let wrong = |source: PeError| ReferenceError::Pe { part: "UKI", source };
        let all = pe.sections().map_err(wrong)?;
        let stub = all.iter().find(|section| section.name == MAGIC);
        let stub = stub.and_then(|section| StubVersion::of_magic(section.content));
        let (base, profile) = ranges(&all, machine.profile)?;
        let mut counted: Vec<Section<'a>> = Vec::new();
        for section in profile.iter().chain(base) {
            let known = counted.iter().any(|other| other.name == section.name);
            if !known && !CHOSEN.contains(&section.name.as_str()) {
                counted.push(section.clone());
            }
        }
        // What an empty section says is that there is none, also in place of one that is not empty.
        counted.retain(|section| section.content.len() + section.zeros > 0);
        let mut undecided = Vec::new();
        for (name, pick) in CHOSEN.into_iter().zip([machine.dtbauto, machine.efifw]) {
            let mut there = profile.iter().chain(base).filter(|section| section.name == name);
            match pick {
                Some(Pick::Index(index)) => {
                    let missing = ReferenceError::NoSection { name, index };
                    counted.push(there.nth(index as usize).ok_or(missing)?.clone());
                }
                Some(Pick::None) => {}
                None if there.next().is_some() => undecided.push(name),
                None => {}
            }
        }
        let kernel = counted.iter().find(|section| section.name == KERNEL).cloned();
        let kernel = kernel.ok_or(ReferenceError::NoUki { name: KERNEL })?;
        Ok(Self { stub, kernel, counted, undecided })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Section<'a>> {
        self.counted.iter().find(|section| section.name == name)
    }

    pub(super) fn content(&self, name: &str) -> Option<&'a [u8]> {
        self.get(name).map(|section| section.content)
    }

    /// Whether memory holds more of a section than the file.
    pub(super) fn has_zeros(&self) -> bool {
        let given = [KERNEL, ".initrd", ".cmdline", ".ucode", ".osrel", ".pcrsig", ".pcrpkey", PROFILE];
        given.iter().filter_map(|name| self.get(name)).any(|section| section.zeros > 0)
    }

    /// Why PCR 11 cannot be said, if the machine's description leaves a choice open that the stub makes.
    pub(super) fn undecided(&self, stub: StubVersion, machine: &MachineDescription) -> Option<&'static str> {
        let open = |name: &'static str| self.undecided.contains(&name) && stub.measured().any(|known| known == name);
        match (open(".dtbauto") && machine.dtbauto.is_none(), open(".efifw") && machine.efifw.is_none()) {
            (true, _) => Some("which .dtbauto section fits depends on the machine, and its description does not say"),
            (_, true) => Some("which .efifw section fits depends on the machine, and its description does not say"),
            _ => None,
        }
    }

    /// The kernel's version as it says itself, or else as `.uname` says: major and minor.
    pub(super) fn kernel_version(&self) -> Option<(u32, u32)> {
        x86_version(self.kernel.content).or_else(|| self.content(".uname")).and_then(version)
    }
}

/// The sections in front of all profiles, and those of one profile.
fn ranges<'s, 'a>(
    all: &'s [Section<'a>],
    profile: u32,
) -> Result<(&'s [Section<'a>], &'s [Section<'a>]), ReferenceError> {
    let starts: Vec<usize> =
        all.iter().enumerate().filter(|(_, section)| section.name == PROFILE).map(|(at, _)| at).collect();
    let between = |from: usize, to: Option<&usize>| all.get(from..to.copied().unwrap_or(all.len())).unwrap_or_default();
    let base = between(0, starts.first());
    match (starts.get(profile as usize), profile) {
        (Some(start), _) => Ok((base, between(*start, starts.get(profile as usize + 1)))),
        // The first profile need not be there.
        (None, 0) => Ok((base, &[])),
        (None, _) => Err(ReferenceError::NoProfile { profile }),
    }
}

/// What an x86 kernel says of itself.
fn x86_version(kernel: &[u8]) -> Option<&[u8]> {
    kernel.get(KERNEL_MAGIC_OFFSET..)?.strip_prefix(b"HdrS")?;
    let pointer = kernel.get(KERNEL_VERSION_OFFSET..KERNEL_VERSION_OFFSET + 2)?;
    let offset = usize::from(u16::from_le_bytes(pointer.try_into().ok()?));
    kernel.get(KERNEL_SECTOR_BYTES + offset..)
}

/// The first two numbers of a version.
fn version(text: &[u8]) -> Option<(u32, u32)> {
    let text: Vec<u8> = text.iter().copied().take(32).take_while(|b| b.is_ascii_digit() || *b == b'.').collect();
    let mut numbers = std::str::from_utf8(&text).ok()?.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}
