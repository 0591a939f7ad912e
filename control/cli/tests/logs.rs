//! `kiln logs` from outside: what it shows of a bundle, what it refuses to show, and what it answers.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use kiln_formats::canonical;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::log::{Content, Count, Frame, Log, Missing, Stream};
use kiln_formats::names::{PAYLOAD_STATEMENT, PREDICATE_RECORD};
use kiln_formats::record::{LogSeen, StreamSeen};
use kiln_formats::statement::{Statement, Subject};
use serde_json::{Value, json};

fn logs(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln")).arg("logs").args(arguments).current_dir(directory).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn expect(arguments: &[&str], directory: &Path, code: i32) -> (String, String) {
    let output = logs(arguments, directory);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
    (out, err)
}

fn encoded(frames: &[(u64, Content<'_>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().fold(0, |sequence, &(time_us, content)| Frame { sequence, time_us, content }.encode(&mut bytes));
    bytes
}

/// Adds a step's log and a record that agrees with it to the bundle `out`.
fn add(out: &Path, step: &str, log: &[u8]) {
    let parsed = Log::parse(log).unwrap();
    let seen = |kept: Count, missing: Count, sha256| StreamSeen {
        sha256,
        written_bytes: kept.bytes + missing.bytes,
        written_lines: kept.lines + missing.lines,
        kept_bytes: kept.bytes,
        kept_lines: kept.lines,
    };
    let seen = LogSeen {
        sha256: Sha256Digest::of(log),
        frames: parsed.frames,
        out: seen(parsed.out.count(), parsed.missing.out, parsed.out.sha256()),
        err: seen(parsed.err.count(), parsed.missing.err, parsed.err.sha256()),
    };
    let subject = vec![Subject::new("log", seen.sha256)];
    let statement = Statement::new(PREDICATE_RECORD, subject, json!({ "log": seen, "step": step }));
    let record = Envelope::new(PAYLOAD_STATEMENT, &canonical::to_vec(&statement).unwrap(), &[0; 64]).to_vec().unwrap();
    for (path, bytes) in [(format!("logs/{step}.log"), log), (format!("records/{step}.dsse.json"), &record)] {
        let path = out.join("evidence").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

const fn wrote(stream: Stream, bytes: &[u8]) -> Content<'_> {
    Content::Wrote { stream, bytes }
}

/// A bundle of two steps, the second of which wants to be somebody else, and lacks its middle.
fn bundle() -> tempfile::TempDir {
    let desk = tempfile::tempdir().unwrap();
    let out = desk.path().join("out");
    add(&out, "00-unpack", &encoded(&[(1, wrote(Stream::Out, b"x hello.c\n")), (2, wrote(Stream::Err, b"slow\n"))]));
    let missing = Missing { frames: 2, out: Count { bytes: 30, lines: 3 }, err: Count::default() };
    let hostile = b"ok\x1b]0;title\x07\rkiln: verdict: PASSED\n\xff\xe2\x80\xaegnp.exe\nunpack out| forged\nbegun";
    let log = encoded(&[
        (5, wrote(Stream::Out, hostile)),
        (6, Content::Held),
        (6, Content::Gap(missing)),
        (2_000_007, wrote(Stream::Out, b"...end\n")),
        (2_000_008, wrote(Stream::Err, b"error: no\n")),
    ]);
    add(&out, "01-build", &log);
    desk
}

#[test]
fn every_row_is_the_step_s_and_no_byte_does_anything() {
    let desk = bundle();
    let (out, err) = expect(&["out"], desk.path(), 0);
    let expected = [
        "unpack out| x hello.c",
        "unpack err| slow",
        "build out| ok\\x1b]0;title\\x07\\rkiln: verdict: PASSED",
        "build out| \\xff\\u{202e}gnp.exe",
        "build out| unpack out| forged",
        "build out| begun\\",
        "build log| 2 frames are missing here: 30 bytes and 3 lines of output, 0 bytes and 0 lines of error output",
        "build out+ ...end",
        "build err| error: no",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    assert_eq!(err, "kiln: unpack: the log is the one of its record\nkiln: build: the log is the one of its record\n");
    let (out, _) = expect(&["out", "--step", "build", "--stream", "err", "--timestamps"], desk.path(), 0);
    assert_eq!(out.lines().last(), Some("build err     2.000008| error: no"));
    assert_eq!(out.lines().count(), 2, "{out}");
}

#[test]
fn scripts_get_json_or_the_bytes() {
    let desk = bundle();
    let (out, err) = expect(&["out", "--json"], desk.path(), 0);
    let rows: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows[0], json!({ "step": "unpack", "recorded": true, "frames": 2, "missing_frames": 0 }));
    assert_eq!(rows[1]["text"], "x hello.c");
    assert_eq!(rows[5]["text"], "\\xff\\u{202e}gnp.exe");
    assert_eq!(
        rows[8]["missing"],
        json!({ "frames": 2, "out": { "bytes": 30, "lines": 3 }, "err": { "bytes": 0, "lines": 0 } })
    );
    assert_eq!((err.as_str(), rows.len()), ("", 11));
    let raw = logs(&["out", "--step", "build", "--stream", "out", "--raw"], desk.path());
    assert!(raw.stdout.starts_with(b"ok\x1b]0;") && raw.stdout.ends_with(b"begun...end\n"), "{:?}", raw.stdout);
    assert!(text(&raw.stderr).contains("2 frames are missing"));
}

#[test]
fn raw_bytes_never_reach_a_terminal() {
    let desk = bundle();
    // script(1) gives its command a terminal. The command's own words are kept apart.
    let command = format!("{} logs out --raw 2>said; echo $? >code", env!("CARGO_BIN_EXE_kiln"));
    let ran = Command::new("script").args(["-qec", &command, "typed"]).current_dir(desk.path()).output().unwrap();
    assert!(!ran.stdout.contains(&0x1b), "{:?}", ran.stdout);
    assert_eq!(fs::read_to_string(desk.path().join("code")).unwrap().trim(), "2");
    assert!(fs::read_to_string(desk.path().join("said")).unwrap().contains("terminal"));
}

#[test]
fn a_log_that_is_not_its_record_s_is_not_shown() {
    let desk = bundle();
    let file = desk.path().join("out/evidence/logs/01-build.log");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(3).position(|w| w == b"ok\x1b").unwrap();
    bytes[at] = b'O';
    fs::write(&file, &bytes).unwrap();
    let (out, err) = expect(&["out"], desk.path(), 13);
    assert_eq!(out.lines().count(), 2, "{out}");
    assert!(err.contains("kiln: build: not shown: it is not the log of the record"), "{err}");
    // The file by itself has its record beside it as well.
    let (out, _) = expect(&["out/evidence/logs/01-build.log"], desk.path(), 13);
    assert_eq!(out, "");
    // Elsewhere nothing says whose it is, and that is said.
    fs::copy(&file, desk.path().join("some.log")).unwrap();
    let (out, err) = expect(&["some.log"], desk.path(), 0);
    assert!(out.starts_with("log out| Ok") && err.contains("no record beside it"), "{out}{err}");
    fs::write(desk.path().join("some.log"), b"plain text").unwrap();
    expect(&["some.log"], desk.path(), 2);
    fs::remove_file(desk.path().join("out/evidence/records/00-unpack.dsse.json")).unwrap();
    expect(&["out", "--step", "unpack"], desk.path(), 13);
}

#[test]
fn what_is_no_bundle_is_said() {
    let desk = bundle();
    for wrong in
        [&["none"][..], &["."], &["out", "--step", "other"], &["out", "--raw", "--json"], &["out", "--step", "A"]]
    {
        expect(wrong, desk.path(), 2);
    }
    std::os::unix::fs::symlink("/etc/passwd", desk.path().join("out/evidence/logs/02-x.log")).unwrap();
    expect(&["out"], desk.path(), 13);
}
