//! How long the judgement of a whole bundle takes: six gates, every signature, every log folded, on one processor.
//!
//! `cargo bench -p kiln-verifier -- [--check]`; with `--check` a missed target makes the exit status 1. The bundle is that of the
//! tests' synthetic machine, which has as many signatures, quotes and statements as a real one; reading and hashing the files is
//! the caller's and not counted. Run by `cargo test` it is short.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to say")]

#[path = "../tests/verifier/world/mod.rs"]
#[expect(unused_imports, reason = "the tests' machine can do more than everything right")]
mod world;

use std::time::{Duration, Instant};

use kiln_verifier::verify;
use world::{Plan, anchors};

/// What a judgement may take.
const VERIFY_MAX: Duration = Duration::from_millis(20);

fn main() {
    let has = |word: &str| std::env::args().any(|argument| argument == word);
    let rounds = if has("--bench") { 500 } else { 1 };
    let (bundle, anchors) = (Plan::default().seal(), anchors());
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let begin = Instant::now();
            let verdict = verify(&bundle, &anchors);
            let took = begin.elapsed();
            assert!(verdict.passed(), "{:?}", verdict.findings);
            took
        })
        .collect();
    times.sort_unstable();
    let [best, median, late] =
        [0, rounds / 2, rounds * 19 / 20].map(|at| times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3));
    println!("a bundle of {} files: min {best:.2} ms, p50 {median:.2} ms, p95 {late:.2} ms", bundle.paths().count());
    let missed = late > VERIFY_MAX.as_secs_f64() * 1e3;
    println!("{} at most {} ms", if missed { "MISSED" } else { "met   " }, VERIFY_MAX.as_millis());
    if has("--check") && missed {
        std::process::exit(1);
    }
}
