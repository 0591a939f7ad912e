//! Every fuzz target of the checkout runs for a moment: over its corpus, and then on what the fuzzer makes of that.
//!
//! The targets are built with the checkout's own compiler: coverage instrumentation is part of it, only `cargo fuzz` and the
//! sanitizers want a nightly one. A long search for new faults is a person's: `cargo +nightly fuzz run --fuzz-dir DIR TARGET`.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cargo_metadata::{MetadataCommand, Package};

/// Where fuzz targets live. Each is a workspace of its own.
const WORKSPACES: [&str; 3] = ["builder/sandbox/fuzz", "formats/fuzz", "image/fuzz"];
/// The target in which a fault is planted: a run that does not find it proves nothing of the others.
const PLANTED: &str = "planted";
/// Inputs for each target, the corpus not counted: some seconds.
const RUNS: u32 = 5_000;
/// Inputs for the planted fault, which is behind three comparisons and costs nothing to try.
const PLANTED_RUNS: u32 = 2_000_000;
/// One input that takes longer, in seconds, is a fault: the slowest takes milliseconds.
const TIMEOUT_S: u32 = 20;
/// Memory of a target, in MiB. Inputs are at most 4 KiB or as long as the longest of the corpus.
const MEMORY_MIB: u32 = 1024;

/// Source: what cargo-fuzz 0.13 passes to the compiler, the sanitizer left out.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Copt-level=0";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn fuzzers(workspace: &str) -> Package {
    let manifest = root().join(workspace).join("Cargo.toml");
    let mut found = MetadataCommand::new().manifest_path(manifest).no_deps().exec().unwrap();
    found.packages.remove(0)
}

/// Builds the targets of a workspace and says where they are.
fn build(workspace: &str) -> PathBuf {
    let said = Command::new("rustc").arg("-vV").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    // With a target named, the flags are for the targets and not for what runs while they are built.
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    let status = Command::new("cargo")
        .args(["build", "--locked", "--target", host, "--manifest-path"])
        .arg(root().join(workspace).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&directory)
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .status()
        .unwrap();
    assert!(status.success(), "{workspace} does not build");
    directory.join(host).join("debug")
}

fn fuzz(program: &Path, corpus: &Path, runs: u32) -> Output {
    // What is found is new to this run only; the corpus stays as it is.
    let found = tempfile::tempdir().unwrap();
    let longest =
        fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).max().unwrap_or(0);
    Command::new(program)
        .arg(found.path())
        .arg(corpus)
        .args([format!("-runs={runs}"), format!("-timeout={TIMEOUT_S}"), format!("-rss_limit_mb={MEMORY_MIB}")])
        .args([format!("-max_len={}", longest.max(4096)), "-seed=1".to_owned(), "-verbosity=0".to_owned()])
        .arg(format!("-artifact_prefix={}/", found.path().display()))
        .output()
        .unwrap()
}

#[test]
fn every_target_runs_clean_and_a_planted_fault_is_found() {
    for workspace in WORKSPACES {
        let programs = build(workspace);
        for target in fuzzers(workspace).targets.iter().map(|target| target.name.as_str()) {
            let corpus = root().join(workspace).join("corpus").join(target);
            assert!(corpus.is_dir(), "{workspace}: the target {target} has no corpus");
            let runs = if target == PLANTED { PLANTED_RUNS } else { RUNS };
            let ran = fuzz(&programs.join(target), &corpus, runs);
            let said = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(ran.status.success(), target != PLANTED, "{workspace}: {target}: {said}");
            assert!(target != PLANTED || said.contains("a planted fault"), "{said}");
            println!("{workspace}: {target}: {} inputs and {runs} more", fs::read_dir(&corpus).unwrap().count());
        }
    }
}

#[test]
fn every_fuzz_workspace_is_known_here() {
    let listed = Command::new("git").arg("-C").arg(root()).args(["ls-files", "*/fuzz/Cargo.toml"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let found: Vec<_> = listed.lines().filter_map(|path| path.strip_suffix("/Cargo.toml")).collect();
    assert_eq!(found, WORKSPACES);
}
