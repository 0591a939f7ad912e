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
use kiln_formats::provenance::{BuildDefinition, Provenance, RunDetails};
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
        let events = &recorded.allowed.booted.events;
        if events.provenance.is_some() || !events.outputs.is_empty() {
            findings.push(wrong(
                "outcome",
                path::RUNTIME_LOG,
                "a job that was not built has no outputs and no provenance",
            ));
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
        path::BINDING,
        path::FIRST_QUOTE,
        path::FIRST_SIGNATURE,
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
    ]
    .map(str::to_owned)
    .into();
    if recorded.allowed.booted.hosted.is_some() {
        expected.insert(path::HOST_QUOTE.to_owned());
    }
    for (sequence, step) in (0u32..).zip(&recorded.allowed.booted.events.steps) {
        expected.insert(path::identity(sequence, &step.name));
        expected.insert(path::record(sequence, &step.name));
        expected.insert(path::trace(sequence, &step.name));
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
        findings.push(wrong(
            "file_missing",
            missing,
            "such a build leaves this file, and the manifest does not list it",
        ));
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
        findings.push(wrong(
            "outputs",
            path::RUNTIME_LOG,
            "the measured outputs are not the artifacts, in the job's order",
        ));
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
    let challenge = &whole.binding.challenge;
    let BuildDefinition { build_type, external_parameters, internal_parameters, resolved_dependencies } =
        &statement.predicate.build_definition;
    let RunDetails { builder, metadata, byproducts } = &statement.predicate.run_details;
    let mut require = |holds: bool, field: &str, reason: &str| {
        if !holds {
            findings.push(wrong("provenance", format!("{}: {field}", path::PROVENANCE), reason));
        }
    };
    let subjects = statement.subject.iter().map(|subject| (subject.name.as_str(), subject.digest.sha256));
    let outputs = artifacts.iter().map(|artifact| (artifact.name.as_str(), artifact.sha256));
    require(subjects.eq(outputs), "subject", "it is not about the artifacts, in the job's order");
    require(build_type == BUILD_TYPE, "buildType", "it is not that of a job");
    let job = ResourceDescriptor::new("job", allowed.job_sha256);
    require(external_parameters.job == job, "externalParameters.job", "it is another job");
    let image = ResourceDescriptor::new("image", challenge.image_sha256);
    require(internal_parameters.image == image, "internalParameters.image", "it is not the image that was booted");
    // Both kinds of machines that this verifier knows have a software TPM.
    require(internal_parameters.tpm == "software", "internalParameters.tpm", "this machine's TPM is a program");
    let dependencies = expected_dependencies(recorded, job);
    require(
        *resolved_dependencies == dependencies,
        "resolvedDependencies",
        "they are not the job, its images and its inputs",
    );
    require(builder.id == allowed.booted.configuration.builder_id, "builder.id", "it is another kind of machine");
    require(metadata.invocation_id == challenge.build_id.as_str(), "invocationId", "it is another build");
    require(metadata.started_on == challenge.issued, "startedOn", "it is not the challenge's time");
    let times = challenge.issued..=whole.manifest.finished;
    require(times.contains(&metadata.finished_on), "finishedOn", "it is not between the challenge and the manifest");
    require(*byproducts == recorded.byproducts, "byproducts", "they are not the records, traces and logs of the steps");
}

/// The job document, every image and every input, in the job's order.
fn expected_dependencies(recorded: &RecordedSteps<'_>, document: ResourceDescriptor) -> Vec<ResourceDescriptor> {
    let job = recorded.allowed.job.job();
    let images =
        job.image.iter().map(|image| ResourceDescriptor::new(format!("image/{}", image.name), image.root_hash));
    let inputs = job.input.iter().map(|input| {
        ResourceDescriptor::new(format!("input/{}", input.name), input.sha256).with_uri(input.uri.as_str())
    });
    [document].into_iter().chain(images).chain(inputs).collect()
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
