//! The key that a TPM was born with, and who vouches for it: what says *which* TPM a machine has.
//!
//! Holding an [`EkPublic`] tells you that the bytes describe a storage key made from one of three templates of the TCG, and so one
//! that only decrypts, and only for its own TPM. It does not tell you that a TPM holds it: that is what the certificate on the key
//! says ([`EkCertificate::vouched`]), or a person who wrote its digest down, and what activating a credential proves.
//!
//! A machine is named by [`EkPublic::sha256`]. Deliberately absent: other templates (RSA-3072 and up, P-521, SM2), EK nonces.
//!
//! Source: TCG EK Credential Profile for TPM Family 2.0, version 2.5, appendix B; TPM 2.0 Library part 2, section 12.2.4.

mod certificate;
mod class;
mod path;
#[cfg(test)]
mod tests;

use x509_cert::der::Encode as _;
use x509_cert::der::asn1::{Any, BitString, ObjectIdentifier, Uint};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

pub use certificate::{CERTIFICATE_BYTES_MAX, CaCertificate, CertificateFault, EKU_ENDORSEMENT, EkCertificate};
pub use class::{OtherClass, ParseTpmClassError, TpmClass};
pub use path::{CHAIN_DEPTH_MAX, PathFault, Roots};

use crate::digest::Sha256Digest;
use crate::pcr::Bank;
use crate::quote::RsaKey;
use crate::wire::Reader;

/// `TPM_ALG_RSA`, `TPM_ALG_ECC`, `TPM_ALG_AES`, `TPM_ALG_CFB`, `TPM_ALG_NULL`.
const ALG_RSA: u16 = 0x0001;
const ALG_ECC: u16 = 0x0023;
const ALG_AES: u16 = 0x0006;
const ALG_CFB: u16 = 0x0043;
const ALG_NULL: u16 = 0x0010;
/// `TPM_ECC_NIST_P256`, `TPM_ECC_NIST_P384`.
const CURVE_P256: u16 = 0x0003;
const CURVE_P384: u16 = 0x0004;

/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt: templates L-1 and L-2.
const ATTRIBUTES_LOW: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 16 | 1 << 17;
/// The same and userWithAuth: template H-3.
const ATTRIBUTES_HIGH: u32 = ATTRIBUTES_LOW | 1 << 6;

/// `PolicySecret(TPM_RH_ENDORSEMENT)` in SHA-256. Source: the profile, section B.6.2 (PolicyA).
const POLICY_LOW: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// That, or what an NV index says (`PolicyOR`), in SHA-384. Source: the profile, section B.6.5 (PolicyB).
const POLICY_HIGH: [u8; 48] = [
    0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a, 0x07, 0x41, 0x48,
    0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca, 0xcb, 0x47, 0xba, 0x09, 0x69, 0x96,
    0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
];

/// `id-ecPublicKey`, `secp256r1`, `secp384r1`. Source: RFC 5480, section 2.1.1.
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
/// `rsaEncryption`; `id-RSAES-OAEP`, which some vendors put on their endorsement keys. Source: RFC 8017, appendix A.
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSAES_OAEP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7");

/// Which template a key was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EkKind {
    /// L-1: certificate in NV index 0x01c00002.
    Rsa2048,
    /// L-2: certificate in NV index 0x01c0000a.
    P256,
    /// H-3: certificate in NV index 0x01c00016.
    P384,
}

impl EkKind {
    /// All of them, in the order in which a machine looks for a certificate: those of elliptic curves are fast.
    pub const ALL: [Self; 3] = [Self::P256, Self::P384, Self::Rsa2048];

    /// The NV index that holds the certificate of such a key. Source: the profile, sections 2.2.1.4 and 2.2.1.5.
    #[must_use]
    pub const fn nv_index(self) -> u32 {
        match self {
            Self::Rsa2048 => 0x01c0_0002,
            Self::P256 => 0x01c0_000a,
            Self::P384 => 0x01c0_0016,
        }
    }

    /// The key's name algorithm, which derives and protects credentials.
    #[must_use]
    pub const fn name_hash(self) -> Bank {
        match self {
            Self::Rsa2048 | Self::P256 => Bank::Sha256,
            Self::P384 => Bank::Sha384,
        }
    }

    /// Bytes of the AES key that a credential is encrypted with.
    #[must_use]
    pub const fn cipher_bytes(self) -> usize {
        match self {
            Self::Rsa2048 | Self::P256 => 16,
            Self::P384 => 32,
        }
    }

    /// Bytes of a coordinate; none for RSA.
    const fn coordinate_bytes(self) -> usize {
        match self {
            Self::Rsa2048 => 0,
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

/// The number itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EkNumber {
    /// Modulus and exponent.
    Rsa(RsaKey),
    /// The point in SEC 1, uncompressed. Whether it lies on the curve is found out by whoever computes with it.
    Point(Vec<u8>),
}

/// A `TPMT_PUBLIC` of one of the three templates, bit by bit but for the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EkPublic {
    kind: EkKind,
    number: EkNumber,
    spki: Vec<u8>,
}

/// Why bytes are not the public area of an endorsement key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EkPublicError {
    /// Not a `TPMT_PUBLIC`, or more than one.
    #[error("not the TPMT_PUBLIC of an RSA or ECC key")]
    Malformed,
    /// Attributes, policy, name algorithm, cipher, scheme, size or curve of no template.
    #[error("not made from the template of an endorsement key (L-1: RSA-2048, L-2: P-256, H-3: P-384)")]
    Template,
}

impl EkPublic {
    /// Reads a `TPMT_PUBLIC`.
    ///
    /// # Errors
    /// [`EkPublicError`] by cause.
    pub fn parse(bytes: &[u8]) -> Result<Self, EkPublicError> {
        const MALFORMED: EkPublicError = EkPublicError::Malformed;
        let mut reader = Reader::new(bytes);
        let (algorithm, name_hash) = (reader.u16().ok_or(MALFORMED)?, reader.u16().ok_or(MALFORMED)?);
        let attributes = reader.u32().ok_or(MALFORMED)?;
        let policy = reader.sized().ok_or(MALFORMED)?;
        let mut word = || reader.u16().ok_or(MALFORMED);
        let cipher = (word()?, word()?, word()?);
        let (scheme, size) = (word()?, word()?);
        let (kind, attributes_expected, policy_expected): (_, _, &[u8]) = match (algorithm, size) {
            (ALG_RSA, 2048) => (EkKind::Rsa2048, ATTRIBUTES_LOW, &POLICY_LOW),
            (ALG_ECC, CURVE_P256) => (EkKind::P256, ATTRIBUTES_LOW, &POLICY_LOW),
            (ALG_ECC, CURVE_P384) => (EkKind::P384, ATTRIBUTES_HIGH, &POLICY_HIGH),
            (ALG_RSA | ALG_ECC, _) => return Err(EkPublicError::Template),
            _ => return Err(MALFORMED),
        };
        let cipher_bits = u16::try_from(kind.cipher_bytes() * 8).map_err(|_| MALFORMED)?;
        let template = (name_hash, attributes, policy, cipher, scheme);
        let cipher_expected = (ALG_AES, cipher_bits, ALG_CFB);
        if template != (kind.name_hash().algorithm(), attributes_expected, policy_expected, cipher_expected, ALG_NULL) {
            return Err(EkPublicError::Template);
        }
        let number = match kind {
            EkKind::Rsa2048 => rsa(&mut reader)?,
            EkKind::P256 | EkKind::P384 => point(&mut reader, kind.coordinate_bytes())?,
        };
        if !reader.is_empty() {
            return Err(MALFORMED);
        }
        let spki = spki(kind, &number).map_err(|_| MALFORMED)?;
        Ok(Self { kind, number, spki })
    }

    /// Which template.
    #[must_use]
    pub const fn kind(&self) -> EkKind {
        self.kind
    }

    /// The number itself.
    #[must_use]
    pub const fn number(&self) -> &EkNumber {
        &self.number
    }

    /// The key as certificates carry it: `SubjectPublicKeyInfo` (DER).
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The digest of [`EkPublic::spki`], which names the machine.
    #[must_use]
    pub fn sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&self.spki)
    }

    /// Whether a certificate's key is this one. A vendor may say of an RSA key that it is for OAEP.
    pub(crate) fn is(&self, info: &SubjectPublicKeyInfoOwned) -> bool {
        let mut info = info.clone();
        if info.algorithm.oid == RSAES_OAEP {
            info.algorithm = rsa_encryption();
        }
        info.to_der().is_ok_and(|der| der == self.spki)
    }
}

/// The exponent zero stands for the usual one. Source: TPM 2.0 Library part 2, section 12.2.3.5.
fn rsa(reader: &mut Reader<'_>) -> Result<EkNumber, EkPublicError> {
    let exponent = reader.u32().ok_or(EkPublicError::Malformed)?;
    let modulus: [u8; 256] = reader.sized_exact().ok_or(EkPublicError::Malformed)?;
    if exponent != 0 {
        return Err(EkPublicError::Template);
    }
    RsaKey::new(&modulus, 65537).map(EkNumber::Rsa).ok_or(EkPublicError::Malformed)
}

fn point(reader: &mut Reader<'_>, coordinate_bytes: usize) -> Result<EkNumber, EkPublicError> {
    if reader.u16().ok_or(EkPublicError::Malformed)? != ALG_NULL {
        return Err(EkPublicError::Template);
    }
    let mut point = vec![0x04];
    for _ in 0..2 {
        // A TPM may leave out leading zeros.
        let number = reader.sized().ok_or(EkPublicError::Malformed)?;
        let missing = coordinate_bytes.checked_sub(number.len()).ok_or(EkPublicError::Malformed)?;
        point.resize(point.len() + missing, 0);
        point.extend_from_slice(number);
    }
    Ok(EkNumber::Point(point))
}

fn spki(kind: EkKind, number: &EkNumber) -> x509_cert::der::Result<Vec<u8>> {
    let (algorithm, bytes) = match (kind, number) {
        (_, EkNumber::Rsa(key)) => {
            let numbers = vec![Uint::new(key.modulus())?, Uint::new(&65537_u32.to_be_bytes()[1..])?];
            (rsa_encryption(), numbers.to_der()?)
        }
        (kind, EkNumber::Point(point)) => {
            let curve = if kind == EkKind::P256 { SECP256R1 } else { SECP384R1 };
            let parameters = Some(Any::encode_from(&curve)?);
            (AlgorithmIdentifierOwned { oid: EC_PUBLIC_KEY, parameters }, point.clone())
        }
    };
    SubjectPublicKeyInfoOwned { algorithm, subject_public_key: BitString::from_bytes(&bytes)? }.to_der()
}

fn rsa_encryption() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: RSA_ENCRYPTION, parameters: Some(Any::null()) }
}
