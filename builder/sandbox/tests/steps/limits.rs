//! Limits that only cgroup controllers can hold: run where the kernel has them (`--limits`), as in the appliance.

use std::time::{Duration, Instant};

use kiln_sandbox::{Draft, Exit, Limits, Temporary};

use crate::Test;
use crate::bench::{Bench, Ran, run};

pub(crate) const TESTS: &[Test] = &[
    ("limits_are_read_back", limits_are_read_back),
    ("memory_is_limited_however_it_is_used", memory_is_limited_however_it_is_used),
    ("processes_are_limited", processes_are_limited),
    ("processor_time_is_limited", processor_time_is_limited),
];

const MEMORY: u64 = 64 << 20;

fn limited(bench: &Bench, arguments: &[&str]) -> Ran {
    let draft = bench.draft(arguments);
    let temporaries = vec![Temporary { target: "/tmp".into(), size_bytes_max: 4 * MEMORY, inodes_max: 100 }];
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

fn memory_is_limited_however_it_is_used(bench: &Bench) {
    for attack in ["memory", "memory_in_tmp"] {
        let outcome = limited(bench, &[attack]).outcome;
        assert_eq!(outcome.exit, Exit::OutOfMemory, "{attack}: {:?}", outcome.usage);
        assert!(outcome.usage.oom_kills > 0);
        assert!(outcome.usage.memory_peak_bytes.is_some_and(|peak| peak <= MEMORY), "{:?}", outcome.usage);
    }
}

fn processes_are_limited(bench: &Bench) {
    let begin = Instant::now();
    let ran = limited(bench, &["forks"]);
    assert_eq!(ran.answer("forks"), "EAGAIN");
    assert!(ran.outcome.usage.pids_refused > 0, "{:?}", ran.outcome.usage);
    assert!(ran.outcome.usage.pids_peak.is_some_and(|peak| peak <= 20), "{:?}", ran.outcome.usage);
    assert!(begin.elapsed() < Duration::from_secs(30));
}

fn processor_time_is_limited(bench: &Bench) {
    let draft = bench.draft(&["spin"]);
    let limits = Limits { cpu_percent: Some(20), wall_ms: 3000, ..draft.limits };
    let usage = run(&bench.launcher, Draft { limits, ..draft }).outcome.usage;
    assert!(usage.cpu_us < usage.wall_ms * 1000 / 2, "{usage:?}");
}
