//! The command line without a machine. Exit codes and messages, from outside.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

mod attestor;
mod image;
mod site;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const JOB: &str = include_str!("../../../../formats/src/job/example.toml");

fn kiln(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln")).args(arguments).current_dir(directory).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory with a site and a good draft.
fn desk() -> tempfile::TempDir {
    let desk = tempfile::tempdir().unwrap();
    let made = kiln(desk.path(), &["keygen", "--site", "site"]);
    assert_eq!(code(&made), 0, "{}", text(&made.stderr));
    fs::write(desk.path().join("job.toml"), JOB).unwrap();
    desk
}
