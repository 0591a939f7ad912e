//! What the machine refuses: with a stable code, a signed decision that verifies, and no step started.
//!
//! Documents are handed over unmodified, so it is the machine that decides and not the tool.

use std::fs;

use ed25519_dalek::SigningKey;
use kiln_formats::canonical;
use kiln_formats::decision::Ruling;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::names::PAYLOAD_DECISION;
use kiln_formats::trust::PublicKey;
use kiln_formats::{certificate::Certificate, decision::Decision, dsse::Envelope};
use serde_json::Value;

use crate::fixture::{Hello, invoker, site, toolchain};

/// Runs `job.json` of the job's directory and asserts that the machine refused it with this code.
fn refused(hello: &Hello, code: &str, more: &[&str]) {
    let mut arguments = vec!["--boot", "direct", "--json"];
    arguments.extend_from_slice(more);
    let ran = hello.run_document("job.json", &arguments).expect(10);
    let out = hello.out();
    let envelope = Envelope::from_slice_exact(&fs::read(out.join("evidence/decision.dsse.json")).unwrap()).unwrap();
    let certificate =
        Certificate::from_pem(&fs::read(out.join("evidence/certificates/statement.pem")).unwrap()).unwrap();
    let key = PublicKey::from_spki(&certificate.spki().unwrap()).unwrap();
    let decision = envelope.verify(PAYLOAD_DECISION, &[key.0]).unwrap();
    let decision: Decision = canonical::from_slice_exact(decision.payload()).unwrap();
    let Ruling::Deny(refusal) = &decision.verdict else { panic!("{code}: allowed: {decision:?}") };
    assert_eq!(refusal.code.to_string(), code, "{refusal}");
    assert!(!refusal.reason.is_empty() && !refusal.remedy.is_empty(), "{refusal:?}");
    assert_eq!(
        decision.job_sha256,
        Sha256Digest::of(&fs::read(hello.path("job.json")).unwrap()),
        "another document was decided on"
    );
    assert!(ran.stdout.contains(code), "the tool does not name {code}: {}", ran.stdout);
    let log = fs::read_to_string(out.join("evidence/boot/runtime.log")).unwrap();
    assert!(!log.contains("step-begin"), "{code}: a step was started");
    assert!(!out.join("artifacts").exists(), "{code}: artifacts were released");
    assert!(!out.join("evidence/records").exists(), "{code}: there are records");
    assert!(hello.leftovers().is_empty(), "{:?}", hello.leftovers());
}

#[test]
fn an_unsigned_job() {
    let hello = Hello::new();
    fs::write(hello.path("job.json"), hello.payload()).unwrap();
    refused(&hello, "unsigned", &[]);
}

#[test]
fn a_job_signed_by_a_stranger() {
    let hello = Hello::new();
    hello.sign("job.json", &hello.payload(), &SigningKey::from_bytes(&[9; 32]));
    refused(&hello, "untrusted_signer", &[]);
}

#[test]
fn an_expired_job() {
    let hello = Hello::new();
    let mut job = hello.checked().job().clone();
    job.expires = "2020-01-01T00:00:00Z".parse().unwrap();
    hello.sign("job.json", &canonical::to_vec(&job).unwrap(), &invoker());
    refused(&hello, "expired", &[]);
}

#[test]
fn a_job_with_an_unknown_field() {
    let hello = Hello::new();
    let mut tree: Value = serde_json::from_slice(&hello.payload()).unwrap();
    tree["step"][0]["network"] = Value::Bool(true);
    hello.sign("job.json", &canonical::to_vec(&tree).unwrap(), &invoker());
    refused(&hello, "malformed", &[]);
}

#[test]
fn a_job_that_breaks_a_rule() {
    let hello = Hello::new();
    let mut job = hello.checked().job().clone();
    job.output[0].path = "../../etc/passwd".into();
    hello.sign("job.json", &canonical::to_vec(&job).unwrap(), &invoker());
    refused(&hello, "invalid_job", &[]);
}

#[test]
fn an_input_with_other_bytes() {
    let hello = Hello::new();
    hello.sign("job.json", &hello.payload(), &invoker());
    let source = fs::read(hello.path("hello.c")).unwrap();
    fs::write(hello.path("hello.c"), source.to_ascii_uppercase()).unwrap();
    refused(&hello, "input_mismatch", &[]);
}

#[test]
fn an_image_that_is_not_there() {
    let hello = Hello::new().with(&toolchain().0.to_string(), &"a".repeat(64));
    hello.sign("job.json", &hello.payload(), &invoker());
    refused(&hello, "image_missing", &[]);
}

#[test]
fn an_image_with_another_root_hash() {
    let hello = Hello::new().with(&toolchain().0.to_string(), &"a".repeat(64));
    hello.sign("job.json", &hello.payload(), &invoker());
    let disk = format!("{}={}", "a".repeat(64), toolchain().1.display());
    refused(&hello, "image_root_hash", &["--image-disk", &disk]);
}

#[test]
fn a_second_job() {
    let hello = Hello::new();
    hello.sign("job.json", &hello.payload(), &invoker());
    let one = fs::read_to_string(hello.path("job.json")).unwrap();
    fs::write(hello.path("job.json"), format!("{one}\n{one}\n")).unwrap();
    refused(&hello, "one_shot", &[]);
}

#[test]
fn a_refusal_is_sound_evidence_and_no_build() {
    let hello = Hello::new();
    hello.sign("job.json", &hello.payload(), &SigningKey::from_bytes(&[9; 32]));
    refused(&hello, "untrusted_signer", &[]);
    let out = hello.out();
    let site = site().to_str().unwrap();
    let report = crate::fixture::kiln(["verify", out.to_str().unwrap(), "--site", site, "--json"]).expect(13).json();
    assert_eq!(
        (report["outcome"].as_str(), report["findings"].as_array().map(Vec::len)),
        (Some("refused"), Some(0)),
        "{report}"
    );
}
