//! What programs read: the report and the status lines.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bench::{confine, program, run, scratch, text};

/// What the kernel is always asked for.
const ENFORCED: [&str; 10] = [
    "cgroup",
    "confirmed",
    "descriptors",
    "given_up",
    "init",
    "mounts",
    "namespaces",
    "process",
    "process_limits",
    "seccomp_sha256",
];

fn report(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a report")).expect("JSON")
}

/// Takes numbers that differ from run to run out of a report, once they are what they must be.
fn normal(mut report: Value) -> Value {
    for field in ["wall_ms", "cpu_us"] {
        assert!(report["used"][field].is_u64());
        report["used"][field] = json!("N");
    }
    assert!(report["slot"].is_u64());
    report["slot"] = json!("N");
    let enforced = report["enforced"].take();
    // The sandbox may come to confirm more than these.
    let known: Vec<_> = ENFORCED.iter().filter(|field| enforced.get(field).is_some()).collect();
    report["enforced"] = json!(known);
    let message = report["message"].as_str().expect("a message");
    report["message"] = json!(message.split(" (").next());
    report
}

#[test]
fn the_report_has_the_shape_of_the_manual() {
    let scratch = scratch();
    let path = scratch.path().join("report.json");
    fs::write(&path, "old").expect("file");
    let ran = run(&mut confine(&["--report", text(&path), "--tmp", "1M", "--", "sh", "-c", "exit 3"]));
    assert_eq!(ran.status, 3, "{}", ran.complained);
    let golden = json!({
        "kiln_confine_report": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "command": ["sh", "-c", "exit 3"],
        "policy": {
            "root": "/", "chdir": "/", "profile": "strict", "proc": "minimal", "hostname": "localhost",
            "timeout": "1h", "grace": "0", "without": ["limits", "trace"],
            "limits": {"memory": "2G", "pids": 512, "file_size": "1G", "open_files": 1024},
            "env": {"PATH": "/usr/local/bin:/usr/bin:/bin"},
            "tmp": [{"target": "/tmp", "size": "1M", "files": 1024}]
        },
        "given_up": ["limits", "trace"],
        "slot": "N",
        "status": 3,
        "end": {"how": "exited", "code": 3},
        "message": "the command exited with status 3",
        "used": {
            "wall_ms": "N", "cpu_us": "N", "memory_peak_bytes": null, "pids_peak": null, "oom_kills": 0, "pids_refused": 0,
            "io_read_bytes": null, "io_written_bytes": null
        },
        "enforced": ENFORCED,
        "executed": null,
        "denied": null
    });
    assert_eq!(normal(report(&path)), golden);
    let left: Vec<_> =
        fs::read_dir(scratch.path()).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(left, ["report.json"]);
}

#[test]
fn a_refusal_is_reported_too() {
    let scratch = scratch();
    let path = scratch.path().join("report.json");
    let ran = run(&mut confine(&["--report", text(&path), "--ro", "/etc:/none", "--", "true"]));
    assert_eq!(ran.status, 125);
    let report = report(&path);
    assert_eq!(
        (&report["status"], &report["end"]["how"], &report["end"]["layer"]),
        (&json!(125), &json!("refused"), &json!("view"))
    );
    assert!(report["end"]["help"].is_string() && report["enforced"].is_null() && report["used"].is_null());
    assert_eq!(report["end"]["causes"][0], "the command was not started");
}

#[test]
fn a_report_that_cannot_be_written_is_found_out_first() {
    let ran = run(&mut confine(&["--report", "/not/there/report.json", "--", "echo", "ran"]));
    assert_eq!((ran.status, ran.said.as_str()), (125, ""));
    assert!(ran.complained.contains("/not/there/report.json"), "{}", ran.complained);
}

#[test]
fn a_report_stays_in_the_directory_that_was_opened() {
    let scratch = scratch();
    let (ours, victim) = (scratch.path().join("ours"), scratch.path().join("victim"));
    fs::create_dir_all(ours.join("logs")).expect("directory");
    fs::create_dir(&victim).expect("directory");
    let path = ours.join("logs/report.json");
    let shell = format!("mv logs l2 && ln -s {} logs && echo moved", text(&victim));
    let flags = ["--report", text(&path), "--rw", text(&ours), "--chdir", text(&ours), "--", "sh", "-c"];
    let ran = run(confine(&flags).arg(shell));
    assert_eq!((ran.status, ran.said.as_str()), (0, "moved\n"), "{}", ran.complained);
    assert_eq!(fs::read_dir(&victim).expect("list").count(), 0);
    assert_eq!(report(&ours.join("l2/report.json"))["status"], json!(0));
    // The link is the caller's now, who may follow it; the directory is gone afterwards.
    fs::remove_file(ours.join("logs")).expect("link");
    fs::create_dir(ours.join("logs")).expect("directory");
    let ran = run(confine(&flags).arg("rmdir logs && echo removed"));
    assert_eq!((ran.status, ran.said.as_str()), (125, "removed\n"), "{}", ran.complained);
    assert!(ran.complained.contains("cannot write the report"), "{}", ran.complained);
}

#[test]
fn a_report_replaces_nothing_but_a_file() {
    use nix::sys::stat::{Mode, SFlag, mknod};
    use std::os::unix::fs::FileTypeExt as _;

    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name);
    // What /dev/null is; a program that fails this test must not take that from its host.
    mknod(&at("null"), SFlag::S_IFCHR, Mode::S_IRWXU, nix::sys::stat::makedev(1, 3)).expect("node");
    mknod(&at("fifo"), SFlag::S_IFIFO, Mode::S_IRWXU, 0).expect("fifo");
    std::os::unix::fs::symlink("file", at("link")).expect("link");
    fs::create_dir(at("directory")).expect("directory");
    for (name, kind) in [
        ("null", "character device"),
        ("fifo", "FIFO"),
        ("link", "symbolic link"),
        ("directory", "directory"),
        ("..", "directory"),
    ] {
        let ran = run(&mut confine(&["--report", text(&at(name)), "--", "echo", "ran"]));
        assert_eq!((ran.status, ran.said.as_str()), (125, ""), "{name}: {}", ran.complained);
        assert!(ran.complained.contains(&format!("would replace a {kind}")), "{name}: {}", ran.complained);
        assert!(ran.complained.contains(text(&at(name))) && ran.complained.contains("kiln-confine: help: "));
    }
    assert!(fs::symlink_metadata(at("null")).expect("node").file_type().is_char_device());
    assert!(fs::symlink_metadata(at("link")).expect("link").is_symlink() && !at("file").exists());
}

#[test]
fn what_the_step_puts_at_the_reports_name_is_not_replaced() {
    let scratch = scratch();
    let path = scratch.path().join("report.json");
    let flags = ["--report", text(&path), "--rw", text(scratch.path()), "--chdir", text(scratch.path())];
    for (shell, kind) in [("mkdir report.json", "directory"), ("ln -s x report.json", "symbolic link")] {
        let ran = run(&mut confine(&[&flags, &["--", "sh", "-c", shell][..]].concat()));
        assert_eq!(ran.status, 125, "{}", ran.complained);
        assert!(ran.complained.contains(&format!("would replace a {kind}")), "{}", ran.complained);
        let left: Vec<_> = fs::read_dir(scratch.path()).expect("list").flatten().collect();
        assert_eq!(left.len(), 1, "no temporary file stays");
        assert!(!fs::symlink_metadata(&path).expect("what the step made").is_file());
        let _ = fs::remove_dir(&path);
    }
}

#[test]
fn the_status_descriptor_has_a_line_for_the_start_and_one_for_the_end() {
    let scratch = scratch();
    let path = scratch.path().join("status");
    let told = |arguments: &[&str]| {
        fs::write(&path, "").expect("file");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "exec \"$@\" 3>\"$0\"", text(&path), env!("CARGO_BIN_EXE_kiln-confine"), "--status-fd", "3"]);
        let status = run(shell.args(arguments)).status;
        let text = fs::read_to_string(&path).expect("status");
        (status, text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Value>>())
    };
    let (status, lines) =
        told(&["--root", "/", "--without", "limits", "--without", "trace", "--", "sh", "-c", "kill -SEGV $$"]);
    assert_eq!((status, lines.len()), (139, 2));
    let namespaces: BTreeMap<String, u64> = serde_json::from_value(lines[0]["namespaces"].clone()).expect("namespaces");
    assert_eq!((&lines[0]["event"], namespaces.len()), (&json!("started"), 8));
    assert_eq!(lines[0]["user"].as_u64(), lines[0]["slot"].as_u64().map(|slot| 0x7000_0000 + slot));
    let end = json!({"event": "ended", "status": 139, "end": {"how": "signalled", "signal": 11, "name": "SIGSEGV"}});
    assert_eq!(lines[1], end);
    let (status, lines) = told(&["--root", "/not/there", "--", "true"]);
    assert_eq!((status, lines.len(), &lines[0]["end"]["how"]), (125, 1, &json!("refused")));
}

#[test]
fn a_status_descriptor_that_is_not_open_is_refused() {
    let ran = run(program().args(["--status-fd", "77", "--root", "/", "--", "echo", "ran"]));
    assert_eq!((ran.status, ran.said.as_str()), (125, ""));
    assert!(ran.complained.contains("descriptor 77"), "{}", ran.complained);
}

#[test]
fn a_status_descriptor_that_nobody_reads_ends_the_run() {
    use std::io::Write as _;

    use rustix::fs::fcntl_getfl;

    use crate::bench::{cgroup_of, until};

    let (reader, mut writer) = std::io::pipe().expect("pipe");
    let size = rustix::pipe::fcntl_setpipe_size(&writer, 4096).expect("a small pipe");
    writer.write_all(&vec![b'x'; size]).expect("what fills it");
    let before = fcntl_getfl(&writer).expect("flags");
    let command = confine(&["--status-fd", "3", "--timeout", "1s", "--", "sleep", "600"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec \"$@\" 3>&0", "sh"]).arg(command.get_program()).args(command.get_args());
    let shell = shell.stdin(writer.try_clone().expect("descriptor")).stderr(std::process::Stdio::piped());
    let mut child = shell.spawn().expect("the program");
    let pid = child.id();
    until("it ends", || child.try_wait().expect("status").is_some());
    let output = child.wait_with_output().expect("status");
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{complained}");
    assert!(complained.contains("nobody took a line"), "{complained}");
    assert!(!cgroup_of(pid).exists());
    assert_eq!(fcntl_getfl(&writer).expect("flags"), before);
    drop(reader);
}
