//! Tells a verdict: to a person, to a script, and to whoever reads SLSA verification summaries.

use std::fmt::Write as _;

use kiln_attestor::site::Site;
use kiln_formats::canonical;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::manifest::{Outcome, path};
use kiln_formats::names::{PREDICATE_VERDICT, VERIFIER};
use kiln_formats::reference::Reference;
use kiln_formats::statement::{Statement, Subject};
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::Policy;
use kiln_formats::verdict::{Attestation, PolicyUsed, SLSA_VERSION, Summary, Verifier};
use kiln_verifier::{Anchors, Bundle, Content, GateState, Standing, Verdict, verify};

use crate::exit::{Exit, OrExit as _, Result};
use crate::{document, ended, host};

/// What passing tells in SLSA's words: the provenance is there and whole. Level 2 and above say that somebody else than the person
/// who wants the artifact runs the builder, which no evidence shows. Source: SLSA v1.2, build track.
const LEVEL: &str = "SLSA_BUILD_LEVEL_1";

/// What a verdict means for whoever ran the machine.
pub(crate) fn exit(verdict: &Verdict) -> Exit {
    match verdict.outcome.filter(|_| verdict.holds()) {
        Some(Outcome::Built) => Exit::Done,
        Some(Outcome::StepFailed) => Exit::StepFailed,
        Some(Outcome::Refused) => Exit::JobRefused,
        None => Exit::NotVerified,
    }
}

/// Judges a bundle with all that a site trusts.
pub(crate) fn with_site(bundle: &Bundle, site: &Site, reference: &Reference, judged_at: Timestamp) -> Verdict {
    let policy = site.trust().policy.clone();
    let standing = Standing { list: site.trust_list().list.clone(), judged_at };
    let anchors = Anchors { root: site.root().clone(), policy, reference: reference.clone(), standing: Some(standing) };
    verify(bundle, &anchors)
}

/// Prints each gate and each finding.
pub(crate) fn print(verdict: &Verdict) -> Result<()> {
    document::print(text(verdict).as_bytes())
}

/// One line for each gate, each finding and each step, and the verdict last.
pub(crate) fn text(verdict: &Verdict) -> String {
    let mut text = String::new();
    for (at, report) in (1..).zip(&verdict.gates) {
        let state = match report.state {
            GateState::Passed => "passed",
            GateState::Failed => "FAILED",
            GateState::NotReached => "not reached",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "gate {at} {:<9} {state}", report.gate.to_string());
        for finding in verdict.findings.iter().filter(|finding| finding.gate == report.gate) {
            let _ = writeln!(text, "       {}: {}: {}", finding.code, finding.object, finding.reason);
        }
    }
    for report in &verdict.steps {
        let _ = writeln!(text, "{}", ended::summary(report));
    }
    for artifact in &verdict.artifacts {
        let _ = writeln!(text, "artifact {}  {}", artifact.sha256, artifact.name);
    }
    if let Some(refusal) = &verdict.refusal {
        let _ = writeln!(text, "refused: {refusal}");
    }
    if let (Some(machine), Some(class)) = (&verdict.machine, verdict.machine_class) {
        let _ = writeln!(text, "machine: {machine} has a {} TPM", class.as_str());
    }
    if let Some(host) = &verdict.host {
        let _ = writeln!(text, "host: {host} quoted what it booted");
    }
    let _ = match verdict.trust_list {
        Some(number) => writeln!(text, "revocations: those of trust list {number}"),
        None => writeln!(text, "revocations: not checked, no trust list was given"),
    };
    let word = match exit(verdict) {
        Exit::Done => "PASSED",
        Exit::StepFailed => "the evidence holds; a step failed",
        Exit::JobRefused => "the evidence holds; the job was refused",
        _ => "FAILED",
    };
    let _ = write!(text, "verdict: {word}");
    text
}

/// The verdict as a statement with a SLSA verification summary; unsigned, for whoever signs it in their own name.
pub(crate) fn summary(verdict: &Verdict, bundle: &Bundle, policy: &Policy) -> Result<Vec<u8>> {
    let digest_of = |path: &str| match bundle.get(path)? {
        Content::Bytes(bytes) => Some(Sha256Digest::of(bytes)),
        Content::Digest { sha256, .. } => Some(*sha256),
    };
    let attestation =
        |path: &str| digest_of(path).map(|sha256| Attestation { uri: path.to_owned(), digest: sha256.into() });
    let passed = verdict.passed();
    let predicate = Summary {
        verifier: Verifier { id: VERIFIER.to_owned() },
        time_verified: host::now()?,
        resource_uri: verdict
            .build_id
            .as_ref()
            .map_or_else(|| "urn:kiln:build:unknown".into(), |id| format!("urn:kiln:build:{id}")),
        policy: PolicyUsed {
            uri: "policy.json".to_owned(),
            digest: policy.sha256().or_exit(Exit::Infrastructure)?.into(),
        },
        input_attestations: [path::MANIFEST, path::DECISION, path::PROVENANCE]
            .into_iter()
            .filter_map(attestation)
            .collect(),
        verification_result: if passed { "PASSED" } else { "FAILED" }.to_owned(),
        verified_levels: vec![if passed { LEVEL } else { "FAILED" }.to_owned()],
        slsa_version: SLSA_VERSION.to_owned(),
    };
    let mut subject: Vec<Subject> =
        verdict.artifacts.iter().map(|artifact| Subject::new(artifact.name.to_string(), artifact.sha256)).collect();
    if subject.is_empty() {
        // Nothing was built, or nothing holds: the verdict is about the evidence itself.
        let manifest = digest_of(path::MANIFEST).unwrap_or_else(|| Sha256Digest::of(&[]));
        subject.push(Subject::new(path::MANIFEST, manifest));
    }
    canonical::to_vec(&Statement::new(PREDICATE_VERDICT, subject, predicate)).or_exit(Exit::Infrastructure)
}
