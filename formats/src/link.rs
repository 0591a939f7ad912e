//! The link: HTTP/1.1 between a machine, which asks, and the authority, which answers. One connection, one request at a time.
//!
//! The same protocol runs over a virtio-serial port, where the machine has no network device at all. Every body has a bound, on
//! both sides. A machine that gets no answer, or one that it does not understand, powers off.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::challenge::Binding;
use crate::digest::Sha256Digest;
use crate::dispatch::Dispatch;
use crate::host::HostQuote;
use crate::manifest::Outcome;

/// The name of the virtio-serial port.
pub const PORT: &str = "org.kiln.link";
/// How long either side waits for the other to go on, in milliseconds. While a step runs and its log is open the machine may be
/// silent for as long as the step may run; there the bound is the deadline of the whole run.
pub const SILENCE_MS_MAX: u64 = 120_000;
/// The largest firmware event log that is taken in, in bytes. Source: TCG PC Client firmware profile, 64 KiB minimum area;
/// the largest seen is 1 MiB.
pub const FIRMWARE_LOG_BYTES_MAX: usize = 2 << 20;
/// The largest runtime log in bytes: some hundred bytes for each of a job's events.
pub const RUNTIME_LOG_BYTES_MAX: usize = 1 << 20;
/// The largest JSON message in bytes.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// The largest job document in bytes.
pub const JOB_BYTES_MAX: usize = 4 << 20;

/// Where each thing is asked for.
pub mod path {
    /// GET: the site's configuration.
    pub const CONFIGURATION: &str = "/v1/configuration";
    /// GET: the site's trust bundle.
    pub const TRUST: &str = "/v1/trust";
    /// POST: which TPM the machine has; the answer is the challenge, and a credential for that TPM.
    pub const ENROLMENT: &str = "/v1/enrolment";
    /// POST: the first quote; the answer is the certificates.
    pub const ATTESTATION: &str = "/v1/attestation";
    /// GET: the job document.
    pub const JOB: &str = "/v1/job";
    /// POST: the signed decision.
    pub const DECISION: &str = "/v1/decision";
    /// GET, followed by a digest: an input.
    pub const INPUTS: &str = "/v1/inputs/";
    /// POST, followed by a step's name: its log, as it comes.
    pub const LOGS: &str = "/v1/logs/";
    /// POST, followed by a step's name: its certificate, as soon as the step has ended. It comes again as a file of the bundle.
    pub const IDENTITIES: &str = "/v1/identities/";
    /// POST, followed by a step's name: its signed trace, after its certificate. It comes again as a file of the bundle.
    pub const TRACES: &str = "/v1/traces/";
    /// POST, followed by a step's name: its signed record, after its trace. It comes again as a file of the bundle.
    pub const RECORDS: &str = "/v1/records/";
    /// PUT, followed by a file's path in the bundle: a file of the bundle, artifacts included.
    pub const FILES: &str = "/v1/files/";
    /// POST: the last message.
    pub const DONE: &str = "/v1/done";
}

/// Bytes, as base64 in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map(Self).map_err(serde::de::Error::custom)
    }
}

/// The machine's answer to a challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// What the quote commits to; its canonical bytes are what is digested.
    pub binding: Binding,
    /// The statement key's SubjectPublicKeyInfo (DER).
    pub statement_key: Blob,
    /// That of the key that certifies the keys of the steps.
    pub issuer_key: Blob,
    /// That the machine opened the credential ([`crate::enrolment::proof`]).
    pub proof: Sha256Digest,
    /// The quote (TPMS_ATTEST).
    pub quote: Blob,
    /// Its signature (TPMT_SIGNATURE).
    pub signature: Blob,
    /// The firmware's event log; empty where there is none.
    pub firmware_log: Blob,
    /// The runtime log up to the quote.
    pub runtime_log: Blob,
    /// When PID 1 started, in microseconds of the machine's boot clock: for the table of timings, believed for nothing else.
    pub init_uptime_us: u64,
    /// When this was sent, on the same clock.
    pub sent_uptime_us: u64,
}

/// What a machine gets for a quote that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificates {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// That of the statement key, PEM.
    pub statement: String,
    /// That of the attestation key, PEM.
    pub attestation: String,
    /// That of the key that certifies the keys of the steps, PEM.
    pub issuer: String,
    /// The authority's word that it checked the machine for this build.
    pub dispatch: Dispatch,
    /// What the TPM of the machine's host quoted for this build, if it stands on a host that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostQuote>,
}

/// Why the authority does not certify a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{code}: {object}: {reason}")]
pub struct NotAttested {
    /// Stable; scripts may rely on it.
    pub code: String,
    /// The PCR, event or field.
    pub object: String,
    /// In words.
    pub reason: String,
}

/// The machine's last message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// What became of the job.
    pub outcome: Outcome,
}
