//! How a machine shows which TPM it has, before it is certified.
//!
//! The machine sends an [`Enrolment`]; the authority answers with a challenge and a [`Credential`], which only the TPM with that
//! endorsement key opens, and only for that attestation key. What was in it keys [`proof`] over the answer to the challenge.
//!
//! Holding a checked [`Enrolment`] says nothing yet: every part of it is public, and anybody can send it.
//!
//! Source: TPM 2.0 Library part 1, section 24 (credential protection).

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};

use crate::challenge::Challenge;
use crate::digest::Sha256Digest;
use crate::link::Blob;
use crate::wire::Reader;

/// The largest enrolment, in bytes of JSON: [`CERTIFICATES_MAX`] and [`CHAIN_MAX`] certificates and two keys.
pub const ENROLMENT_BYTES_MAX: usize = 128 << 10;
/// The most certificates of endorsement keys: one for each template.
pub const CERTIFICATES_MAX: usize = 3;
/// The most certificates of authorities that a TPM may keep for its own.
pub const CHAIN_MAX: usize = 8;
/// Bytes of the secret in a credential: as many as the smallest name algorithm's digest has.
pub const SECRET_BYTES: usize = 32;
/// The largest contents of a `TPM2B_ID_OBJECT`: two digests of SHA-512 behind their lengths.
const ID_OBJECT_BYTES_MAX: usize = 2 * (2 + 64);
/// The largest contents of a `TPM2B_ENCRYPTED_SECRET`: as long as an RSA-4096 modulus.
const ENCRYPTED_SECRET_BYTES_MAX: usize = 512;

/// What a machine says of its TPM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// Every certificate of an endorsement key that the TPM keeps, as its NV memory has it; none if it keeps none.
    pub certificates: Vec<Blob>,
    /// The certificates of their issuers, as far as the TPM keeps them (DER).
    pub chain: Vec<Blob>,
    /// The endorsement key that the machine can use (`TPMT_PUBLIC`).
    pub endorsement_key: Blob,
    /// This boot's attestation key (`TPMT_PUBLIC`).
    pub attestation_key: Blob,
}

impl Enrolment {
    /// Whether the lists are within their bounds.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.certificates.len() <= CERTIFICATES_MAX && self.chain.len() <= CHAIN_MAX
    }
}

/// What the authority answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// What to answer.
    pub challenge: Challenge,
    /// What to open.
    pub credential: Credential,
}

/// A secret for one TPM and one attestation key in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The secret, encrypted and authenticated: a `TPM2B_ID_OBJECT`, length included.
    pub id_object: Blob,
    /// What its keys are derived from, encrypted to the endorsement key: a `TPM2B_ENCRYPTED_SECRET`, length included.
    pub encrypted_secret: Blob,
}

/// A credential that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one {structure}")]
pub struct CredentialError {
    /// Which structure is not one.
    pub structure: &'static str,
}

impl Credential {
    /// Puts lengths before the contents of both structures; `None` if they are longer than any.
    #[must_use]
    pub fn of_contents(id_object: &[u8], encrypted_secret: &[u8]) -> Option<Self> {
        let sized = |bytes: &[u8], bytes_max: usize| {
            let length = u16::try_from(bytes.len()).ok().filter(|_| bytes.len() <= bytes_max)?;
            Some(Blob([&length.to_be_bytes()[..], bytes].concat()))
        };
        Some(Self {
            id_object: sized(id_object, ID_OBJECT_BYTES_MAX)?,
            encrypted_secret: sized(encrypted_secret, ENCRYPTED_SECRET_BYTES_MAX)?,
        })
    }

    /// What is behind the length of the `TPM2B_ID_OBJECT`.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn id_object(&self) -> Result<&[u8], CredentialError> {
        let structure = "TPM2B_ID_OBJECT";
        contents(&self.id_object.0, ID_OBJECT_BYTES_MAX).ok_or(CredentialError { structure })
    }

    /// What is behind the length of the `TPM2B_ENCRYPTED_SECRET`.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn encrypted_secret(&self) -> Result<&[u8], CredentialError> {
        let structure = "TPM2B_ENCRYPTED_SECRET";
        contents(&self.encrypted_secret.0, ENCRYPTED_SECRET_BYTES_MAX).ok_or(CredentialError { structure })
    }
}

fn contents(bytes: &[u8], bytes_max: usize) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes);
    reader.sized().filter(|contents| reader.is_empty() && !contents.is_empty() && contents.len() <= bytes_max)
}

/// What only a machine can say that opened the credential: HMAC-SHA256, keyed with its secret, over the digest of the binding,
/// which the first quote has as its qualifying data.
#[must_use]
pub fn proof(secret: &[u8; SECRET_BYTES], binding_sha256: &Sha256Digest) -> Sha256Digest {
    Sha256Digest::from_bytes(mac(secret, binding_sha256).finalize().into_bytes().into())
}

/// Whether `said` is that proof; takes the same time whatever is wrong with it.
#[must_use]
pub fn proves(said: &Sha256Digest, secret: &[u8; SECRET_BYTES], binding_sha256: &Sha256Digest) -> bool {
    mac(secret, binding_sha256).verify_slice(said.as_bytes()).is_ok()
}

fn mac(secret: &[u8; SECRET_BYTES], binding_sha256: &Sha256Digest) -> Hmac<sha2::Sha256> {
    /// Keeps the proof apart from everything else that the secret could key.
    const PURPOSE: &[u8] = b"kiln: enrolment proof v1\0";
    // Filled with zeros to a block of the hash, as every short key is: RFC 2104, section 2.
    let mut key = [0; 64];
    key.iter_mut().zip(secret).for_each(|(to, from)| *to = *from);
    let mut mac = Hmac::<sha2::Sha256>::new(&key.into());
    mac.update(PURPOSE);
    mac.update(binding_sha256.as_bytes());
    mac
}
