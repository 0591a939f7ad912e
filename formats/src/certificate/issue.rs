//! What every certificate of ours has, whoever issues it: serial number, validity, key identifiers.

use std::time::{Duration, UNIX_EPOCH};

use x509_cert::der;
use x509_cert::der::asn1::OctetString;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, SubjectKeyIdentifier};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoRef;
use x509_cert::time::{Time, Validity};

use crate::digest::Sha256Digest;
use crate::timestamp::Timestamp;

/// Random bytes of a serial number. Source: CA/Browser Forum baseline requirements, section 7.1: at least 64 bits.
pub const SERIAL_BYTES: usize = 16;

/// A serial number of these bytes: positive, and of a fixed length, whatever was drawn.
///
/// # Errors
/// Never for so many bytes; the signature is the encoder's.
pub fn serial_number(mut random: [u8; SERIAL_BYTES]) -> der::Result<SerialNumber> {
    let [first, ..] = &mut random;
    *first = *first & 0x7f | 0x40;
    SerialNumber::new(&random)
}

/// From the first second to the last one.
///
/// # Errors
/// A time that no certificate can hold.
pub fn validity(first: Timestamp, last: Timestamp) -> der::Result<Validity> {
    let time = |at: Timestamp| Time::try_from(UNIX_EPOCH + Duration::from_secs(u64::try_from(at.unix()).unwrap_or(0)));
    Ok(Validity::new(time(first)?, time(last)?))
}

/// The identifiers of the certified key and of its issuer's: the first 160 bits of the key's SHA-256.
/// Source: RFC 7093, section 2, method 1.
///
/// # Errors
/// Never for so many bytes; the signature is the encoder's.
pub fn key_identifiers(
    key: &SubjectPublicKeyInfoRef<'_>,
    issuer: &SubjectPublicKeyInfoRef<'_>,
) -> der::Result<(SubjectKeyIdentifier, AuthorityKeyIdentifier)> {
    let identifier = |key: &SubjectPublicKeyInfoRef<'_>| {
        let digest = Sha256Digest::of(key.subject_public_key.raw_bytes());
        OctetString::new(digest.as_bytes().first_chunk::<20>().copied().unwrap_or_default())
    };
    let issuer = AuthorityKeyIdentifier { key_identifier: Some(identifier(issuer)?), ..Default::default() };
    Ok((SubjectKeyIdentifier(identifier(key)?), issuer))
}
