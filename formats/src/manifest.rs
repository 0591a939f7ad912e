//! The manifest: every file of the evidence, so that none can be taken out, added or changed.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::names::Name;
use crate::timestamp::Timestamp;

/// The version of this format.
pub const VERSION: u32 = 1;
/// The most files of a bundle: a certificate, a record, a trace and a log for each step, an artifact and its statement for each output, and the rest.
pub const FILES_MAX: usize = 1024;
/// The largest file of the evidence in bytes, artifacts apart.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// What became of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every step succeeded and every output is there.
    Built,
    /// A step failed, or an output was not as declared; there are no artifacts.
    StepFailed,
    /// The job was refused; no step was started.
    Refused,
}

/// The manifest. Canonical JSON, signed by the machine's statement key; the last quote covers its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`VERSION`].
    pub version: u32,
    /// The build.
    pub build_id: Name,
    /// What became of the job.
    pub outcome: Outcome,
    /// The authority's time at the challenge plus the time since, by the machine's clock.
    pub finished: Timestamp,
    /// Every file but the manifest itself and those of [`path::CLOSING_FILES`], sorted by path.
    pub files: Vec<File>,
}

/// One file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its path below the output directory.
    pub path: String,
    /// What it is.
    pub sha256: Sha256Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Where each file of a bundle lies, below the output directory.
pub mod path {
    use crate::names::Name;

    /// The manifest's envelope.
    pub const MANIFEST: &str = "evidence/manifest.dsse.json";
    /// The machine's last word: what the last quote commits to.
    pub const CLOSING: &str = "evidence/closing.json";
    /// The firmware's event log, as the kernel hands it on; absent where the firmware kept none.
    pub const FIRMWARE_LOG: &str = "evidence/boot/firmware.log";
    /// The runtime log: what PID 1 extended into PCR 15.
    pub const RUNTIME_LOG: &str = "evidence/boot/runtime.log";
    /// The site's configuration as received.
    pub const CONFIGURATION: &str = "evidence/boot/configuration.json";
    /// What the first quote commits to.
    pub const BINDING: &str = "evidence/boot/binding.json";
    /// The first quote (TPMS_ATTEST).
    pub const FIRST_QUOTE: &str = "evidence/quotes/first.attest";
    /// Its signature (TPMT_SIGNATURE).
    pub const FIRST_SIGNATURE: &str = "evidence/quotes/first.sig";
    /// What the TPM of the machine's host quoted for this build; absent where the builder id knows of no host.
    pub const HOST_QUOTE: &str = "evidence/quotes/host.json";
    /// The last quote (TPMS_ATTEST).
    pub const LAST_QUOTE: &str = "evidence/quotes/last.attest";
    /// Its signature (TPMT_SIGNATURE).
    pub const LAST_SIGNATURE: &str = "evidence/quotes/last.sig";
    /// The authority's certificate, which the site's root signed.
    pub const AUTHORITY: &str = "evidence/certificates/authority.pem";
    /// The certificate of the key that signs statements.
    pub const STATEMENT_KEY: &str = "evidence/certificates/statement.pem";
    /// The certificate of the TPM's attestation key.
    pub const ATTESTATION_KEY: &str = "evidence/certificates/attestation.pem";
    /// The certificate of the key that certified the keys of the steps.
    pub const ISSUER: &str = "evidence/certificates/issuer.pem";
    /// The certificate of the key that signed the dispatch.
    pub const DISPATCH_KEY: &str = "evidence/certificates/dispatch.pem";
    /// How the paths of the certificates of the steps' keys begin.
    pub const IDENTITIES: &str = "evidence/identities/";
    /// The authority's word that it checked the machine, for this build, before it handed out the job.
    pub const DISPATCH: &str = "evidence/dispatch/attestation.dsse.json";
    /// The authority's summary of that check.
    pub const DISPATCH_SUMMARY: &str = "evidence/dispatch/summary.dsse.json";
    /// The authority's summary of its check of the image's provenance.
    pub const DISPATCH_IMAGE: &str = "evidence/dispatch/image.dsse.json";
    /// The job document as received.
    pub const JOB: &str = "evidence/job.dsse.json";
    /// The decision on it.
    pub const DECISION: &str = "evidence/decision.dsse.json";
    /// The provenance of the outputs.
    pub const PROVENANCE: &str = "evidence/provenance.dsse.json";
    /// Written by the verifier, on the person's side: never part of the evidence.
    pub const VERDICT: &str = "verdict.json";

    /// Written by the launcher when the machine is gone: beside the evidence, not part of it.
    pub const TEARDOWN: &str = "teardown.json";

    /// Written by the launcher in place of all else, if it does not start an image: beside nothing, and no part of any evidence.
    pub const IMAGE_REFUSED: &str = "image.dsse.json";

    /// What the manifest cannot list, because it comes after it. The closing and the last quote cover these.
    pub const CLOSING_FILES: [&str; 4] = [CLOSING, RUNTIME_LOG, LAST_QUOTE, LAST_SIGNATURE];

    /// The certificate of the key that signed a step's record and trace.
    #[must_use]
    pub fn identity(sequence: u32, step: &Name) -> String {
        format!("{IDENTITIES}{sequence:02}-{step}.pem")
    }

    /// The record of a step.
    #[must_use]
    pub fn record(sequence: u32, step: &Name) -> String {
        format!("evidence/records/{sequence:02}-{step}.dsse.json")
    }

    /// The runtime trace of a step.
    #[must_use]
    pub fn trace(sequence: u32, step: &Name) -> String {
        format!("evidence/traces/{sequence:02}-{step}.dsse.json")
    }

    /// The log of a step.
    #[must_use]
    pub fn log(sequence: u32, step: &Name) -> String {
        format!("evidence/logs/{sequence:02}-{step}.log")
    }

    /// An artifact.
    #[must_use]
    pub fn artifact(name: &Name) -> String {
        format!("artifacts/{name}")
    }

    /// The signed statements about an artifact, beside it.
    #[must_use]
    pub fn artifact_statements(name: &Name) -> String {
        format!("artifacts/{name}.intoto.jsonl")
    }
}
