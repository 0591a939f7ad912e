//! Jobs that are run: everything is there, signed, listed, measured and in order; a step that fails ends the job.

use std::collections::BTreeSet;

use kiln_formats::canonical;
use kiln_formats::challenge::Closing;
use kiln_formats::decision::{Decision, Ruling};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::{Envelope, Verified};
use kiln_formats::job::Profile;
use kiln_formats::link::path;
use kiln_formats::log::{Content, Log, NOTES_BYTES, split_first};
use kiln_formats::manifest::{Manifest, Outcome, path as file};
use kiln_formats::names::{
    Name, PAYLOAD_DECISION, PAYLOAD_MANIFEST, PAYLOAD_STATEMENT, PREDICATE_PROVENANCE, PREDICATE_RECORD,
};
use kiln_formats::provenance::Provenance;
use kiln_formats::record::{Exit, StepRecord};
use kiln_formats::runtime_trace::{self, RuntimeTrace};
use kiln_formats::statement::Statement;

use crate::Case;
use crate::bench::{Bench, Ended, INPUT, job, offering};
use crate::site::{STATEMENT, STEP, key, time};

pub(crate) const CASES: &[Case] = &[
    ("a_job_becomes_evidence", a_job_becomes_evidence),
    ("everything_happens_in_one_order", everything_happens_in_one_order),
    ("a_step_sees_only_what_it_names", a_step_sees_only_what_it_names),
    ("a_failing_step_ends_the_job", a_failing_step_ends_the_job),
    ("a_program_that_is_not_there_is_an_observation", a_program_that_is_not_there_is_an_observation),
    ("an_output_that_is_not_as_declared_fails_its_step", an_output_that_is_not_as_declared_fails_its_step),
    ("a_directory_leaves_as_an_archive", a_directory_leaves_as_an_archive),
    ("outputs_leave_together_or_not_at_all", outputs_leave_together_or_not_at_all),
    ("a_workspace_that_no_digest_covers_is_an_observation", a_workspace_that_no_digest_covers_is_an_observation),
    ("a_long_log_keeps_its_ends_and_is_counted", a_long_log_keeps_its_ends_and_is_counted),
    ("a_log_is_open_as_long_as_its_step_runs", a_log_is_open_as_long_as_its_step_runs),
];

const GOOD: &str = "read -r x </work/mid/mid; echo \"made of $x\" >hello; echo out; echo err >&2";

fn opened(envelope: &[u8], payload_type: &'static str) -> Verified {
    opened_by(STATEMENT, envelope, payload_type)
}

fn opened_by(seed: u8, envelope: &[u8], payload_type: &'static str) -> Verified {
    let envelope = Envelope::from_slice_exact(envelope).unwrap();
    envelope.verify(payload_type, &[key(seed).verifying_key()]).unwrap()
}

/// The manifest, once it and the closing were held against every file and against what PID 1 saw.
pub(crate) fn closed(ended: &Ended) -> Manifest {
    let mut files = ended.got.files();
    let envelope = files.remove(file::MANIFEST).unwrap();
    let verified = opened(envelope, PAYLOAD_MANIFEST);
    let manifest: Manifest = canonical::from_slice_exact(verified.payload()).unwrap();
    let closing: Closing = canonical::from_slice_exact(files[file::CLOSING]).unwrap();
    assert_eq!(closing.manifest_sha256, verified.digest());
    assert_eq!(closing.manifest_envelope_sha256, Sha256Digest::of(envelope));
    assert_eq!(closing.runtime_log_sha256, Sha256Digest::of(&ended.asked.runtime_log()));
    assert_eq!(files[file::RUNTIME_LOG], ended.asked.runtime_log());
    assert_eq!(ended.asked.qualifying[0], Sha256Digest::of(files[file::BINDING]));
    assert_eq!(ended.asked.qualifying[1], Sha256Digest::of(files[file::CLOSING]));
    for closing in file::CLOSING_FILES {
        files.remove(closing).unwrap();
    }
    let listed: BTreeSet<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(listed, files.keys().copied().collect());
    for file in &manifest.files {
        let bytes = files[file.path.as_str()];
        assert_eq!((file.sha256, file.size), (Sha256Digest::of(bytes), bytes.len() as u64), "{}", file.path);
    }
    manifest
}

fn record(ended: &Ended, sequence: u32, step: &str) -> (Statement<StepRecord>, Sha256Digest) {
    let envelope = ended.got.file(&file::record(sequence, &name(step)));
    let verified = opened_by(STEP + sequence as u8, envelope, PAYLOAD_STATEMENT);
    let statement: Statement<StepRecord> = canonical::from_slice_exact(verified.payload()).unwrap();
    assert!(statement.is(PREDICATE_RECORD));
    (statement, verified.digest())
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn traced(ended: &Ended, sequence: u32, step: &str) -> (Statement<RuntimeTrace>, Sha256Digest) {
    let envelope = ended.got.file(&file::trace(sequence, &name(step)));
    let verified = opened_by(STEP + sequence as u8, envelope, PAYLOAD_STATEMENT);
    (runtime_trace::read(verified.payload()).unwrap(), verified.digest())
}

fn a_job_becomes_evidence(bench: &mut Bench) {
    let job = job(GOOD);
    let ended = bench.run(offering(&job));
    assert_eq!(*ended.outcome.as_ref().unwrap(), Outcome::Built);
    let manifest = closed(&ended);
    assert_eq!(manifest.outcome, Outcome::Built);
    assert!(manifest.finished >= time(0) && manifest.finished < time(60));
    assert_eq!(ended.got.bodies[path::DONE], br#"{"outcome":"built"}"#);
    let made = b"made of an input\n";
    assert_eq!(ended.got.file("artifacts/hello"), made);

    let decision = opened(ended.got.file(file::DECISION), PAYLOAD_DECISION);
    assert_eq!(ended.got.file(file::DECISION), ended.got.bodies[path::DECISION]);
    let decided: Decision = canonical::from_slice_exact(decision.payload()).unwrap();
    assert_eq!((decided.verdict, decided.time), (Ruling::Allow, time(0)));

    let (first, first_sha256) = record(&ended, 0, "first");
    let (second, _) = record(&ended, 1, "second");
    assert_eq!((first.predicate.sequence, first.predicate.previous), (0, decision.digest()));
    assert_eq!((second.predicate.sequence, second.predicate.previous), (1, first_sha256));
    assert_eq!(first.predicate.inputs[0].sha256, Sha256Digest::of(INPUT));
    let (mid_written, mid_read) = (&first.predicate.workspaces[0], &second.predicate.workspaces[0]);
    assert_ne!(Some(mid_written.before), mid_written.after);
    assert_eq!((mid_read.before, mid_read.after), (mid_written.after.unwrap(), mid_written.after));
    let subjects: Vec<_> = second.subject.iter().map(|subject| subject.name.as_str()).collect();
    assert_eq!(subjects, ["workspace/out", "log/second"]);
    assert!(second.predicate.exit.is_success() && second.predicate.enforced["seccomp_sha256"].is_string());

    let log = ended.got.file(&file::log(1, &"second".parse().unwrap()));
    assert_eq!(log, ended.got.bodies[&format!("{}second", path::LOGS)]);
    assert_eq!(second.predicate.log.sha256, Sha256Digest::of(log));
    let written: Vec<_> = frames(log).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(written.iter().map(Vec::len).sum::<usize>(), 8);
    assert!(written.contains(&b"out\n".to_vec()) && written.contains(&b"err\n".to_vec()));

    assert_eq!(ended.got.bodies[&format!("{}first", path::RECORDS)], ended.got.file(&file::record(0, &name("first"))));
    let (trace, trace_sha256) = traced(&ended, 1, "second");
    assert_eq!((second.predicate.trace, trace.subject), (trace_sha256, second.subject.clone()));
    let log = trace.predicate.monitor_log;
    assert_eq!((second.predicate.profile, log.network), (Profile::Strict, Some(vec![])));
    let [shell] = log.process.as_slice() else { panic!("one program: {:?}", log.process) };
    assert_eq!(
        (shell.argv.clone(), shell.binary.name.as_str()),
        (vec!["sh".into(), "-c".into(), GOOD.into()], "/bin/sh")
    );
    assert_eq!(shell.binary.digest.sha256, Sha256Digest::of(&std::fs::read("/bin/sh").unwrap()));

    // Each step was certified as what the job orders and the record tells, before it ended.
    for (at, (record, ran)) in
        (0u32..).zip([(&first, &ended.asked.identities[0]), (&second, &ended.asked.identities[1])])
    {
        let record = &record.predicate;
        let at = file::identity(at, &record.step);
        assert_eq!(ended.got.bodies[&format!("{}{}", path::IDENTITIES, record.step)], ended.got.file(&at));
        let sha256 = |value: Vec<u8>| Sha256Digest::of(&value);
        assert_eq!((ran.step_sha256, ran.image_root_hash), (record.step_sha256, record.image_root_hash));
        assert_eq!(ran.argv_sha256, sha256(canonical::to_vec(&record.argv).unwrap()));
        assert_eq!(ran.enforced_sha256, sha256(canonical::to_vec(&record.enforced).unwrap()));
    }

    let provenance = opened(ended.got.file(file::PROVENANCE), PAYLOAD_STATEMENT);
    let statement: Statement<Provenance> = canonical::from_slice_exact(provenance.payload()).unwrap();
    assert!(statement.is(PREDICATE_PROVENANCE));
    assert_eq!(statement.subject[0].digest.sha256, Sha256Digest::of(made));
    assert_eq!(statement.predicate.build_definition.resolved_dependencies.len(), 3);
    let byproducts = &statement.predicate.run_details.byproducts;
    for named in [first_sha256, trace_sha256] {
        assert_eq!(byproducts.iter().filter(|byproduct| byproduct.digest.sha256 == named).count(), 1);
    }
    let line = [ended.got.file(file::PROVENANCE), b"\n"].concat();
    assert_eq!(ended.got.file("artifacts/hello.intoto.jsonl"), line);
}

/// The stream and bytes of each frame.
fn frames(mut log: &[u8]) -> Vec<(kiln_formats::log::Stream, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((frame, rest)) = split_first(log).unwrap() {
        if let Content::Wrote { stream, bytes } = frame.content {
            frames.push((stream, bytes.to_vec()));
        }
        log = rest;
    }
    assert!(log.is_empty());
    frames
}

fn everything_happens_in_one_order(bench: &mut Bench) {
    let ended = bench.run(offering(&job(GOOD)));
    let words: Vec<_> = ended.asked.lines.iter().map(|line| line.split(":sha256").next().unwrap()).collect();
    let sign = |what: &str, step: &str| format!("sign {what} {{ step: Name({step:?}) }}");
    let expected = [
        "configuration",
        "trust",
        "activate",
        "quote First",
        "job",
        "allow",
        "decision",
        "sign Decision",
        "input:in",
        "step-begin:first",
        "identify first",
        "step-trace:first",
        &sign("Trace", "first"),
        "step-end:first",
        &sign("Record", "first"),
        "step-begin:second",
        "identify second",
        "step-trace:second",
        &sign("Trace", "second"),
        "step-end:second",
        &sign("Record", "second"),
        "output:hello",
        "provenance",
        "sign Provenance",
        "manifest",
        "sign Manifest",
        "final",
        "quote Last",
    ];
    assert_eq!(words, expected);
    let requests: Vec<_> = ended.got.requests.iter().map(String::as_str).collect();
    let input = format!("GET {}{}", path::INPUTS, Sha256Digest::of(INPUT));
    let expected = [
        "GET /v1/configuration",
        "GET /v1/trust",
        "POST /v1/enrolment",
        "POST /v1/attestation",
        "GET /v1/job",
        &input,
        "POST /v1/decision",
        "POST /v1/logs/first",
        "POST /v1/identities/first",
        "POST /v1/traces/first",
        "POST /v1/records/first",
        "POST /v1/logs/second",
        "POST /v1/identities/second",
        "POST /v1/traces/second",
        "POST /v1/records/second",
    ];
    assert_eq!(&requests[..expected.len()], expected);
    assert_eq!(*requests.last().unwrap(), "POST /v1/done");
}

fn a_step_sees_only_what_it_names(bench: &mut Bench) {
    let script = "for seen in /inputs/* /work/*; do echo $seen; done >hello; echo x >/work/mid/y || echo ro >>hello";
    let ended = bench.run(offering(&job(script)));
    assert_eq!(*ended.outcome.as_ref().unwrap(), Outcome::Built);
    assert_eq!(ended.got.file("artifacts/hello"), b"/inputs/*\n/work/mid\n/work/out\nro\n");
}

/// The exit that the last record names, of a job that ended with it.
fn ended_by(ended: &Ended, sequence: u32, step: &str) -> Exit {
    assert_eq!(*ended.outcome.as_ref().unwrap(), Outcome::StepFailed, "{:?}", ended.asked.lines);
    assert_eq!(closed(ended).outcome, Outcome::StepFailed);
    assert!(!ended.got.files().keys().any(|file| file.starts_with("artifacts/") || *file == file::PROVENANCE));
    assert!(!ended.asked.events.iter().any(|event| event.starts_with("output") || event.starts_with("provenance")));
    assert_eq!(ended.got.bodies[path::DONE], br#"{"outcome":"step_failed"}"#);
    record(ended, sequence, step).0.predicate.exit
}

fn a_failing_step_ends_the_job(bench: &mut Bench) {
    assert_eq!(ended_by(&bench.run(offering(&job("exit 3"))), 1, "second"), Exit::Code { code: 3 });
    assert_eq!(ended_by(&bench.run(offering(&job("kill -SEGV $$"))), 1, "second"), Exit::Signal { signal: 11 });
    let mut slow = job("while :; do :; done");
    slow["step"][1]["limits"]["wall_ms"] = 300.into();
    let ended = bench.run(offering(&slow));
    assert_eq!(ended_by(&ended, 1, "second"), Exit::limit("wall".parse().unwrap()));
    let mut first = job(GOOD);
    first["step"][0]["argv"][2] = "exit 1".into();
    let ended = bench.run(offering(&first));
    assert_eq!(ended_by(&ended, 0, "first"), Exit::Code { code: 1 });
    assert!(!ended.asked.events.iter().any(|event| event.contains("second")));
}

fn a_program_that_is_not_there_is_an_observation(bench: &mut Bench) {
    let mut missing = job(GOOD);
    missing["step"][1]["argv"] = serde_json::json!(["cc"]);
    assert_eq!(ended_by(&bench.run(offering(&missing)), 1, "second"), Exit::NotExecuted { errno: 2 });
}

fn an_output_that_is_not_as_declared_fails_its_step(bench: &mut Bench) {
    let long = format!("echo {} >hello", "x".repeat(100));
    // Not there; larger than its limit; below something that is no directory.
    for (script, path) in [("true", "hello"), (long.as_str(), "hello"), ("echo >sub", "sub/hello")] {
        let mut job = job(script);
        job["output"][0]["path"] = path.into();
        let ended = bench.run(offering(&job));
        assert_eq!(ended_by(&ended, 1, "second"), Exit::limit("output".parse().unwrap()), "{script}");
    }
}

fn a_directory_leaves_as_an_archive(bench: &mut Bench) {
    let mut tree = job("umask 077; echo 2 >b; echo 1 >a; >hello");
    tree["output"][0]["kind"] = "tree".into();
    tree["output"][0]["path"] = ".".into();
    tree["output"][0]["size_bytes_max"] = 8192.into();
    let ended = bench.run(offering(&tree));
    assert_eq!(*ended.outcome.as_ref().unwrap(), Outcome::Built);
    closed(&ended);
    let archive = ended.got.file("artifacts/hello");
    let heads: Vec<_> = archive.chunks(512).filter(|block| block[257..].starts_with(b"ustar")).collect();
    let seen: Vec<_> = heads.iter().map(|head| (head[0], &head[100..108])).collect();
    assert_eq!(seen, [(b'a', &b"0000644\0"[..]), (b'b', b"0000644\0"), (b'h', b"0000644\0")]);
    assert_eq!(archive.len(), 5 * 512 + 1024);
    // What an archive cannot say fails the step, and so does one that grows too large.
    for (script, size) in [(">./-rf", 8192), ("echo x >a", 512 * 3)] {
        tree["step"][1]["argv"][2] = script.into();
        tree["output"][0]["size_bytes_max"] = size.into();
        let ended = bench.run(offering(&tree));
        assert_eq!(ended_by(&ended, 1, "second"), Exit::limit("output".parse().unwrap()), "{script}");
    }
}

fn outputs_leave_together_or_not_at_all(bench: &mut Bench) {
    let mut two = job(GOOD);
    let mut more = two["output"][0].clone();
    (more["name"], more["path"]) = ("more".into(), "none".into());
    two["output"].as_array_mut().unwrap().push(more);
    let ended = bench.run(offering(&two));
    assert_eq!(ended_by(&ended, 1, "second"), Exit::limit("output".parse().unwrap()));
}

fn a_workspace_that_no_digest_covers_is_an_observation(bench: &mut Bench) {
    for (code, last) in [(0, Exit::limit("output".parse().unwrap())), (3, Exit::Code { code: 3 })] {
        let script = "echo >hello; p=d; i=0; while [ $i -lt 150 ]; do p=$p/d; i=$((i+1)); done; mkdir -p $p";
        let deep = job(&format!("{script}; exit {code}"));
        let ended = bench.run(offering(&deep));
        assert_eq!(ended_by(&ended, 1, "second"), last);
        let (statement, _) = record(&ended, 1, "second");
        let seen = &statement.predicate.workspaces;
        assert_eq!((seen[0].after.is_some(), seen[1].after), (true, None));
        let subjects: Vec<_> = statement.subject.iter().map(|subject| subject.name.as_str()).collect();
        assert_eq!(subjects, ["log/second"]);
    }
}

fn a_long_log_keeps_its_ends_and_is_counted(bench: &mut Bench) {
    let script = "i=0; while [ $i -lt 10 ]; do for j in 0 1 2 3 4 5 6 7 8 9; do for k in 0 1 2 3 4 5 6 7 8 9; do \
                  echo number $i$j$k; done; done; i=$((i+1)); done; echo >hello";
    let ended = bench.run(offering(&job(script)));
    assert_eq!(*ended.outcome.as_ref().unwrap(), Outcome::Built);
    let seen = record(&ended, 1, "second").0.predicate.log;
    let log = ended.got.file(&file::log(1, &"second".parse().unwrap()));
    Log::of_record(log, &seen).unwrap();
    assert_eq!((seen.out.written_bytes, seen.out.written_lines), (11_000, 1000));
    let all: String = (0..1000).map(|at| format!("number {at:03}\n")).collect();
    assert_eq!(seen.out.sha256, Sha256Digest::of(all.as_bytes()));
    assert!(log.len() <= 4096 + NOTES_BYTES && log.len() > 3500, "{}", log.len());
    let kept = frames(log);
    assert!(kept[0].1.starts_with(b"number 000\n") && kept.last().unwrap().1.ends_with(b"number 999\n"));
    assert_eq!(log, ended.got.bodies[&format!("{}second", path::LOGS)]);
}

fn a_log_is_open_as_long_as_its_step_runs(bench: &mut Bench) {
    let mut mute = job("exec >&- 2>&-; while :; do :; done");
    mute["step"][1]["limits"]["wall_ms"] = 1000.into();
    let ended = bench.run(offering(&mute));
    assert_eq!(ended_by(&ended, 1, "second"), Exit::limit("wall".parse().unwrap()));
    assert!(ended.got.took[&format!("{}second", path::LOGS)].as_millis() >= 900, "{:?}", ended.got.took);
}
