//! What the two quotes commit to.
//!
//! The authority's [`Challenge`] and the machine's key make a [`Binding`]; the digest of its canonical bytes is the qualifying
//! data of the first quote. The [`Closing`] does the same for the last quote: through the manifest and the runtime log it covers
//! every byte of the evidence.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::names::Name;
use crate::timestamp::Timestamp;

/// The version of these formats.
pub const VERSION: u32 = 1;

/// What the authority asks of a machine that wants a job. Canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// Always [`VERSION`].
    pub version: u32,
    /// The build: unique, chosen by the authority. 32 lowercase hex digits.
    pub build_id: Name,
    /// 32 random bytes, used once.
    pub nonce: Sha256Digest,
    /// The digest of the job document that will be handed over.
    pub job_sha256: Sha256Digest,
    /// The digest of the image (UKI) that the authority believes to have started.
    pub image_sha256: Sha256Digest,
    /// The authority's clock: the only wall time that the machine knows.
    pub issued: Timestamp,
}

/// A challenge, answered with the keys that this boot's statements and its steps' certificates will be signed with. Canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The challenge, unchanged.
    pub challenge: Challenge,
    /// The digest of the statement key's SubjectPublicKeyInfo.
    pub statement_key_sha256: Sha256Digest,
    /// The digest of the SubjectPublicKeyInfo of the key that certifies the keys of the steps.
    pub issuer_key_sha256: Sha256Digest,
    /// Which machine answers: the digest of its endorsement key's SubjectPublicKeyInfo.
    pub endorsement_key_sha256: Sha256Digest,
}

/// What the machine leaves as its last word. Canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closing {
    /// Always [`VERSION`].
    pub version: u32,
    /// The build.
    pub build_id: Name,
    /// The digest of the manifest's payload.
    pub manifest_sha256: Sha256Digest,
    /// The digest of the manifest's envelope as a file.
    pub manifest_envelope_sha256: Sha256Digest,
    /// The digest of the whole runtime log, `final` included.
    pub runtime_log_sha256: Sha256Digest,
}
