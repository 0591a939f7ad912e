//! Quotes of other TPMs and other programs: any registers, any bank, ECDSA over P-256 or RSA.
//!
//! Holding a [`ForeignQuote`] tells you that the key you named signed these bytes and that they are a quote. It does not tell you
//! whose key it is: that its TPM is a real one, and which machine's, is for whoever gave you the key to say. Where
//! [`super::Quote`] reads one exact shape, this reads what `tpm2_quote` writes. Deliberately absent: RSA-PSS, other curves, HMAC,
//! signatures without their scheme (`tpm2_quote -f plain`).
//!
//! Source: TPM 2.0 Library part 2, sections 10.12.12 (TPMS_ATTEST), 10.9.7 (TPML_PCR_SELECTION), 11.3.4 (TPMT_SIGNATURE), 12.2.4
//! (TPMT_PUBLIC).

#[cfg(test)]
mod tests;

use p256::ecdsa::VerifyingKey;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::pkcs8::DecodePublicKey as _;
use x509_cert::der::{Decode as _, DecodePem as _, Encode as _};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use super::rsa::RsaKey;
use super::{Clock, MAGIC, TYPE_QUOTE};
use crate::pcr::{Bank, BankDigest, PcrIndex, PcrValues};
use crate::wire::Reader;

/// The largest quote, signature or key that is read, in bytes: an RSA-4096 key in a certificate has fewer.
pub const FOREIGN_BYTES_MAX: usize = 16 << 10;
/// The most selections of a quote: one for each bank, with room.
const SELECTIONS_MAX: u32 = 16;

/// `TPM_ALG_RSA`, `TPM_ALG_ECC`, `TPM_ALG_NULL`, `TPM_ALG_RSASSA`, `TPM_ALG_ECDSA`, `TPM_ALG_ECDAA`, `TPM_ECC_NIST_P256`.
const ALG_RSA: u16 = 0x0001;
const ALG_ECC: u16 = 0x0023;
const ALG_NULL: u16 = 0x0010;
const ALG_RSASSA: u16 = 0x0014;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECDAA: u16 = 0x001a;
const CURVE_P256: u16 = 0x0003;
/// The key signs nothing but what its TPM generated. Source: TPM 2.0 Library part 2, section 8.3.2 (`restricted`, `sign`).
const RESTRICTED_SIGN: u32 = 1 << 16 | 1 << 18;

/// Which registers were quoted, and the digest over their values: what a log has to lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// Bank by bank, in the quote's order; registers ascending.
    selections: Vec<(Bank, Vec<PcrIndex>)>,
    /// The digest over all their values, in the signature's hash.
    digest: BankDigest,
}

impl Quoted {
    /// What our own quotes cover: SHA-256 PCR 0 to 15.
    #[must_use]
    pub fn by_kiln(digest: crate::digest::Sha256Digest) -> Option<Self> {
        let digest = BankDigest::new(Bank::Sha256, digest.as_bytes())?;
        Some(Self { selections: vec![(Bank::Sha256, PcrIndex::quoted().collect())], digest })
    }

    /// The digest that the TPM signed.
    #[must_use]
    pub const fn digest(&self) -> BankDigest {
        self.digest
    }

    /// Bank by bank, which registers it covers.
    #[must_use]
    pub fn selections(&self) -> &[(Bank, Vec<PcrIndex>)] {
        &self.selections
    }

    /// Whether the quote covers a register.
    #[must_use]
    pub fn covers(&self, bank: Bank, index: PcrIndex) -> bool {
        self.selections.iter().any(|(of, registers)| *of == bank && registers.contains(&index))
    }

    /// The digest that a quote of `values` would have.
    #[must_use]
    pub fn digest_of(&self, values: &PcrValues) -> Option<BankDigest> {
        let mut bytes = Vec::new();
        for (bank, registers) in &self.selections {
            registers.iter().for_each(|index| bytes.extend(values.get_or_reset(*bank, *index).as_bytes()));
        }
        self.digest.bank().hash(&bytes)
    }
}

/// A quote whose signature was checked under the key that was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignQuote {
    /// The registers and their digest.
    pub quoted: Quoted,
    /// What the caller of `TPM2_Quote` gave.
    pub qualifying: Vec<u8>,
    /// The TPM's clock and counters.
    pub clock: Clock,
}

/// Why bytes are not a quote under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForeignQuoteError {
    /// Not the structure, or more than it.
    #[error("the quote is not a TPMS_ATTEST")]
    Malformed,
    /// The TPM did not make it, or it attests something else.
    #[error("the attestation is no quote that a TPM made")]
    NotAQuote,
    /// A bank that we do not know.
    #[error("the quote covers a bank of an unknown algorithm {algorithm:#06x}")]
    Bank {
        /// `TPM_ALG_ID`.
        algorithm: u16,
    },
    /// Another scheme than RSASSA or ECDSA, or another hash, or more bytes.
    #[error("the signature is not a TPMT_SIGNATURE with RSASSA or ECDSA")]
    SignatureFormat,
    /// The key did not sign this.
    #[error("the quote's signature does not hold under the key")]
    Signature,
    /// No key that we can use.
    #[error(
        "the key is no public key on P-256 or RSA of 2048 to 4096 bits (PEM, certificate, TPM2B_PUBLIC or TPMT_PUBLIC)"
    )]
    Key,
    /// The key signs whatever it is given, so what it signs says nothing about a TPM.
    #[error(
        "the key is not restricted to what its TPM generated (attributes {attributes:#010x}): anyone who can use it can make a quote"
    )]
    Unrestricted {
        /// Its `TPMA_OBJECT`.
        attributes: u32,
    },
}

/// A key that may have signed a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuoteKey {
    /// On P-256.
    P256(Box<VerifyingKey>),
    /// RSA.
    Rsa(RsaKey),
}

impl QuoteKey {
    /// Reads a public key or a certificate in PEM, a `TPM2B_PUBLIC` (`tpm2_createak`'s own), or a `TPMT_PUBLIC`.
    ///
    /// # Errors
    /// [`ForeignQuoteError::Key`], [`ForeignQuoteError::Unrestricted`] for a TPM's key that signs anything.
    pub fn read(bytes: &[u8]) -> Result<Self, ForeignQuoteError> {
        if bytes.len() > FOREIGN_BYTES_MAX {
            return Err(ForeignQuoteError::Key);
        }
        if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Self::from_pem(bytes).ok_or(ForeignQuoteError::Key);
        }
        let area = Reader::new(bytes).sized().filter(|area| area.len().checked_add(2) == Some(bytes.len()));
        Self::from_public_area(area.unwrap_or(bytes))
    }

    fn from_pem(pem: &[u8]) -> Option<Self> {
        let info = match x509_cert::Certificate::from_pem(pem) {
            Ok(certificate) => certificate.tbs_certificate().subject_public_key_info().clone(),
            Err(_) => SubjectPublicKeyInfoOwned::from_pem(pem).ok()?,
        };
        let der = info.to_der().ok()?;
        match VerifyingKey::from_public_key_der(&der) {
            Ok(key) => Some(Self::P256(Box::new(key))),
            Err(_) => RsaKey::from_spki(&SubjectPublicKeyInfoOwned::from_der(&der).ok()?).map(Self::Rsa),
        }
    }

    fn from_public_area(bytes: &[u8]) -> Result<Self, ForeignQuoteError> {
        let (attributes, key) = public_area(bytes).ok_or(ForeignQuoteError::Key)?;
        if attributes & RESTRICTED_SIGN != RESTRICTED_SIGN {
            return Err(ForeignQuoteError::Unrestricted { attributes });
        }
        Ok(key)
    }

    /// Whether the key made the signature over `message`; the hash of the scheme comes with it.
    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<Bank, ForeignQuoteError> {
        const FORMAT: ForeignQuoteError = ForeignQuoteError::SignatureFormat;
        let mut reader = Reader::new(signature);
        let scheme = reader.u16().ok_or(FORMAT)?;
        let hash = reader.u16().and_then(Bank::from_algorithm).ok_or(FORMAT)?;
        let digest = hash.hash(message).ok_or(FORMAT)?;
        let holds = match (self, scheme) {
            (Self::P256(key), ALG_ECDSA) => {
                let (r, s) = reader.sized().and_then(number).zip(reader.sized().and_then(number)).ok_or(FORMAT)?;
                let signature = p256::ecdsa::Signature::from_scalars(r, s).map_err(|_| FORMAT)?;
                key.verify_prehash(digest.as_bytes(), &signature).is_ok()
            }
            (Self::Rsa(key), ALG_RSASSA) => key.verify(&digest, reader.sized().ok_or(FORMAT)?),
            _ => return Err(FORMAT),
        };
        match (reader.is_empty(), holds) {
            (false, _) => Err(FORMAT),
            (true, false) => Err(ForeignQuoteError::Signature),
            (true, true) => Ok(hash),
        }
    }
}

/// A number of at most 32 bytes, filled up on the left.
fn number(bytes: &[u8]) -> Option<[u8; 32]> {
    let mut number = [0; 32];
    number.get_mut(32_usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(number)
}

/// The attributes and the key of a `TPMT_PUBLIC`.
fn public_area(bytes: &[u8]) -> Option<(u32, QuoteKey)> {
    let mut reader = Reader::new(bytes);
    let (kind, _name_algorithm, attributes) = (reader.u16()?, reader.u16()?, reader.u32()?);
    let _policy = reader.sized()?;
    if reader.u16()? != ALG_NULL {
        reader.take(4)?; // the bits and the mode of a symmetric algorithm, which only storage keys have
    }
    match reader.u16()? {
        ALG_NULL => {}
        ALG_ECDAA => drop(reader.take(4)?),
        _ => drop(reader.take(2)?),
    }
    let key = match kind {
        ALG_RSA => {
            let (_bits, exponent) = (reader.u16()?, reader.u32()?);
            // Zero stands for the usual one.
            QuoteKey::Rsa(RsaKey::new(reader.sized()?, if exponent == 0 { 65537 } else { exponent })?)
        }
        ALG_ECC => {
            let curve = reader.u16()?;
            if reader.u16()? != ALG_NULL {
                reader.take(2)?;
            }
            let (x, y) = (number(reader.sized()?)?, number(reader.sized()?)?);
            let point = [&[0x04][..], &x, &y].concat();
            QuoteKey::P256(Box::new(VerifyingKey::from_sec1_bytes(&point).ok().filter(|_| curve == CURVE_P256)?))
        }
        _ => return None,
    };
    reader.is_empty().then_some((attributes, key))
}

impl ForeignQuote {
    /// Checks the signature, then reads the quote.
    ///
    /// # Errors
    /// [`ForeignQuoteError`], the signature's first: nothing unsigned is read.
    pub fn verify(attest: &[u8], signature: &[u8], key: &QuoteKey) -> Result<Self, ForeignQuoteError> {
        if attest.len() > FOREIGN_BYTES_MAX {
            return Err(ForeignQuoteError::Malformed);
        }
        let hash = key.verify(attest, signature)?;
        decode(attest, hash)
    }
}

fn decode(attest: &[u8], hash: Bank) -> Result<ForeignQuote, ForeignQuoteError> {
    const MALFORMED: ForeignQuoteError = ForeignQuoteError::Malformed;
    let mut reader = Reader::new(attest);
    let head = reader.u32().zip(reader.u16()).ok_or(MALFORMED)?;
    if head != (MAGIC, TYPE_QUOTE) {
        return Err(ForeignQuoteError::NotAQuote);
    }
    let _signer = reader.sized().ok_or(MALFORMED)?;
    let qualifying = reader.sized().ok_or(MALFORMED)?.to_vec();
    let clock = Clock {
        clock_ms: reader.u64().ok_or(MALFORMED)?,
        reset_count: reader.u32().ok_or(MALFORMED)?,
        restart_count: reader.u32().ok_or(MALFORMED)?,
        safe: reader.yes_no().ok_or(MALFORMED)?,
    };
    let _firmware_version = reader.u64().ok_or(MALFORMED)?;
    let count = reader.u32().filter(|count| *count <= SELECTIONS_MAX).ok_or(MALFORMED)?;
    let selections = (0..count).map(|_| selection(&mut reader)).collect::<Result<Vec<_>, _>>()?;
    let digest = reader.sized().and_then(|digest| BankDigest::new(hash, digest)).ok_or(MALFORMED)?;
    if !reader.is_empty() {
        return Err(MALFORMED);
    }
    Ok(ForeignQuote { quoted: Quoted { selections, digest }, qualifying, clock })
}

fn selection(reader: &mut Reader<'_>) -> Result<(Bank, Vec<PcrIndex>), ForeignQuoteError> {
    const MALFORMED: ForeignQuoteError = ForeignQuoteError::Malformed;
    let algorithm = reader.u16().ok_or(MALFORMED)?;
    let select_bytes = usize::from(reader.u8().ok_or(MALFORMED)?);
    let select = reader.take(select_bytes).ok_or(MALFORMED)?;
    let bank = Bank::from_algorithm(algorithm).ok_or(ForeignQuoteError::Bank { algorithm })?;
    let bits = (0_u32..).zip(select.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)));
    let selected = bits.filter(|(_, selected)| *selected).map(|(number, _)| PcrIndex::new(number));
    Ok((bank, selected.collect::<Result<_, _>>().map_err(|_| MALFORMED)?))
}
