//! `kiln audit` from outside: twelve single changes of a boot, the logs of real machines and what others make of them, what it
//! answers, and what it refuses.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

// The log of the library's tests speaks of `crate`.
use kiln_formats::{boot, cel, digest, event, eventlog, pcr, runtime_log};

mod answers;
mod changes;
mod foreign;
#[path = "../../../../formats/src/audit/tests/log.rs"]
#[expect(dead_code, reason = "the library's tests need more of it")]
mod log;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs `kiln audit` in `directory`.
fn audit(arguments: &[&str], directory: &Path) -> Output {
    let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
    kiln.arg("audit").args(arguments).current_dir(directory).output().unwrap()
}

/// The report as JSON, and the answer.
fn report(arguments: &[&str], directory: &Path) -> (Value, i32) {
    let output = audit(&[arguments, &["--json"]].concat(), directory);
    let answer = output.status.code().unwrap();
    let document = serde_json::from_slice(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (document.unwrap_or_else(|_| panic_with(&error)), answer)
}

#[expect(clippy::panic, reason = "what a helper cannot do fails its test")]
fn panic_with(error: &str) -> ! {
    panic!("no report: {error}")
}

/// Writes the logs of a machine below `directory`.
fn write_machine(directory: &Path, name: &str, firmware: &[u8], runtime: &[u8]) {
    fs::create_dir(directory.join(name)).unwrap();
    fs::write(directory.join(name).join("binary_bios_measurements"), firmware).unwrap();
    fs::write(directory.join(name).join("tpm2-measure.log"), runtime).unwrap();
}
