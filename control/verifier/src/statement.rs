//! Gate 6: which outputs, signed by which key?
//!
//! The provenance is recomputed in all that follows from the job, the records and the challenge, and compared; the artifacts are
//! those that it names. A job that did not get that far must not have a provenance, and leaves no artifact.

use std::collections::BTreeSet;

use kiln_formats::canonical;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::manifest::{Outcome, path};
use kiln_formats::names::{BUILD_TYPE, Name, PAYLOAD_STATEMENT, PREDICATE_PROVENANCE};
use kiln_formats::provenance::Provenance;
use kiln_formats::statement::{ResourceDescriptor, Statement};
use serde::Serialize;

use crate::finding::{Finding, Gate};
use crate::step::RecordedSteps;

const GATE: Gate = Gate::Statement;

/// What the evidence vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Artifact {
    /// The output's name in the job; its file is `artifacts/NAME`.
    pub name: Name,
    /// The digest of its bytes.
    pub sha256: Sha256Digest,
    /// Their number.
    pub size: u64,
}

/// Checks provenance, artifacts and the set of files; findings are appended. The artifacts count only without findings.
pub(crate) fn check(recorded: &RecordedSteps<'_>, findings: &mut Vec<Finding>) -> Vec<Artifact> {
    check_file_set(recorded, findings);
    if recorded.allowed.booted.quoted.whole.manifest.outcome == Outcome::Built {
        check_built(recorded, findings)
    } else {
        if recorded.allowed.booted.events.provenance.is_some() {
            findings.push(wrong("outcome", path::RUNTIME_LOG, "a job that was not built has no provenance"));
        }
        Vec::new()
    }
}

fn wrong(code: &'static str, object: impl Into<String>, reason: impl Into<String>) -> Finding {
    Finding::new(GATE, code, object, reason)
}

/// The manifest lists exactly the files that such a build leaves; the firmware's log is where the firmware kept one.
fn check_file_set(recorded: &RecordedSteps<'_>, findings: &mut Vec<Finding>) {
    let whole = &recorded.allowed.booted.quoted.whole;
    let mut expected: BTreeSet<String> = [
        path::CONFIGURATION,
        path::TRUST,
        path::BINDING,
        path::FIRST_QUOTE,
        path::FIRST_SIGNATURE,
        path::AUTHORITY,
        path::STATEMENT_KEY,
        path::ATTESTATION_KEY,
        path::JOB,
        path::DECISION,
    ]
    .map(str::to_owned)
    .into();
    for (sequence, step) in (0u32..).zip(&recorded.allowed.booted.events.steps) {
        expected.insert(path::record(sequence, &step.name));
        expected.insert(path::log(sequence, &step.name));
    }
    if whole.manifest.outcome == Outcome::Built {
        expected.insert(path::PROVENANCE.to_owned());
        for output in &recorded.allowed.job.job().output {
            expected.insert(path::artifact(&output.name));
            expected.insert(path::artifact_statements(&output.name));
        }
    }
    let listed: BTreeSet<String> =
        whole.manifest.files.iter().map(|file| file.path.clone()).filter(|path| path != path::FIRMWARE_LOG).collect();
    for missing in expected.difference(&listed) {
        findings.push(wrong("file_missing", missing, "such a build leaves this file, and the manifest does not list it"));
    }
    for extra in listed.difference(&expected) {
        findings.push(wrong("file_unexpected", extra, "the manifest lists it, and no such build leaves it"));
    }
}

fn check_built(recorded: &RecordedSteps<'_>, findings: &mut Vec<Finding>) -> Vec<Artifact> {
    let artifacts = check_artifacts(recorded, findings);
    match read_provenance(recorded) {
        Ok((statement, envelope)) => {
            check_provenance(recorded, &statement, &artifacts, findings);
            check_bundles(recorded, envelope, findings);
        }
        Err(finding) => findings.push(finding),
    }
    artifacts
}

/// The artifacts are the job's outputs, as measured and within their sizes.
fn check_artifacts(recorded: &RecordedSteps<'_>, findings: &mut Vec<Finding>) -> Vec<Artifact> {
    let allowed = &recorded.allowed;
    let mut artifacts = Vec::new();
    for output in &allowed.job.job().output {
        let file = path::artifact(&output.name);
        let Some(content) = allowed.booted.quoted.whole.bundle.get(&file) else {
            findings.push(wrong("file_missing", file, "the job has this output, and it is not there"));
            continue;
        };
        if content.size() > output.size_bytes_max {
            findings.push(wrong("artifact_too_large", file, "it is larger than the job allows"));
        }
        artifacts.push(Artifact { name: output.name.clone(), sha256: content.sha256(), size: content.size() });
    }
    let found: Vec<_> = artifacts.iter().map(|artifact| (artifact.name.clone(), artifact.sha256)).collect();
    if allowed.booted.events.outputs != found {
        findings.push(wrong("outputs", path::RUNTIME_LOG, "the measured outputs are not the artifacts, in the job's order"));
    }
    artifacts
}

fn read_provenance<'a>(recorded: &RecordedSteps<'a>) -> Result<(Statement<Provenance>, &'a [u8]), Finding> {
    let booted = &recorded.allowed.booted;
    let whole = &booted.quoted.whole;
    let broken = |e: &dyn std::fmt::Display| wrong("provenance", path::PROVENANCE, e.to_string());
    let bytes = crate::evidence::bytes(whole.bundle, GATE, path::PROVENANCE)?;
    let envelope = Envelope::from_slice_exact(bytes).map_err(|e| broken(&e))?;
    let verified = envelope.verify(PAYLOAD_STATEMENT, &[whole.statement.key]).map_err(|e| broken(&e))?;
    if booted.events.provenance != Some(verified.digest()) {
        return Err(wrong("provenance_event", path::PROVENANCE, "the machine measured another provenance"));
    }
    let statement: Statement<Provenance> = canonical::from_slice_exact(verified.payload()).map_err(|e| broken(&e))?;
    if !statement.is(PREDICATE_PROVENANCE) {
        return Err(broken(&"it is no statement with a SLSA provenance"));
    }
    Ok((statement, bytes))
}

fn check_provenance(
    recorded: &RecordedSteps<'_>,
    statement: &Statement<Provenance>,
    artifacts: &[Artifact],
    findings: &mut Vec<Finding>,
) {
    let allowed = &recorded.allowed;
    let whole = &allowed.booted.quoted.whole;
    let (definition, details) = (&statement.predicate.build_definition, &statement.predicate.run_details);
    let mut require = |holds: bool, field: &str, reason: &str| {
        if !holds {
            findings.push(wrong("provenance", format!("{}: {field}", path::PROVENANCE), reason));
        }
    };
    let subjects = statement.subject.iter().map(|subject| (subject.name.as_str(), subject.digest.sha256));
    let outputs = artifacts.iter().map(|artifact| (artifact.name.as_str(), artifact.sha256));
    require(subjects.eq(outputs), "subject", "it is not about the artifacts, in the job's order");
    require(definition.build_type == BUILD_TYPE, "buildType", "it is not that of a job");
    let job = &definition.external_parameters.job;
    require(job.digest.sha256 == allowed.job_sha256, "externalParameters.job", "it is another job");
    let image = &definition.internal_parameters.image;
    let booted_image = whole.binding.challenge.image_sha256;
    require(image.digest.sha256 == booted_image, "internalParameters.image", "it is not the image that was booted");
    // Both kinds of machines that this verifier knows have a software TPM.
    require(definition.internal_parameters.tpm == "software", "internalParameters.tpm", "this machine's TPM is a program");
    let dependencies = digests(&definition.resolved_dependencies);
    require(dependencies == expected_dependencies(recorded), "resolvedDependencies", "they are not the job's");
    let sources = &definition.resolved_dependencies;
    require(inputs_have_their_origin(recorded, sources), "resolvedDependencies", "an input has another origin than in the job");
    require(details.builder.id == allowed.booted.configuration.builder_id, "builder.id", "it is another kind of machine");
    let metadata = &details.metadata;
    let build_id = &whole.binding.challenge.build_id;
    require(metadata.invocation_id == build_id.as_str(), "invocationId", "it is another build");
    require(metadata.started_on == whole.binding.challenge.issued, "startedOn", "it is not the challenge's time");
    let times = metadata.started_on..=whole.manifest.finished;
    require(times.contains(&metadata.finished_on), "finishedOn", "it is not between the challenge and the manifest");
    let known = known_byproducts(recorded);
    let byproducts = digests(&details.byproducts);
    require(byproducts.iter().all(|digest| known.contains(digest)), "byproducts", "one is no record or log of this build");
    let listed = recorded.records.iter().all(|record| byproducts.contains(record)) || recorded_files(recorded).is_subset(&set(&byproducts));
    require(listed, "byproducts", "a record is missing");
}

fn set(digests: &[Sha256Digest]) -> BTreeSet<Sha256Digest> {
    digests.iter().copied().collect()
}

/// The digests of descriptors, sorted; a thing named twice stays twice.
fn digests(descriptors: &[ResourceDescriptor]) -> Vec<Sha256Digest> {
    let mut digests: Vec<_> = descriptors.iter().map(|descriptor| descriptor.digest.sha256).collect();
    digests.sort_unstable();
    digests
}

/// The job document, every image and every input, sorted.
fn expected_dependencies(recorded: &RecordedSteps<'_>) -> Vec<Sha256Digest> {
    let job = recorded.allowed.job.job();
    let images = job.image.iter().map(|image| image.root_hash);
    let inputs = job.input.iter().map(|input| input.sha256);
    let mut digests: Vec<_> = images.chain(inputs).chain([recorded.allowed.job_sha256]).collect();
    digests.sort_unstable();
    digests
}

fn inputs_have_their_origin(recorded: &RecordedSteps<'_>, dependencies: &[ResourceDescriptor]) -> bool {
    recorded.allowed.job.job().input.iter().all(|input| {
        dependencies.iter().any(|found| found.digest.sha256 == input.sha256 && found.uri.as_deref() == Some(input.uri.as_str()))
    })
}

/// The digests of the record files.
fn recorded_files(recorded: &RecordedSteps<'_>) -> BTreeSet<Sha256Digest> {
    let bundle = recorded.allowed.booted.quoted.whole.bundle;
    let steps = (0u32..).zip(&recorded.allowed.booted.events.steps);
    steps.filter_map(|(sequence, step)| Some(bundle.get(&path::record(sequence, &step.name))?.sha256())).collect()
}

/// What a byproduct may be: a record (its file or its payload) or a log.
fn known_byproducts(recorded: &RecordedSteps<'_>) -> BTreeSet<Sha256Digest> {
    let bundle = recorded.allowed.booted.quoted.whole.bundle;
    let mut known = recorded_files(recorded);
    known.extend(recorded.records.iter().copied());
    for (sequence, step) in (0u32..).zip(&recorded.allowed.booted.events.steps) {
        known.extend(bundle.get(&path::log(sequence, &step.name)).map(|content| content.sha256()));
    }
    known
}

/// Beside each artifact lies the provenance, on one line.
fn check_bundles(recorded: &RecordedSteps<'_>, envelope: &[u8], findings: &mut Vec<Finding>) {
    for output in &recorded.allowed.job.job().output {
        let file = path::artifact_statements(&output.name);
        let bytes = recorded.allowed.booted.quoted.whole.bundle.bytes(&file).unwrap_or_default();
        if bytes.strip_suffix(b"\n").unwrap_or(bytes) != envelope {
            findings.push(wrong("artifact_statements", file, "it is not one line with the provenance"));
        }
    }
}
