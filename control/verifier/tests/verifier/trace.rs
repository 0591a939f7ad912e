//! Gate 5, the traces: a machine that lies about what a step did, or leaves something of it out, soundly signed.

use kiln_formats::job::Profile;
use kiln_formats::record::Exit;
use kiln_formats::runtime_trace::{Execution, RuntimeTrace, Timing};
use kiln_formats::statement::{Statement, Subject};
use kiln_verifier::{Gate, verify};
use serde_json::json;

use crate::check;
use crate::world::{Plan, anchors, at, digest, name};

/// The trace of the first step, edited and soundly signed.
fn traced(change: impl Fn(&mut RuntimeTrace) + 'static) -> Plan {
    stated(move |statement| change(&mut statement.predicate))
}

fn stated(change: impl Fn(&mut Statement<RuntimeTrace>) + 'static) -> Plan {
    let trace = move |step: usize, statement: &mut Statement<RuntimeTrace>| {
        if step == 0 {
            change(statement);
        }
    };
    Plan { trace: Box::new(trace), ..Plan::default() }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The first step's program is a script, as the kernel tells of it, edited.
fn script(change: impl Fn(&mut Execution) + 'static) -> Plan {
    traced(move |t| {
        let first = &mut t.monitor_log.process[0];
        first.argv = words(&["/usr/bin/env", "-S", "/usr/bin/make", "unpack"]);
        first.binary.name = "/usr/bin/make".into();
        change(first);
    })
}

#[test]
fn a_script_is_told_with_its_interpreter() {
    let verdict = verify(&script(|_| ()).seal(), &anchors());
    assert!(verdict.passed(), "{:?}", verdict.findings);
}

fn of_profile(profile: Profile) -> Plan {
    let mut plan = Plan::default();
    plan.job.step[0].profile = profile;
    plan
}

#[test]
fn traces_are_whole_and_of_their_step() {
    let gate = Gate::Step;
    let connection = || json!({"ip": "192.0.2.1", "port": 443, "protocol": "tcp"});
    let other_record = Plan { record: Box::new(|_, s| s.predicate.trace = digest("x")), ..Plan::default() };
    check(vec![
        ("not the record's", other_record, gate, "trace", "00-unpack.dsse.json: digest"),
        ("subject", stated(|s| s.subject[0] = Subject::new("x", digest("x"))), gate, "trace", "subject"),
        ("no subject", stated(|s| s.subject.clear()), gate, "trace", "no statement"),
        ("another predicate", stated(|s| s.predicate_type = "x".into()), gate, "trace", "no statement"),
        ("another monitor", traced(|t| t.monitor.kind = "x".into()), gate, "trace", "no statement"),
        (
            "another policy",
            traced(|t| t.monitor.trace_policy.executions = Timing::Asynchronous),
            gate,
            "trace",
            "tracePolicy",
        ),
        ("another machine", traced(|t| t.monitored_process.host_id = "x".into()), gate, "trace", "monitoredProcess"),
        ("another step", traced(|t| t.monitored_process.event = "x".into()), gate, "trace", "monitoredProcess"),
        ("a connection", traced(move |t| t.monitor_log.network = Some(vec![connection()])), gate, "trace", "network"),
        ("silent about the network", traced(|t| t.monitor_log.network = None), gate, "trace", "network"),
        ("nothing executed", traced(|t| t.monitor_log.process.clear()), gate, "trace", "begin with the job's program"),
        (
            "another script",
            script(|first| first.argv = words(&["/bin/sh", "/work/src/other", "unpack"])),
            gate,
            "trace",
            "begin with the job's program",
        ),
        (
            "a script with other arguments",
            script(|first| first.argv.push("x".into())),
            gate,
            "trace",
            "begin with the job's program",
        ),
        (
            "another program first",
            traced(|t| drop(t.monitor_log.process.remove(0))),
            gate,
            "trace",
            "begin with the job's program",
        ),
        ("other arguments", traced(|t| t.monitor_log.process[0].argv.push("x".into())), gate, "trace", "job's program"),
        (
            "cut, and other arguments",
            traced(|t| {
                t.monitor_log.process[0].argv = vec!["make".into(), "x".into()];
                t.monitor_log.process[0].argv_cut = true;
            }),
            gate,
            "trace",
            "job's program",
        ),
        ("before the challenge", traced(|t| t.metadata.build_started_on = at(-1)), gate, "trace", "metadata"),
        ("ended before it began", traced(|t| t.metadata.build_started_on = at(4)), gate, "trace", "metadata"),
        ("after the manifest", traced(|t| t.metadata.build_finished_on = at(31)), gate, "trace", "metadata"),
        ("too large", traced(|t| t.monitor_log.process[1].argv = vec!["x".repeat(5 << 20)]), gate, "trace", "bytes"),
    ]);
}

#[test]
fn each_profile_says_what_it_can_of_the_network() {
    assert!(verify(&of_profile(Profile::Loopback).seal(), &anchors()).passed());
    let claims = Plan {
        trace: Box::new(|_, statement| statement.predicate.monitor_log.network = Some(vec![])),
        ..of_profile(Profile::Loopback)
    };
    check(vec![("claims too much", claims, Gate::Step, "trace", "network")]);
    let mut desk = anchors();
    desk.policy.profiles.push(Profile::Debug);
    let plan = Plan { policy: desk.policy.clone(), ..of_profile(Profile::Debug) };
    desk.reference = crate::world::reference(&plan);
    let verdict = verify(&plan.seal(), &desk);
    assert!(verdict.passed(), "{:?}", verdict.findings);
}

#[test]
fn long_arguments_may_be_cut_and_a_program_may_not_be_there() {
    let cut = traced(|t| {
        t.monitor_log.process[0].argv = vec!["make".into(), "unp".into()];
        t.monitor_log.process[0].argv_cut = true;
    });
    assert!(verify(&cut.seal(), &anchors()).passed());
    let not_executed = Plan {
        outcome: kiln_formats::manifest::Outcome::StepFailed,
        failed_exit: Exit::NotExecuted { errno: 2 },
        trace: Box::new(|step, statement| {
            if step == 1 {
                statement.predicate.monitor_log.process.clear();
            }
        }),
        ..Plan::default()
    };
    let verdict = verify(&not_executed.seal(), &anchors());
    assert!(verdict.holds(), "{:?}", verdict.findings);
}

#[test]
fn the_verdict_tells_what_the_steps_did() {
    let verdict = verify(&Plan::default().seal(), &anchors());
    let [unpack, build] = verdict.steps.as_slice() else { panic!("two steps: {:?}", verdict.steps) };
    assert_eq!((unpack.step.as_str(), build.step.as_str()), ("unpack", "build"));
    assert_eq!(build.executions[1].argv, ["cc", "-DX=1"]);
    assert_eq!((build.denials[0].layer.clone(), build.denials[0].count), (name("seccomp"), 2));
    // A step that lies is not told of.
    let lying = verify(&traced(|t| t.monitor_log.process.clear()).seal(), &anchors());
    assert!(lying.steps.is_empty());
}
