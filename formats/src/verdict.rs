//! The verifier's answer as a SLSA verification summary.
//!
//! Source: <https://slsa.dev/spec/v1.2/verification_summary>.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::statement::DigestSet;
use crate::timestamp::Timestamp;

/// The SLSA version of the words in a summary of ours.
pub const SLSA_VERSION: &str = "1.2";

/// The predicate of a verification summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Summary {
    /// Who judged.
    pub verifier: Verifier,
    /// When, by the verifier's host.
    pub time_verified: Timestamp,
    /// What was judged.
    pub resource_uri: String,
    /// By which policy.
    pub policy: PolicyUsed,
    /// On which evidence.
    pub input_attestations: Vec<Attestation>,
    /// `PASSED` or `FAILED`.
    pub verification_result: String,
    /// What may be relied on; `FAILED` if nothing.
    pub verified_levels: Vec<String>,
    /// The SLSA version of those words.
    pub slsa_version: String,
}

/// Who judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verifier {
    /// A type URI of this verifier.
    pub id: String,
}

/// By which policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyUsed {
    /// Where it came from.
    pub uri: String,
    /// What it was.
    pub digest: DigestSet,
}

/// A document that was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// Its path in the evidence.
    pub uri: String,
    /// What it was.
    pub digest: DigestSet,
}

impl From<Sha256Digest> for DigestSet {
    fn from(sha256: Sha256Digest) -> Self {
        Self { sha256 }
    }
}
