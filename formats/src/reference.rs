//! Reference values: what an image's boot must leave in the TPM, known before it boots.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;

/// The version of this format.
pub const VERSION: u32 = 1;
/// The largest document in bytes.
pub const REFERENCE_BYTES_MAX: usize = 1 << 20;

/// What one image must yield at one site. Canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Always [`VERSION`].
    pub version: u32,
    /// Which image of its producer: a later one has a higher number, and a trust list says which is the least that counts. Left out
    /// where the producer does not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub number: u64,
    /// The digest of the image (UKI).
    pub image_sha256: Sha256Digest,
    /// The digest of PID 1's program in it.
    pub init_sha256: Sha256Digest,
    /// For each builder id, what its kind of start yields.
    pub machines: Vec<MachineReference>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What one kind of start yields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineReference {
    /// The kind of start.
    pub builder_id: String,
    /// By PCR number (`"4"`, `"9"`, `"11"`, `"15"`): the SHA-256 bank. PCR 15 up to the first quote.
    pub pcrs: BTreeMap<String, PcrReference>,
}

/// What one PCR must hold, and by which events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcrReference {
    /// The value.
    pub value: Sha256Digest,
    /// The events that lead to it, in order.
    pub events: Vec<EventReference>,
}

/// One event that must happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventReference {
    /// What it measures, in words: `.cmdline content`, `kernel command line`.
    pub name: String,
    /// What is extended.
    pub sha256: Sha256Digest,
}
