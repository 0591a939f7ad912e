//! Runs the hostile probe, one attack for each fresh sandbox, on the machine at hand.
//!
//! Needs root, a C compiler with a static C library, and a kernel with every layer but cgroup controllers; whatever is missing
//! fails loudly, nothing is skipped. Launchers must be forked while there is one thread, so this is its own small harness:
//!
//! `steps [--limits] [--probe FILE] [--write-mutations] [NAME]`: `--limits` insists on cgroup v2 controllers and runs the tests
//! that need them instead of those of the mutation table (inside the appliance, where the harness is `/init`); `--probe` takes
//! programs that were compiled before, `traced` beside it; `--write-mutations` runs no test and writes the table of what each
//! layer does anew; NAME selects tests.
#![expect(clippy::expect_used, clippy::panic, reason = "a test of its own harness: clippy cannot see that it is one")]

mod appliance;
mod bench;
mod catalogue;
mod leftovers;
mod life;
mod limits;
mod mutations;
mod profiles;
mod trace;

use std::path::Path;

use bench::{AuditOn, Bench};

type Test = (&'static str, fn(&Bench));

fn main() {
    let arguments: Vec<String> = if appliance::is_first() {
        appliance::prepare();
        appliance::ARGUMENTS.map(str::to_owned).into_iter().chain(std::env::args().skip(1)).collect()
    } else {
        std::env::args().skip(1).collect()
    };
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let probe = arguments.iter().skip_while(|argument| *argument != "--probe").nth(1);
    let named = |argument: &&String| !argument.starts_with('-') && Some(*argument) != probe;
    let name = arguments.iter().find(named).map_or("", String::as_str);
    let mut all: Vec<Test> = [catalogue::TESTS, life::TESTS, leftovers::TESTS, profiles::TESTS, trace::TESTS].concat();
    // The table of what each layer does is of one kernel.
    all.extend(if has("--limits") { limits::TESTS } else { mutations::TESTS });
    let chosen: Vec<&Test> = all.iter().filter(|(test, _)| test.contains(name)).collect();
    if has("--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let audit = AuditOn::now();
    let bench = Bench::new(has("--limits"), probe.map(Path::new));
    if has("--write-mutations") {
        mutations::write(&bench);
        return;
    }
    let count = chosen.len();
    println!("running {count} of {} tests", all.len());
    let mut failed = Vec::new();
    for (name, test) in chosen {
        let begin = std::time::Instant::now();
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&bench))).is_ok();
        let word = if passed { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({} ms)", begin.elapsed().as_millis());
        if !passed {
            failed.push(*name);
        }
    }
    drop(bench);
    drop(audit);
    if appliance::is_first() {
        appliance::finish(count - failed.len(), &failed);
    }
    if !failed.is_empty() {
        println!("failed: {failed:?}");
        std::process::exit(101);
    }
}
