//! The signature on a quote: ECDSA over P-256 with SHA-256, in one spelling.
//!
//! For every ECDSA signature `(r, s)` there is a second, `(r, n - s)`. Only the one with the smaller `s` is read, and both numbers
//! have all their 32 bytes, so that no byte of a signature in the evidence is free.

use p256::ecdsa::Signature;

use super::ALG_SHA256;
use crate::wire::Reader;

/// `TPM_ALG_ECDSA`.
const ALG_ECDSA: u16 = 0x0018;
/// Bytes of `r` and of `s`.
const NUMBER_BYTES: usize = 32;

/// A well-formed signature with the smaller `s`. It says nothing until a key verifies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteSignature(Signature);

/// Why bytes are not such a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not a `TPMT_SIGNATURE` with ECDSA and SHA-256, or more than that, or numbers outside the curve's order.
    #[error("not a TPMT_SIGNATURE with ECDSA over P-256 and SHA-256")]
    Malformed,
    /// The signature has the larger `s`, or its numbers are not written in 32 bytes each.
    #[error("the signature is not written in its one accepted spelling (small s, 32 bytes each)")]
    NotNormal,
}

impl QuoteSignature {
    /// Reads a `TPMT_SIGNATURE` in its one accepted spelling.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        let signature = Self::normalise(bytes)?;
        if signature.to_bytes() == bytes { Ok(signature) } else { Err(SignatureError::NotNormal) }
    }

    /// Reads a `TPMT_SIGNATURE` as a TPM writes it and takes the smaller `s`.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`].
    pub fn normalise(bytes: &[u8]) -> Result<Self, SignatureError> {
        let mut reader = Reader::new(bytes);
        let mut read = || {
            let algorithms = (reader.u16()?, reader.u16()?);
            let numbers = (number(reader.sized()?)?, number(reader.sized()?)?);
            (algorithms == (ALG_ECDSA, ALG_SHA256) && reader.is_empty()).then_some(numbers)
        };
        let (r, s) = read().ok_or(SignatureError::Malformed)?;
        let signature = Signature::from_scalars(r, s).map_err(|_| SignatureError::Malformed)?;
        Ok(Self(signature.normalize_s()))
    }

    /// The `TPMT_SIGNATURE`, 72 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [ALG_ECDSA.to_be_bytes(), ALG_SHA256.to_be_bytes()].concat();
        let (r, s) = self.0.split_bytes();
        for number in [r, s] {
            bytes.extend([0, NUMBER_BYTES as u8]);
            bytes.extend(number);
        }
        bytes
    }

    pub(super) const fn as_ecdsa(&self) -> &Signature {
        &self.0
    }
}

/// A number of at most 32 bytes, filled up on the left.
fn number(bytes: &[u8]) -> Option<[u8; NUMBER_BYTES]> {
    let mut number = [0; NUMBER_BYTES];
    let start = NUMBER_BYTES.checked_sub(bytes.len())?;
    number.get_mut(start..)?.copy_from_slice(bytes);
    Some(number)
}
