//! Real software builds inside unchanged: six builds of others, with the host's own tools, under the program.
//!
//! `cargo test -p kiln-confine --test software -- --fetch DIR [NAME]` fetches the sources once, with the host's own apt-get, cargo
//! and pip, into DIR, and builds each, or only NAME, in a fresh directory there. Without `--fetch` nothing is fetched and nothing
//! is built, which it says. Needs root and Debian 12 with build-essential, python3-pip, python3-setuptools, python3-wheel,
//! python3-dev and a Rust toolchain.
#![expect(clippy::expect_used, clippy::panic, reason = "a test of its own harness: clippy cannot see that it is one")]

mod builds;
mod sources;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use builds::{BUILDS, Build};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words = arguments.iter().skip_while(|argument| *argument != "--fetch").skip(1);
    let Some(directory) = words.next() else {
        println!(
            "software: not run: it fetches sources; `cargo test -p kiln-confine --test software -- --fetch DIR` runs it"
        );
        return;
    };
    let directory = std::path::absolute(directory).expect("a directory");
    let name = words.next().map_or("", String::as_str);
    let given_up = given_up();
    println!("given up on this host: {given_up:?}");
    let chosen = BUILDS.iter().filter(|build| build.name.contains(name));
    let failed: Vec<&str> =
        chosen.filter(|build| !builds(build, &directory, &given_up)).map(|build| build.name).collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// Layers that this host cannot give: those, and no others, are given up, one by one.
fn given_up() -> Vec<String> {
    let mut given_up = Vec::new();
    loop {
        let report = tempfile::NamedTempFile::new().expect("a file");
        let mut command = confine(&given_up, report.path());
        let done = command.args(["--root", "/", "--", "true"]).output().expect("the program");
        if done.status.success() {
            return given_up;
        }
        let report = read(report.path());
        let layer = report["end"]["layer"].as_str().map(str::to_owned);
        let layer = layer.filter(|layer| ["limits", "trace"].contains(&layer.as_str()) && !given_up.contains(layer));
        given_up.push(layer.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&done.stderr))));
    }
}

fn confine(given_up: &[String], report: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-confine"));
    command.stdin(Stdio::null()).arg("--report").arg(report);
    command.args(given_up.iter().flat_map(|layer| ["--without", layer]));
    command
}

fn read(report: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(report).expect("a report")).expect("JSON")
}

/// Builds one in a fresh directory, and says how that went.
fn builds(build: &Build, directory: &Path, given_up: &[String]) -> bool {
    let work = directory.join("work").join(build.name);
    if work.exists() {
        std::fs::remove_dir_all(&work).expect("an old directory can be removed");
    }
    std::fs::create_dir_all(&work).expect("a directory");
    (build.sources)(directory, &work);
    let (report, log) = (work.with_extension("json"), work.with_extension("log"));
    let log_file = std::fs::File::create(&log).expect("a log");
    let mut command = confine(given_up, &report);
    command.args(["--root", "/", "--tmp", "1G", "--chdir", "/tmp/work", "--timeout", "30m"]);
    command.arg("--rw").arg(bind(&work, "/tmp/work")).args(build.flags);
    if build.rust {
        command.arg("--ro").arg(bind(&sources::rust(), "/tmp/rust"));
    }
    command.args(["--", "sh", "-exc", build.script]);
    command.stdout(log_file.try_clone().expect("a log")).stderr(log_file);
    let status = command.status().expect("the program");
    let report = read(&report);
    println!("{}: status {status}, {} ms, log {}", build.name, report["used"]["wall_ms"], log.display());
    println!("  executed {}, denied {}", count(&report["executed"]), count(&report["denied"]));
    for denial in report["denied"]["listed"].as_array().into_iter().flatten() {
        println!("  denied {} {} {} ×{}", denial["layer"], denial["operation"], denial["object"], denial["count"]);
    }
    let made = build.makes.iter().filter(|file| !found(&work, file)).collect::<Vec<_>>();
    assert!(!status.success() || made.is_empty(), "{}: succeeded without {made:?}", build.name);
    status.success()
}

fn bind(source: &Path, target: &str) -> String {
    format!("{}:{target}", source.to_str().expect("a path in text"))
}

/// Entries of a list of the report, the unlisted ones as well.
fn count(list: &serde_json::Value) -> String {
    match list["listed"].as_array() {
        Some(listed) => (listed.len() as u64 + list["unlisted"].as_u64().unwrap_or(0)).to_string(),
        None => "not traced".to_owned(),
    }
}

/// Whether `file` is in `work`; `*` at the end of a name stands for anything.
fn found(work: &Path, file: &str) -> bool {
    let path: PathBuf = work.join(file);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return false;
    };
    match name.strip_suffix('*') {
        None => path.exists(),
        Some(start) => std::fs::read_dir(parent)
            .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(start))),
    }
}
