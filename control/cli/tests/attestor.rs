//! What the authority remembers, and its service, from outside: exit codes, messages, and what others' clients find.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn kiln(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln")).args(arguments).current_dir(directory).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn desk() -> tempfile::TempDir {
    let desk = tempfile::tempdir().unwrap();
    let made = kiln(desk.path(), &["keygen", "--site", "site"]);
    assert_eq!(code(&made), 0, "{}", text(&made.stderr));
    desk
}

const VERIFY: [&str; 5] = ["attestor", "ledger", "verify", "--site", "site"];

#[test]
fn a_new_site_has_a_ledger_that_holds() {
    let desk = desk();
    let verified = kiln(desk.path(), &VERIFY);
    assert_eq!(code(&verified), 0, "{}", text(&verified.stderr));
    assert!(text(&verified.stdout).starts_with("the ledger holds: 1 entries"), "{}", text(&verified.stdout));
    let status = kiln(desk.path(), &["attestor", "status", "--site", "site", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["entries"], &status["certified"]), (&1.into(), &0.into()), "{status}");
    let shown = kiln(desk.path(), &["attestor", "ledger", "show", "--site", "site"]);
    assert!(text(&shown.stdout).contains("begun       site authority "), "{}", text(&shown.stdout));
    // The printed bytes are what the head names: nothing of ours is needed to see it.
    let shown = kiln(desk.path(), &["attestor", "ledger", "show", "--site", "site", "--json"]);
    fs::write(desk.path().join("entry"), text(&shown.stdout).trim_end()).unwrap();
    let digest = Command::new("sha256sum").arg("entry").current_dir(desk.path()).output().unwrap();
    assert!(text(&verified.stdout).contains(&text(&digest.stdout)[..64]), "{}", text(&digest.stdout));
}

#[test]
fn a_changed_file_and_a_replaced_one_are_noticed() {
    let desk = desk();
    let head = kiln(desk.path(), &["attestor", "ledger", "head", "--site", "site"]);
    fs::write(desk.path().join("kept.json"), &head.stdout).unwrap();
    let kept = [&VERIFY[..], &["--head", "kept.json"]].concat();
    assert_eq!(code(&kiln(desk.path(), &kept)), 0);

    let file = desk.path().join("site/attestor.db");
    let whole = fs::read(&file).unwrap();
    let mut changed = whole.clone();
    let at = changed.windows(5).position(|window| window == b"begun").unwrap();
    changed[at] = b'B';
    fs::write(&file, changed).unwrap();
    let noticed = kiln(desk.path(), &VERIFY);
    assert_eq!(code(&noticed), 13);
    assert!(text(&noticed.stderr).contains("entry 0 was changed"), "{}", text(&noticed.stderr));

    // Lost, it is not made again by itself; begun again, it is another one.
    fs::remove_file(&file).unwrap();
    let missing = kiln(desk.path(), &VERIFY);
    assert_eq!(code(&missing), 2);
    assert!(text(&missing.stderr).contains("kiln attestor ledger begin"), "{}", text(&missing.stderr));
    std::thread::sleep(std::time::Duration::from_millis(1100)); // times are whole seconds
    let begin = ["attestor", "ledger", "begin", "--site", "site"];
    assert_eq!(code(&kiln(desk.path(), &begin)), 0);
    assert_eq!(code(&kiln(desk.path(), &begin)), 2);
    assert_eq!(code(&kiln(desk.path(), &VERIFY)), 0);
    let noticed = kiln(desk.path(), &kept);
    assert_eq!(code(&noticed), 13);
    assert!(text(&noticed.stderr).contains("entry 0 was changed or replaced"), "{}", text(&noticed.stderr));
    fs::write(&file, whole).unwrap();
    assert_eq!(code(&kiln(desk.path(), &kept)), 0);
}
