//! The variable store of a virtual machine's firmware, with a site's keys enrolled.
//!
//! Pure. Takes the store that OVMF comes with and adds variables, as firmware itself would have written them. Source: edk2,
//! MdeModulePkg/Include/Guid/VariableFormat.h and MdePkg/Include/Pi/PiFirmwareVolume.h. Deliberately absent: changing or removing a
//! variable; a machine gets a new store.

use kiln_formats::timestamp::Timestamp;

use super::database::{DATABASE_BYTES_MAX, Database};
use super::update::efi_time;
use super::{ATTRIBUTES, Variable, utf16};

/// The largest store: twice that of OVMF's largest build.
const STORE_BYTES_MAX: usize = 2 << 20;
/// The most variables that are read: an installed machine has some dozens.
const VARIABLES_MAX: usize = 1024;
/// The firmware volume's kind. Source: edk2, MdeModulePkg/Include/Guid/SystemNvDataGuid.h.
const VOLUME: [u8; 16] = *b"\x8d\x2b\xf1\xff\x96\x76\x8b\x4c\xa9\x85\x27\x47\x07\x5b\x4f\x50";
/// A store whose variables carry the time of their last change. Source: VariableFormat.h, gEfiAuthenticatedVariableGuid.
const STORE: [u8; 16] = *b"\x78\x2c\xf3\xaa\x7b\x94\x9a\x43\xa1\x80\x2e\x14\x4e\xc3\x77\x92";
/// Where the volume's header says what it is, how long it and how long the header is.
const VOLUME_KIND_OFFSET: usize = 16;
const VOLUME_LENGTH_OFFSET: usize = 32;
const VOLUME_HEADER_LENGTH_OFFSET: usize = 48;
/// Kind, size, format, state, two reserved fields.
const STORE_HEADER_BYTES: usize = 28;
/// VARIABLE_STORE_FORMATTED and VARIABLE_STORE_HEALTHY.
const STORE_READY: [u8; 2] = [0x5a, 0xfe];
/// What each variable begins with: VARIABLE_DATA.
const VARIABLE_START: [u8; 2] = [0xaa, 0x55];
/// VAR_ADDED: written whole. A variable in another state was replaced or removed, and only takes room.
const VARIABLE_ADDED: u8 = 0x3f;
/// AUTHENTICATED_VARIABLE_HEADER.
const VARIABLE_HEADER_BYTES: usize = 60;
/// Where each variable begins is a multiple of this.
const ALIGNMENT_BYTES: usize = 4;
/// What flash memory holds where nothing was written.
const EMPTY: u8 = 0xff;

/// A store that firmware would take: its headers hold, and its variables lie within it one behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    bytes: Vec<u8>,
    /// Where the first variable begins.
    begin: usize,
    /// Where the next variable goes.
    free: usize,
    /// Where there is no more room.
    end: usize,
}

/// A variable in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<'a> {
    /// The GUID that its name stands under.
    pub vendor: [u8; 16],
    /// Its name in UTF-16, without a terminating zero.
    pub name: &'a [u8],
    /// How it is kept, and who may change it. Source: UEFI 2.10, section 8.2.1.
    pub attributes: u32,
    /// When it was changed last: EFI_TIME.
    pub time: [u8; 16],
    /// Its content.
    pub content: &'a [u8],
}

/// Bytes are no store, or it does not take a variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Not a store of the kind that OVMF has.
    #[error("not a store of OVMF's variables: {reason}")]
    Malformed {
        /// What is wrong.
        reason: &'static str,
    },
    /// There is such a variable.
    #[error("the store has a variable {name} already")]
    Exists {
        /// Which.
        name: &'static str,
    },
    /// It does not fit.
    #[error("the store has no room for {name}")]
    Full {
        /// Which.
        name: &'static str,
    },
}

/// OVMF's empty store with these databases enrolled: Secure Boot is on from the first start. An empty database is left out. The
/// same bytes for the same databases and time.
///
/// # Errors
/// [`StoreError`] if `template` is no store, or has keys enrolled.
pub fn enrolled(template: &[u8], databases: &[(Variable, Database)], time: Timestamp) -> Result<Vec<u8>, StoreError> {
    let mut store = Store::parse(template.to_vec())?;
    for (variable, database) in databases.iter().filter(|(_, database)| !database.is_empty()) {
        store.add(*variable, database, time)?;
    }
    Ok(store.bytes)
}

fn wrong(reason: &'static str) -> StoreError {
    StoreError::Malformed { reason }
}

impl Store {
    /// Reads a store.
    ///
    /// # Errors
    /// [`StoreError::Malformed`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, StoreError> {
        if bytes.len() > STORE_BYTES_MAX {
            return Err(wrong("it is too large"));
        }
        if array(&bytes, VOLUME_KIND_OFFSET) != Some(VOLUME) {
            return Err(wrong("it is no firmware volume for variables"));
        }
        let length = array(&bytes, VOLUME_LENGTH_OFFSET).map(u64::from_le_bytes);
        if length != u64::try_from(bytes.len()).ok() {
            return Err(wrong("the volume's length is not the file's"));
        }
        let header = array(&bytes, VOLUME_HEADER_LENGTH_OFFSET).map(u16::from_le_bytes);
        let store = usize::from(header.ok_or(wrong("the volume has no header"))?);
        if array(&bytes, store) != Some(STORE) || array(&bytes, store + STORE.len() + 4) != Some(STORE_READY) {
            return Err(wrong("it does not keep authenticated variables"));
        }
        let size = length_at(&bytes, store + STORE.len()).ok_or(wrong("the store has no size"))?;
        let end = store.checked_add(size).filter(|end| *end <= bytes.len());
        let end = end.ok_or(wrong("the store is longer than the volume"))?;
        let begin = store + STORE_HEADER_BYTES;
        let mut found = Self { bytes, begin, free: begin, end };
        found.free = found.walk(|_| ())?;
        let free = found.bytes.get(found.free..end).ok_or(wrong("a variable leaves the store"))?;
        if free.iter().any(|byte| *byte != EMPTY) {
            return Err(wrong("there is something behind the last variable"));
        }
        Ok(found)
    }

    /// The store's present variables, in the order in which they were written.
    #[must_use]
    pub fn variables(&self) -> Vec<Stored<'_>> {
        let mut found = Vec::new();
        // `parse` has walked the same bytes.
        let _end = self.walk(|variable| found.push(variable));
        found
    }

    /// Calls `see` for each variable; where the last one ends.
    fn walk<'a>(&'a self, mut see: impl FnMut(Stored<'a>)) -> Result<usize, StoreError> {
        let mut at = self.begin;
        for _ in 0..VARIABLES_MAX {
            if array(&self.bytes, at) != Some(VARIABLE_START) {
                return Ok(at);
            }
            let (variable, next) = self.variable(at).ok_or(wrong("a variable leaves the store"))?;
            if self.bytes.get(at + 2) == Some(&VARIABLE_ADDED) {
                see(variable);
            }
            at = next;
        }
        Err(wrong("it has too many variables"))
    }

    /// The variable at `at`, and where the next one begins.
    fn variable(&self, at: usize) -> Option<(Stored<'_>, usize)> {
        let name_at = at.checked_add(VARIABLE_HEADER_BYTES)?;
        let content_at = name_at.checked_add(length_at(&self.bytes, at + 36)?)?;
        let content_end = content_at.checked_add(length_at(&self.bytes, at + 40)?)?;
        let next = content_end.checked_next_multiple_of(ALIGNMENT_BYTES).filter(|next| *next <= self.end)?;
        let variable = Stored {
            vendor: array(&self.bytes, at + 44)?,
            name: self.bytes.get(name_at..content_at)?.strip_suffix(&[0, 0])?,
            attributes: u32::from_le_bytes(array(&self.bytes, at + 4)?),
            time: array(&self.bytes, at + 16)?,
            content: self.bytes.get(content_at..content_end)?,
        };
        Some((variable, next))
    }

    /// Writes a variable behind the last one.
    fn add(&mut self, variable: Variable, database: &Database, time: Timestamp) -> Result<(), StoreError> {
        let (name, wide) = (variable.name(), utf16(variable.name()));
        if self.variables().iter().any(|known| known.vendor == variable.vendor() && known.name == wide) {
            return Err(StoreError::Exists { name });
        }
        let content = database.to_bytes();
        debug_assert!(content.len() <= DATABASE_BYTES_MAX);
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
        let mut written = Vec::new();
        written.extend(VARIABLE_START);
        written.extend([VARIABLE_ADDED, 0]);
        written.extend(ATTRIBUTES.to_le_bytes());
        // The count of an older kind of authentication.
        written.extend(0_u64.to_le_bytes());
        written.extend(efi_time(time));
        // Which public key of an older kind of authentication.
        written.extend(0_u32.to_le_bytes());
        written.extend(length(wide.len() + 2));
        written.extend(length(content.len()));
        written.extend(variable.vendor());
        written.extend(wide);
        written.extend([0, 0]);
        written.extend(content);
        written.resize(written.len().next_multiple_of(ALIGNMENT_BYTES), EMPTY);
        let end = self.free.checked_add(written.len()).filter(|end| *end <= self.end);
        let end = end.ok_or(StoreError::Full { name })?;
        let place = self.bytes.get_mut(self.free..end).ok_or(StoreError::Full { name })?;
        place.copy_from_slice(&written);
        self.free = end;
        Ok(())
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(array(bytes, at)?)).ok()
}

#[cfg(test)]
mod tests;
