//! Gate 4: is it the job that was signed and allowed, now, once?
//!
//! "Once" is the log's doing: its order has room for one job and one decision. A refusal ends here, as soundly as a build ends
//! two gates later: the machine decided, measured and signed its decision, and ran nothing.

use kiln_formats::canonical;
use kiln_formats::decision::{self, Decision, Refusal, Ruling};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::job::{CheckedJob, Job};
use kiln_formats::manifest::{Outcome, path};
use kiln_formats::names::{PAYLOAD_DECISION, PAYLOAD_JOB};
use kiln_formats::trust::PublicKey;

use crate::Anchors;
use crate::boot::BootedEvidence;
use crate::evidence::bytes;
use crate::finding::{Finding, Findings, Gate};
use crate::standing;

const GATE: Gate = Gate::Job;

/// What the machine decided.
#[derive(Debug)]
pub(crate) enum DecidedJob<'a> {
    /// The job was to be run.
    Allowed(Box<AllowedJob<'a>>),
    /// It was not, and nothing was run.
    Refused(Refusal),
}

/// Holding one says: the machine allowed this job, which the site's policy lets its signer order, before it expired.
#[derive(Debug)]
pub(crate) struct AllowedJob<'a> {
    pub(crate) booted: BootedEvidence<'a>,
    pub(crate) job: CheckedJob,
    pub(crate) job_sha256: Sha256Digest,
    pub(crate) decision_sha256: Sha256Digest,
}

/// Checks the decision, then, if it allows the job, the job.
pub(crate) fn check<'a>(booted: BootedEvidence<'a>, anchors: &Anchors) -> Result<DecidedJob<'a>, Findings> {
    let whole = &booted.quoted.whole;
    let job_bytes = bytes(whole.bundle, GATE, path::JOB)?;
    let job_sha256 = Sha256Digest::of(job_bytes);
    if job_sha256 != booted.events.job {
        return Err(wrong("job_event", path::JOB, "the machine measured another job document").into());
    }
    let (decision, decision_sha256) = check_decision(&booted, job_sha256)?;
    let ruling = match decision.verdict {
        Ruling::Deny(refusal) => return refused(&booted, refusal),
        Ruling::Allow => &whole.manifest.outcome,
    };
    if *ruling == Outcome::Refused {
        return Err(
            wrong("outcome", path::MANIFEST, "it says that the job was refused, but the machine allowed it").into()
        );
    }
    if job_sha256 != whole.binding.challenge.job_sha256 {
        return Err(wrong("challenge", path::JOB, "it is not the job that the challenge named").into());
    }
    let job = check_job(job_bytes, anchors)?;
    let issued = whole.binding.challenge.issued;
    if job.job().expires <= issued.max(decision.time) {
        return Err(wrong("expired", path::JOB, "the machine allowed it after it had expired").into());
    }
    Ok(DecidedJob::Allowed(Box::new(AllowedJob { booted, job, job_sha256, decision_sha256 })))
}

fn wrong(code: &'static str, object: &str, reason: impl Into<String>) -> Finding {
    Finding::new(GATE, code, object, reason)
}

/// The decision is the machine's, it is the one that was measured, and it is about this job at this site at that time.
fn check_decision(booted: &BootedEvidence<'_>, job_sha256: Sha256Digest) -> Result<(Decision, Sha256Digest), Finding> {
    let whole = &booted.quoted.whole;
    let broken = |e: &dyn std::fmt::Display| wrong("decision", path::DECISION, e.to_string());
    let envelope = Envelope::from_slice_exact(bytes(whole.bundle, GATE, path::DECISION)?).map_err(|e| broken(&e))?;
    let verified = envelope.verify(PAYLOAD_DECISION, &[whole.statement.key]).map_err(|e| broken(&e))?;
    if verified.digest() != booted.events.decision {
        return Err(wrong("decision_event", path::DECISION, "the machine measured another decision"));
    }
    let decision: Decision = canonical::from_slice_exact(verified.payload()).map_err(|e| broken(&e))?;
    let times = whole.binding.challenge.issued..=whole.manifest.finished;
    let differing = [
        (decision.version != decision::VERSION, "its version is not known"),
        (decision.build_id != whole.binding.challenge.build_id, "it is of another build"),
        (decision.job_sha256 != job_sha256, "it is about another job"),
        (decision.trust_sha256 != booted.trust_sha256, "it was made by another trust bundle"),
        (!times.contains(&decision.time), "it was not made between the challenge and the end of the build"),
    ];
    match differing.into_iter().find(|(differs, _)| *differs) {
        Some((_, reason)) => Err(wrong("decision", path::DECISION, reason)),
        None => Ok((decision, verified.digest())),
    }
}

/// A refused job leaves a bundle in which nothing was run.
fn refused<'a>(booted: &BootedEvidence<'_>, refusal: Refusal) -> Result<DecidedJob<'a>, Findings> {
    let (events, manifest) = (&booted.events, &booted.quoted.whole.manifest);
    if manifest.outcome != Outcome::Refused {
        return Err(
            wrong("outcome", path::MANIFEST, "the machine refused the job, but it names another outcome").into()
        );
    }
    let nothing_ran = events.steps.is_empty() && events.outputs.is_empty() && events.provenance.is_none();
    if !nothing_ran || !events.inputs.is_empty() {
        return Err(
            wrong("event_order", path::RUNTIME_LOG, "the machine went on with a job that it had refused").into()
        );
    }
    let allowed = |file: &str| {
        file.starts_with("evidence/boot/")
            || file.starts_with("evidence/certificates/")
            || file.starts_with("evidence/quotes/")
            || [path::DISPATCH, path::DISPATCH_SUMMARY, path::DISPATCH_IMAGE].contains(&file)
            || [path::JOB, path::DECISION].contains(&file)
    };
    match manifest.files.iter().find(|file| !allowed(&file.path)) {
        Some(file) => Err(wrong("file_unexpected", &file.path, "a refused job leaves no such file").into()),
        None => Ok(DecidedJob::Refused(refusal)),
    }
}

/// The job was signed by someone whom the policy names, asks for no profile that it does not allow, and obeys every rule.
fn check_job(bytes: &[u8], anchors: &Anchors) -> Result<CheckedJob, Finding> {
    let broken = |code, e: &dyn std::fmt::Display| wrong(code, path::JOB, e.to_string());
    let envelope = Envelope::from_slice(bytes).map_err(|e| broken("job", &e))?;
    let signers: Vec<_> = anchors.policy.job_signers.iter().map(|key| key.0).collect();
    let verified = envelope.verify(PAYLOAD_JOB, &signers).map_err(|e| broken("job_signature", &e))?;
    if let Some(standing) = &anchors.standing {
        standing::job_signer(&standing.list, &PublicKey(*verified.key()))?;
    }
    let job: Job = canonical::from_slice_exact(verified.payload()).map_err(|e| broken("job", &e))?;
    if let Some((at, step)) = anchors.policy.forbidden_step(&job) {
        let reason = format!("the policy does not allow the profile `{}` of step {}", step.profile, step.name);
        return Err(wrong("profile", &format!("{}: step[{at}].profile", path::JOB), reason));
    }
    CheckedJob::new(job).map_err(|violations| {
        let first = violations.first().map(ToString::to_string).unwrap_or_default();
        broken("job", &format_args!("it breaks the rules of the format: {first}"))
    })
}
