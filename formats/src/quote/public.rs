//! The attestation key: as the TPM describes it, and as certificates carry it.

use p256::ecdsa::VerifyingKey;
use p256::pkcs8::{DecodePublicKey as _, EncodePublicKey as _};

use super::ALG_SHA256;
use crate::digest::Sha256Digest;
use crate::wire::Reader;

/// `TPM_ALG_ECC`.
const ALG_ECC: u16 = 0x0023;
/// `TPM_ALG_ECDSA`.
const ALG_ECDSA: u16 = 0x0018;
/// `TPM_ALG_NULL`.
const ALG_NULL: u16 = 0x0010;
/// `TPM_ECC_NIST_P256`.
const CURVE_P256: u16 = 0x0003;

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign; every other bit is clear.
///
/// Source: TPM 2.0 Library part 2, section 8.3.2.
const ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 16 | 1 << 18;

/// The public half of a key on P-256 that is to sign quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttestationKey(VerifyingKey);

/// A `TPMT_PUBLIC` with exactly the attributes of an attestation key: made inside one TPM, never to leave it, and restricted to
/// sign what that TPM generated. Only once a TPM has shown that it holds the key do these attributes mean anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AkPublic {
    key: AttestationKey,
    bytes: Vec<u8>,
}

/// Why bytes are not the public area of an attestation key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicError {
    /// Not a `TPMT_PUBLIC` of an ECC key, or more than that.
    #[error("not the TPMT_PUBLIC of an ECC key")]
    Malformed,
    /// The attributes are others.
    #[error("the key's attributes are {found:#010x}, an attestation key has exactly {ATTRIBUTES:#010x}")]
    Attributes {
        /// The `TPMA_OBJECT`.
        found: u32,
    },
    /// Another curve, scheme, name algorithm, key derivation, or a policy.
    #[error("an attestation key is on P-256, signs ECDSA with SHA-256, and has no policy")]
    Parameters,
    /// The point is not on the curve, or a certificate's key is not one on P-256 in its one encoding.
    #[error("the attestation key is not a point on P-256")]
    Point,
}

impl PublicError {
    /// `restricted` in a `TPMA_OBJECT`. Source: TPM 2.0 Library part 2, section 8.3.2.
    pub const RESTRICTED: u32 = 1 << 16;
}

impl AttestationKey {
    /// Reads a `SubjectPublicKeyInfo` (DER) in its one encoding.
    ///
    /// # Errors
    /// [`PublicError::Point`].
    pub fn from_spki(der: &[u8]) -> Result<Self, PublicError> {
        let key = Self(VerifyingKey::from_public_key_der(der).map_err(|_| PublicError::Point)?);
        if key.to_spki()? == der { Ok(key) } else { Err(PublicError::Point) }
    }

    /// The `SubjectPublicKeyInfo` (DER), as it goes into a certificate.
    ///
    /// # Errors
    /// Never for a key that exists; the signature is that of the encoder.
    pub fn to_spki(&self) -> Result<Vec<u8>, PublicError> {
        Ok(self.0.to_public_key_der().map_err(|_| PublicError::Point)?.into_vec())
    }

    pub(super) const fn verifying_key(&self) -> &VerifyingKey {
        &self.0
    }
}

impl AkPublic {
    /// Reads a `TPMT_PUBLIC`.
    ///
    /// # Errors
    /// [`PublicError`] by cause.
    pub fn parse(bytes: &[u8]) -> Result<Self, PublicError> {
        const MALFORMED: PublicError = PublicError::Malformed;
        let mut reader = Reader::new(bytes);
        let kind = reader.u16().ok_or(MALFORMED)?;
        if kind != ALG_ECC {
            return Err(MALFORMED);
        }
        let name_algorithm = reader.u16().ok_or(MALFORMED)?;
        let attributes = reader.u32().ok_or(MALFORMED)?;
        if attributes != ATTRIBUTES {
            return Err(PublicError::Attributes { found: attributes });
        }
        let policy = reader.sized().ok_or(MALFORMED)?;
        let mut parameter = || reader.u16().ok_or(MALFORMED);
        let (symmetric, scheme, hash) = (parameter()?, parameter()?, parameter()?);
        let (curve, derivation) = (parameter()?, parameter()?);
        let expected = (ALG_SHA256, ALG_NULL, ALG_ECDSA, ALG_SHA256, CURVE_P256, ALG_NULL);
        if (name_algorithm, symmetric, scheme, hash, curve, derivation) != expected || !policy.is_empty() {
            return Err(PublicError::Parameters);
        }
        let x: [u8; 32] = reader.sized_exact().ok_or(MALFORMED)?;
        let y: [u8; 32] = reader.sized_exact().ok_or(MALFORMED)?;
        if !reader.is_empty() {
            return Err(MALFORMED);
        }
        let point = [&[0x04][..], &x, &y].concat();
        let key = VerifyingKey::from_sec1_bytes(&point).map_err(|_| PublicError::Point)?;
        Ok(Self { key: AttestationKey(key), bytes: bytes.to_vec() })
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &AttestationKey {
        &self.key
    }

    /// The TPM's name for the key: the name algorithm and the digest of the public area.
    ///
    /// Source: TPM 2.0 Library part 1, section 16.
    #[must_use]
    pub fn name(&self) -> [u8; 34] {
        let mut name = [0; 34];
        let parts = ALG_SHA256.to_be_bytes().into_iter().chain(*Sha256Digest::of(&self.bytes).as_bytes());
        name.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        name
    }
}
