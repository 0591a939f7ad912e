//! PCR 7: the variables of Secure Boot, and the entry of `db` that lets an image start.
//!
//! Source: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.8 (what is measured), 10.4 (UEFI_VARIABLE_DATA); edk2,
//! SecurityPkg/Tcg/Tcg2Dxe (the order; the separator between variables and entry) and DxeImageVerificationLib (which entry).
//! Deliberately absent: checking the signature. A prediction says what must be measured *if* the image starts.

use std::borrow::Cow;

use kiln_formats::eventlog::decode::{SignatureDatabase, SignatureKind};
use kiln_formats::prediction::SecureBoot;

use super::{Plan, Sha256Digest};
use crate::pe::{Pe, PeError};

/// Source: UEFI 2.10, section 3.3, EFI_GLOBAL_VARIABLE.
const GLOBAL: [u8; 16] = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";
/// Source: UEFI 2.10, section 32.6.1, EFI_IMAGE_SECURITY_DATABASE_GUID.
const IMAGE_SECURITY: [u8; 16] = *b"\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f";
/// The largest variable: Microsoft's list of revoked images has some dozens of KiB.
const VARIABLE_BYTES_MAX: usize = 1 << 20;

/// The variables are not those of a machine that starts the image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariablesError {
    /// Not signature lists.
    #[error("{name} is not a list of signatures (.esl)")]
    Malformed {
        /// The variable.
        name: &'static str,
    },
    /// Nobody signed the image, and `db` does not name it.
    #[error("with Secure Boot on, this machine does not start the image: it is not signed, and db does not name it")]
    NotSigned,
    /// The image's signature names none of several certificates.
    #[error("which entry of db lets the image start cannot be said: its signature holds none of db's certificates")]
    Undecided,
    /// `dbx` names the image.
    #[error("with Secure Boot on, this machine does not start the image: dbx names it")]
    Revoked,
    /// The image cannot be read.
    #[error(transparent)]
    Pe(#[from] PeError),
}

/// The contents of Secure Boot's variables, empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    contents: [Vec<u8>; 6],
}

impl Variables {
    /// Their names, in the order in which firmware measures them. The last two are measured only where they are.
    pub const NAMES: [&'static str; 6] = ["PK", "KEK", "db", "dbx", "dbt", "dbr"];

    /// Takes the contents of each variable: signature lists, as in an `.esl` file.
    ///
    /// # Errors
    /// [`VariablesError::Malformed`].
    pub fn new(contents: [Vec<u8>; 6]) -> Result<Self, VariablesError> {
        let whole =
            |content: &Vec<u8>| content.len() <= VARIABLE_BYTES_MAX && SignatureDatabase::parse(content).is_some();
        match Self::NAMES.into_iter().zip(&contents).find(|(_, content)| !whole(content)) {
            Some((name, _)) => Err(VariablesError::Malformed { name }),
            None => Ok(Self { contents }),
        }
    }

    fn get(&self, wanted: &str) -> &[u8] {
        let found = Self::NAMES.iter().zip(&self.contents).find(|(name, _)| **name == wanted);
        found.map(|(_, content)| content.as_slice()).unwrap_or_default()
    }

    pub(super) fn measure<'a>(
        &self,
        pe: &Pe<'a>,
        secure_boot: SecureBoot,
        plan: &mut Plan<'a>,
    ) -> Result<(), VariablesError> {
        let state: &[u8] = match secure_boot {
            SecureBoot::On => &[1],
            SecureBoot::Off => &[0],
            SecureBoot::Unsupported => &[],
        };
        plan.bytes(7, "SecureBoot", variable(GLOBAL, "SecureBoot", state));
        for (at, (name, content)) in Self::NAMES.into_iter().zip(&self.contents).enumerate() {
            let vendor = if at < 2 { GLOBAL } else { IMAGE_SECURITY };
            if at < 4 || !content.is_empty() {
                plan.bytes(7, name, variable(vendor, name, content));
            }
        }
        plan.separator(7);
        if secure_boot == SecureBoot::On {
            let entry = self.authority(pe)?;
            plan.bytes(7, "db: the entry that lets the image start", variable(IMAGE_SECURITY, "db", &entry));
        }
        Ok(())
    }

    /// The entry of `db` that lets the image start: the first whose certificate the image's signature holds. A signer that is not
    /// in `db` itself hides it; where there is one certificate only, it is that.
    fn authority(&self, pe: &Pe<'_>) -> Result<Cow<'static, [u8]>, VariablesError> {
        let image = Sha256Digest::of(&pe.authenticode()?);
        let lists =
            |name: &'static str| SignatureDatabase::parse(self.get(name)).ok_or(VariablesError::Malformed { name });
        let names_image = |name: &'static str| {
            let entry = lists(name)?
                .iter()
                .find(|entry| entry.kind == SignatureKind::Hash("sha256") && entry.data == image.as_bytes().as_slice());
            Ok::<_, VariablesError>(entry)
        };
        if names_image("dbx")?.is_some() {
            return Err(VariablesError::Revoked);
        }
        let signature = pe.certificates()?;
        let certificates: Vec<_> =
            lists("db")?.iter().filter(|entry| entry.kind == SignatureKind::Certificate).collect();
        let held = |data: &[u8]| !data.is_empty() && find(signature, data);
        let signer = if signature.is_empty() { None } else { certificates.iter().find(|entry| held(entry.data)) };
        let only = if signature.is_empty() { None } else { certificates.first().filter(|_| certificates.len() == 1) };
        let entry = match (signer.or(only), names_image("db")?) {
            (Some(entry), _) => *entry,
            (None, Some(entry)) => entry,
            (None, None) if signature.is_empty() => return Err(VariablesError::NotSigned),
            (None, None) => return Err(VariablesError::Undecided),
        };
        Ok([entry.owner.0.as_slice(), entry.data].concat().into())
    }
}

/// Whether `bytes` hold `wanted`. Their first byte is looked for first: certificates are a KiB, signatures a few.
fn find(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window.first() == wanted.first() && window == wanted)
}

/// A variable as it is measured. Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.3, UEFI_VARIABLE_DATA.
fn variable(vendor: [u8; 16], name: &str, content: &[u8]) -> Vec<u8> {
    let units: Vec<u16> = name.encode_utf16().collect();
    let mut bytes = vendor.to_vec();
    bytes.extend((units.len() as u64).to_le_bytes());
    bytes.extend((content.len() as u64).to_le_bytes());
    bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.extend_from_slice(content);
    bytes
}

#[cfg(test)]
mod tests;
