//! Decides whether evidence holds: offline, without clock, files, network or randomness.
//!
//! Evidence passes six gates, in the reverse order of what the machine did. Each gate consumes the value of the gate before it
//! and is the only constructor of its own, so that a check that is left out does not compile. Gates 1 to 4 end the judgement where
//! something is wrong; 5 and 6 collect everything that is. Leaving anything out of a bundle can only make the verdict worse.
//!
//! A refused or failed job leaves evidence as well, and it is judged as strictly: [`Verdict::holds`] says that the evidence is
//! sound, [`Verdict::outcome`] what it shows (`built`, `step_failed`, `refused`), and [`Verdict::passed`] that it is sound *and*
//! the job was built. Only then are there artifacts. A refusal ends after gate 4: there are no steps and no outputs to judge.

#![forbid(unsafe_code)]

pub mod attestation;
mod boot;
mod bundle;
pub mod enrolment;
mod evidence;
mod finding;
pub mod host;
mod job;
mod quote;
pub mod standing;
mod statement;
mod step;
pub mod teardown;
mod verdict;

use kiln_formats::certificate::Certificate;
use kiln_formats::manifest::Outcome;
use kiln_formats::reference::Reference;
use kiln_formats::trust::Policy;

pub use bundle::{Bundle, Content};
pub use finding::{Finding, Findings, Gate};
pub use standing::Standing;
pub use statement::Artifact;
pub use step::StepReport;
pub use verdict::{GateReport, GateState, TpmReport, Verdict};

use job::DecidedJob;

/// What the person got by other ways than the evidence, and trusts for reasons of their own.
#[derive(Debug, Clone)]
pub struct Anchors {
    /// The site's root certificate.
    pub root: Certificate,
    /// Which kinds of machines and whose jobs count.
    pub policy: Policy,
    /// What the image's boot must leave in the TPM.
    pub reference: Reference,
    /// What the site's root said later. Without it nothing is held against revocations, and the verdict says so.
    pub standing: Option<Standing>,
}

/// Judges a bundle. Never panics, whatever is in it.
#[must_use]
pub fn verify(bundle: &Bundle, anchors: &Anchors) -> Verdict {
    let mut verdict = Verdict::not_reached();
    verdict.trust_list = anchors.standing.as_ref().map(|standing| standing.list.number);
    if let Err(findings) = judge(bundle, anchors, &mut verdict) {
        verdict.stop(findings);
    }
    verdict
}

/// The gates in order. What a gate proves goes into the verdict once it is passed.
fn judge(bundle: &Bundle, anchors: &Anchors, verdict: &mut Verdict) -> Result<(), Findings> {
    let whole = evidence::check(bundle, anchors)?;
    verdict.pass(Gate::Evidence);

    let quoted = quote::check(whole)?;
    attestation::check_machine(&quoted.whole.binding.endorsement_key_sha256, anchors)?;
    verdict.pass(Gate::Quote);
    verdict.machine = Some(quoted.whole.binding.endorsement_key_sha256);
    verdict.build_id = Some(quoted.whole.binding.challenge.build_id.clone());
    verdict.tpm = Some(TpmReport::new(&quoted.first, &quoted.last));

    let booted = boot::check(quoted, anchors)?;
    verdict.pass(Gate::Boot);
    verdict.machine_class = Some(booted.machine_class);
    verdict.host = booted.hosted.map(|hosted| hosted.endorsement_key_sha256);
    verdict.builder_id = Some(booted.configuration.builder_id.clone());
    verdict.image_sha256 = Some(booted.quoted.whole.binding.challenge.image_sha256);
    let outcome = booted.quoted.whole.manifest.outcome;

    let allowed = match job::check(booted, anchors)? {
        DecidedJob::Allowed(allowed) => *allowed,
        DecidedJob::Refused(refusal) => {
            verdict.pass(Gate::Job);
            verdict.outcome = Some(Outcome::Refused);
            verdict.refusal = Some(refusal);
            return Ok(());
        }
    };
    verdict.pass(Gate::Job);
    verdict.job_sha256 = Some(allowed.job_sha256);

    let mut findings = Vec::new();
    let recorded = step::check(allowed, &mut findings);
    if findings.is_empty() {
        verdict.steps = recorded.reports.clone();
    }
    verdict.report(Gate::Step, findings);

    let mut findings = Vec::new();
    let artifacts = statement::check(&recorded, &mut findings);
    verdict.report(Gate::Statement, findings);
    verdict.outcome = Some(outcome);
    if verdict.passed() {
        verdict.artifacts = artifacts;
    }
    Ok(())
}
