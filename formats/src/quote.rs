//! What the TPM signs: quotes, their signatures, and the key that makes them.
//!
//! Holding a [`Quote`] tells you that the holder of one [`AttestationKey`] signed it as a quote over the SHA-256 values of PCR 0
//! to 15, with 32 bytes of our choosing in it. It does not tell you that the key lives in a TPM: that is what the certificate on
//! the key says. Holding an [`AkPublic`] tells you that its attributes let it sign nothing but what the TPM itself made.
//!
//! Every decoder takes the whole input or refuses it. Deliberately absent: other kinds of attestation, other curves, other
//! hashes, other registers.
//!
//! Source: TPM 2.0 Library part 2, sections 10.12.12 (TPMS_ATTEST), 11.3.4 (TPMT_SIGNATURE), 12.2.4 (TPMT_PUBLIC).

mod foreign;
mod public;
mod rsa;
mod signature;
#[cfg(test)]
pub(crate) mod tests;

use p256::ecdsa::signature::Verifier as _;

pub use foreign::{FOREIGN_BYTES_MAX, ForeignQuote, ForeignQuoteError, QuoteKey, Quoted};
pub use public::{AkPublic, AttestationKey, PublicError};
pub use rsa::RsaKey;
pub use signature::{QuoteSignature, SignatureError};

use crate::digest::Sha256Digest;
use crate::wire::Reader;

/// `TPM_GENERATED_VALUE`: only the TPM puts it at the start of what a restricted key signs.
const MAGIC: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE`.
const TYPE_QUOTE: u16 = 0x8018;
/// `TPM_ALG_SHA256`.
const ALG_SHA256: u16 = 0x000b;
/// The three bytes of a selection of PCR 0 to 15.
const SELECTION: [u8; 3] = [0xff, 0xff, 0x00];

/// The largest `TPMS_ATTEST` that is read: ours have 145 bytes.
pub const ATTEST_BYTES_MAX: usize = 256;

/// A quote whose signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// The bytes that the caller of `TPM2_Quote` gave.
    pub qualifying: Sha256Digest,
    /// The hash over the values of PCR 0 to 15; compare with [`crate::pcr::PcrValues::quote_digest`].
    pub pcr_digest: Sha256Digest,
    /// The TPM's clock and counters.
    pub clock: Clock,
    /// The vendor's firmware version, as it likes to write it.
    pub firmware_version: u64,
    /// The qualified name of the signing key: algorithm and digest over the names up to the hierarchy.
    pub qualified_signer: [u8; 34],
}

/// The TPM's `TPMS_CLOCK_INFO`. Within one reset and restart count the clock only runs forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Milliseconds that the TPM was powered, over its life.
    pub clock_ms: u64,
    /// How often the TPM was reset.
    pub reset_count: u32,
    /// How often it was restarted or resumed since.
    pub restart_count: u32,
    /// Whether the clock is known not to have run backwards over a power loss.
    pub safe: bool,
}

/// Why bytes are no quote of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// The bytes do not hold the structure, or hold more than it.
    #[error("the quote is not a TPMS_ATTEST of the expected shape")]
    Malformed,
    /// The TPM did not make the structure.
    #[error("the quote does not begin with TPM_GENERATED_VALUE but with {found:#010x}")]
    Magic {
        /// What it begins with.
        found: u32,
    },
    /// It is another kind of attestation.
    #[error("the attestation is of type {found:#06x}, not a quote")]
    Type {
        /// The type.
        found: u16,
    },
    /// Other registers, or another bank.
    #[error("the quote does not cover exactly sha256:0-15")]
    Selection,
    /// The signature's bytes are no signature.
    #[error("the quote's signature is malformed")]
    SignatureFormat {
        /// What is wrong.
        #[from]
        source: SignatureError,
    },
    /// The key did not make this signature over these bytes.
    #[error("the quote's signature does not hold under the attestation key")]
    Signature,
}

impl QuoteError {
    /// The word for it in findings: an attestation of another kind has one of its own, for it is signed as rightly as a quote.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Type { .. } => "not_a_quote",
            Self::Malformed | Self::Magic { .. } | Self::Selection | Self::SignatureFormat { .. } | Self::Signature => {
                "quote"
            }
        }
    }
}

impl Quote {
    /// Checks the signature, then reads the quote.
    ///
    /// # Errors
    /// [`QuoteError`], the signature's first: nothing unsigned is read.
    pub fn verify(attest: &[u8], signature: &[u8], key: &AttestationKey) -> Result<Self, QuoteError> {
        if attest.len() > ATTEST_BYTES_MAX {
            return Err(QuoteError::Malformed);
        }
        let signature = QuoteSignature::parse(signature)?;
        key.verifying_key().verify(attest, signature.as_ecdsa()).map_err(|_| QuoteError::Signature)?;
        decode(attest)
    }
}

fn decode(attest: &[u8]) -> Result<Quote, QuoteError> {
    const MALFORMED: QuoteError = QuoteError::Malformed;
    let mut reader = Reader::new(attest);
    let magic = reader.u32().ok_or(MALFORMED)?;
    if magic != MAGIC {
        return Err(QuoteError::Magic { found: magic });
    }
    let kind = reader.u16().ok_or(MALFORMED)?;
    if kind != TYPE_QUOTE {
        return Err(QuoteError::Type { found: kind });
    }
    let qualified_signer: [u8; 34] = reader.sized_exact().ok_or(MALFORMED)?;
    if !qualified_signer.starts_with(&ALG_SHA256.to_be_bytes()) {
        return Err(MALFORMED);
    }
    let qualifying = Sha256Digest::from_bytes(reader.sized_exact().ok_or(MALFORMED)?);
    let clock = Clock {
        clock_ms: reader.u64().ok_or(MALFORMED)?,
        reset_count: reader.u32().ok_or(MALFORMED)?,
        restart_count: reader.u32().ok_or(MALFORMED)?,
        safe: reader.yes_no().ok_or(MALFORMED)?,
    };
    let firmware_version = reader.u64().ok_or(MALFORMED)?;
    let selections = reader.u32().ok_or(MALFORMED)?;
    let bank = reader.u16().ok_or(MALFORMED)?;
    let select_bytes = reader.u8().ok_or(MALFORMED)?;
    if selections != 1 || bank != ALG_SHA256 || usize::from(select_bytes) != SELECTION.len() {
        return Err(QuoteError::Selection);
    }
    if reader.take(SELECTION.len()).ok_or(MALFORMED)? != SELECTION {
        return Err(QuoteError::Selection);
    }
    let pcr_digest = Sha256Digest::from_bytes(reader.sized_exact().ok_or(MALFORMED)?);
    if !reader.is_empty() {
        return Err(MALFORMED);
    }
    Ok(Quote { qualifying, pcr_digest, clock, firmware_version, qualified_signer })
}
