//! The clients of others accept what we hand out, and the lines that the README gives work.

use std::fs;
use std::path::Path;
use std::process::Command;

use kiln_formats::canonical;
use kiln_formats::certificate::{Authority, Certificate};
use kiln_formats::challenge::Binding;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::manifest::path;
use kiln_formats::names::BUILDER_FIRMWARE;

use crate::fixture::{good, scratch, site};
use crate::steps::{payload, predicate};

/// Runs a shell script that stops at the first failure.
fn sh(script: &str, dir: &Path) -> String {
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", script]).current_dir(dir).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
    stdout.into_owned()
}

/// A directory in which `out` and `site` are what the README calls so.
fn desk() -> tempfile::TempDir {
    let desk = scratch();
    std::os::unix::fs::symlink(good(), desk.path().join("out")).unwrap();
    std::os::unix::fs::symlink(site(), desk.path().join("site")).unwrap();
    desk
}

/// The lines under "Verifying by hand", taken from the README itself: openssl, tpm2_checkquote, jq, sha256sum.
#[test]
fn the_readmes_lines_for_verifying_by_hand() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let section = readme.split("### Verifying by hand").nth(1).unwrap();
    let script = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    for client in ["openssl verify", "tpm2_checkquote", "sha256sum -c"] {
        assert!(script.contains(client), "{client} is not in the README's lines");
    }
    let printed = sh(script, desk().path());
    assert!(printed.contains("statement.pem: OK") && printed.contains("attestation.pem: OK"), "{printed}");
    assert!(printed.contains("identities/00-compile.pem: OK"), "{printed}");
    assert!(printed.contains("artifacts/hello: OK"), "{printed}");
    let digests: Vec<_> =
        printed.lines().filter_map(|line| line.split_whitespace().next()).filter(|word| word.len() == 64).collect();
    assert_eq!((digests[0], digests[2]), (digests[1], digests[3]), "{printed}");
}

#[test]
fn tpm2_checkquote_rejects_another_nonce() {
    let script = "openssl x509 -in out/evidence/certificates/attestation.pem -pubkey -noout > ak.pem
        ! tpm2_checkquote -u ak.pem -g sha256 -m out/evidence/quotes/last.attest -s out/evidence/quotes/last.sig -q $(sha256sum < out/evidence/boot/binding.json | cut -d' ' -f1)";
    sh(script, desk().path());
}

#[test]
fn cosign_accepts_the_provenance_and_nothing_else() {
    let cosign = std::env::var("COSIGN").expect("COSIGN is not set: whole machines are tested by `cargo kiln test`");
    let script = format!(
        "openssl x509 -in out/evidence/certificates/statement.pem -pubkey -noout > key.pem
        head -n 1 out/artifacts/hello.intoto.jsonl > provenance.json
        check() {{ {cosign} verify-blob-attestation --key key.pem --type slsaprovenance1 --insecure-ignore-tlog=true --signature provenance.json \"$1\"; }}
        check out/artifacts/hello
        ! check site/root.pem"
    );
    sh(&script, desk().path());
}

/// The step's certificate is of the form that others expect, and says what the step was.
#[test]
fn a_step_s_certificate_says_what_the_step_was() {
    let printed = sh(
        "openssl x509 -in out/evidence/identities/00-compile.pem -noout -ext subjectAltName,extendedKeyUsage,keyUsage,basicConstraints",
        desk().path(),
    );
    let build_id = payload(good(), "evidence/manifest.dsse.json");
    let build_id = serde_json::from_slice::<serde_json::Value>(&build_id).unwrap()["build_id"].clone();
    let name = format!("/job/{}/step/compile", build_id.as_str().unwrap());
    for word in [name.as_str(), "Code Signing", "Digital Signature", "CA:FALSE"] {
        assert!(printed.contains(word), "{word}: {printed}");
    }
    let read = |file: &str| Certificate::from_pem(&fs::read(good().join(file)).unwrap()).unwrap();
    let root = Certificate::from_pem(&fs::read(site().join("root.pem")).unwrap()).unwrap();
    let binding: Binding = canonical::from_slice_exact(&fs::read(good().join(path::BINDING)).unwrap()).unwrap();
    let chain = Authority::check(&root, &read(path::AUTHORITY), binding.challenge.issued, BUILDER_FIRMWARE).unwrap();
    let step = chain.issuer(&read(path::ISSUER)).unwrap().step(&read("evidence/identities/00-compile.pem")).unwrap();
    let record = predicate(good(), "evidence/records/00-compile.dsse.json");
    let sha256 = |value: &serde_json::Value| Sha256Digest::of(&canonical::to_vec(value).unwrap());
    assert_eq!(step.identity.job_sha256, Sha256Digest::of(&fs::read(good().join(path::JOB)).unwrap()));
    assert_eq!(step.identity.step_sha256.to_string(), record["stepSha256"].as_str().unwrap());
    assert_eq!(step.identity.image_root_hash.to_string(), record["imageRootHash"].as_str().unwrap());
    assert_eq!(step.identity.argv_sha256, sha256(&record["argv"]));
    assert_eq!(step.identity.enforced_sha256, sha256(&record["enforced"]));
}

/// The runtime trace is about the step's log, among others: a statement like any other to cosign.
#[test]
fn cosign_accepts_the_runtime_trace_of_this_log_alone() {
    let cosign = std::env::var("COSIGN").expect("COSIGN is not set: whole machines are tested by `cargo kiln test`");
    let script = format!(
        "openssl x509 -in out/evidence/identities/00-compile.pem -pubkey -noout > key.pem
        check() {{ {cosign} verify-blob-attestation --key key.pem --type \"$1\" --insecure-ignore-tlog=true --signature out/evidence/traces/00-compile.dsse.json \"$2\"; }}
        check https://in-toto.io/attestation/runtime-trace/v0.1 out/evidence/logs/00-compile.log
        ! check https://in-toto.io/attestation/runtime-trace/v0.1 out/artifacts/hello"
    );
    sh(&script, desk().path());
}

/// The logs of our own boot: `kiln audit` finds that they lead to what the TPM quoted, `tpm2_eventlog` that the firmware's leads to
/// the same registers, and what is exported leads there too.
#[test]
fn tpm2_eventlog_and_the_audit_agree_on_our_boot() {
    let kiln = std::env::var("KILN").expect("KILN is not set: whole machines are tested by `cargo kiln test`");
    let script = format!(
        "{kiln} audit out --json --cel both.json --html boot.html > audit.json
        jq -e '.verdict == \"holds\" and (.findings | all(.severity != \"failure\"))' audit.json
        tpm2_eventlog out/evidence/boot/firmware.log | sed -n '/^pcrs:/,$p' > peer.yaml
        {kiln} audit out/evidence/boot/firmware.log --pcrs peer.yaml
        {kiln} audit both.json --pcrs audit.json
        {kiln} audit out out
        sed '$d' out/evidence/boot/runtime.log > short.log
        ! {kiln} audit out/evidence/boot/firmware.log --runtime-log short.log --pcrs audit.json"
    );
    sh(&script, desk().path());
}
