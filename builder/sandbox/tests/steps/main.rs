//! Runs the hostile probe, one attack for each fresh sandbox, on the machine at hand.
//!
//! Needs root, a C compiler with a static C library, and a kernel with every layer but cgroup controllers; whatever is missing
//! fails loudly, nothing is skipped. Launchers must be forked while there is one thread, so this is its own small harness.

mod attacks;
mod bench;
mod life;
mod mutations;

use bench::Bench;

type Test = (&'static str, fn(&Bench));

fn main() {
    let bench = Bench::new();
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let all: Vec<Test> = [attacks::TESTS, life::TESTS, mutations::TESTS].concat();
    let chosen: Vec<&Test> = all.iter().filter(|(name, _)| name.contains(&filter)).collect();
    if std::env::args().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    println!("running {} of {} tests", chosen.len(), all.len());
    let mut failed = Vec::new();
    for (name, test) in chosen {
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&bench))).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    drop(bench);
    if !failed.is_empty() {
        println!("failed: {failed:?}");
        std::process::exit(101);
    }
}
