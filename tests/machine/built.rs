//! A good build: what comes out is what was asked for, twice the same, and it verifies.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::Value;

use crate::fixture::{Hello, files, good, kiln, scratch, site};

#[test]
fn the_artifact_is_a_program_that_runs() {
    let dir = scratch();
    let copy = dir.path().join("hello");
    // By another process: whoever forks here meanwhile would hold a file open for writing that is to be executed.
    assert!(Command::new("cp").arg(good().join("artifacts/hello")).arg(&copy).status().unwrap().success());
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(&copy).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello from a kiln\n");
}

#[test]
fn the_evidence_verifies_by_site_and_by_its_parts() {
    kiln(["verify".as_ref(), good().as_os_str(), "--site".as_ref(), site().as_os_str()]).expect(0);
    let reference = fs::read_dir(site().join("reference")).unwrap().next().unwrap().unwrap().path();
    let parts = kiln([
        "verify".into(),
        good().as_os_str().to_owned(),
        "--json".into(),
        "--root".into(),
        site().join("root.pem").into(),
        "--policy".into(),
        site().join("policy.json").into(),
        "--reference".into(),
        reference.into(),
    ])
    .expect(0)
    .json();
    assert_eq!(parts["findings"], Value::Array(Vec::new()), "{parts}");
    let gates: Vec<_> = parts["gates"].as_array().unwrap().iter().map(|gate| gate["gate"].as_str().unwrap()).collect();
    assert_eq!(gates, ["evidence", "quote", "boot", "job", "step", "statement"]);
}

#[test]
fn without_a_root_there_is_no_verdict() {
    kiln(["verify".as_ref(), good().as_os_str()]).expect(2);
}

#[test]
fn no_root_travels_with_the_evidence() {
    let root = fs::read(site().join("root.pem")).unwrap();
    for (name, bytes) in files(good()) {
        let travels = bytes.windows(root.len()).any(|window| window == root);
        assert!(!travels, "{name} holds the root");
    }
}

#[test]
fn two_machines_build_the_same_bytes() {
    let again = Hello::new();
    again.run(&["--boot", "firmware"]).expect(0);
    assert_eq!(
        fs::read(again.out().join("artifacts/hello")).unwrap(),
        fs::read(good().join("artifacts/hello")).unwrap()
    );
    let (first, second) = (files(good()), files(&again.out()));
    let quote =
        |all: &[(String, Vec<u8>)]| all.iter().find(|(name, _)| name.ends_with("last.attest")).unwrap().1.clone();
    assert_ne!(quote(&first), quote(&second), "two builds cannot share a quote");
}
