//! Limits that only cgroup controllers can hold: run where the kernel has them (`--limits`), as in the appliance.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln_sandbox::{Draft, Exit, Layer, Limits, Temporary};

use crate::Test;
use crate::bench::{Bench, Ran, run};

pub(crate) const TESTS: &[Test] = &[
    ("limits_are_read_back", limits_are_read_back),
    ("disks_are_limited", disks_are_limited),
    ("memory_is_limited_however_it_is_used", memory_is_limited_however_it_is_used),
    ("processes_are_limited", processes_are_limited),
    ("without_limits_the_same_goes_on", without_limits_the_same_goes_on),
    ("processor_time_is_limited", processor_time_is_limited),
    ("the_machine_answers_under_every_bomb", the_machine_answers_under_every_bomb),
];

const MEMORY: u64 = 64 << 20;
/// How long whoever waits for the machine may wait, at most, whatever a step does.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How much longer than beside a step that does nothing, where even that takes most of a second.
const QUIET_TIMES_MAX: u32 = 4;
/// How often a bomb is tried until the machine answers in time.
const TRIES_MAX: usize = 3;
/// What a bomb gets to do its worst.
const BOMB_WALL_MS: u64 = 2500;

/// A `/tmp` that holds more than the step may have in memory, in bytes and in files.
fn large_tmp() -> Vec<Temporary> {
    vec![Temporary { target: "/tmp".into(), size_bytes_max: 4 * MEMORY, inodes_max: 1 << 20 }]
}

fn limited(bench: &Bench, arguments: &[&str]) -> Ran {
    let draft = bench.draft(arguments);
    let temporaries = large_tmp();
    let limits = Limits { memory_bytes: MEMORY, pids: 20, cpu_percent: Some(20), wall_ms: 60_000, ..draft.limits };
    run(&bench.launcher, Draft { limits, temporaries, ..draft })
}

fn limits_are_read_back(bench: &Bench) {
    let outcome = limited(bench, &["nothing"]).outcome;
    let files = &outcome.enforced.cgroup.files;
    for (file, value) in
        [("memory.max", "67108864"), ("memory.oom.group", "1"), ("pids.max", "20"), ("cpu.max", "20000 100000")]
    {
        assert_eq!(files.get(file).map(String::as_str), Some(value), "{file}");
    }
    assert!(outcome.enforced.given_up.is_empty());
    assert!(outcome.usage.memory_peak_bytes.is_some_and(|peak| peak > 0 && peak < MEMORY), "{:?}", outcome.usage);
}

/// Every block device of the machine, in both directions; what that costs a step can only be seen on a machine with disks.
fn disks_are_limited(bench: &Bench) {
    let draft = bench.draft(&["nothing"]);
    let io_max = |io_bytes_per_second| {
        let limits = Limits { io_bytes_per_second, ..draft.limits };
        let outcome = run(&bench.launcher, Draft { limits, ..draft.clone() }).outcome;
        assert!(
            outcome.usage.io_read_bytes.is_some() && outcome.usage.io_written_bytes.is_some(),
            "{:?}",
            outcome.usage
        );
        outcome.enforced.cgroup.files.get("io.max").cloned().expect("io.max")
    };
    assert_eq!(io_max(None), "");
    let limited = io_max(Some(1 << 20));
    let devices = std::fs::read_dir("/sys/block").expect("sysfs").count();
    assert_eq!(limited.lines().count(), devices, "{limited}");
    assert!(limited.lines().all(|line| line.contains(" rbps=1048576 wbps=1048576 ")), "{limited}");
}

fn memory_is_limited_however_it_is_used(bench: &Bench) {
    for attack in [
        "memory",
        "memory_in_tmp",
        "memory_in_memfd",
        "memory_in_files",
        "memory_shared",
        "memory_in_pipes",
        "memory_in_sockets",
        "memory_in_tables",
    ] {
        let draft = bench.draft(&[attack]);
        let limits = Limits { memory_bytes: MEMORY, pids: 20, wall_ms: 300_000, ..draft.limits };
        let outcome = run(&bench.launcher, Draft { limits, temporaries: large_tmp(), ..draft }).outcome;
        assert_eq!(outcome.exit, Exit::OutOfMemory, "{attack}: {:?}", outcome.usage);
        assert!(outcome.usage.oom_kills > 0);
        assert!(outcome.usage.memory_peak_bytes.is_some_and(|peak| peak <= MEMORY), "{:?}", outcome.usage);
    }
}

fn processes_are_limited(bench: &Bench) {
    for attack in ["forks", "threads"] {
        let ran = limited(bench, &[attack]);
        assert_eq!(ran.answer(attack), "EAGAIN");
        assert!(ran.outcome.usage.pids_refused > 0, "{:?}", ran.outcome.usage);
        assert!(ran.outcome.usage.pids_peak.is_some_and(|peak| peak <= 20), "{:?}", ran.outcome.usage);
    }
}

/// What the limits end goes on where they are given up, and the record says so: it is they that end it.
fn without_limits_the_same_goes_on(bench: &Bench) {
    let ran = |launcher, attack| {
        let draft = bench.draft(&[attack]);
        let limits = Limits { memory_bytes: MEMORY, pids: 20, ..draft.limits };
        run(launcher, Draft { limits, ..draft })
    };
    assert_eq!(ran(&bench.launcher, "memory_some").outcome.exit, Exit::OutOfMemory);
    assert_eq!(ran(&bench.launcher, "forks_some").answer("forks_some"), "EAGAIN");
    for attack in ["memory_some", "forks_some"] {
        let free = ran(&bench.unlimited, attack);
        assert_eq!(free.verdict(attack), "OK");
        assert!(free.outcome.enforced.given_up.contains(&Layer::Limits), "{:?}", free.outcome.enforced.given_up);
        assert!(free.outcome.enforced.cgroup.files.get("memory.max").is_none_or(|limit| limit == "max"));
    }
}

fn processor_time_is_limited(bench: &Bench) {
    let draft = bench.draft(&["spin"]);
    let limits = Limits { cpu_percent: Some(20), wall_ms: 3000, ..draft.limits };
    let usage = run(&bench.launcher, Draft { limits, ..draft }).outcome.usage;
    assert!(usage.cpu_us < usage.wall_ms * 1000 / 2, "{usage:?}");
}

/// A thread of the process that runs the steps (in the appliance: of PID 1) asks the machine for a little of everything, over
/// and over: a pause, memory, a file, a child process. The longest time between two answers is measured, not how fast it is.
///
/// An emulated machine on a busy host has only a part of each second. How large a part is seen beside a step that does nothing,
/// just before each try, of which there is more than one: a bomb that keeps the machine from answering does so each time.
fn the_machine_answers_under_every_bomb(bench: &Bench) {
    for bomb in ["fork_bomb", "memory_in_files", "memory_in_pipes", "inode_bomb", "log_flood", "spin_all", "sync_storm"]
    {
        let tries = std::iter::repeat_with(|| {
            let quiet = slowest_answer(bench, "sleep_forever");
            (quiet, slowest_answer(bench, bomb))
        });
        let in_time = tries.take(TRIES_MAX).any(|(quiet, slowest)| {
            println!("answer: {bomb}: the longest took {} ms, {} ms before", slowest.as_millis(), quiet.as_millis());
            slowest < ANSWER_MAX.max(quiet * QUIET_TIMES_MAX)
        });
        assert!(in_time, "{bomb}: never answered in time");
    }
}

/// How long the machine took to answer, at most, while a bomb did its worst.
fn slowest_answer(bench: &Bench, bomb: &str) -> Duration {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                std::thread::sleep(Duration::from_millis(1));
                let page = vec![1_u8; 1 << 20];
                let file = tempfile::tempfile().expect("a file");
                std::io::Write::write_all(&mut &file, &page).expect("written");
                let child = std::process::Command::new("/proc/self/exe").arg("--list").stdout(Stdio::null()).status();
                assert!(child.expect("a child process").success());
                slowest = slowest.max(begin.elapsed());
            }
            slowest
        });
        let draft = bench.draft(&[bomb]);
        let limits =
            Limits { memory_bytes: MEMORY, pids: 64, wall_ms: BOMB_WALL_MS, cpu_percent: Some(100), ..draft.limits };
        let ran = run(&bench.launcher, Draft { limits, temporaries: large_tmp(), ..draft });
        over.store(true, Ordering::Relaxed);
        println!("  {bomb}: {:?}, {:?}", ran.outcome.exit, ran.outcome.usage);
        asking.join().expect("whoever asked")
    })
}
