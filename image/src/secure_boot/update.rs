//! A signed change of one of firmware's variables: what an `.auth` file holds.
//!
//! The same bytes for the same key, content and time. Source: UEFI 2.10, section 8.2.2, EFI_VARIABLE_AUTHENTICATION_2. The signature
//! is OpenSSL's. Deliberately absent: appending to a variable; an update replaces all of it.

use std::path::Path;

use kiln_formats::timestamp::Timestamp;

use super::database::Database;
use super::{ATTRIBUTES, Variable, utf16};
use crate::command::{CommandError, Tool};
use crate::files::{self, FileError};
use crate::progress::Progress;

/// Source: UEFI 2.10, section 8.2.2, EFI_CERT_TYPE_PKCS7_GUID.
const PKCS7: [u8; 16] = *b"\x9d\xd2\xaf\x4a\xdf\x68\xee\x49\x8a\xa9\x34\x7d\x37\x56\x65\xa7";
/// WIN_CERT_TYPE_EFI_GUID, and the revision of the header. Source: UEFI 2.10, section 32.2.4.
const CERTIFICATE_TYPE: u16 = 0x0ef1;
const CERTIFICATE_REVISION: u16 = 0x0200;
/// Length, revision, type and GUID.
const CERTIFICATE_HEADER_BYTES: usize = 24;
/// Object identifier 1.2.840.113549.1.7.2, signed data, in DER. Source: RFC 2315, section 14.
const SIGNED_DATA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";
/// The tags of a sequence and of an explicit field 0, with a length of two bytes, which every signature of ours has.
const SEQUENCE: [u8; 2] = [0x30, 0x82];
const FIELD: [u8; 2] = [0xa0, 0x82];

/// No update was made.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// A file could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no place for the files that OpenSSL reads and writes.
    #[error("cannot make a temporary directory")]
    Temporary {
        /// What the system said.
        source: std::io::Error,
    },
    /// OpenSSL did not sign.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// OpenSSL's answer is not the signature that was asked for.
    #[error("openssl wrote something else than signed data")]
    Signature,
}

/// The update that makes `database` the content of `variable`, signed with the key and the certificate of these PEM files. Firmware
/// takes it only if `time` is later than that of the last update.
///
/// # Errors
/// [`UpdateError`] by cause.
pub fn update(
    variable: Variable,
    database: &Database,
    time: Timestamp,
    (key, certificate): (&Path, &Path),
    progress: &dyn Progress,
) -> Result<Vec<u8>, UpdateError> {
    let content = database.to_bytes();
    let directory = tempfile::tempdir().map_err(|source| UpdateError::Temporary { source })?;
    let (to_sign, signature) = (directory.path().join("to-sign"), directory.path().join("signature"));
    files::write(&to_sign, &signed_bytes(variable, time, &content))?;
    // Without attributes: the time that they would carry is in what is signed, and the signature is the same each time.
    Tool::new("openssl")
        .args(["smime", "-sign", "-binary", "-noattr", "-md", "sha256", "-outform", "DER"])
        .arg("-inkey")
        .arg(key)
        .arg("-signer")
        .arg(certificate)
        .arg("-in")
        .arg(&to_sign)
        .arg("-out")
        .arg(&signature)
        .run(progress)?;
    let signature = files::read(&signature)?;
    let signature = signed_data(&signature).ok_or(UpdateError::Signature)?;

    let length = u32::try_from(CERTIFICATE_HEADER_BYTES + signature.len()).map_err(|_| UpdateError::Signature)?;
    let mut bytes = efi_time(time).to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(CERTIFICATE_REVISION.to_le_bytes());
    bytes.extend(CERTIFICATE_TYPE.to_le_bytes());
    bytes.extend(PKCS7);
    bytes.extend_from_slice(signature);
    bytes.extend(content);
    Ok(bytes)
}

/// What the signature is over: name, vendor, attributes, time, content.
fn signed_bytes(variable: Variable, time: Timestamp, content: &[u8]) -> Vec<u8> {
    let mut bytes = utf16(variable.name());
    bytes.extend(variable.vendor());
    bytes.extend(ATTRIBUTES.to_le_bytes());
    bytes.extend(efi_time(time));
    bytes.extend_from_slice(content);
    bytes
}

/// The signed data without the envelope that names its type: not all firmware takes the envelope.
fn signed_data(der: &[u8]) -> Option<&[u8]> {
    let content = exactly(der, SEQUENCE)?.strip_prefix(SIGNED_DATA)?;
    exactly(content, FIELD)
}

/// The content of the one value that fills `der`.
fn exactly(der: &[u8], tag: [u8; 2]) -> Option<&[u8]> {
    let (length, content) = der.strip_prefix(tag.as_slice())?.split_first_chunk()?;
    (content.len() == usize::from(u16::from_be_bytes(*length))).then_some(content)
}

/// EFI_TIME in UTC, its unused fields zero as the specification asks of updates. Source: UEFI 2.10, sections 8.3 and 8.2.2.
pub(super) fn efi_time(time: Timestamp) -> [u8; 16] {
    let text = time.to_string();
    // A timestamp's text has one form: YYYY-MM-DDTHH:MM:SSZ.
    let number = |at: std::ops::Range<usize>| text.get(at).and_then(|digits| digits.parse::<u16>().ok()).unwrap_or(0);
    let [year_low, year_high] = number(0..4).to_le_bytes();
    let byte = |at| number(at).to_le_bytes()[0];
    let (month, day, hour, minute, second) = (byte(5..7), byte(8..10), byte(11..13), byte(14..16), byte(17..19));
    [year_low, year_high, month, day, hour, minute, second, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::secure_boot::keys::tests::keys;
    use crate::secure_boot::{Role, Variable};

    #[test]
    fn times_are_written_in_full() {
        let time = |text: &str| efi_time(text.parse().unwrap());
        assert_eq!(time("2026-11-23T01:02:03Z")[..8], [0xea, 0x07, 11, 23, 1, 2, 3, 0]);
        assert_eq!(time("9999-12-31T23:59:59Z")[..8], [0x0f, 0x27, 12, 31, 23, 59, 59, 0]);
    }

    #[test]
    fn only_signed_data_loses_its_envelope() {
        let inner = [b"\x30\x82\x01\x00".as_slice(), &[7; 256]].concat();
        let field = [b"\xa0\x82\x01\x04".as_slice(), &inner].concat();
        let outer = [SIGNED_DATA, &field].concat();
        let length = u16::try_from(outer.len()).unwrap().to_be_bytes();
        let der = [b"\x30\x82".as_slice(), &length, &outer].concat();
        assert_eq!(signed_data(&der), Some(inner.as_slice()));
        for cut in 0..der.len() {
            assert_eq!(signed_data(&der[..cut]), None);
        }
        assert_eq!(signed_data(&inner), None);
    }

    /// The same bytes as efitools writes.
    #[test]
    fn another_program_writes_the_same() {
        let (directory, keys) = keys();
        let esl = directory.path().join("db.esl");
        let database = keys.databases().unwrap().swap_remove(2).1;
        std::fs::write(&esl, database.to_bytes()).unwrap();
        let time: Timestamp = "2027-03-04T05:06:07Z".parse().unwrap();
        let (key, certificate) = (keys.key(Role::Exchange), keys.certificate(Role::Exchange));
        let ours = update(Variable::Allowed, &database, time, (&key, &certificate), &Silent).unwrap();
        assert_eq!(ours, update(Variable::Allowed, &database, time, (&key, &certificate), &Silent).unwrap());
        let theirs = directory.path().join("theirs.auth");
        let signed = std::process::Command::new("sign-efi-sig-list")
            .args(["-t", "2027-03-04 05:06:07", "-k"])
            .arg(key)
            .arg("-c")
            .arg(certificate)
            .arg("db")
            .args([&esl, &theirs])
            .output()
            .expect("sign-efi-sig-list is in package efitools");
        assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
        assert_eq!(ours, std::fs::read(theirs).unwrap());
    }
}
