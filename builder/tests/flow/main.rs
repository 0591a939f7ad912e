//! A machine's whole life in the real sandbox, between a PID 1 and an authority that are made up.
//!
//! Needs root. Cgroup controllers are given up, because a host may have none; what they limit is tested in the machine. The
//! launcher must be forked while there is one thread, so this is its own small harness: `flow [NAME]`.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that goes wrong ends")]

mod authority;
mod bench;
mod built;
mod faults;
mod pid1;
mod refusals;
mod site;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bench::Bench;
use kiln_sandbox::{Launcher, Layer, Requirements};

type Case = (&'static str, fn(&mut Bench));

fn main() {
    let name = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let cases: Vec<Case> = [built::CASES, refusals::CASES, faults::CASES].concat();
    let chosen: Vec<Case> = cases.into_iter().filter(|(case, _)| case.contains(&name)).collect();
    if std::env::args().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(case, _)| println!("{case}: test"));
        return;
    }
    // This host's cgroup v2 may have no controllers.
    let requirements = Requirements::all().without(Layer::Limits).expect("a layer to give up");
    // As the builder does. It stays on: another test on this machine may need it, and it makes no records without rules.
    kiln_sandbox::switch_audit_on().expect("audit (needs root in the initial namespaces)");
    let launcher = Launcher::start_with(requirements).expect("a launcher (needs root and one thread)");
    let mut bench = Bench::new(launcher);
    // As in the machine.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let mut failed = 0;
    for (case, run) in chosen {
        let passed = catch_unwind(AssertUnwindSafe(|| run(&mut bench))).is_ok();
        println!("test {case} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    drop(bench);
    assert_eq!(failed, 0, "cases failed");
}
