//! Every reason for which a job is refused, from crafted documents.

use ed25519_dalek::{Signer as _, SigningKey};
use kiln_formats::canonical;
use kiln_formats::decision::Code;
use kiln_formats::dsse::{Envelope, pae};
use kiln_formats::job::Profile;
use kiln_formats::log::bytes_max;
use kiln_formats::names::{BUILDER_FIRMWARE, PAYLOAD_JOB};
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::{Policy, PublicKey};
use serde_json::{Value, json};

use super::*;
use crate::boot::Clock;

const ISSUED: i64 = 1_790_000_000;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn job() -> Value {
    json!({
        "version": 1,
        "name": "hello",
        "expires": Timestamp::from_unix(ISSUED + 60).unwrap(),
        "image": [{ "name": "c", "root_hash": Sha256Digest::of(b"image") }],
        "input": [{ "name": "in", "uri": "https://downloads.example/in", "sha256": Sha256Digest::of(b"in"), "size": 2 }],
        "workspace": [{ "name": "out", "size_bytes_max": 1000 }],
        "step": [{
            "name": "build", "image": "c", "argv": ["true"], "workdir": "/work/out", "inputs": ["in"],
            "workspaces": [{ "name": "out", "access": "rw" }],
            "limits": {
                "memory_bytes": 16 << 20, "pids": 8, "wall_ms": 1000, "log_bytes": 1000, "tmp_bytes": 1 << 20,
            },
        }],
        "output": [{ "name": "hello", "workspace": "out", "path": "hello", "size_bytes_max": 10 }],
    })
}

fn envelope(payload_type: &str, payload: &[u8], seed: u8) -> Vec<u8> {
    let signature = key(seed).sign(&pae(payload_type, payload)).to_bytes();
    Envelope::new(payload_type, payload, &signature).to_vec().unwrap()
}

fn signed(job: &Value) -> Vec<u8> {
    envelope(PAYLOAD_JOB, &canonical::to_vec(job).unwrap(), 1)
}

/// A machine that awaits exactly this document.
fn awaiting(document: &[u8]) -> Certified {
    Certified {
        build_id: "00".repeat(16).parse().unwrap(),
        job_sha256: Sha256Digest::of(document),
        image_sha256: Sha256Digest::of(b"uki"),
        trust_domain: "site.example".parse().unwrap(),
        machine: Sha256Digest::of(b"machine"),
        issuer_life: (Timestamp::from_unix(ISSUED).unwrap(), Timestamp::from_unix(ISSUED).unwrap()),
        builder_id: BUILDER_FIRMWARE.into(),
        policy: Policy {
            number: 1,
            machines: None,
            hosts: Vec::new(),
            image_producers: Vec::new(),
            version: 1,
            builder_ids: vec![BUILDER_FIRMWARE.into()],
            job_signers: vec![PublicKey(key(9).verifying_key()), PublicKey(key(1).verifying_key())],
            profiles: vec![Profile::Strict, Profile::Loopback],
        },
        trust_sha256: Sha256Digest::of(b"trust"),
        clock: Clock::for_test(Timestamp::from_unix(ISSUED).unwrap()),
    }
}

fn refused(document: &[u8], certified: &Certified) -> Refusal {
    rules::check(&ReceivedJob::for_test(document.to_vec()), certified).unwrap_err()
}

/// Changes one field of a good job, signs the result, and tells why it is refused.
fn changed(pointer: &str, value: Value) -> Refusal {
    let mut job = job();
    *job.pointer_mut(pointer).unwrap() = value;
    let document = signed(&job);
    refused(&document, &awaiting(&document))
}

#[test]
fn a_good_job_passes_the_rules() {
    let document = signed(&job());
    let checked = rules::check(&ReceivedJob::for_test(document.clone()), &awaiting(&document)).unwrap();
    assert_eq!(checked.job().name.as_str(), "hello");
    // As people's tools write it: over several lines.
    let value: Value = serde_json::from_slice(&document).unwrap();
    let pretty = serde_json::to_vec_pretty(&value).unwrap();
    assert!(rules::check(&ReceivedJob::for_test(pretty.clone()), &awaiting(&pretty)).is_ok());
}

#[test]
fn what_is_not_signed_is_refused() {
    let payload = canonical::to_vec(&job()).unwrap();
    let no_envelope = payload.clone();
    let other_type = envelope("application/vnd.in-toto+json", &payload, 1);
    let mut cut = signed(&job());
    cut.truncate(cut.len() - 1);
    let trailing = [signed(&job()).as_slice(), b" ]"].concat();
    for document in [b"".as_slice(), b"[]", &no_envelope, &other_type, &cut, &trailing] {
        assert_eq!(
            refused(document, &awaiting(document)).code,
            Code::Unsigned,
            "{:?}",
            String::from_utf8_lossy(document)
        );
    }
}

#[test]
fn only_keys_of_the_policy_sign_jobs() {
    let by_another = envelope(PAYLOAD_JOB, &canonical::to_vec(&job()).unwrap(), 2);
    assert_eq!(refused(&by_another, &awaiting(&by_another)).code, Code::UntrustedSigner);
    let document = signed(&job());
    let mut nobody = awaiting(&document);
    nobody.policy.job_signers.clear();
    assert_eq!(refused(&document, &nobody).code, Code::UntrustedSigner);
    // Another payload under the same signature.
    let text = String::from_utf8(document).unwrap();
    let mut envelope: Value = serde_json::from_str(&text).unwrap();
    envelope["payload"] = "e30=".into();
    let swapped = serde_json::to_vec(&envelope).unwrap();
    assert_eq!(refused(&swapped, &awaiting(&swapped)).code, Code::UntrustedSigner);
}

#[test]
fn signed_bytes_that_are_no_job_are_refused() {
    let mut unknown = job();
    unknown["step"][0]["network"] = true.into();
    let mut future = job();
    future["expires"] = "soon".into();
    for bad in [unknown, future, json!({})] {
        let document = signed(&bad);
        assert_eq!(refused(&document, &awaiting(&document)).code, Code::Malformed);
    }
    let spaced = envelope(PAYLOAD_JOB, &serde_json::to_vec_pretty(&job()).unwrap(), 1);
    assert_eq!(refused(&spaced, &awaiting(&spaced)).code, Code::Malformed);
}

#[test]
fn a_job_that_breaks_a_rule_is_refused_with_the_field() {
    let refusal = changed("/step/0/image", "rust".into());
    assert_eq!((refusal.code, refusal.object.as_str()), (Code::InvalidJob, "step[0].image"));
    assert_eq!(changed("/version", 2.into()).code, Code::InvalidJob);
    let long = changed("/step/0/argv", json!(["true", "\0".repeat(100), "\0"]));
    assert!(long.code == Code::InvalidJob && long.reason.len() <= 512 && !long.reason.contains('\0'));
}

#[test]
fn a_job_is_judged_by_the_authoritys_clock() {
    for (expires, fits) in [(ISSUED - 1, false), (ISSUED, false), (ISSUED + 1, true)] {
        let mut job = job();
        job["expires"] = json!(Timestamp::from_unix(expires).unwrap());
        let document = signed(&job);
        let judged = rules::check(&ReceivedJob::for_test(document.clone()), &awaiting(&document));
        assert_eq!(judged.map(drop).map_err(|refusal| refusal.code), if fits { Ok(()) } else { Err(Code::Expired) });
    }
}

#[test]
fn only_the_announced_job_is_taken_and_only_one() {
    let document = signed(&job());
    assert_eq!(refused(&document, &awaiting(b"another")).code, Code::JobMismatch);
    for two in [[document.as_slice(), b"\n", &document, b"\n"].concat(), [document.as_slice(), b"{}"].concat()] {
        assert_eq!(refused(&two, &awaiting(&two)).code, Code::OneShot);
    }
}

#[test]
fn a_machine_that_the_policy_does_not_know_runs_nothing() {
    let document = signed(&job());
    let mut certified = awaiting(&document);
    certified.builder_id = "https://kiln.example/builders/other/v1".into();
    let refusal = refused(&document, &certified);
    assert_eq!((refusal.code, refusal.object), (Code::Builder, certified.builder_id));
}

#[test]
fn only_profiles_of_the_policy_run() {
    for (profile, allowed) in [("loopback", true), ("debug", false)] {
        let mut job = job();
        job["step"][0]["profile"] = profile.into();
        let document = signed(&job);
        let judged = rules::check(&ReceivedJob::for_test(document.clone()), &awaiting(&document));
        let judged = judged.map(drop).map_err(|refusal| (refusal.code, refusal.object));
        assert_eq!(judged, if allowed { Ok(()) } else { Err((Code::Profile, "step[0].profile".into())) });
        let mut desk = awaiting(&document);
        desk.policy.profiles = vec![Profile::Debug, Profile::Loopback];
        assert!(rules::check(&ReceivedJob::for_test(document), &desk).is_ok(), "{profile}");
    }
    let document = signed(&job());
    let mut nothing = awaiting(&document);
    nothing.policy.profiles.clear();
    assert_eq!(refused(&document, &nothing).code, Code::Profile);
}

#[test]
fn a_job_that_does_not_fit_into_memory_is_refused() {
    let job: Job = serde_json::from_value(job()).unwrap();
    // Input, workspace, output, log, step.
    let needed = 2 + 1000 + 10 + bytes_max(1000) + (16 << 20);
    assert_eq!(fits(&job, needed), Ok(()));
    assert_eq!(fits(&job, needed - 1).unwrap_err().code, Code::Resources);
    let mut huge = job;
    huge.workspace[0].size_bytes_max = u64::MAX;
    assert_eq!(fits(&huge, 1 << 40).unwrap_err().code, Code::Resources);
}
