//! What needs no machine: making a site, checking and signing jobs, judging bad evidence.

use std::fs;
use std::process::Command;

use crate::{JOB, code, desk, kiln, text};

/// What machines build under, as the site's files name it.
const MODES: [&str; 4] = ["vm-swtpm-firmware", "vm-swtpm-secureboot", "metal", "vm-swtpm-direct"];

#[test]
fn keygen_refuses_to_overwrite() {
    let desk = desk();
    let before = fs::read(desk.path().join("site/root.key")).unwrap();
    let again = kiln(desk.path(), &["keygen", "--site", "site"]);
    assert_eq!(code(&again), 2);
    assert!(text(&again.stderr).contains("never overwritten"), "{}", text(&again.stderr));
    assert_eq!(fs::read(desk.path().join("site/root.key")).unwrap(), before);
}

#[test]
fn openssl_reads_what_keygen_makes() {
    let desk = desk();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(desk.path().join("site")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    for mode in MODES {
        let [pem, key] = ["pem", "key"].map(|kind| format!("authorities/{mode}-v1.{kind}"));
        openssl(&["verify", "-x509_strict", "-CAfile", "root.pem", &pem]);
        let public = openssl(&["pkey", "-in", &key, "-pubout"]);
        assert_eq!(public, openssl(&["x509", "-in", &pem, "-noout", "-pubkey"]));
        let name = openssl(&["x509", "-in", &pem, "-noout", "-ext", "subjectAltName"]);
        assert!(name.trim_end().ends_with(&format!("URI:https://kiln.example/builders/{mode}/v1")), "{name}");
    }
}

/// A host of one kind of machine has that kind's key alone, and works; for every other kind it says what is missing.
#[test]
fn a_host_needs_the_key_of_its_own_mode_alone() {
    let desk = desk();
    let site = desk.path().join("site");
    fs::remove_file(site.join("root.key")).unwrap();
    for mode in MODES.iter().filter(|mode| **mode != "vm-swtpm-direct") {
        fs::remove_file(site.join(format!("authorities/{mode}-v1.key"))).unwrap();
    }
    let none = "{}";
    fs::write(desk.path().join("image.json"), none).unwrap();
    // What comes after the key: an image that is none.
    let run = |more: &[&str]| {
        let base = ["run", "job.toml", "--site", "site", "--out", "out", "--image", "image.json"];
        let ran = kiln(desk.path(), &[&base[..], more].concat());
        assert_eq!(code(&ran), 2);
        text(&ran.stderr)
    };
    let said = run(&["--boot", "direct"]);
    assert!(said.contains("image.json") && !said.contains("authorities"), "{said}");
    for (more, mode) in
        [(&["--boot", "firmware"][..], "vm-swtpm-firmware"), (&["--secure-boot"], "vm-swtpm-secureboot")]
    {
        let said = run(more);
        assert!(said.contains(&format!("cannot read site/authorities/{mode}-v1.key")), "{said}");
    }
    let kept = kiln(desk.path(), &["attestor", "ledger", "verify", "--site", "site"]);
    assert_eq!(code(&kept), 0, "{}", text(&kept.stderr));
    // Another kind's key and certificate in its place.
    for kind in ["key", "pem"] {
        let [from, to] =
            ["vm-swtpm-direct", "vm-swtpm-firmware"].map(|mode| site.join(format!("authorities/{mode}-v1.{kind}")));
        fs::copy(from, to).unwrap();
    }
    let said = run(&["--boot", "firmware"]);
    assert!(said.contains("builders/vm-swtpm-direct/v1, and for no others"), "{said}");
}

#[test]
fn a_site_with_one_authority_is_to_be_made_anew() {
    let desk = desk();
    let site = desk.path().join("site");
    fs::rename(site.join("authorities/metal-v1.pem"), site.join("authority.pem")).unwrap();
    for command in [&["run", "job.toml", "--out", "out"][..], &["attestor", "status"], &["trust", "show"]] {
        let refused = kiln(desk.path(), &[command, &["--site", "site"]].concat());
        assert_eq!(code(&refused), 2, "{command:?}");
        assert!(text(&refused.stderr).contains("anew (kiln keygen)"), "{}", text(&refused.stderr));
    }
}

#[test]
fn lint_names_line_and_field() {
    let desk = desk();
    assert_eq!(code(&kiln(desk.path(), &["lint", "job.toml"])), 0);
    let mistakes = [
        ("workdir = \"/work/src\"", "wrokdir = \"/work/src\"", "unknown_field: step[0].wrokdir"),
        ("inputs = [\"hello.tar\"]", "inputs = [\"hullo.tar\"]", "undeclared_input: step[0].inputs[0]"),
        ("path = \"hello\"", "path = \"../hello\"", "path: output[0].path"),
        ("version = 1", "version = ", "syntax: "),
    ];
    for (from, to, named) in mistakes {
        let line = JOB[..JOB.find(from).unwrap()].matches('\n').count() + 1;
        fs::write(desk.path().join("bad.toml"), JOB.replacen(from, to, 1)).unwrap();
        let linted = kiln(desk.path(), &["lint", "job.toml", "bad.toml"]);
        assert_eq!(code(&linted), 2);
        let said = text(&linted.stderr);
        assert!(said.contains(&format!("bad.toml:{line}:")) && said.contains(named), "{named}: {said}");
    }
}

#[test]
fn only_good_drafts_are_signed() {
    let desk = desk();
    let signed = kiln(desk.path(), &["sign", "job.toml", "--site", "site", "--out", "job.json"]);
    assert_eq!(code(&signed), 0, "{}", text(&signed.stderr));
    let document = text(&fs::read(desk.path().join("job.json")).unwrap());
    assert!(document.contains("application/vnd.kiln.job.v1+json") && !document.contains('\n'), "{document}");
    let again = kiln(desk.path(), &["sign", "job.toml", "--site", "site", "--out", "job.json"]);
    assert_eq!(code(&again), 2, "overwrote a document");
    let key = kiln(desk.path(), &["sign", "job.toml", "--key", "site/invoker.key", "--expires-in", "1"]);
    assert_eq!(code(&key), 0, "{}", text(&key.stderr));

    fs::write(desk.path().join("bad.toml"), JOB.replace("access = \"ro\"", "access = \"rw\"")).unwrap();
    let bad = kiln(desk.path(), &["sign", "bad.toml", "--site", "site"]);
    assert_eq!((code(&bad), bad.stdout.len()), (2, 0));
    assert!(text(&bad.stderr).contains("two_writers"), "{}", text(&bad.stderr));
    for wrong in [
        &["sign", "job.toml"][..],
        &["sign", "job.toml", "--key", "site/root.pem"],
        &["sign", "none.toml", "--site", "site"],
    ] {
        assert_eq!(code(&kiln(desk.path(), wrong)), 2, "{wrong:?}");
    }
}

#[test]
fn verify_rejects_what_is_no_evidence() {
    let desk = desk();
    let reference = r#"{"image_sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","init_sha256":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","machines":[],"version":1}"#;
    let out = desk.path().join("out");
    fs::create_dir(&out).unwrap();
    let verify = |more: &[&str]| kiln(desk.path(), &[&["verify", "out", "--site", "site"], more].concat());
    // A site without reference values judges nothing.
    assert_eq!(code(&verify(&[])), 2);
    fs::write(desk.path().join("site/reference/a.json"), reference).unwrap();
    let empty = verify(&["--json"]);
    assert_eq!(code(&empty), 13);
    let verdict: serde_json::Value = serde_json::from_slice(&empty.stdout).unwrap();
    assert_eq!(verdict["gates"][0]["state"], "failed", "{verdict}");
    assert_eq!(verdict["gates"][5]["state"], "not_reached", "{verdict}");
    assert_eq!(verdict["teardown"]["state"], "absent", "{verdict}");
    // A word on a machine that nothing proves: it is not read.
    fs::write(out.join("teardown.json"), "{}").unwrap();
    let beside: serde_json::Value = serde_json::from_slice(&verify(&["--json"]).stdout).unwrap();
    assert_eq!(beside["teardown"], serde_json::json!({ "state": "not_judged" }));
    fs::remove_file(out.join("teardown.json")).unwrap();
    let told = text(&verify(&[]).stdout);
    assert!(told.contains("gate 1 evidence  FAILED") && told.ends_with("verdict: FAILED\n"), "{told}");

    let summary = verify(&["--verdict", "verdict.json"]);
    assert_eq!(code(&summary), 13);
    let summary: serde_json::Value =
        serde_json::from_slice(&fs::read(desk.path().join("verdict.json")).unwrap()).unwrap();
    assert_eq!(summary["predicateType"], "https://slsa.dev/verification_summary/v1");
    assert_eq!(summary["predicate"]["verificationResult"], "FAILED");

    std::os::unix::fs::symlink("/etc/passwd", out.join("evidence")).unwrap();
    let link = verify(&[]);
    assert_eq!(code(&link), 13);
    assert!(text(&link.stderr).contains("neither a plain file nor a directory"), "{}", text(&link.stderr));
    for wrong in
        [&["verify", "none", "--site", "site"][..], &["verify", "out"], &["verify", "out", "--root", "site/root.pem"]]
    {
        assert_eq!(code(&kiln(desk.path(), wrong)), 2, "{wrong:?}");
    }
}

#[test]
fn a_run_that_cannot_begin_leaves_nothing() {
    let desk = desk();
    let before = fs::read_dir(desk.path()).unwrap().count();
    fs::create_dir(desk.path().join("taken")).unwrap();
    let run = |more: &[&str]| kiln(desk.path(), &[&["run", "--site", "site"], more].concat());
    let wrong: [&[&str]; 6] = [
        &["job.toml", "--out", "taken"],
        &["none.json", "--out", "out"],
        &["job.toml", "--out", "out", "--input", "hello.tar=none"],
        &["job.toml", "--out", "out", "--input", "other=job.toml"],
        &["job.toml", "--out", "out", "--image-disk", "short=job.toml"],
        &["job.toml", "--out", "out", "--image", "job.toml"],
    ];
    for arguments in wrong {
        let ran = run(arguments);
        assert_eq!(code(&ran), 2, "{arguments:?}: {}", text(&ran.stderr));
    }
    assert_eq!(fs::read_dir(desk.path()).unwrap().count(), before + 1);
}

#[test]
fn every_command_explains_itself() {
    let desk = tempfile::tempdir().unwrap();
    let commands = [
        "setup",
        "build",
        "keygen",
        "lint",
        "sign",
        "run",
        "verify",
        "logs",
        "reference",
        "doctor",
        "demo",
        "test",
        "bench",
    ];
    let help = text(&kiln(desk.path(), &["--help"]).stdout);
    for command in commands {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
        let own = kiln(desk.path(), &[command, "--help"]);
        assert_eq!(code(&own), 0);
        assert!(text(&own.stdout).contains(&format!("Examples:\n  kiln {command}")), "{command}");
    }
    assert_eq!(code(&kiln(desk.path(), &["unknown"])), 2);
}

/// The keys of Secure Boot sign, are replaced and taken back; nothing is overwritten, and nothing is signed twice.
#[test]
fn images_are_signed_and_revoked() {
    let desk = desk();
    let program = "/usr/lib/efitools/x86_64-linux-gnu/HelloWorld.efi";
    let secure_boot = |code_expected: i32, arguments: &[&str]| {
        let done = kiln(desk.path(), &[&["secure-boot"], arguments, &["--site", "site"]].concat());
        assert_eq!(code(&done), code_expected, "{arguments:?}: {}", text(&done.stderr));
        text(&done.stdout)
    };
    let file = |name: &str| fs::read(desk.path().join(name));
    let said = secure_boot(0, &["sign", program, "--out", "signed", "--json"]);
    assert!(said.contains("\"authenticode_sha256\"") && said.contains("signed/variables.fd"), "{said}");
    assert_eq!(file("signed/disk.img").unwrap().len(), 64 << 20);
    secure_boot(2, &["sign", program, "--out", "signed"]);
    secure_boot(2, &["sign", "signed/kiln.efi", "--out", "twice"]);
    secure_boot(2, &["sign", "job.toml", "--out", "twice"]);
    secure_boot(2, &["revoke"]);
    assert!(!desk.path().join("twice").exists() && file("site/secure-boot/dbx.esl").is_err());

    let old = secure_boot(0, &["rotate"]);
    secure_boot(0, &["revoke", "--image", "signed/kiln.efi"]);
    secure_boot(0, &["revoke", "--certificate", old.trim_end()]);
    let forbidden = file("site/secure-boot/dbx.esl").unwrap();
    assert!(file("site/secure-boot/dbx.auth").unwrap().ends_with(&forbidden));
    secure_boot(0, &["sign", program, "--out", "again"]);
    let has = |store: &str| file(store).unwrap().windows(forbidden.len()).any(|window| window == forbidden);
    assert!(has("again/variables.fd") && !has("signed/variables.fd"));
}
