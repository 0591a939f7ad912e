//! The machine's decision on a job: to run it, or why not.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::names::Name;
use crate::timestamp::Timestamp;

/// The version of this format.
pub const VERSION: u32 = 1;

/// A decision. Canonical JSON, signed by the machine's statement key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Always [`VERSION`].
    pub version: u32,
    /// The build.
    pub build_id: Name,
    /// The job document that was decided on.
    pub job_sha256: Sha256Digest,
    /// The trust bundle by which it was decided.
    pub trust_sha256: Sha256Digest,
    /// The authority's time by which expiry was judged.
    pub time: Timestamp,
    /// What was decided.
    pub verdict: Ruling,
}

/// Allow, or deny and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "ruling", rename_all = "lowercase")]
pub enum Ruling {
    /// The job may run, once, on this machine.
    Allow,
    /// The job does not run.
    Deny(Refusal),
}

/// Why a job is not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{code}: {object}: {reason} ({remedy})")]
pub struct Refusal {
    /// Stable; scripts may rely on it.
    pub code: Code,
    /// What it is about: a field, an input, an image.
    pub object: String,
    /// What was wrong with it.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

/// Every reason for which a machine refuses a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The document is not a signed envelope.
    Unsigned,
    /// No key of the policy made the signature.
    UntrustedSigner,
    /// The signed bytes are no job of version 1.
    Malformed,
    /// The job breaks a rule of the format.
    InvalidJob,
    /// It is too late.
    Expired,
    /// The document is not the one that the challenge named.
    JobMismatch,
    /// More than one job was offered to a machine that serves one.
    OneShot,
    /// An image that the job names was not brought along.
    ImageMissing,
    /// An image has another root hash than the job names.
    ImageRootHash,
    /// An input could not be had.
    InputMissing,
    /// An input has another digest or size than the job names.
    InputMismatch,
    /// The policy does not know this machine's builder id.
    Builder,
    /// The job asks for more memory or disk than the machine has.
    Resources,
    /// A step asks for a profile that the policy does not allow.
    Profile,
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            Self::Unsigned => "unsigned",
            Self::UntrustedSigner => "untrusted_signer",
            Self::Malformed => "malformed",
            Self::InvalidJob => "invalid_job",
            Self::Expired => "expired",
            Self::JobMismatch => "job_mismatch",
            Self::OneShot => "one_shot",
            Self::ImageMissing => "image_missing",
            Self::ImageRootHash => "image_root_hash",
            Self::InputMissing => "input_missing",
            Self::InputMismatch => "input_mismatch",
            Self::Builder => "builder",
            Self::Resources => "resources",
            Self::Profile => "profile",
        };
        f.write_str(text)
    }
}
