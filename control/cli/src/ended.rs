//! What became of a step, in words: every end told apart, and what it took.

use kiln_formats::record::{Exit, Usage};
use kiln_verifier::StepReport;

/// Names of the signals that end programs. Source: signal(7), x86.
const SIGNALS: [(i32, &str); 14] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (11, "SIGSEGV"),
    (13, "SIGPIPE"),
    (14, "SIGALRM"),
    (15, "SIGTERM"),
    (24, "SIGXCPU"),
];
/// Source: errno(3).
const ENOENT: i32 = 2;

/// How it ended, and what to change if it met a limit.
pub(crate) fn how(exit: &Exit) -> String {
    match exit {
        Exit::Code { code: 0 } => "done".to_owned(),
        Exit::Code { code } => format!("failed with exit code {code}"),
        Exit::Signal { signal } => match SIGNALS.iter().find(|(number, _)| number == signal) {
            Some((_, name)) => format!("ended by signal {signal} ({name})"),
            None => format!("ended by signal {signal}"),
        },
        Exit::NotExecuted { errno: ENOENT } => "its program is not there, or its interpreter is not".to_owned(),
        Exit::NotExecuted { errno } => format!("its program could not be executed (errno {errno})"),
        Exit::Limit { limit, code, target, in_grace } => {
            let what = match limit.as_str() {
                "wall" if *in_grace => {
                    "its time was over, and it ended when it was asked to (limits.wall_ms)".to_owned()
                }
                "wall" => "its time was over, and it was killed (limits.wall_ms)".to_owned(),
                "memory" => "out of memory, and killed (limits.memory_bytes)".to_owned(),
                "pids" => "too many processes at once (limits.pids)".to_owned(),
                "disk" => format!(
                    "{} was full (the workspace's size_bytes_max, or limits.tmp_bytes)",
                    target.as_deref().unwrap_or("a file system")
                ),
                "file" => "a file grew too large (the workspace's size_bytes_max, or limits.tmp_bytes)".to_owned(),
                "policy" => "killed for a system call that no step may make".to_owned(),
                "output" => "an output is not there, or not as declared".to_owned(),
                other => format!("it met the limit {other}"),
            };
            let code = code.map(|code| format!("; it ended itself with exit code {code}"));
            format!("{what}{}", code.unwrap_or_default())
        }
    }
}

/// What it took.
pub(crate) fn took(usage: &Usage) -> String {
    let seconds = |us: u64| format!("{}.{} s", us / 1_000_000, us / 100_000 % 10);
    let Usage { wall_ms, cpu_us, memory_peak_bytes, pids_peak: _, io_read_bytes, io_written_bytes } = *usage;
    format!(
        "{} ({} cpu), peak memory {}, {} read, {} written",
        seconds(wall_ms.saturating_mul(1000)),
        seconds(cpu_us),
        bytes(memory_peak_bytes),
        bytes(io_read_bytes),
        bytes(io_written_bytes)
    )
}

/// All that the evidence says of it, shortly: the end, what it took, how many programs it ran, what it was denied.
pub(crate) fn summary(report: &StepReport) -> String {
    let StepReport { step, profile, exit, usage, executions, denials, unlisted, log_unkept_bytes } = report;
    let ran = executions.len() as u64 + unlisted.executions;
    let denied = denials.iter().fold(unlisted.denials, |sum, denial| sum.saturating_add(denial.count));
    let mut text = format!(
        "step {step} ({profile}): {}; {}; {ran} {}, {denied} {}",
        how(exit),
        took(usage),
        if ran == 1 { "program run" } else { "programs run" },
        if denied == 1 { "denial" } else { "denials" }
    );
    if *log_unkept_bytes > 0 {
        text.push_str(&format!("; its log is full, {} are not in it (limits.log_bytes)", bytes(*log_unkept_bytes)));
    }
    for denial in denials.iter().take(DENIALS_SHOWN) {
        let object: String = denial.object.chars().filter(|c| !c.is_control()).take(OBJECT_SHOWN).collect();
        let operation: String = denial.operation.chars().filter(|c| !c.is_control()).take(OBJECT_SHOWN).collect();
        text.push_str(&format!("\n       denied by {}: {operation} {object} ({} times)", denial.layer, denial.count));
    }
    if denials.len() > DENIALS_SHOWN {
        text.push_str(&format!("\n       and {} more kinds; --json has all", denials.len() - DENIALS_SHOWN));
    }
    text
}

/// How many kinds of denials are shown; the rest is in the JSON.
const DENIALS_SHOWN: usize = 5;
/// The longest object that is shown, in characters.
const OBJECT_SHOWN: usize = 80;

fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kiln_formats::job::Profile;
    use kiln_formats::runtime_trace::Unlisted;

    use super::*;

    #[test]
    fn every_end_has_words_of_its_own() {
        let limits = ["wall", "memory", "pids", "disk", "file", "policy", "output", "other"];
        let limits = limits.map(|word| Exit::limit(word.parse().unwrap()));
        let limit = |code, target, in_grace| Exit::Limit { limit: "wall".parse().unwrap(), code, target, in_grace };
        let others = [
            Exit::Code { code: 0 },
            Exit::Code { code: 1 },
            Exit::Signal { signal: 11 },
            Exit::Signal { signal: 40 },
            Exit::NotExecuted { errno: 2 },
            Exit::NotExecuted { errno: 8 },
            limit(None, None, true),
            limit(Some(3), None, false),
        ];
        let ends: Vec<_> = limits.iter().chain(&others).map(how).collect();
        assert_eq!(ends.iter().collect::<BTreeSet<_>>().len(), limits.len() + others.len(), "{ends:?}");
        assert!(ends.iter().all(|words| !words.contains('\n')));
    }

    #[test]
    fn a_full_log_is_told() {
        let report = StepReport {
            step: "compile".parse().unwrap(),
            profile: Profile::Strict,
            exit: Exit::Code { code: 0 },
            usage: Usage {
                wall_ms: 0,
                cpu_us: 0,
                memory_peak_bytes: 0,
                pids_peak: 0,
                io_read_bytes: 0,
                io_written_bytes: 0,
            },
            executions: Vec::new(),
            denials: Vec::new(),
            unlisted: Unlisted::default(),
            log_unkept_bytes: 0,
        };
        assert!(!summary(&report).contains("log"), "{}", summary(&report));
        let full = summary(&StepReport { log_unkept_bytes: 5000, ..report });
        assert!(full.ends_with("; its log is full, 4 KiB are not in it (limits.log_bytes)"), "{full}");
    }

    #[test]
    fn what_it_took_is_told_with_units() {
        let usage = Usage {
            wall_ms: 61_250,
            cpu_us: 1_950_000,
            memory_peak_bytes: 34 << 20,
            pids_peak: 3,
            io_read_bytes: 5000,
            io_written_bytes: 0,
        };
        assert_eq!(took(&usage), "61.2 s (1.9 s cpu), peak memory 34 MiB, 4 KiB read, 0 B written");
    }
}
