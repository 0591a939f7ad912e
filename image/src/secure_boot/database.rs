//! A signature database in the one form that we write: a list for each certificate, then one list of all image digests.
//!
//! Pure. Holding a [`Database`] tells you that it fits into firmware's largest variable. Source: UEFI 2.10, section 32.4.1,
//! EFI_SIGNATURE_LIST and EFI_SIGNATURE_DATA. Deliberately absent: other kinds of entries, and other people's databases.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::eventlog::decode::{Guid, SignatureDatabase, SignatureKind};

/// The largest database. Source: edk2, OvmfPkg/OvmfPkgX64.dsc, PcdMaxAuthVariableSize 0x8400; 1 KiB less for the variable's header
/// and the signature that its update carries.
pub const DATABASE_BYTES_MAX: usize = 0x8000;
/// Who wrote the entries: Kiln, whatever the site. "kiln" in ASCII and a number.
const OWNER: [u8; 16] = *b"\x6e\x6c\x69\x6b\x00\x00\x00\x40\x80\x03\x00\x00\x00\x00\x00\x00";
/// Source: UEFI 2.10, section 32.4.1, EFI_CERT_X509_GUID.
const CERTIFICATE: [u8; 16] = *b"\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72";
/// Source: UEFI 2.10, section 32.4.1, EFI_CERT_SHA256_GUID.
const IMAGE_SHA256: [u8; 16] = *b"\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28";
/// Type, sizes of list, header and entry.
const HEADER_BYTES: usize = 28;

/// What firmware trusts or distrusts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    certificates: Vec<Vec<u8>>,
    images: Vec<Sha256Digest>,
}

/// Bytes are not a database of ours, or it has no room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// Not lists that fill the bytes.
    #[error("not a list of signatures")]
    Malformed,
    /// Somebody else's entry, of a kind that we do not write, or not in our order.
    #[error("the database was not written by Kiln")]
    Foreign,
    /// More than firmware keeps.
    #[error("the database would have {bytes} bytes, more than {DATABASE_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

impl Database {
    /// A database of one certificate, in DER.
    ///
    /// # Errors
    /// [`DatabaseError::TooLarge`].
    pub fn of_certificate(der: &[u8]) -> Result<Self, DatabaseError> {
        let mut database = Self::default();
        database.add_certificate(der)?;
        Ok(database)
    }

    /// Adds a certificate in DER, unless it is there.
    ///
    /// # Errors
    /// [`DatabaseError::TooLarge`], and then the database is as it was.
    pub fn add_certificate(&mut self, der: &[u8]) -> Result<(), DatabaseError> {
        if self.certificates.iter().any(|known| known == der) {
            return Ok(());
        }
        self.has_room(HEADER_BYTES + OWNER.len() + der.len())?;
        self.certificates.push(der.to_vec());
        Ok(())
    }

    /// Adds the Authenticode digest of an image, unless it is there.
    ///
    /// # Errors
    /// [`DatabaseError::TooLarge`], and then the database is as it was.
    pub fn add_image(&mut self, authenticode: Sha256Digest) -> Result<(), DatabaseError> {
        if self.images.contains(&authenticode) {
            return Ok(());
        }
        self.has_room(HEADER_BYTES + OWNER.len() + authenticode.as_bytes().len())?;
        self.images.push(authenticode);
        Ok(())
    }

    /// The certificates, in DER.
    #[must_use]
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    /// The Authenticode digests of images.
    #[must_use]
    pub fn images(&self) -> &[Sha256Digest] {
        &self.images
    }

    /// Whether there is nothing in it. Firmware keeps no empty variable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.images.is_empty()
    }

    fn has_room(&self, more_bytes: usize) -> Result<(), DatabaseError> {
        let bytes = self.to_bytes().len() + more_bytes;
        if bytes > DATABASE_BYTES_MAX { Err(DatabaseError::TooLarge { bytes }) } else { Ok(()) }
    }

    /// The variable's content, and an `.esl` file's.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for certificate in &self.certificates {
            list(&mut bytes, CERTIFICATE, &[certificate]);
        }
        if !self.images.is_empty() {
            let images: Vec<&[u8]> = self.images.iter().map(|image| image.as_bytes().as_slice()).collect();
            list(&mut bytes, IMAGE_SHA256, &images);
        }
        bytes
    }

    /// Reads what [`Database::to_bytes`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`DatabaseError`] by cause.
    pub fn parse(bytes: &[u8]) -> Result<Self, DatabaseError> {
        if bytes.len() > DATABASE_BYTES_MAX {
            return Err(DatabaseError::TooLarge { bytes: bytes.len() });
        }
        let lists = SignatureDatabase::parse(bytes).ok_or(DatabaseError::Malformed)?;
        let mut database = Self::default();
        for entry in lists.iter() {
            match (entry.kind, <[u8; 32]>::try_from(entry.data)) {
                _ if entry.owner != Guid(OWNER) => return Err(DatabaseError::Foreign),
                (SignatureKind::Certificate, _) => database.certificates.push(entry.data.to_vec()),
                (SignatureKind::Hash("sha256"), Ok(image)) => database.images.push(Sha256Digest::from_bytes(image)),
                _ => return Err(DatabaseError::Foreign),
            }
        }
        if database.to_bytes() == bytes { Ok(database) } else { Err(DatabaseError::Foreign) }
    }
}

/// Appends one list; its entries have one length.
fn list(bytes: &mut Vec<u8>, kind: [u8; 16], entries: &[&[u8]]) {
    let entry_bytes = OWNER.len() + entries.first().map_or(0, |entry| entry.len());
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
    bytes.extend(kind);
    bytes.extend(length(HEADER_BYTES + entries.len() * entry_bytes));
    bytes.extend(length(0));
    bytes.extend(length(entry_bytes));
    for entry in entries {
        bytes.extend(OWNER);
        bytes.extend_from_slice(entry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            certificates in proptest::collection::btree_set(proptest::collection::vec(any::<u8>(), 1..300), 0..5),
            images in proptest::collection::btree_set(any::<[u8; 32]>(), 0..9),
        ) {
            let mut database = Database::default();
            for certificate in &certificates {
                database.add_certificate(certificate).unwrap();
                database.add_certificate(certificate).unwrap();
            }
            for image in &images {
                database.add_image(Sha256Digest::from_bytes(*image)).unwrap();
            }
            let bytes = database.to_bytes();
            prop_assert_eq!(database.certificates().len() + database.images().len(), certificates.len() + images.len());
            prop_assert_eq!(Database::parse(&bytes), Ok(database));
            prop_assert!(bytes.is_empty() || Database::parse(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn foreign_bytes_are_refused_or_come_out_again(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(database) = Database::parse(&bytes) {
                prop_assert_eq!(database.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn another_owner_is_not_ours() {
        let mut bytes = Database::of_certificate(b"certificate").unwrap().to_bytes();
        bytes[HEADER_BYTES] ^= 1;
        assert_eq!(Database::parse(&bytes), Err(DatabaseError::Foreign));
    }

    #[test]
    fn firmware_has_room_for_all_of_it() {
        let mut database = Database::default();
        let full = (0..).find_map(|n: u32| {
            let mut image = [0; 32];
            image[..4].copy_from_slice(&n.to_le_bytes());
            database.add_image(Sha256Digest::from_bytes(image)).err()
        });
        assert!(matches!(full, Some(DatabaseError::TooLarge { .. })), "{full:?}");
        assert!(database.to_bytes().len() <= DATABASE_BYTES_MAX && database.images().len() > 600);
        assert!(Database::parse(&vec![0; DATABASE_BYTES_MAX + 1]).is_err());
    }
}
