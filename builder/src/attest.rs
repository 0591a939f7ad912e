//! Writes down what was observed, has it measured and signed, and closes the evidence.
//!
//! [`sign`] is the only constructor of a [`SignedStatement`], [`close`] the only one of [`Evidence`]. Whatever the outcome, the
//! evidence ends in the same way: manifest, `final`, the closing, the last quote over it.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use kiln_formats::canonical;
use kiln_formats::challenge::{self, Closing};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::event::Event;
use kiln_formats::job::Job;
use kiln_formats::link::RUNTIME_LOG_BYTES_MAX;
use kiln_formats::manifest::{self, Manifest, Outcome, path as file};
use kiln_formats::names::{BUILD_TYPE, PREDICATE_PROVENANCE};
use kiln_formats::provenance::{
    BuildDefinition, Builder, ExternalParameters, InternalParameters, Metadata, Provenance, RunDetails,
};
use kiln_formats::statement::{ResourceDescriptor, Statement, Subject};

use crate::boot::{BootError, Certified};
use crate::bundle::{Bundle, Item};
use crate::custody::{Custodian, Label, Measurement, WhichQuote};
use crate::fault::Fault;
use crate::run::Finished;

/// What the provenance says of the TPM. The machine cannot tell, so it claims the least; the builder id decides.
const TPM: &str = "software";

/// Why something observed cannot be written down.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// A document without a canonical form.
    #[error("the {document} cannot be written")]
    Document {
        /// Which.
        document: &'static str,
        /// What the encoder said.
        source: canonical::Error,
    },
    /// A collected output cannot be read again.
    #[error("a collected output cannot be read")]
    Output {
        /// What the kernel said.
        #[from]
        source: io::Error,
    },
}

/// A payload that PCR 15 names and this boot's statement key has signed.
#[derive(Debug, Clone)]
pub(crate) struct SignedStatement {
    /// Its envelope: one line of canonical JSON.
    pub(crate) envelope: Bytes,
    /// The digest of the payload, as measured.
    pub(crate) payload_sha256: Sha256Digest,
}

/// The whole evidence of a build, in the order in which it leaves the machine. A quote covers every byte of it.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// The files.
    pub(crate) items: Vec<Item>,
    /// What became of the job.
    pub(crate) outcome: Outcome,
}

/// Has a payload measured, then signed.
///
/// # Errors
/// What PID 1 answers; [`AttestError::Document`] never, for an envelope made here.
pub(crate) fn sign<S: io::Read + io::Write>(
    custodian: &mut Custodian<S>,
    label: Label,
    event: impl FnOnce(Sha256Digest) -> Event,
    payload: &[u8],
) -> Result<SignedStatement, Fault> {
    let payload_sha256 = Sha256Digest::of(payload);
    custodian.measure(Measurement::Event { event: event(payload_sha256) })?;
    let payload_type = label.payload_type();
    let signature = custodian.sign(label, payload)?;
    let envelope = Envelope::new(payload_type, payload, &signature);
    let envelope = envelope.to_vec().map_err(|source| AttestError::Document { document: "envelope", source })?;
    Ok(SignedStatement { envelope: envelope.into(), payload_sha256 })
}

/// States which outputs were built from what, if they were, and puts them into the bundle.
///
/// # Errors
/// What PID 1 answers, and [`AttestError`].
pub(crate) fn outputs<S: io::Read + io::Write>(
    finished: Finished,
    certified: &Certified,
    custodian: &mut Custodian<S>,
    bundle: &mut Bundle,
) -> Result<Outcome, Fault> {
    let Finished { job, sha256, outputs, byproducts } = finished;
    let Some(outputs) = outputs else { return Ok(Outcome::StepFailed) };
    for output in &outputs {
        custodian.measure(Measurement::Event { event: Event::Output(output.name.clone(), output.sha256) })?;
    }
    let subjects = outputs.iter().map(|output| Subject::new(output.name.as_str(), output.sha256)).collect();
    let predicate = provenance(job.job(), sha256, certified, byproducts);
    let statement = Statement::new(PREDICATE_PROVENANCE, subjects, predicate);
    let payload =
        canonical::to_vec(&statement).map_err(|source| AttestError::Document { document: "provenance", source })?;
    let SignedStatement { envelope, .. } = sign(custodian, Label::Provenance, Event::Provenance, &payload)?;
    let mut line = envelope.to_vec();
    line.push(b'\n');
    let line = Bytes::from(line);
    for output in outputs {
        let listed = manifest::File { path: file::artifact(&output.name), sha256: output.sha256, size: output.size };
        bundle.add_file(listed, output.file).map_err(AttestError::from)?;
        bundle.add(file::artifact_statements(&output.name), line.clone());
    }
    bundle.add(file::PROVENANCE, envelope);
    Ok(Outcome::Built)
}

fn provenance(
    job: &Job,
    job_sha256: Sha256Digest,
    certified: &Certified,
    byproducts: Vec<ResourceDescriptor>,
) -> Provenance {
    let document = ResourceDescriptor::new("job", job_sha256);
    let images =
        job.image.iter().map(|image| ResourceDescriptor::new(format!("image/{}", image.name), image.root_hash));
    let inputs = job.input.iter().map(|input| {
        ResourceDescriptor::new(format!("input/{}", input.name), input.sha256).with_uri(input.uri.as_str())
    });
    let resolved_dependencies = [document.clone()].into_iter().chain(images).chain(inputs).collect();
    Provenance {
        build_definition: BuildDefinition {
            build_type: BUILD_TYPE.to_owned(),
            external_parameters: ExternalParameters { job: document },
            internal_parameters: InternalParameters {
                image: ResourceDescriptor::new("image", certified.image_sha256),
                tpm: TPM.to_owned(),
            },
            resolved_dependencies,
        },
        run_details: RunDetails {
            builder: Builder {
                id: certified.builder_id.clone(),
                version: BTreeMap::from([("kiln".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
            },
            metadata: Metadata {
                invocation_id: certified.build_id.to_string(),
                started_on: certified.clock.issued(),
                finished_on: certified.clock.now(),
            },
            byproducts,
        },
    }
}

/// Lists every file, says `final`, and has the last quote made over all of it.
///
/// # Errors
/// What PID 1 answers, and [`AttestError`].
pub(crate) fn close<S: io::Read + io::Write>(
    outcome: Outcome,
    certified: &Certified,
    custodian: &mut Custodian<S>,
    mut bundle: Bundle,
) -> Result<Evidence, Fault> {
    let manifest = Manifest {
        version: manifest::VERSION,
        build_id: certified.build_id.clone(),
        outcome,
        finished: certified.clock.now(),
        files: bundle.listing(),
    };
    let payload =
        canonical::to_vec(&manifest).map_err(|source| AttestError::Document { document: "manifest", source })?;
    let signed = sign(custodian, Label::Manifest, Event::Manifest, &payload)?;
    custodian.measure(Measurement::Event { event: Event::Final })?;
    let runtime_log = custodian.runtime_log()?;
    if runtime_log.len() > RUNTIME_LOG_BYTES_MAX {
        return Err(BootError::LogTooLarge { log: "runtime", bytes_max: RUNTIME_LOG_BYTES_MAX }.into());
    }
    let closing = Closing {
        version: challenge::VERSION,
        build_id: certified.build_id.clone(),
        manifest_sha256: signed.payload_sha256,
        manifest_envelope_sha256: Sha256Digest::of(&signed.envelope),
        runtime_log_sha256: Sha256Digest::of(&runtime_log),
    };
    let closing =
        canonical::to_vec(&closing).map_err(|source| AttestError::Document { document: "closing", source })?;
    let quote = custodian.quote(WhichQuote::Last, Sha256Digest::of(&closing))?;
    bundle.add(file::MANIFEST, signed.envelope);
    bundle.add(file::CLOSING, closing);
    bundle.add(file::RUNTIME_LOG, runtime_log);
    bundle.add(file::LAST_QUOTE, quote.attest.0);
    bundle.add(file::LAST_SIGNATURE, quote.signature.0);
    tracing::info!(?outcome, "closed");
    Ok(Evidence { items: bundle.into_items(), outcome })
}
