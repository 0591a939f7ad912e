//! What the builder asks of PID 1, which owns the TPM, every key that signs, the measurement log and the power switch.
//!
//! One stream socket joins the two. The builder asks, PID 1 answers, strictly one after another; a message is a length (u32,
//! little-endian) and that many bytes of JSON. [`Custodian`] is the builder's end; [`receive`] and [`send`] are what PID 1 needs.
//! All of it blocks, and answers come within milliseconds (a TPM command each).
//!
//! The order that PID 1 insists on:
//!
//! 1. `hello`; measure the configuration, then the trust bundle, as received and before anything in them is read;
//! 2. activate the credential that the authority made for this machine's TPM, once; the first quote, which comes with the proof
//!    that it was activated;
//! 3. measure the job; `allow` it, or do not; measure the decision; sign the decision;
//! 4. if allowed: measure the inputs, then for each step measure its begin, start it, have it identified, let it end, measure and
//!    sign its trace, measure its end, sign its record;
//! 5. measure the outputs; measure and sign the provenance (left out if a step failed); in every case, a denied job's too: measure
//!    and sign the manifest;
//! 6. measure `final`; ask for the runtime log, whose digest the closing names; the last quote; `done`.
//!
//! A denied job goes from 3 straight to the manifest: measure and sign it, `final`, the last quote, `done`. So a refusal, too, has
//! evidence that a quote covers.
//!
//! **Measure first, then sign**: a payload is signed only directly after the event with its digest was extended, so nothing is
//! signed that PCR 15 does not name. A request out of order ends the machine with a fault; the two [`Refusal`]s are answered.
//! What is signed of a step is signed with a key of its own, which exists from its identification to its record and which only
//! PID 1 ever has. Deliberately absent: any request that hands out a key, reads a PCR, signs under a payload type that the builder
//! chooses, or certifies a key that PID 1 did not make.

use std::io::{self, Read, Write};

use kiln_formats::digest::Sha256Digest;
use kiln_formats::enrolment::{Credential, Enrolment};
use kiln_formats::event::Event;
use kiln_formats::link::{Blob, MESSAGE_BYTES_MAX};
use kiln_formats::manifest::Outcome;
use kiln_formats::names::{self, Name};
use kiln_formats::timestamp::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest message, in bytes: that of the link, because whatever is signed here is sent there.
pub const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

/// The longest text of a [`Request::Fault`], in bytes: a line of the console.
pub const FAULT_TEXT_BYTES_MAX: usize = 512;

/// What the builder asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who is this machine? Answered by [`Reply::Identity`].
    Hello,
    /// Extend PCR 15 and append to the runtime log. Answered by [`Reply::Measured`].
    Measure {
        /// What to measure.
        what: Measurement,
    },
    /// The job is admitted: records of its steps may be signed. Once per boot. Answered by [`Reply::Allowed`].
    Allow {
        /// The digest of the job as measured.
        job_sha256: Sha256Digest,
    },
    /// Make a key for the step that was begun and certify it: once for each. Answered by [`Reply::Identified`].
    Identify {
        /// The step's name.
        step: Name,
        /// What the certificate says of it.
        task: Task,
    },
    /// Sign the payload that the event just measured names. Answered by [`Reply::Signature`].
    Sign {
        /// What it is; decides the payload type.
        label: Label,
        /// The bytes to sign.
        payload: Blob,
    },
    /// What is the runtime log so far? The last quote's qualifying data covers it, so it is needed before that quote. Answered by
    /// [`Reply::RuntimeLog`], at any time.
    RuntimeLog,
    /// Open the credential of the enrolment; what was in it stays with PID 1. Answered by [`Reply::Activated`].
    Activate {
        /// The credential.
        credential: Credential,
    },
    /// Quote sha256:0-15. Answered by [`Reply::Quote`].
    Quote {
        /// Which of the two quotes of a boot.
        which: WhichQuote,
        /// The qualifying data.
        qualifying: Sha256Digest,
    },
    /// The job has ended as this says: power off. Not answered.
    Done {
        /// How it ended.
        outcome: Outcome,
    },
    /// The builder cannot go on: print the reason and power off. Not answered.
    Fault {
        /// Stable, lowercase, with underscores.
        code: Name,
        /// For people; at most [`FAULT_TEXT_BYTES_MAX`] bytes are printed.
        text: String,
    },
}

/// What is measured. PID 1 writes the event's text itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Measurement {
    /// The site's configuration as received; PID 1 hashes it.
    Configuration {
        /// The bytes.
        bytes: Blob,
    },
    /// The site's trust bundle as received; PID 1 hashes it.
    Trust {
        /// The bytes.
        bytes: Blob,
    },
    /// Any event from [`Event::Job`] on.
    Event {
        /// The event.
        #[serde(with = "event_text")]
        event: Event,
    },
}

/// What PID 1 does not know itself of a step that it certifies a key for: job and step are those that it has measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The site's trust domain.
    pub trust_domain: Name,
    /// The digest of the machine's endorsement key.
    pub machine: Sha256Digest,
    /// The build.
    pub build_id: Name,
    /// The first second of the issuer's certificate.
    pub begin: Timestamp,
    /// The last one.
    pub end: Timestamp,
    /// The image that the step runs on, by its dm-verity root hash.
    pub image_root_hash: Sha256Digest,
    /// The digest of the canonical JSON of its program and arguments.
    pub argv_sha256: Sha256Digest,
    /// The digest of the canonical JSON of what the kernel confirmed of its sandbox.
    pub enforced_sha256: Sha256Digest,
}

/// What a signature is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Label {
    /// The decision on the job.
    Decision,
    /// The runtime trace of a step.
    Trace {
        /// The step's name.
        step: Name,
    },
    /// The record of a step.
    Record {
        /// The step's name.
        step: Name,
    },
    /// The provenance statement.
    Provenance,
    /// The manifest of the evidence.
    Manifest,
}

impl Label {
    /// The DSSE payload type that PID 1 signs under this label, and no other.
    #[must_use]
    pub fn payload_type(&self) -> &'static str {
        match self {
            Self::Decision => names::PAYLOAD_DECISION,
            Self::Trace { .. } | Self::Record { .. } | Self::Provenance => names::PAYLOAD_STATEMENT,
            Self::Manifest => names::PAYLOAD_MANIFEST,
        }
    }
}

/// Which of the two quotes of a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhichQuote {
    /// After the trust bundle, over the binding.
    First,
    /// After `final`, over the closing.
    Last,
}

/// What PID 1 answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// To [`Request::Hello`].
    Identity(Identity),
    /// To [`Request::Measure`]: the event is in every bank and in the log.
    Measured,
    /// To [`Request::Allow`].
    Allowed,
    /// To [`Request::Identify`].
    Identified {
        /// The step's certificate: DER.
        certificate: Blob,
    },
    /// To [`Request::Sign`]: Ed25519 over the DSSE pre-authentication encoding.
    Signature {
        /// 64 bytes.
        signature: Blob,
    },
    /// To [`Request::RuntimeLog`].
    RuntimeLog {
        /// The whole log as it is now.
        bytes: Blob,
    },
    /// To [`Request::Activate`].
    Activated,
    /// To [`Request::Quote`].
    Quote(Quote),
    /// The request is refused, and nothing changed.
    Refused {
        /// Why.
        refusal: Refusal,
    },
}

/// Who this machine is, for this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The TPM's endorsement key with its certificates, and the attestation key.
    pub enrolment: Enrolment,
    /// The statement key: DER `SubjectPublicKeyInfo`.
    pub statement_key: Blob,
    /// The key that certifies the keys of the steps: likewise.
    pub issuer_key: Blob,
    /// The firmware's event log as the kernel gives it; empty if the firmware kept none.
    pub firmware_log: Blob,
    /// When PID 1 started, in microseconds of `CLOCK_BOOTTIME`.
    pub init_uptime_us: u64,
}

/// A quote and the log that explains its PCR 15.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quote {
    /// `TPMS_ATTEST`.
    pub attest: Blob,
    /// `TPMT_SIGNATURE`, of low s.
    pub signature: Blob,
    /// The runtime log at the moment of the quote.
    pub runtime_log: Blob,
    /// That the credential was opened ([`kiln_formats::enrolment::proof`]), with the first quote; nothing with the last.
    pub proof: Option<Sha256Digest>,
}

/// A request that PID 1 answers with no. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// This boot has had its job.
    #[error("one_shot: this machine has had its one job")]
    OneShot,
    /// A key for a step that no ALLOW and no measured begin stand behind, or a second one; a statement about such a step.
    #[error("no_admission_label: the step was not admitted and begun")]
    NoAdmissionLabel,
}

/// Why a message did not pass.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// The socket failed.
    #[error("the socket between PID 1 and the builder failed")]
    Io {
        /// What the kernel said.
        #[from]
        source: io::Error,
    },
    /// The other end went away.
    #[error("the other end of the socket is closed")]
    Closed,
    /// A message above [`FRAME_BYTES_MAX`].
    #[error("a message of {bytes} bytes is larger than {FRAME_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// A message that is none of these types.
    #[error("a message is not of this protocol")]
    Syntax {
        /// What the reader said.
        source: serde_json::Error,
    },
    /// An answer to another question.
    #[error("PID 1 answered another question")]
    Unexpected,
    /// PID 1 said no.
    #[error("PID 1 refused: {refusal}")]
    Refused {
        /// Why.
        refusal: Refusal,
    },
}

/// Writes one message.
///
/// # Errors
/// [`CustodyError::TooLarge`], and [`CustodyError::Io`] if the other end does not take it.
pub fn send<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), CustodyError> {
    let body = serde_json::to_vec(message).map_err(|source| CustodyError::Syntax { source })?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_BYTES_MAX);
    let length = length.ok_or(CustodyError::TooLarge { bytes: body.len() })?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(&body)?;
    Ok(stream.flush()?)
}

/// Reads one message.
///
/// # Errors
/// [`CustodyError::Closed`] at the end of the stream, [`CustodyError::TooLarge`], [`CustodyError::Syntax`], [`CustodyError::Io`].
pub fn receive<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, CustodyError> {
    let mut length = [0; 4];
    read_whole(stream, &mut length)?;
    let bytes = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if bytes > FRAME_BYTES_MAX {
        return Err(CustodyError::TooLarge { bytes });
    }
    let mut body = vec![0; bytes];
    read_whole(stream, &mut body)?;
    serde_json::from_slice(&body).map_err(|source| CustodyError::Syntax { source })
}

fn read_whole(stream: &mut impl Read, bytes: &mut [u8]) -> Result<(), CustodyError> {
    stream.read_exact(bytes).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => CustodyError::Closed,
        _ => CustodyError::Io { source },
    })
}

/// The builder's end of the socket. Every method but the last two waits for PID 1's answer.
#[derive(Debug)]
pub struct Custodian<S> {
    stream: S,
}

impl<S: Read + Write> Custodian<S> {
    /// Takes the socket that PID 1 gave the builder.
    pub fn new(stream: S) -> Self {
        Self { stream }
    }

    /// Asks who this machine is.
    ///
    /// # Errors
    /// [`CustodyError`], as for every method here.
    pub fn hello(&mut self) -> Result<Identity, CustodyError> {
        match self.ask(&Request::Hello)? {
            Reply::Identity(identity) => Ok(identity),
            _ => Err(CustodyError::Unexpected),
        }
    }

    /// Has something measured. When it returns, the TPM and the log have it.
    ///
    /// # Errors
    /// [`CustodyError::Refused`] for a second job.
    pub fn measure(&mut self, what: Measurement) -> Result<(), CustodyError> {
        match self.ask(&Request::Measure { what })? {
            Reply::Measured => Ok(()),
            _ => Err(CustodyError::Unexpected),
        }
    }

    /// Says that the measured job is admitted.
    ///
    /// # Errors
    /// [`CustodyError::Refused`] if there was a job before.
    pub fn allow(&mut self, job_sha256: Sha256Digest) -> Result<(), CustodyError> {
        match self.ask(&Request::Allow { job_sha256 })? {
            Reply::Allowed => Ok(()),
            _ => Err(CustodyError::Unexpected),
        }
    }

    /// Has a key made for the step that was begun, and yields its certificate (DER).
    ///
    /// # Errors
    /// [`CustodyError::Refused`] for a step that was not admitted and begun, or has one.
    pub fn identify(&mut self, step: Name, task: Task) -> Result<Vec<u8>, CustodyError> {
        match self.ask(&Request::Identify { step, task })? {
            Reply::Identified { certificate } => Ok(certificate.0),
            _ => Err(CustodyError::Unexpected),
        }
    }

    /// Has the payload signed whose digest was just measured, under [`Label::payload_type`].
    ///
    /// # Errors
    /// [`CustodyError::Refused`] for the record of a step that was not admitted and begun.
    pub fn sign(&mut self, label: Label, payload: &[u8]) -> Result<[u8; 64], CustodyError> {
        match self.ask(&Request::Sign { label, payload: Blob(payload.to_vec()) })? {
            Reply::Signature { signature } => signature.0.try_into().map_err(|_| CustodyError::Unexpected),
            _ => Err(CustodyError::Unexpected),
        }
    }

    /// Asks for the runtime log as it is now.
    ///
    /// # Errors
    /// [`CustodyError`], as for every method here.
    pub fn runtime_log(&mut self) -> Result<Vec<u8>, CustodyError> {
        match self.ask(&Request::RuntimeLog)? {
            Reply::RuntimeLog { bytes } => Ok(bytes.0),
            _ => Err(CustodyError::Unexpected),
        }
    }

    /// Has the credential opened.
    ///
    /// # Errors
    /// [`CustodyError`], as for every method here. A credential for another TPM or key ends the machine.
    pub fn activate(&mut self, credential: Credential) -> Result<(), CustodyError> {
        match self.ask(&Request::Activate { credential })? {
            Reply::Activated => Ok(()),
            _ => Err(CustodyError::Unexpected),
        }
    }

    /// Has a quote made.
    ///
    /// # Errors
    /// [`CustodyError`], as for every method here.
    pub fn quote(&mut self, which: WhichQuote, qualifying: Sha256Digest) -> Result<Quote, CustodyError> {
        match self.ask(&Request::Quote { which, qualifying })? {
            Reply::Quote(quote) => Ok(quote),
            _ => Err(CustodyError::Unexpected),
        }
    }

    /// Says how the job ended. PID 1 ends every process and powers off; there is no answer.
    ///
    /// # Errors
    /// [`CustodyError::Io`].
    pub fn done(mut self, outcome: Outcome) -> Result<(), CustodyError> {
        send(&mut self.stream, &Request::Done { outcome })
    }

    /// Says why the builder cannot go on. PID 1 prints `kiln: fault: <code>: <text>` and powers off; there is no answer.
    ///
    /// # Errors
    /// [`CustodyError::Io`].
    pub fn fault(mut self, code: Name, text: String) -> Result<(), CustodyError> {
        send(&mut self.stream, &Request::Fault { code, text })
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, CustodyError> {
        send(&mut self.stream, request)?;
        match receive(&mut self.stream)? {
            Reply::Refused { refusal } => Err(CustodyError::Refused { refusal }),
            reply => Ok(reply),
        }
    }
}

/// An event as its text.
mod event_text {
    use kiln_formats::event::Event;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(event: &Event, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(event)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Event, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
