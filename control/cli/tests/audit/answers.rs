//! What the command answers: its exit codes, bad input, quotes, this machine, many boots.

use std::fs;
use std::path::Path;

use super::log::{made_here, runtime_log};
use super::{audit, report, write_machine};

/// The answer, and what went to standard error without the decoration of its lines.
fn refused(arguments: &[&str], directory: &Path) -> (i32, String) {
    let output = audit(arguments, directory);
    assert!(output.stdout.is_empty(), "a report beside an error");
    let text = String::from_utf8(output.stderr).unwrap();
    let words = text.split_whitespace().filter(|word| !matches!(*word, "│" | "×" | "╰─▶" | "├─▶"));
    (output.status.code().unwrap(), words.collect::<Vec<_>>().join(" "))
}

#[test]
fn what_is_no_log_is_an_error_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let log = made_here().encode();
    let mut huge = log.clone();
    huge.resize(20 << 20, 0xff);
    for (name, bytes, said) in [
        ("empty", &b""[..], "is empty"),
        ("torn", &log[..log.len() - 3], "does not fit into the log"),
        ("padding", &[0xff; 64], "holds no event"),
        ("text", b"hello, this is no log at all, whatever its name", "does not fit into the log"),
        ("json", b"{\"version\":1}", "no record of an event log is in it"),
        ("huge", &huge, "more than the 16777216"),
    ] {
        fs::write(here.join(name), bytes).unwrap();
        let (answer, words) = refused(&[name], here);
        assert_eq!(answer, 2, "{name}: {words}");
        assert!(words.contains(said), "{name}: {words}");
    }
    fs::create_dir(here.join("nothing")).unwrap();
    assert_eq!(refused(&["nothing"], here).0, 2);
    assert_eq!(refused(&["missing"], here).0, 2);
    fs::write(here.join("log"), &log).unwrap();
    assert_eq!(refused(&["log", "--pcrs", "text"], here).0, 2);
    assert_eq!(refused(&["log", "log", "--pcrs", "text"], here).0, 2);
    assert_eq!(refused(&["log", "--quote", "text"], here).0, 2, "a quote without its key");
    fs::write(here.join("page"), "x").unwrap();
    assert_eq!(refused(&["log", "--html", "page"], here).0, 2, "nothing is overwritten");
}

#[test]
fn a_register_without_events_fails() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write_machine(here, "machine", &made_here().encode(), &runtime_log(3, false));
    let (mut honest, _) = report(&["machine"], here);
    honest["pcrs"]["sha256"]["13"] = "07".repeat(32).into();
    fs::write(here.join("pcrs"), serde_json::to_vec(&honest["pcrs"]).unwrap()).unwrap();
    let (audit, answer) = report(&["machine", "--pcrs", "pcrs"], here);
    assert_eq!((answer, audit["findings"][0]["code"].as_str()), (13, Some("value_without_events")));
    // A register that no value was given for is not proven, and is named.
    honest["pcrs"]["sha256"].as_object_mut().unwrap().retain(|register, _| !matches!(register.as_str(), "13" | "4"));
    fs::write(here.join("pcrs"), serde_json::to_vec(&honest["pcrs"]).unwrap()).unwrap();
    let (audit, answer) = report(&["machine", "--pcrs", "pcrs"], here);
    assert_eq!(answer, 14);
    assert!(audit["findings"][0]["words"].as_str().unwrap().contains("no value was given for PCR 4"));
}

#[test]
fn a_quote_that_does_not_hold_is_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    fs::write(here.join("log"), made_here().encode()).unwrap();
    let key = "-----BEGIN PUBLIC KEY-----\n\
               MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAybqRmV57pPOk0PcupjKc\n\
               IRvxlusJejB8LTzSY+TwnBpCwmk1r0Apsk+P9z/Y6LDfea3Msr2NugjPPFJSnkHz\n\
               aU3O8EfiljuLLkNXas71UUrJoHcMg5nY9baOJJSJETOW6ZKPvnQU/HhVjYbYXF/d\n\
               +OxLraLKgJud1MWjNqaw/y4EUZU2kbBBrWAqTYNqZTVf+kdaPJS2dfeYtyYFgJlh\n\
               hjBYNp+KcF43UhxjMr5cBOCITfxnkcOHbDJM/8fa7ZLC/7U2ca5bd1Nf3AQDT6iF\n\
               CjR+5eFbvry70yLC65/Hw5VCUoDW47PbFXSKYJn6tbEmilx+4kQZMJn/lbPNfCcB\n\
               sQIDAQAB\n\
               -----END PUBLIC KEY-----\n";
    fs::write(here.join("key"), key).unwrap();
    fs::write(here.join("garbage"), [0xff; 80]).unwrap();
    let named = ["log", "--quote", "garbage", "--signature", "garbage", "--key"];
    let (audit, answer) = report(&[&named[..], &["key"]].concat(), here);
    assert_eq!((answer, audit["findings"][0]["code"].as_str()), (13, Some("quote_refused")));
    let (answer, words) = refused(&[&named[..], &["garbage"]].concat(), here);
    assert_eq!(answer, 2);
    assert!(words.contains("is no key of a quote"), "{words}");
}

#[test]
fn this_machine_is_read_where_linux_shows_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let live = ["--live", "--live-root", "."];
    let (answer, words) = refused(&live, root);
    assert_eq!(answer, 20);
    assert!(words.contains("no TPM that Linux knows"), "{words}");
    for folder in ["sys/kernel/security/tpm0", "run/log/systemd", "sys/class/tpm/tpm0/pcr-sha256"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("sys/kernel/security/tpm0/binary_bios_measurements"), made_here().encode()).unwrap();
    fs::write(root.join("run/log/systemd/tpm2-measure.log"), runtime_log(3, false)).unwrap();
    let (seen, answer) = report(&live, root);
    assert_eq!(answer, 14, "no registers yet");
    for (register, value) in seen["pcrs"]["sha256"].as_object().unwrap() {
        let file = root.join("sys/class/tpm/tpm0/pcr-sha256").join(register);
        fs::write(file, value.as_str().unwrap().to_uppercase() + "\n").unwrap();
    }
    assert_eq!(report(&live, root).1, 0);
    // systemd leaves the sticky bit behind when it dies between extending and writing.
    let log = root.join("run/log/systemd/tpm2-measure.log");
    let torn = std::os::unix::fs::PermissionsExt::from_mode(0o1600);
    fs::set_permissions(log, torn).unwrap();
    let (seen, answer) = report(&live, root);
    assert_eq!((answer, seen["findings"][0]["code"].as_str()), (13, Some("runtime_log_torn")));
}

#[test]
fn many_boots_show_which_stands_out() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    fs::create_dir(here.join("fleet")).unwrap();
    for name in ["a", "b", "c"] {
        write_machine(&here.join("fleet"), name, &made_here().encode(), &runtime_log(3, false));
    }
    let (even, answer) = report(&["fleet"], here);
    assert_eq!((answer, even["groups"].as_array().map(Vec::len)), (0, Some(1)));
    let mut odd = made_here();
    odd.variable("SecureBoot", &[0]);
    write_machine(&here.join("fleet"), "odd", &odd.encode(), &runtime_log(3, false));
    let (summary, answer) = report(&["fleet"], here);
    assert_eq!((answer, summary["boots"].as_u64()), (13, Some(4)));
    assert_eq!(summary["groups"][1]["members"], serde_json::json!(["fleet/odd"]));
    assert_eq!(summary["groups"][1]["changes"], serde_json::json!(["Secure Boot is off, it was on"]));
    // What is no boot is named, and is not passed over.
    fs::write(here.join("fleet/notes.txt"), "not a log, but it lies there").unwrap();
    let (summary, answer) = report(&["fleet"], here);
    assert_eq!((answer, summary["unread"][0]["name"].as_str()), (13, Some("fleet/notes.txt")));
}

#[test]
fn a_terminal_gets_inert_text() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = made_here();
    let hostile = "<b>\u{202e}\x1b]0;owned\x07\r\n";
    let command = [b"grub_cmd: ", hostile.as_bytes(), b"\0"].concat();
    log.events.push(super::log::Ev::new(8, 0x0d, &command, hostile.as_bytes()));
    fs::write(directory.path().join("log"), log.encode()).unwrap();
    let output = audit(&["log"], directory.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\\u{202e}\\x1b]0;owned\\x07\\r\\n") || text.contains("EV_IPL"), "it is shown");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()) && !text.contains('\u{202e}'));
}
