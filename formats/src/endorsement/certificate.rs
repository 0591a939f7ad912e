//! Certificates on endorsement keys, and of those who issue them: each alone.
//!
//! Other people's certificates are read more widely than ours, and no wider than the TCG's profile needs: X.509 v3 in strict DER,
//! no critical extension that is not read here, no extension twice.
//!
//! Source: TCG EK Credential Profile for TPM Family 2.0, version 2.5, section 3.2; RFC 5280, section 4.2.

use x509_cert::certificate::Version;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Decode, DecodePem as _, Encode as _, Header, Reader as _, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use crate::timestamp::Timestamp;

/// The largest certificate that is read, in bytes of DER or PEM: vendors' stay under 2 KiB.
pub const CERTIFICATE_BYTES_MAX: usize = 8 << 10;

/// `tcg-kp-EKCertificate`. Source: TCG EK Credential Profile, section 3.2.16.
pub const EKU_ENDORSEMENT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");
/// `anyExtendedKeyUsage`. Source: RFC 5280, section 4.2.1.12.
const EKU_ANY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

/// The critical extensions that are read here.
const KNOWN: [ObjectIdentifier; 4] = [BasicConstraints::OID, KeyUsage::OID, ExtendedKeyUsage::OID, SubjectAltName::OID];

/// What is wrong with one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// Not one certificate in strict DER (or PEM of it), or more than [`CERTIFICATE_BYTES_MAX`].
    #[error("not one X.509 certificate in strict DER")]
    Syntax,
    /// A rule of its profile is broken.
    #[error("{rule}")]
    Profile {
        /// Which.
        rule: &'static str,
    },
}

/// A certificate that was parsed, and nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) certificate: x509_cert::Certificate,
    /// The DER of its signed part.
    pub(super) signed: Vec<u8>,
}

impl Parsed {
    fn from_der(der: &[u8]) -> Result<Self, CertificateFault> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(CertificateFault::Syntax);
        }
        let certificate = x509_cert::Certificate::from_der(der).map_err(|_| CertificateFault::Syntax)?;
        Self::of(certificate)
            .filter(|parsed| parsed.certificate.to_der().is_ok_and(|again| again == der))
            .ok_or(CertificateFault::Syntax)
    }

    fn of(certificate: x509_cert::Certificate) -> Option<Self> {
        let signed = certificate.tbs_certificate().to_der().ok()?;
        Some(Self { certificate, signed })
    }

    pub(super) fn subject(&self) -> &Name {
        self.certificate.tbs_certificate().subject()
    }

    pub(super) fn issuer(&self) -> &Name {
        self.certificate.tbs_certificate().issuer()
    }

    pub(super) fn key(&self) -> &SubjectPublicKeyInfoOwned {
        self.certificate.tbs_certificate().subject_public_key_info()
    }

    pub(super) fn is_valid_at(&self, at: Timestamp) -> bool {
        let validity = self.certificate.tbs_certificate().validity();
        let seconds = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let first = seconds(validity.not_before.to_unix_duration());
        (first..=seconds(validity.not_after.to_unix_duration())).contains(&at.unix())
    }

    /// What holds for each certificate of a chain.
    fn check_extensions(&self) -> Result<(), CertificateFault> {
        let broken = |rule| Err(CertificateFault::Profile { rule });
        let tbs = self.certificate.tbs_certificate();
        if tbs.version() != Version::V3 || tbs.signature() != self.certificate.signature_algorithm() {
            return broken("it is not a plain X.509 v3 certificate");
        }
        let extensions = || tbs.extensions().into_iter().flatten();
        for (at, extension) in extensions().enumerate() {
            if extensions().take(at).any(|other| other.extn_id == extension.extn_id) {
                return broken("it has an extension twice");
            }
            if extension.critical && !KNOWN.contains(&extension.extn_id) {
                return broken("it has a critical extension that is not read here");
            }
        }
        Ok(())
    }

    fn extension<T: AssociatedOid + for<'a> Decode<'a>>(&self) -> Result<Option<T>, CertificateFault> {
        let malformed = CertificateFault::Profile { rule: "an extension is malformed" };
        let mut extensions = self.certificate.tbs_certificate().extensions().into_iter().flatten();
        match extensions.find(|extension| extension.extn_id == T::OID) {
            None => Ok(None),
            Some(extension) => T::from_der(extension.extn_value.as_bytes()).map(Some).map_err(|_| malformed),
        }
    }

    fn is_critical(&self, oid: ObjectIdentifier) -> bool {
        let mut extensions = self.certificate.tbs_certificate().extensions().into_iter().flatten();
        extensions.any(|extension| extension.extn_id == oid && extension.critical)
    }
}

/// A certificate with the marks of an authority. Who vouches for it is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaCertificate {
    pub(super) parsed: Parsed,
    /// How many authorities may stand between it and an endorsement key.
    pub(super) below_max: Option<u8>,
}

impl CaCertificate {
    /// Reads one certificate in DER.
    ///
    /// # Errors
    /// [`CertificateFault`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateFault> {
        Self::check(Parsed::from_der(der)?)
    }

    /// Reads a file with one certificate, in PEM or DER.
    ///
    /// # Errors
    /// [`CertificateFault`].
    pub fn from_file(bytes: &[u8]) -> Result<Self, CertificateFault> {
        if bytes.len() > CERTIFICATE_BYTES_MAX || !bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Self::from_der(bytes);
        }
        let certificate = x509_cert::Certificate::from_pem(bytes).map_err(|_| CertificateFault::Syntax)?;
        Self::check(Parsed::of(certificate).ok_or(CertificateFault::Syntax)?)
    }

    /// The name that it is known by.
    #[must_use]
    pub fn subject(&self) -> String {
        self.parsed.subject().to_string()
    }

    /// Whether it names itself as its issuer.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.parsed.subject() == self.parsed.issuer()
    }

    fn check(parsed: Parsed) -> Result<Self, CertificateFault> {
        let broken = |rule| Err(CertificateFault::Profile { rule });
        parsed.check_extensions()?;
        let constraints = parsed.extension::<BasicConstraints>()?;
        let Some(BasicConstraints { ca: true, path_len_constraint }) = constraints else {
            return broken("it is no authority's certificate");
        };
        if !parsed.extension::<KeyUsage>()?.is_some_and(|usage| usage.0.contains(KeyUsages::KeyCertSign)) {
            return broken("its key is not for signing certificates");
        }
        let purposes = parsed.extension::<ExtendedKeyUsage>()?;
        if purposes.is_some_and(|purposes| !purposes.0.contains(&EKU_ENDORSEMENT) && !purposes.0.contains(&EKU_ANY)) {
            return broken("it may not issue certificates of endorsement keys");
        }
        if parsed.is_critical(SubjectAltName::OID) {
            return broken("it has a critical extension that is not read here");
        }
        Ok(Self { parsed, below_max: path_len_constraint })
    }
}

/// A certificate with the marks of one on an endorsement key. Who vouches for it is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EkCertificate {
    pub(super) parsed: Parsed,
}

impl EkCertificate {
    /// Reads what an NV index holds: one certificate in DER, and filling of zeros or ones behind it.
    ///
    /// # Errors
    /// [`CertificateFault`].
    pub fn from_nv(bytes: &[u8]) -> Result<Self, CertificateFault> {
        let parsed = Parsed::from_der(without_filling(bytes).ok_or(CertificateFault::Syntax)?)?;
        let broken = |rule| Err(CertificateFault::Profile { rule });
        parsed.check_extensions()?;
        if parsed.extension::<BasicConstraints>()?.is_some_and(|constraints| constraints.ca) {
            return broken("it claims to be an authority's");
        }
        let usage = parsed.extension::<KeyUsage>()?.map(|usage| usage.0).unwrap_or_default();
        let for_keys = usage.contains(KeyUsages::KeyEncipherment) || usage.contains(KeyUsages::KeyAgreement);
        if !for_keys || usage.contains(KeyUsages::KeyCertSign) {
            return broken("its key usage is not that of an endorsement key");
        }
        if !parsed.extension::<ExtendedKeyUsage>()?.is_some_and(|purposes| purposes.0.contains(&EKU_ENDORSEMENT)) {
            return broken("its extended key usage is not that of an endorsement key");
        }
        let directory = |name: &GeneralName| matches!(name, GeneralName::DirectoryName(_));
        if !parsed.extension::<SubjectAltName>()?.is_some_and(|names| names.0.iter().any(directory)) {
            return broken("its alternative name does not describe a TPM");
        }
        Ok(Self { parsed })
    }
}

/// The DER value at the start of `bytes`, if all that follows it is zeros or all ones.
fn without_filling(bytes: &[u8]) -> Option<&[u8]> {
    let bytes = bytes.get(..bytes.len().min(CERTIFICATE_BYTES_MAX))?;
    let mut reader = SliceReader::new(bytes).ok()?;
    let header = Header::decode(&mut reader).ok()?;
    let length =
        usize::try_from(u32::from(reader.position())).ok()?.checked_add(usize::try_from(header.length()).ok()?)?;
    let (value, filling) = bytes.split_at_checked(length)?;
    let even = [0x00, 0xff].into_iter().any(|fill| filling.iter().all(|byte| *byte == fill));
    even.then_some(value)
}
