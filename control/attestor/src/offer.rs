//! What a machine is offered, and what it may send back: worked out once from the job document, before the machine starts.
//!
//! The authority does not judge the job; the machine does. It reads what the document alleges only to bound what it takes in:
//! every path that a machine may write is listed here with its size, so that no path is ever parsed. A document that alleges
//! nothing legible gets no room for artifacts, and a machine that refuses it needs none.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_formats::certificate::PEM_BYTES_MAX;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::job::{CheckedJob, Job};
use kiln_formats::link::{FIRMWARE_LOG_BYTES_MAX, JOB_BYTES_MAX, MESSAGE_BYTES_MAX, RUNTIME_LOG_BYTES_MAX};
use kiln_formats::log;
use kiln_formats::manifest::path;
use kiln_formats::names::{Name, PAYLOAD_JOB};
use kiln_formats::trust::PublicKey;

/// A job document, the files it may ask for, and the bounds of what comes back.
#[derive(Debug, Clone)]
pub struct Offer {
    document: Vec<u8>,
    inputs: BTreeMap<Sha256Digest, InputFile>,
    images: Vec<Sha256Digest>,
    steps: BTreeMap<Name, StepBounds>,
    evidence: BTreeMap<String, u64>,
    artifacts: BTreeMap<String, u64>,
}

/// A file that is offered as an input. Whether it is the right one is for the machine to find out.
#[derive(Debug, Clone)]
pub(crate) struct InputFile {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What the job says of its size; one byte more is handed out at most, so that a larger file shows.
    pub(crate) size: u64,
}

/// How long a step may be silent, and how large its log may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepBounds {
    pub(crate) life_ms: u64,
    pub(crate) log_bytes_max: u64,
}

/// Why something cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// The document is larger than any machine reads.
    #[error("a job document of {bytes} bytes is larger than {JOB_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A file was named for an input that the job does not have.
    #[error("the job has no input {name}; it has {}", list(declared))]
    UnknownInput {
        /// The name.
        name: Name,
        /// What it has.
        declared: Vec<Name>,
    },
}

fn list(names: &[Name]) -> String {
    if names.is_empty() { "none".into() } else { names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ") }
}

impl Offer {
    /// Offers `document`, byte by byte as it is, and `files` as the inputs of these names.
    ///
    /// # Errors
    /// [`OfferError::TooLarge`]; [`OfferError::UnknownInput`] if the document can be read and has no such input.
    pub fn new(document: Vec<u8>, files: &BTreeMap<Name, PathBuf>) -> Result<Self, OfferError> {
        if document.len() > JOB_BYTES_MAX {
            return Err(OfferError::TooLarge { bytes: document.len() });
        }
        let mut offer = Self {
            document,
            inputs: BTreeMap::new(),
            images: Vec::new(),
            steps: BTreeMap::new(),
            evidence: fixed_evidence(),
            artifacts: BTreeMap::new(),
        };
        if let Some(job) = alleged_job(&offer.document) {
            offer.take_inputs(job.job(), files)?;
            offer.images = job.job().image.iter().map(|image| image.root_hash).collect();
            offer.take_bounds(&job);
        }
        Ok(offer)
    }

    /// The names of the inputs that `document` asks for; none if it cannot be read.
    #[must_use]
    pub fn declared(document: &[u8]) -> Vec<Name> {
        let job = alleged_job(document);
        job.map_or_else(Vec::new, |job| job.job().input.iter().map(|input| input.name.clone()).collect())
    }

    fn take_inputs(&mut self, job: &Job, files: &BTreeMap<Name, PathBuf>) -> Result<(), OfferError> {
        for (name, path) in files {
            let Some(input) = job.input.iter().find(|input| input.name == *name) else {
                let declared = job.input.iter().map(|input| input.name.clone()).collect();
                return Err(OfferError::UnknownInput { name: name.clone(), declared });
            };
            self.inputs.insert(input.sha256, InputFile { path: path.clone(), size: input.size });
        }
        Ok(())
    }

    fn take_bounds(&mut self, job: &CheckedJob) {
        for (sequence, step) in (0..).zip(job.steps()) {
            let log_bytes_max = log::bytes_max(step.limits.log_bytes);
            let life_ms = step.limits.wall_ms.saturating_add(step.limits.grace_ms);
            self.steps.insert(step.name.clone(), StepBounds { life_ms, log_bytes_max });
            self.evidence.insert(path::identity(sequence, &step.name), PEM_BYTES_MAX as u64);
            self.evidence.insert(path::record(sequence, &step.name), MESSAGE_BYTES_MAX as u64);
            self.evidence.insert(path::trace(sequence, &step.name), MESSAGE_BYTES_MAX as u64);
            self.evidence.insert(path::log(sequence, &step.name), log_bytes_max);
        }
        for output in &job.job().output {
            self.artifacts.insert(path::artifact_statements(&output.name), MESSAGE_BYTES_MAX as u64);
            self.artifacts.insert(path::artifact(&output.name), output.size_bytes_max);
        }
    }

    /// The document.
    #[must_use]
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// The digest of the document.
    #[must_use]
    pub fn sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&self.document)
    }

    /// Which of these keys signed the document; none if another one did, and the machine will refuse it.
    #[must_use]
    pub fn signer(&self, keys: &[PublicKey]) -> Option<PublicKey> {
        let keys: Vec<_> = keys.iter().map(|key| key.0).collect();
        let verified = Envelope::from_slice(&self.document).ok()?.verify(PAYLOAD_JOB, &keys).ok()?;
        Some(PublicKey(*verified.key()))
    }

    /// The root hashes of the images that the document asks for; none if it cannot be read.
    #[must_use]
    pub fn images(&self) -> &[Sha256Digest] {
        &self.images
    }

    pub(crate) fn input(&self, sha256: &Sha256Digest) -> Option<&InputFile> {
        self.inputs.get(sha256)
    }

    /// How long the longest step may run; 0 if the document cannot be read.
    pub(crate) fn step_life_ms_max(&self) -> u64 {
        self.steps.values().map(|step| step.life_ms).max().unwrap_or(0)
    }

    pub(crate) fn step(&self, name: &Name) -> Option<StepBounds> {
        self.steps.get(name).copied()
    }

    /// How large a file of the bundle may be; `None` if there is no such file.
    pub(crate) fn evidence_bytes_max(&self, path: &str) -> Option<u64> {
        self.evidence.get(path).copied()
    }

    /// How large an artifact or its statements may be; `None` if there is no such file.
    pub(crate) fn artifact_bytes_max(&self, path: &str) -> Option<u64> {
        self.artifacts.get(path).copied()
    }
}

/// The job that a document alleges; `None` if the machine will refuse it anyway.
fn alleged_job(document: &[u8]) -> Option<CheckedJob> {
    let payload = Envelope::from_slice(document).ok()?.alleged_payload().ok()?;
    CheckedJob::new(serde_json::from_slice(&payload).ok()?).ok()
}

/// The files of every bundle.
fn fixed_evidence() -> BTreeMap<String, u64> {
    let documents = [
        path::HOST_QUOTE,
        path::MANIFEST,
        path::CLOSING,
        path::CONFIGURATION,
        path::BINDING,
        path::FIRST_QUOTE,
        path::FIRST_SIGNATURE,
        path::LAST_QUOTE,
        path::LAST_SIGNATURE,
        path::AUTHORITY,
        path::STATEMENT_KEY,
        path::ATTESTATION_KEY,
        path::ISSUER,
        path::DISPATCH_KEY,
        path::DISPATCH,
        path::DISPATCH_SUMMARY,
        path::DISPATCH_IMAGE,
        path::JOB,
        path::DECISION,
        path::PROVENANCE,
    ];
    let logs = [(path::FIRMWARE_LOG, FIRMWARE_LOG_BYTES_MAX), (path::RUNTIME_LOG, RUNTIME_LOG_BYTES_MAX)];
    let documents = documents.map(|path| (path, MESSAGE_BYTES_MAX));
    documents.into_iter().chain(logs).map(|(path, bytes)| (path.to_owned(), bytes as u64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_gets_no_room_for_artifacts() {
        for document in [&b"not a job"[..], b"", b"{}\n{}\n"] {
            let offer = Offer::new(document.to_vec(), &BTreeMap::new()).unwrap();
            assert!(offer.artifacts.is_empty() && offer.steps.is_empty());
            assert_eq!(offer.document(), document);
        }
        let large = vec![b' '; JOB_BYTES_MAX + 1];
        assert!(matches!(Offer::new(large, &BTreeMap::new()), Err(OfferError::TooLarge { .. })));
    }
}
