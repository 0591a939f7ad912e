//! The judge from outside: a synthetic machine (`world`) does everything right, or one thing wrong.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected is to fail")]

mod attestation;
mod build;
mod dispatch;
mod host;
mod identity;
mod mode;
mod standing;
mod start;
mod tamper;
mod teardown;
mod trace;
mod verdict;
mod world;

use kiln_verifier::{Anchors, Finding, Gate, verify};
use world::{Plan, anchors};

/// The findings of a plan that must not pass.
fn findings(plan: &Plan, anchors: &Anchors) -> Vec<Finding> {
    let verdict = verify(&plan.seal(), anchors);
    assert!(!verdict.holds() && !verdict.passed() && verdict.artifacts.is_empty());
    verdict.findings
}

/// What is done wrongly, where it is noticed, under which code, and a word of the finding.
type Row = (&'static str, Plan, Gate, &'static str, &'static str);

/// Each row is caught where it says.
fn check(rows: Vec<Row>) {
    for (what, plan, gate, code, word) in rows {
        let findings = findings(&plan, &anchors());
        let first = &findings[0];
        assert_eq!((first.gate, first.code), (gate, code), "{what}: {first}");
        assert!(first.to_string().contains(word), "{what}: {first}");
    }
}
