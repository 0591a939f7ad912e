//! Sound evidence is taken for what it shows, and only under the anchors that it was made under.

use kiln_formats::decision::{Code, Refusal, Ruling};
use kiln_formats::manifest::Outcome;
use kiln_verifier::{Anchors, Gate, GateState, Verdict, verify};

use crate::findings;
use crate::world::{self, Plan, anchors, digest};

fn judge(plan: &Plan) -> Verdict {
    verify(&plan.seal(), &anchors())
}

fn refusal() -> Ruling {
    Ruling::Deny(Refusal {
        code: Code::Expired,
        object: "expires".into(),
        reason: "it is too late".into(),
        remedy: "sign it again".into(),
    })
}

#[test]
fn a_sound_build_passes() {
    let verdict = judge(&Plan::default());
    assert_eq!(verdict.findings, []);
    assert!(verdict.passed());
    assert!(verdict.gates.iter().all(|gate| gate.state == GateState::Passed));
    let [artifact] = verdict.artifacts.as_slice() else { panic!("{:?}", verdict.artifacts) };
    assert_eq!((artifact.name.as_str(), artifact.sha256, artifact.size), ("libz.a", digest("!<arch>\n"), 8));
    let tpm = verdict.tpm.unwrap();
    assert_eq!((tpm.reset_count, tpm.clock_safe, tpm.elapsed_ms), (7, true, 8000));
    let json = serde_json::to_value(judge(&Plan::default())).unwrap();
    assert_eq!((&json["outcome"], &json["gates"][2]["gate"]), (&"built".into(), &"boot".into()));
}

#[test]
fn a_failed_step_is_sound_evidence_and_no_pass() {
    let verdict = judge(&Plan { outcome: Outcome::StepFailed, ..Plan::default() });
    assert_eq!(verdict.findings, []);
    assert_eq!(verdict.outcome, Some(Outcome::StepFailed));
    assert!(verdict.holds() && !verdict.passed() && verdict.artifacts.is_empty());
}

#[test]
fn a_refusal_is_sound_evidence_and_no_pass() {
    let plan = Plan { outcome: Outcome::Refused, ruling: refusal(), ..Plan::default() };
    let verdict = judge(&plan);
    assert_eq!(verdict.findings, []);
    assert_eq!(verdict.outcome, Some(Outcome::Refused));
    assert_eq!(verdict.refusal.as_ref().map(|refusal| refusal.code), Some(Code::Expired));
    assert!(verdict.holds() && !verdict.passed());
    // Nobody else's signature is needed to refuse.
    let unsigned = Plan { job_document: Box::new(|bytes| *bytes = b"[]".to_vec()), ..plan };
    assert!(judge(&unsigned).holds());
}

#[test]
fn foreign_anchors_reject_sound_evidence() {
    let with = |change: fn(&mut Anchors)| {
        let mut anchors = anchors();
        change(&mut anchors);
        findings(&Plan::default(), &anchors).remove(0)
    };
    let finding = with(|anchors| anchors.root = world::authority());
    assert_eq!((finding.gate, finding.code), (Gate::Evidence, "certificate"));
    let finding = with(|anchors| anchors.policy.job_signers.clear());
    assert_eq!((finding.gate, finding.code), (Gate::Boot, "trust"));
    let finding = with(|anchors| anchors.policy.builder_ids.clear());
    assert_eq!((finding.gate, finding.code), (Gate::Boot, "builder_id"));
    let finding = with(|anchors| anchors.reference.image_sha256 = digest("other"));
    assert_eq!((finding.gate, finding.code), (Gate::Boot, "image"));
    let finding = with(|anchors| anchors.reference.init_sha256 = digest("other"));
    assert_eq!((finding.gate, finding.code), (Gate::Boot, "init"));
    let finding = with(|anchors| anchors.reference.machines.clear());
    assert_eq!((finding.gate, finding.code), (Gate::Boot, "reference_values"));
    for register in ["4", "9", "11", "15"] {
        let mut anchors = anchors();
        anchors.reference.machines[0].pcrs.remove(register);
        let finding = findings(&Plan::default(), &anchors).remove(0);
        assert_eq!((finding.gate, finding.code), (Gate::Boot, "reference_values"), "PCR {register}");
    }
}
