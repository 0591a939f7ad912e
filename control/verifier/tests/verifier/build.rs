//! Gates 4 to 6: job, steps, statement. The machine signs all of these itself, so each lie is soundly signed.

use std::collections::BTreeMap;

use kiln_formats::decision::{Code, Refusal, Ruling};
use kiln_formats::event::Event;
use kiln_formats::job::{Access, Job, Proc, Profile};
use kiln_formats::manifest::{Outcome, path};
use kiln_formats::names::BUILDER_DIRECT;
use kiln_formats::provenance::Provenance;
use kiln_formats::record::{Exit, StepRecord};
use kiln_formats::statement::{ResourceDescriptor, Statement, Subject};
use kiln_verifier::Gate;
use serde_json::json;

use crate::world::{Plan, anchors, at, digest, name};
use crate::{Row, check, findings};

fn ordered(change: impl FnOnce(&mut Job)) -> Plan {
    let mut plan = Plan::default();
    change(&mut plan.job);
    plan
}

fn deny() -> Ruling {
    let text = || "x".to_owned();
    Ruling::Deny(Refusal { code: Code::Expired, object: text(), reason: text(), remedy: text() })
}

#[test]
fn job() {
    let gate = Gate::Job;
    let default = Plan::default;
    check(vec![
        ("other signer", Plan { job_key: 9, ..default() }, gate, "job_signature", "none of the 1 keys"),
        ("expired", ordered(|job| job.expires = at(0)), gate, "expired", "expired"),
        ("expired when decided", ordered(|job| job.expires = at(1)), gate, "expired", "expired"),
        (
            "a profile that is not allowed",
            ordered(|job| job.step[1].profile = Profile::Debug),
            gate,
            "profile",
            "debug",
        ),
        ("a job against the rules", broken_job(), gate, "job", "rules"),
        (
            "another document than measured",
            Plan { files: Box::new(|files| files.get_mut(path::JOB).unwrap().push(b'\n')), ..default() },
            gate,
            "job_event",
            "measured",
        ),
        (
            "another job than the challenge's",
            Plan { binding: Box::new(|b| b.challenge.job_sha256 = digest("x")), ..default() },
            gate,
            "challenge",
            "challenge",
        ),
        ("decision version", Plan { decision: Box::new(|d| d.version = 2), ..default() }, gate, "decision", "version"),
        (
            "of another build",
            Plan { decision: Box::new(|d| d.build_id = name("x")), ..default() },
            gate,
            "decision",
            "build",
        ),
        (
            "about another job",
            Plan { decision: Box::new(|d| d.job_sha256 = digest("x")), ..default() },
            gate,
            "decision",
            "job",
        ),
        (
            "by another bundle",
            Plan { decision: Box::new(|d| d.trust_sha256 = digest("x")), ..default() },
            gate,
            "decision",
            "trust",
        ),
        (
            "before the challenge",
            Plan { decision: Box::new(|d| d.time = at(-1)), ..default() },
            gate,
            "decision",
            "between",
        ),
        ("after the end", Plan { decision: Box::new(|d| d.time = at(31)), ..default() }, gate, "decision", "between"),
        ("measured another decision", measured(4, Event::Decision(digest("x"))), gate, "decision_event", "measured"),
        (
            "refused, yet built",
            Plan { decision: Box::new(|d| d.verdict = deny()), ..default() },
            gate,
            "outcome",
            "refused",
        ),
        ("allowed, yet refused", Plan { outcome: Outcome::Refused, ..default() }, gate, "outcome", "allowed"),
        (
            "refused, yet run",
            Plan { decision: Box::new(|d| d.verdict = deny()), outcome: Outcome::Refused, ..default() },
            gate,
            "event_order",
            "went on",
        ),
        (
            "refused, with a log",
            Plan {
                ruling: deny(),
                outcome: Outcome::Refused,
                files: Box::new(|files| drop(files.insert("evidence/logs/00-x.log".into(), vec![]))),
                ..default()
            },
            gate,
            "file_unexpected",
            "00-x.log",
        ),
    ]);
}

fn broken_job() -> Plan {
    // Signed by the right key, but its only image is not the one that its steps name; nothing of it is run.
    let document = |bytes: &mut Vec<u8>| {
        let mut job = crate::world::job();
        job.image[0].name = name("d");
        let payload = kiln_formats::canonical::to_vec(&job).unwrap();
        *bytes = crate::world::sign(crate::world::JOB_KEY, kiln_formats::names::PAYLOAD_JOB, &payload);
    };
    Plan { job_document: Box::new(document), ..Plan::default() }
}

/// One event replaced.
fn measured(place: usize, event: Event) -> Plan {
    Plan { events: Box::new(move |events| events[place] = event.clone()), ..Plan::default() }
}

/// The record of one step, edited and soundly signed.
fn recorded(step: usize, change: impl Fn(&mut StepRecord) + 'static) -> Plan {
    let record = move |at: usize, statement: &mut Statement<StepRecord>| {
        if at == step {
            change(&mut statement.predicate);
        }
    };
    Plan { record: Box::new(record), ..Plan::default() }
}

fn subjects(change: impl Fn(&mut Vec<Subject>) + 'static) -> Plan {
    Plan { record: Box::new(move |_, statement| change(&mut statement.subject)), ..Plan::default() }
}

fn reported(pointer: &'static str, value: serde_json::Value) -> Plan {
    recorded(0, move |record| *record.enforced.pointer_mut(pointer).unwrap() = value.clone())
}

fn failed_without_a_failure() -> Plan {
    Plan { outcome: Outcome::StepFailed, failed_exit: Exit::Code { code: 0 }, ..Plan::default() }
}

#[test]
fn records_say_what_the_job_ordered() {
    let gate = Gate::Step;
    check(vec![
        ("build", recorded(0, |r| r.build_id = name("x")), gate, "record", "00-unpack.dsse.json: buildId"),
        ("sequence", recorded(1, |r| r.sequence = 0), gate, "record", "01-build.dsse.json: sequence"),
        ("previous", recorded(1, |r| r.previous = digest("x")), gate, "record", "previous"),
        ("first previous", recorded(0, |r| r.previous = digest("x")), gate, "record", "previous"),
        ("step", recorded(0, |r| r.step = name("x")), gate, "record", "step"),
        ("step text", recorded(0, |r| r.step_sha256 = digest("x")), gate, "record", "stepSha256"),
        ("image", recorded(0, |r| r.image_root_hash = digest("x")), gate, "record", "imageRootHash"),
        ("argv", recorded(0, |r| r.argv.push("x".into())), gate, "record", "argv"),
        ("env", recorded(0, |r| drop(r.env.insert("LD_PRELOAD".into(), "x".into()))), gate, "record", "env"),
        ("workdir", recorded(0, |r| r.workdir = "/".into()), gate, "record", "workdir"),
        ("input", recorded(0, |r| r.inputs[0].sha256 = digest("x")), gate, "record", "inputs"),
        ("no input", recorded(0, |r| r.inputs.clear()), gate, "record", "inputs"),
        ("profile", recorded(0, |r| r.profile = Profile::Loopback), gate, "record", "00-unpack.dsse.json: profile"),
        ("proc", recorded(0, |r| r.proc = Proc::Masked), gate, "record", "00-unpack.dsse.json: proc"),
        ("limits", recorded(0, |r| r.limits.pids += 1), gate, "record", "limits"),
        ("grace", recorded(0, |r| r.limits.grace_ms += 1), gate, "record", "limits"),
        ("exit", recorded(1, |r| r.exit = Exit::Code { code: 1 }), gate, "outcome", "a step failed"),
        ("killed", recorded(1, |r| r.exit = Exit::limit(name("wall"))), gate, "outcome", "a step failed"),
        ("failed, but nothing did", failed_without_a_failure(), gate, "outcome", "no record"),
        (
            "went on",
            recorded(0, |r| r.exit = Exit::Signal { signal: 9 }),
            gate,
            "step_unexpected",
            "step-begin of build",
        ),
        ("workspace missing", recorded(0, |r| r.workspaces.clear()), gate, "record", "workspaces"),
        ("workspace access", recorded(1, |r| r.workspaces[0].access = Access::Rw), gate, "record", "workspaces"),
        ("not empty", recorded(0, |r| r.workspaces[0].before = digest("x")), gate, "record", "not empty"),
        ("read-only changed", recorded(1, |r| r.workspaces[0].after = Some(digest("x"))), gate, "record", "read-only"),
        (
            "not handed on",
            recorded(1, |r| {
                r.workspaces[0].before = digest("x");
                r.workspaces[0].after = Some(digest("x"));
            }),
            gate,
            "record",
            "not what the step that wrote it left",
        ),
        ("not said", recorded(0, |r| r.workspaces[0].after = None), gate, "record", "what it left is not said"),
        ("read-only not said", recorded(1, |r| r.workspaces[0].after = None), gate, "record", "read-only"),
        ("subject missing", subjects(|s| drop(s.pop())), gate, "record", "subject"),
        ("subject changed", subjects(|s| s[0].digest.sha256 = digest("x")), gate, "record", "subject"),
        ("subject more", subjects(|s| s.push(Subject::new("x", digest("x")))), gate, "record", "subject"),
        ("log digest", recorded(0, |r| r.log.sha256 = digest("x")), gate, "record", "subject"),
        ("log length", recorded(0, |r| r.log.out.kept_bytes = 7), gate, "record", "length"),
        ("log written", recorded(0, |r| r.log.out.written_bytes = 129), gate, "record", "length"),
        ("log lines", recorded(0, |r| r.log.out.written_lines = 7), gate, "record", "length"),
        ("log frames", recorded(0, |r| r.log.frames = 2), gate, "record", "frames"),
        ("log stream", recorded(0, |r| r.log.out.sha256 = digest("x")), gate, "record", "output"),
        ("log other stream", recorded(0, |r| r.log.err.sha256 = digest("x")), gate, "record", "error output"),
        ("log of no order", Plan { log: Box::new(|_, log| log[1] = 1), ..Plan::default() }, gate, "record", "in order"),
        ("log torn", Plan { log: Box::new(|_, log| log.truncate(20)), ..Plan::default() }, gate, "record", "frames"),
        ("log too long", ordered(|job| job.step[0].limits.log_bytes = 7), gate, "record", "longer"),
        (
            "another predicate",
            Plan { record: Box::new(|_, s| s.predicate_type = "x".into()), ..Plan::default() },
            gate,
            "record",
            "no statement",
        ),
    ]);
}

#[test]
fn every_layer_is_shown_in_force() {
    let rows: [(&str, serde_json::Value, &str); 25] = [
        ("/given_up", json!(["landlock"]), "given_up"),
        ("/namespaces", json!({}), "namespaces"),
        ("/namespaces/net", json!(0), "namespaces"),
        ("/mounts", json!([]), "view"),
        ("/mounts/0/attributes", json!(["rw", "nosuid"]), "view"),
        ("/mounts/2/attributes", json!(["rw", "nosuid"]), "view"),
        ("/mounts/3/attributes", json!(["ro", "nosuid"]), "view"),
        ("/mounts/1/target", json!("/"), "view"),
        ("/process/uid", json!(0), "identity"),
        ("/process/gid", json!(0), "identity"),
        ("/process/capabilities", json!(1), "capabilities"),
        ("/process/no_new_privileges", json!(false), "no_new_privileges"),
        ("/process/seccomp_mode", json!(0), "seccomp"),
        ("/process/seccomp_filters", json!(0), "seccomp"),
        ("/seccomp_sha256", json!(""), "seccomp"),
        ("/process_limits", json!({}), "process_limits"),
        ("/descriptors", json!([0, 1, 2, 3, 4]), "descriptors"),
        ("/cgroup/files/memory.max", json!("max"), "limits"),
        ("/cgroup/files/pids.max", json!("max"), "limits"),
        ("/confirmed/landlock", json!(null), "landlock"),
        ("/confirmed/landlock/abi", json!(5), "landlock"),
        ("/confirmed/landlock/ruleset_sha256", json!(""), "landlock"),
        ("/confirmed/securebits", json!(0), "capabilities"),
        ("/confirmed/memfd_noexec", json!("1"), "anonymous_exec"),
        ("/confirmed/namespaces_max/max_user_namespaces", json!("1"), "nested_namespaces"),
    ];
    for (pointer, value, layer) in rows {
        let found = findings(&reported(pointer, value), &anchors());
        let object = format!("evidence/records/00-unpack.dsse.json: enforced.{layer}");
        assert_eq!(
            found.iter().map(|f| (f.gate, f.code, f.object.as_str())).collect::<Vec<_>>(),
            [(Gate::Step, "not_enforced", object.as_str())]
        );
    }
    // Limits that this job asks for, and that job does not.
    let limited = || {
        let mut plan = Plan::default();
        plan.job.step[0].limits.cpu_percent = Some(50);
        plan.job.step[0].limits.io_bytes_per_second = Some(1 << 20);
        plan
    };
    let verdict = kiln_verifier::verify(&limited().seal(), &anchors());
    assert!(verdict.passed(), "{:?}", verdict.findings);
    for (file, value) in [
        ("cpu.max", "max 100000"),
        ("io.max", ""),
        ("io.max", "254:0 rbps=1048576 wbps=max riops=max wiops=max"),
        ("io.max", "254:0 rbps=1048576 wbps=1048576\n254:16 rbps=max wbps=1048576"),
    ] {
        let record = move |at: usize, statement: &mut Statement<StepRecord>| {
            if at == 0 {
                statement.predicate.enforced["cgroup"]["files"][file] = json!(value);
            }
        };
        let found = findings(&Plan { record: Box::new(record), ..limited() }, &anchors());
        assert!(found.len() == 1 && found[0].object.ends_with("enforced.limits"), "{file} {value}: {found:?}");
    }
    let nothing = recorded(0, |record| record.enforced = json!(null));
    assert!(findings(&nothing, &anchors()).len() > 10);
}

#[test]
fn records_are_those_that_were_measured() {
    let gate = Gate::Step;
    let events = |change: fn(&mut Vec<Event>)| Plan { events: Box::new(change), ..Plan::default() };
    check(vec![
        ("input", measured(5, Event::Input(name("zlib.tar"), digest("x"))), gate, "inputs", "measured inputs"),
        ("no input", events(|events| drop(events.remove(5))), gate, "inputs", "measured inputs"),
        (
            "begin",
            measured(6, Event::StepBegin(name("unpack"), digest("x"))),
            gate,
            "step_event",
            "step-begin of unpack",
        ),
        (
            "trace",
            measured(7, Event::StepTrace(name("unpack"), digest("x"))),
            gate,
            "step_event",
            "step-trace of unpack",
        ),
        ("end", measured(8, Event::StepEnd(name("unpack"), digest("x"))), gate, "step_event", "step-end of unpack"),
        ("a step left out", events(|events| drop(events.drain(9..12))), gate, "step_missing", "1 of 2 steps"),
        (
            "a step more",
            events(|events| {
                let again: Vec<Event> = events[9..12].to_vec();
                events.splice(12..12, again);
            }),
            gate,
            "step_unexpected",
            "no further step",
        ),
        (
            "steps swapped",
            events(|events| {
                let first: Vec<Event> = events.drain(6..9).collect();
                events.splice(9..9, first);
            }),
            gate,
            "step_order",
            "turn of unpack",
        ),
        ("record left out", without("evidence/records/01-build.dsse.json"), gate, "file_missing", "01-build"),
        ("trace left out", without("evidence/traces/01-build.dsse.json"), gate, "file_missing", "traces/01-build"),
        ("log left out", without("evidence/logs/01-build.log"), gate, "file_missing", "01-build.log"),
    ]);
}

/// A file that the machine leaves out of the bundle and of the manifest.
fn without(path: &'static str) -> Plan {
    Plan { files: Box::new(move |files| assert!(files.remove(path).is_some())), ..Plan::default() }
}

fn with_file(path: &'static str, edit: fn(&mut Vec<u8>)) -> Plan {
    Plan {
        files: Box::new(move |files: &mut BTreeMap<_, _>| edit(files.entry(path.into()).or_default())),
        ..Plan::default()
    }
}

fn stated(change: impl Fn(&mut Provenance) + 'static) -> Plan {
    Plan { provenance: Box::new(move |statement| change(&mut statement.predicate)), ..Plan::default() }
}

#[test]
fn statement() {
    let gate = Gate::Statement;
    let other = || ResourceDescriptor::new("x", digest("x"));
    let failed = || Plan { outcome: Outcome::StepFailed, ..Plan::default() };
    let mut rows: Vec<Row> = vec![
        (
            "subject",
            Plan { provenance: Box::new(|s| s.subject[0].name = "x".into()), ..Plan::default() },
            gate,
            "provenance",
            "subject",
        ),
        (
            "subject digest",
            Plan { provenance: Box::new(|s| s.subject[0].digest.sha256 = digest("x")), ..Plan::default() },
            gate,
            "provenance",
            "subject",
        ),
        (
            "kind",
            Plan { provenance: Box::new(|s| s.kind = "x".into()), ..Plan::default() },
            gate,
            "provenance",
            "no statement",
        ),
        ("build type", stated(|p| p.build_definition.build_type = "x".into()), gate, "provenance", "buildType"),
        (
            "job",
            stated(move |p| p.build_definition.external_parameters.job = other()),
            gate,
            "provenance",
            "externalParameters.job",
        ),
        (
            "image",
            stated(|p| p.build_definition.internal_parameters.image.digest.sha256 = digest("x")),
            gate,
            "provenance",
            "internalParameters.image",
        ),
        ("tpm", stated(|p| p.build_definition.internal_parameters.tpm = "hardware".into()), gate, "provenance", "tpm"),
        (
            "input left out",
            stated(|p| drop(p.build_definition.resolved_dependencies.pop())),
            gate,
            "provenance",
            "resolvedDependencies",
        ),
        (
            "other origin",
            stated(|p| p.build_definition.resolved_dependencies[2].uri = Some("https://evil.example/".into())),
            gate,
            "provenance",
            "resolvedDependencies",
        ),
        ("builder", stated(|p| p.run_details.builder.id = BUILDER_DIRECT.into()), gate, "provenance", "builder.id"),
        (
            "invocation",
            stated(|p| p.run_details.metadata.invocation_id = "x".into()),
            gate,
            "provenance",
            "invocationId",
        ),
        ("started", stated(|p| p.run_details.metadata.started_on = at(1)), gate, "provenance", "startedOn"),
        ("finished", stated(|p| p.run_details.metadata.finished_on = at(31)), gate, "provenance", "finishedOn"),
        ("byproduct left out", stated(|p| drop(p.run_details.byproducts.pop())), gate, "provenance", "byproducts"),
        ("byproduct more", stated(move |p| p.run_details.byproducts.push(other())), gate, "provenance", "byproducts"),
        ("output event", measured(12, Event::Output(name("libz.a"), digest("x"))), gate, "outputs", "measured outputs"),
        ("provenance event", measured(13, Event::Provenance(digest("x"))), gate, "provenance_event", "measured"),
        ("too large", ordered(|job| job.output[0].size_bytes_max = 7), gate, "artifact_too_large", "libz.a"),
        (
            "another statement beside it",
            with_file("artifacts/libz.a.intoto.jsonl", |bytes| bytes.extend(b"{}\n")),
            gate,
            "artifact_statements",
            "one line",
        ),
        ("no artifact", without("artifacts/libz.a"), gate, "file_missing", "libz.a"),
        ("no provenance", without(path::PROVENANCE), gate, "file_missing", "provenance"),
        ("one artifact more", with_file("artifacts/evil", |_| {}), gate, "file_unexpected", "artifacts/evil"),
        ("one trace more", with_file("evidence/traces/02-x.dsse.json", |_| {}), gate, "file_unexpected", "02-x"),
        ("one log more", with_file("evidence/logs/02-x.log", |_| {}), gate, "file_unexpected", "02-x.log"),
    ];
    rows.push((
        "failed, with an artifact",
        Plan { files: Box::new(|files| drop(files.insert("artifacts/libz.a".into(), vec![]))), ..failed() },
        gate,
        "file_unexpected",
        "libz.a",
    ));
    let output = |events: &mut Vec<Event>| events.insert(12, Event::Output(name("libz.a"), digest("x")));
    rows.push(("failed, with an output", Plan { events: Box::new(output), ..failed() }, gate, "outcome", "no outputs"));
    check(rows);
}

#[test]
fn the_last_gates_collect_everything() {
    let plan = Plan {
        record: Box::new(|_, statement| statement.predicate.workdir = "/".into()),
        ..stated(|p| p.build_definition.build_type = "x".into())
    };
    let gates: Vec<Gate> = findings(&plan, &anchors()).into_iter().map(|finding| finding.gate).collect();
    assert_eq!(gates, [Gate::Step, Gate::Step, Gate::Statement]);
}

#[test]
fn a_step_may_fail_in_every_way_and_only_at_the_end() {
    for exit in [Exit::Code { code: 2 }, Exit::Signal { signal: 11 }, Exit::limit(name("memory"))] {
        let plan = Plan { outcome: Outcome::StepFailed, failed_exit: exit, ..Plan::default() };
        let verdict = kiln_verifier::verify(&plan.seal(), &anchors());
        assert!(verdict.holds() && !verdict.passed(), "{:?}", verdict.findings);
    }
}
