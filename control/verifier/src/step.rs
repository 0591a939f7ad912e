//! Gate 5: did each step run, in order, under the policy it claims?
//!
//! Every record is held against the job (what should have run), the log (what was measured when), the record before it and the
//! certificate of the key that signed it. All findings are collected: a person who looks at a failed build wants them all.

mod enforced;
mod identity;
mod trace;

use std::collections::{BTreeMap, BTreeSet};

use kiln_formats::canonical;
use kiln_formats::certificate::StepCertificate;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::job::{Access, Profile, Step};
use kiln_formats::log;
use kiln_formats::manifest::{Outcome, path};
use kiln_formats::names::{Name, PAYLOAD_STATEMENT, PREDICATE_RECORD};
use kiln_formats::record::{Exit, InputSeen, StepRecord, StreamSeen, Usage};
use kiln_formats::runtime_trace::{Denial, Execution, MonitorLog, Unlisted};
use kiln_formats::statement::{ResourceDescriptor, Statement, Subject};
use serde::Serialize;

use crate::boot::StepEvents;
use crate::finding::{Finding, Gate};
use crate::job::AllowedJob;

const GATE: Gate = Gate::Step;

/// The allowed job and its records. That they hold says the absence of findings, not this value.
#[derive(Debug)]
pub(crate) struct RecordedSteps<'a> {
    pub(crate) allowed: AllowedJob<'a>,
    /// The records and traces, by the digests of their payloads, and the logs.
    pub(crate) byproducts: Vec<ResourceDescriptor>,
    /// What each step did, as far as record and trace can be read.
    pub(crate) reports: Vec<StepReport>,
}

/// What a step did, by its record and its trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// Which.
    pub step: Name,
    /// What it was allowed beyond its own files.
    pub profile: Profile,
    /// How it ended.
    pub exit: Exit,
    /// What it used up.
    pub usage: Usage,
    /// The programs that it executed, its own first.
    pub executions: Vec<Execution>,
    /// What it was denied.
    pub denials: Vec<Denial>,
    /// How much more there was of both.
    pub unlisted: Unlisted,
    /// How many bytes it wrote that its log has not, because the log met its limit.
    pub log_unkept_bytes: u64,
}

/// What is carried from one record to the next.
struct Chain {
    previous: Sha256Digest,
    /// What each workspace holds that a step wrote.
    workspaces: BTreeMap<Name, Sha256Digest>,
    /// Every key so far, as SubjectPublicKeyInfo.
    keys: BTreeSet<Vec<u8>>,
    findings: Vec<Finding>,
}

impl Chain {
    fn add(&mut self, code: &'static str, object: impl Into<String>, reason: impl Into<String>) {
        self.findings.push(Finding::new(GATE, code, object, reason));
    }

    /// Adds a finding about a field of a record unless `holds`.
    fn require(&mut self, holds: bool, file: &str, field: &str, reason: &str) {
        if !holds {
            self.add("record", format!("{file}: {field}"), reason);
        }
    }
}

/// Checks inputs, steps and records; findings are appended to `findings`.
pub(crate) fn check<'a>(allowed: AllowedJob<'a>, findings: &mut Vec<Finding>) -> RecordedSteps<'a> {
    let mut chain = Chain {
        previous: allowed.decision_sha256,
        workspaces: BTreeMap::new(),
        keys: allowed.booted.keys.clone(),
        findings: std::mem::take(findings),
    };
    check_inputs(&allowed, &mut chain);
    let steps: Vec<&Step> = allowed.job.steps().collect();
    let events = &allowed.booted.events.steps;
    let (mut byproducts, mut reports) = (Vec::new(), Vec::new());
    let mut failed = false;
    for (sequence, event) in (0u32..).zip(events) {
        let Some(step) = steps.get(sequence as usize) else {
            chain.add("step_unexpected", format!("step-begin of {}", event.name), "the job has no further step");
            continue;
        };
        if failed {
            chain.add(
                "step_unexpected",
                format!("step-begin of {}", event.name),
                "a step ran after one that had failed",
            );
        }
        if let Some((statement, identity)) = check_record(&allowed, sequence, step, event, &mut chain) {
            let log = trace::check(&allowed, sequence, step, event, (&statement, &identity), &mut chain);
            let record = statement.predicate;
            failed = !record.exit.is_success();
            byproducts.push(ResourceDescriptor::new(path::record(sequence, &step.name), chain.previous));
            byproducts.push(ResourceDescriptor::new(path::trace(sequence, &step.name), record.trace));
            byproducts.push(ResourceDescriptor::new(path::log(sequence, &step.name), record.log.sha256));
            reports.extend(log.map(|log| report(record, log)));
        }
    }
    check_outcome(&allowed, events.len(), steps.len(), failed, &mut chain);
    *findings = chain.findings;
    RecordedSteps { allowed, byproducts, reports }
}

fn unkept(stream: &StreamSeen) -> u64 {
    stream.written_bytes.saturating_sub(stream.kept_bytes)
}

fn report(record: StepRecord, log: MonitorLog) -> StepReport {
    StepReport {
        step: record.step,
        profile: record.profile,
        exit: record.exit,
        usage: record.usage,
        executions: log.process,
        denials: log.kiln_denials,
        unlisted: log.kiln_unlisted,
        log_unkept_bytes: unkept(&record.log.out).saturating_add(unkept(&record.log.err)),
    }
}

/// Every input of the job arrived, as the job names it.
fn check_inputs(allowed: &AllowedJob<'_>, chain: &mut Chain) {
    let expected: Vec<_> = allowed.job.job().input.iter().map(|input| (input.name.clone(), input.sha256)).collect();
    if allowed.booted.events.inputs != expected {
        chain.add("inputs", path::RUNTIME_LOG, "the measured inputs are not those of the job, in its order");
    }
}

fn check_outcome(allowed: &AllowedJob<'_>, ran: usize, steps: usize, failed: bool, chain: &mut Chain) {
    let outcome = allowed.booted.quoted.whole.manifest.outcome;
    if ran < steps && !failed {
        chain.add("step_missing", path::RUNTIME_LOG, format!("{ran} of {steps} steps ran, and none failed"));
    }
    if outcome == Outcome::Built && failed {
        chain.add("outcome", path::MANIFEST, "it says that the job was built, but a step failed");
    }
    if outcome == Outcome::StepFailed && !failed {
        chain.add("outcome", path::MANIFEST, "it says that a step failed, but no record says so");
    }
}

/// Checks one record; `None` if there is none to be believed.
fn check_record(
    allowed: &AllowedJob<'_>,
    sequence: u32,
    step: &Step,
    event: &StepEvents,
    chain: &mut Chain,
) -> Option<(Statement<StepRecord>, StepCertificate)> {
    let file = path::record(sequence, &event.name);
    if event.name != step.name {
        chain.add("step_order", format!("step-begin of {}", event.name), format!("it was the turn of {}", step.name));
    }
    let step_sha256 = step.digest().ok();
    if step_sha256 != Some(event.begin) {
        chain.add(
            "step_event",
            format!("step-begin of {}", event.name),
            "the machine measured another text of this step",
        );
    }
    let identity = identity::read(allowed, sequence, event, chain);
    let read = identity.and_then(|identity| Ok((read_record(allowed, &file, &identity)?, identity)));
    let ((statement, digest), identity) = match read {
        Ok(read) => read,
        Err(finding) => {
            // The log names the record all the same: the next one must follow it.
            chain.previous = event.end;
            chain.findings.push(finding);
            return None;
        }
    };
    if digest != event.end {
        chain.add(
            "step_event",
            format!("step-end of {}", event.name),
            format!("the machine measured another record than {file}"),
        );
    }
    let record = &statement.predicate;
    let build_id = &allowed.booted.quoted.whole.binding.challenge.build_id;
    chain.require(record.build_id == *build_id, &file, "buildId", "it is of another build");
    chain.require(record.sequence == sequence, &file, "sequence", "it is not the record's place");
    chain.require(record.previous == chain.previous, &file, "previous", "it does not follow the record before it");
    chain.require(record.step == step.name, &file, "step", "it is of another step");
    chain.require(Some(record.step_sha256) == step_sha256, &file, "stepSha256", "it is of another text of this step");
    chain.previous = digest;
    check_policy(allowed, step, record, &file, chain);
    check_workspaces(step, record, &file, chain);
    check_subjects(&statement, &file, chain);
    check_log(allowed, sequence, step, record, chain);
    enforced::check(record, &file, &mut chain.findings);
    identity::check(allowed, &path::identity(sequence, &event.name), step, record, &identity.identity, chain);
    Some((statement, identity))
}

fn read_record(
    allowed: &AllowedJob<'_>,
    file: &str,
    signer: &StepCertificate,
) -> Result<(Statement<StepRecord>, Sha256Digest), Finding> {
    let whole = &allowed.booted.quoted.whole;
    let wrong = |e: &dyn std::fmt::Display| Finding::new(GATE, "record", file, e.to_string());
    let bytes = crate::evidence::bytes(whole.bundle, GATE, file)?;
    let envelope = Envelope::from_slice_exact(bytes).map_err(|e| wrong(&e))?;
    let verified = envelope.verify(PAYLOAD_STATEMENT, &[signer.key]).map_err(|e| wrong(&e))?;
    let statement: Statement<StepRecord> = canonical::from_slice_exact(verified.payload()).map_err(|e| wrong(&e))?;
    if !statement.is(PREDICATE_RECORD) {
        return Err(wrong(&"it is no statement with a step record"));
    }
    Ok((statement, verified.digest()))
}

/// The step ran as the job orders: this program, on this image, with these inputs, within these limits.
fn check_policy(allowed: &AllowedJob<'_>, step: &Step, record: &StepRecord, file: &str, chain: &mut Chain) {
    let job = allowed.job.job();
    let image = job.image.iter().find(|image| image.name == step.image).map(|image| image.root_hash);
    let inputs: Vec<InputSeen> = step
        .inputs
        .iter()
        .filter_map(|name| job.input.iter().find(|input| input.name == *name))
        .map(|input| InputSeen { name: input.name.clone(), sha256: input.sha256 })
        .collect();
    chain.require(
        Some(record.image_root_hash) == image,
        file,
        "imageRootHash",
        "it is not the image that the job names",
    );
    chain.require(record.argv == step.argv, file, "argv", "it is not the job's");
    chain.require(record.env == step.env, file, "env", "it is not the job's");
    chain.require(record.workdir == step.workdir, file, "workdir", "it is not the job's");
    chain.require(record.inputs == inputs, file, "inputs", "they are not the job's");
    chain.require(record.profile == step.profile, file, "profile", "it is not the job's");
    chain.require(record.proc == step.proc, file, "proc", "it is not the job's");
    chain.require(record.limits == step.limits, file, "limits", "they are not the job's");
}

/// Workspaces are those of the job, are handed on unchanged, and change only where the step may write.
fn check_workspaces(step: &Step, record: &StepRecord, file: &str, chain: &mut Chain) {
    let seen = record.workspaces.iter().map(|seen| (&seen.name, seen.access));
    let ordered = step.workspaces.iter().map(|usage| (&usage.name, usage.access));
    chain.require(seen.eq(ordered), file, "workspaces", "they are not the job's");
    for seen in &record.workspaces {
        let field = format!("workspaces.{}", seen.name);
        let written = chain.workspaces.get(&seen.name).copied();
        match seen.access {
            Access::Ro => {
                chain.require(seen.after == Some(seen.before), file, &field, "a read-only workspace changed");
                chain.require(written == Some(seen.before), file, &field, "it is not what the step that wrote it left");
            }
            Access::Rw => {
                chain.require(written.is_none(), file, &field, "a second step wrote it");
                // The digest of a workspace is one over its entries, in order; an empty one has none.
                chain.require(seen.before == Sha256Digest::of(b""), file, &field, "it was not empty before its step");
                let known = seen.after.is_some() || !record.exit.is_success();
                chain.require(known, file, &field, "the step succeeded, and what it left is not said");
                chain.workspaces.extend(seen.after.map(|after| (seen.name.clone(), after)));
            }
        }
    }
}

/// The statement is about what the step wrote, and about nothing else.
fn check_subjects(statement: &Statement<StepRecord>, file: &str, chain: &mut Chain) {
    let record = &statement.predicate;
    let written = record.workspaces.iter().filter(|seen| seen.access == Access::Rw);
    let mut expected: Vec<Subject> =
        written.filter_map(|seen| Some(Subject::new(format!("workspace/{}", seen.name), seen.after?))).collect();
    expected.push(Subject::new(format!("log/{}", record.step), record.log.sha256));
    let by_name = |subjects: &[Subject]| {
        subjects.iter().map(|subject| (subject.name.clone(), subject.digest.sha256)).collect::<BTreeMap<_, _>>()
    };
    let same = by_name(&statement.subject) == by_name(&expected) && statement.subject.len() == expected.len();
    chain.require(same, file, "subject", "the statement is not about what the step wrote and its log");
}

/// The log is the one of the record, whole, as the record counts it, and no longer than allowed.
fn check_log(allowed: &AllowedJob<'_>, sequence: u32, step: &Step, record: &StepRecord, chain: &mut Chain) {
    let file = path::log(sequence, &record.step);
    let bytes = match crate::evidence::bytes(allowed.booted.quoted.whole.bundle, GATE, &file) {
        Ok(bytes) => bytes,
        Err(finding) => return chain.findings.push(finding),
    };
    if let Err(unlike) = log::Log::of_record(bytes, &record.log) {
        chain.require(false, &file, "log", &unlike.to_string());
    }
    let allowed = bytes.len() as u64 <= log::bytes_max(step.limits.log_bytes);
    chain.require(allowed, &file, "log", "it is longer than the job allows");
}
