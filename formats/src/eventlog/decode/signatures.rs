//! Signature databases of Secure Boot: keys, certificates and hashes, each with its owner.
//!
//! Source: UEFI 2.10, section 32.4.1 (EFI_SIGNATURE_DATA, EFI_SIGNATURE_LIST).

use std::fmt;

use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::super::cursor::Cursor;
use super::text::{self, Guid};
use crate::digest::Sha256Digest;

/// The largest certificate whose subject is read, in bytes. Real ones have fewer than 2 KiB.
const CERTIFICATE_BYTES_MAX: usize = 16 << 10;
/// The most characters of a subject that are shown.
const SUBJECT_CHARS_MAX: usize = 256;

/// The types of a list, by GUID. Source: UEFI 2.10, section 32.4.1.
const KINDS: &[(&str, SignatureKind)] = &[
    ("a5c059a1-94e4-4aa7-87b5-ab155c2bf072", SignatureKind::Certificate),
    ("c1c41626-504c-4092-aca9-41f936934328", SignatureKind::Hash("sha256")),
    ("826ca512-cf10-4ac9-b187-be01496631bd", SignatureKind::Hash("sha1")),
    ("ff3e5307-9fd0-48c9-85f1-8ad56c701e01", SignatureKind::Hash("sha384")),
    ("093e0fae-a6c4-4f50-9f1b-d41e2b89c19a", SignatureKind::Hash("sha512")),
    ("3bd2a492-96c0-4079-b420-fcf98ef103ed", SignatureKind::CertificateHash("sha256")),
    ("7076876e-80c2-4ee6-aad2-28b349a6865b", SignatureKind::CertificateHash("sha384")),
    ("446dbf63-2502-4cda-bcfa-2465d2b0fe9d", SignatureKind::CertificateHash("sha512")),
    ("3c5766e8-269c-4e34-aa14-ed776e85b3b6", SignatureKind::RsaKey),
];

/// What an entry of a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureKind {
    /// An X.509 certificate.
    Certificate,
    /// The hash of an image, by the algorithm of this name.
    Hash(&'static str),
    /// The hash of a certificate's signed part, with a time of revocation.
    CertificateHash(&'static str),
    /// A bare RSA-2048 key.
    RsaKey,
    /// Another type.
    Other(Guid),
}

/// One entry of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature<'a> {
    /// Who put it there.
    pub owner: Guid,
    /// What it is.
    pub kind: SignatureKind,
    /// The certificate, hash or key.
    pub data: &'a [u8],
}

/// A database (PK, KEK, db, dbx, MOK list): holding one tells you that its lists fill their bytes exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureDatabase<'a> {
    bytes: &'a [u8],
}

/// One list: entries of one type and size.
struct List<'a> {
    kind: SignatureKind,
    entry_bytes: usize,
    entries: &'a [u8],
}

impl<'a> SignatureDatabase<'a> {
    /// Reads lists that fill `bytes`; `None` if they do not.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        while !cursor.bytes.is_empty() {
            list(&mut cursor)?;
        }
        Some(Self { bytes })
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = Signature<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        let lists = std::iter::from_fn(move || if cursor.bytes.is_empty() { None } else { list(&mut cursor) });
        lists.flat_map(|list| {
            list.entries.chunks_exact(list.entry_bytes).filter_map(move |entry| signature(entry, list.kind))
        })
    }
}

fn list<'a>(cursor: &mut Cursor<'a>) -> Option<List<'a>> {
    /// Type, list size, header size, entry size.
    const HEADER_BYTES: usize = 28;
    let kind = kind(Guid(cursor.array()?));
    let (list_bytes, header_bytes, entry_bytes) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    let rest = cursor.take(usize::try_from(list_bytes).ok()?.checked_sub(HEADER_BYTES)?)?;
    let entries = rest.get(usize::try_from(header_bytes).ok()?..)?;
    // An entry holds at least its owner; a list without entries may leave the size open.
    let entry_bytes = usize::try_from(entry_bytes).ok()?.max(1);
    let whole = entries.is_empty() || (entry_bytes > 16 && entries.len().is_multiple_of(entry_bytes));
    whole.then_some(List { kind, entry_bytes, entries })
}

fn kind(guid: Guid) -> SignatureKind {
    let text = guid.to_string();
    KINDS.iter().find(|(known, _)| *known == text).map_or(SignatureKind::Other(guid), |(_, kind)| *kind)
}

fn signature(entry: &[u8], kind: SignatureKind) -> Option<Signature<'_>> {
    let (owner, data) = entry.split_first_chunk()?;
    Some(Signature { owner: Guid(*owner), kind, data })
}

impl<'a> Signature<'a> {
    /// Reads a single `EFI_SIGNATURE_DATA`, as an authority event carries it: owner, then a certificate or a hash.
    #[must_use]
    pub fn single(bytes: &'a [u8]) -> Option<Self> {
        let entry = signature(bytes, SignatureKind::Certificate)?;
        let kind = match entry.data.len() {
            32 => SignatureKind::Hash("sha256"),
            _ if subject(entry.data).is_some() => SignatureKind::Certificate,
            _ => return None,
        };
        Some(Self { kind, ..entry })
    }
}

/// The subject of a DER certificate in its inert form.
#[must_use]
pub(super) fn subject(der: &[u8]) -> Option<String> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return None;
    }
    // Firmware pads entries of one list to one size.
    let certificate =
        Certificate::from_der(der).ok().or_else(|| Certificate::from_der(der.get(..der_bytes(der)?)?).ok())?;
    Some(text::plain(&certificate.tbs_certificate().subject().to_string(), SUBJECT_CHARS_MAX))
}

/// How many bytes the DER sequence at the start says that it has.
fn der_bytes(der: &[u8]) -> Option<usize> {
    match der {
        [0x30, 0x82, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])).checked_add(4),
        [0x30, 0x81, length, ..] => usize::from(*length).checked_add(3),
        _ => None,
    }
}

impl fmt::Display for Signature<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            SignatureKind::Certificate => {
                let subject = subject(self.data).unwrap_or_else(|| "unreadable".to_owned());
                write!(f, "certificate \"{subject}\" (sha256 {})", Sha256Digest::of(self.data))
            }
            SignatureKind::Hash(algorithm) => {
                write!(f, "{algorithm} {}", hex::encode(self.data.get(..64).unwrap_or(self.data)))
            }
            SignatureKind::CertificateHash(algorithm) => {
                write!(f, "certificate by {algorithm} {}", Sha256Digest::of(self.data))
            }
            SignatureKind::RsaKey => write!(f, "RSA-2048 key (sha256 {})", Sha256Digest::of(self.data)),
            SignatureKind::Other(guid) => write!(f, "entry of type {guid} (sha256 {})", Sha256Digest::of(self.data)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of SHA-256 hashes.
    fn hashes(count: u8) -> Vec<u8> {
        let mut bytes = hex::decode("2616c4c14c509240aca941f936934328").unwrap();
        bytes.extend((28 + 48 * u32::from(count)).to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(48_u32.to_le_bytes());
        (0..count).for_each(|n| bytes.extend([n; 48]));
        bytes
    }

    #[test]
    fn lists_fill_their_bytes() {
        let two = [hashes(2), hashes(1)].concat();
        let entries: Vec<_> = SignatureDatabase::parse(&two).unwrap().iter().collect();
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[1].kind, SignatureKind::Hash("sha256"));
        assert_eq!(entries[1].to_string(), format!("sha256 {}", "01".repeat(32)));
        assert_eq!(SignatureDatabase::parse(&[]).unwrap().iter().count(), 0);
        for cut in [1, 27, 40, two.len() - 1] {
            assert_eq!(SignatureDatabase::parse(&two[..cut]), None);
        }
        let mut small = hashes(1);
        small[24] = 0;
        assert_eq!(SignatureDatabase::parse(&small), None, "entries of no size would never end");
    }
}
