//! How long a person waits for whole commands: `kiln audit` of a thousand boots, `kiln reference` of an image.
//!
//! `cargo bench -p kiln -- [--check] [UKI]`; with `--check` a missed target makes the exit status 1. The boots are those of the real
//! logs in `KILN_EVENT_LOGS`, else beside the workspace, each with a runtime log and a TPM of its own. What is missing is left out
//! aloud. The best of some rounds counts: other programs want the processors too.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to say")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_formats::boot::Boot;
use kiln_formats::cel::CelLog;
use kiln_formats::eventlog::EventLog;
use kiln_formats::pcr::Bank;

/// How many boots are audited at once, and what that may take.
const BOOTS: usize = 1000;
const AUDIT_MAX: Duration = Duration::from_secs(2);
/// What a person may wait for a prediction.
const REFERENCE_MAX: Duration = Duration::from_millis(50);

fn main() {
    let has = |word: &str| std::env::args().any(|argument| argument == word);
    let rounds = if has("--bench") { 7 } else { 1 };
    let mut missed = false;
    let mut measure = |what: &str, arguments: &[&str], bound: Duration| {
        let took = (0..rounds).map(|_| run(arguments)).min().unwrap_or_default();
        let word = if took <= bound { "met   " } else { "MISSED" };
        println!("{word} {what}: {:.1} ms of at most {}", took.as_secs_f64() * 1e3, bound.as_millis());
        missed |= took > bound;
    };
    let logs = real_logs();
    if logs.is_empty() {
        println!("LEFT OUT: there are no event logs in KILN_EVENT_LOGS or ../shared/data/event-logs");
    } else {
        let dir = tempfile::tempdir().expect("a directory");
        (0..BOOTS).for_each(|at| machine(&dir.path().join(format!("{at:04}")), logs.get(at % logs.len()), at));
        let fleet = dir.path().to_str().expect("text");
        measure("1000 boots audited", &["audit", fleet, "--json"], AUDIT_MAX);
    }
    match std::env::args().skip(1).find(|argument| !argument.starts_with("--")) {
        Some(uki) => measure("reference values of one image", &["reference", &uki, "--json"], REFERENCE_MAX),
        None => println!("LEFT OUT: no image was named to predict"),
    }
    if has("--check") && missed {
        std::process::exit(1);
    }
}

fn run(arguments: &[&str]) -> Duration {
    let begun = Instant::now();
    let ended = Command::new(env!("CARGO_BIN_EXE_kiln")).args(arguments).stdout(Stdio::null()).status().expect("kiln");
    // Boots of other machines stand out: 13.
    assert!(matches!(ended.code(), Some(0 | 13)), "{arguments:?} ended with {ended}");
    begun.elapsed()
}

/// A machine's directory, as an administrator collects it.
fn machine(directory: &Path, firmware: Option<&Vec<u8>>, at: usize) {
    let firmware = firmware.expect("a log");
    let digest = format!("{{\"hashAlg\":\"sha256\",\"digest\":\"{at:064x}\"}}");
    let runtime = format!("\x1e{{\"pcr\":15,\"digests\":[{digest}]}}\n");
    let boot = Boot { firmware: EventLog::parse(firmware).ok(), runtime: CelLog::parse(runtime.as_bytes()).ok() };
    let (values, mut pcrs) = (boot.replay(), String::new());
    for bank in Bank::ALL {
        pcrs.push_str(&format!("  {bank}:\n"));
        for (_, index, value) in values.iter().filter(|(of, _, _)| *of == bank) {
            pcrs.push_str(&format!("    {:<2}: 0x{value}\n", index.get()));
        }
    }
    fs::create_dir(directory).expect("a directory");
    for (name, bytes) in [
        ("binary_bios_measurements", firmware.as_slice()),
        ("tpm2-measure.log", runtime.as_bytes()),
        ("pcrs", pcrs.as_bytes()),
    ] {
        fs::write(directory.join(name), bytes).expect("room");
    }
}

fn real_logs() -> Vec<Vec<u8>> {
    let beside =
        || Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).map(|root| root.join("shared/data/event-logs"));
    let folder = std::env::var_os("KILN_EVENT_LOGS").map(PathBuf::from).or_else(beside).unwrap_or_default();
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "bin")).collect();
    paths.sort_unstable();
    paths.iter().filter_map(|path| fs::read(path).ok()).collect()
}
