//! What a step did and how it ended: told in the evidence, and in one line by the tool.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::fixture::{Hello, good, kiln, site};

/// The compiler call of the small job.
pub(crate) const ARGV: &str = "argv = [\"cc\", \"-O1\", \"-o\", \"hello\", \"/inputs/hello.c\"]";

/// The small job with a script in place of its compiler call.
fn script(script: &str) -> Hello {
    Hello::new().with(ARGV, &format!("argv = [\"sh\", \"-c\", {script:?}]"))
}

/// The predicate of the signed statement in this file of the evidence.
pub(crate) fn predicate(out: &std::path::Path, file: &str) -> Value {
    serde_json::from_slice::<Value>(&payload(out, file)).unwrap()["predicate"].clone()
}

/// What a signed file of the evidence says.
pub(crate) fn payload(out: &std::path::Path, file: &str) -> Vec<u8> {
    let envelope: Value = serde_json::from_slice(&fs::read(out.join(file)).unwrap()).unwrap();
    STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap()
}

/// The programs of the compiler's tree, which the job does not name, with arguments and digests.
#[test]
fn the_trace_lists_what_ran() {
    let log = predicate(good(), "evidence/traces/00-compile.dsse.json")["monitorLog"].clone();
    assert_eq!(log["network"], json!([]));
    assert_eq!(log["process"][0]["argv"], json!(["cc", "-O1", "-o", "hello", "/inputs/hello.c"]));
    let processes = log["process"].as_array().unwrap();
    for program in ["/cc1", "-as", "/collect2"] {
        let ran = processes.iter().find(|ran| ran["binary"]["name"].as_str().unwrap().ends_with(program));
        let ran = ran.unwrap_or_else(|| panic!("no {program} in {log}"));
        assert_eq!(ran["binary"]["digest"]["sha256"].as_str().unwrap().len(), 64);
        assert!(ran["argv"].as_array().unwrap().len() > 1 && ran["parent"].as_u64().unwrap() > 0, "{ran}");
    }
}

/// A program of the step's own tries to get out; the build goes on, and the evidence says what was tried, how often, and by whom.
#[test]
fn what_a_step_is_denied_is_told() {
    let probe = "int socket(int, int, int); int main(void) { for (int i = 0; i < 3; i++) socket(2, 1, 0); return 0; }";
    let hello = script(&format!("echo '{probe}' >p.c && cc -DX=1 -o p p.c && ./p; cc -o hello /inputs/hello.c"));
    let ran = hello.run(&["--boot", "direct"]).expect(0);
    assert!(ran.stderr.contains("kiln: step compile: done; "), "{}", ran.stderr);
    let verified =
        kiln(["verify".as_ref(), hello.out().as_os_str(), "--site".as_ref(), site().as_os_str(), "--json".as_ref()]);
    let step = verified.expect(0).json()["steps"][0].clone();
    let denial = step["denials"].as_array().unwrap().iter().find(|denial| denial["operation"] == "socket").cloned();
    let denial = denial.unwrap_or_else(|| panic!("no socket in {step}"));
    assert_eq!((&denial["layer"], denial["count"].as_u64()), (&json!("seccomp"), Some(3)), "{denial}");
    let executions = step["executions"].as_array().unwrap();
    let has = |word: &str| executions.iter().any(|ran| ran["argv"].as_array().unwrap().contains(&json!(word)));
    assert!(has("-DX=1") && has("./p"), "{step}");
    let text =
        kiln(["verify".as_ref(), hello.out().as_os_str(), "--site".as_ref(), site().as_os_str()]).expect(0).stdout;
    assert!(text.contains("denied by seccomp: socket") && text.contains("step compile (strict): done"), "{text}");
}

/// Timeout (asked to end, and killed), memory, processes, disk, file, log, signal, exit code, policy kill, set-up error, missing
/// output: each in the record and in the tool's words, with what it took.
#[test]
fn every_end_is_told_apart() {
    let limits = "wall_ms = 120000";
    let limit = |limit: &str| json!({"kind": "limit", "limit": limit});
    // A number of the x32 table, which no filter lets pass.
    let foreign = "echo 'long syscall(long, ...); int main(void) { return syscall(0x40000027L); }' >p.c && cc -o p p.c && exec ./p";
    let forks = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 60 & done; wait";
    let ends = [
        (script("exit 3"), limits, json!({"kind": "code", "code": 3}), "failed with exit code 3"),
        (script("kill -SEGV $$"), limits, json!({"kind": "signal", "signal": 11}), "ended by signal 11 (SIGSEGV)"),
        (
            Hello::new().with("argv = [\"cc\"", "argv = [\"no-such-program\""),
            limits,
            json!({"kind": "not_executed", "errno": 2}),
            "its program is not there",
        ),
        (
            script("cat /dev/zero >/tmp/full"),
            "tmp_bytes = 1048576, wall_ms = 120000",
            json!({"kind": "limit", "limit": "disk", "target": "/tmp", "code": 1}),
            "/tmp was full",
        ),
        (
            script("trap 'exit 0' TERM; while :; do :; done"),
            "wall_ms = 1500, grace_ms = 60000",
            json!({"kind": "limit", "limit": "wall", "in_grace": true}),
            "it ended when it was asked to",
        ),
        (script("while :; do :; done"), "wall_ms = 1500", limit("wall"), "its time was over, and it was killed"),
        (
            script("x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done"),
            "memory_bytes = 33554432, wall_ms = 120000",
            limit("memory"),
            "out of memory, and killed",
        ),
        (
            script(forks),
            "pids = 8, wall_ms = 120000",
            json!({"kind": "limit", "limit": "pids", "code": 2}),
            "too many processes at once",
        ),
        (script(foreign), limits, limit("policy"), "killed for a system call that no step may make"),
        (script("exec dd if=/dev/zero of=big bs=1 count=1 seek=1T"), limits, limit("file"), "a file grew too large"),
        (script("echo no output"), limits, limit("output"), "an output is not there"),
    ];
    for (hello, limit, exit, words) in ends {
        let hello = hello.with(limits, limit);
        let ran = hello.run(&["--boot", "direct"]).expect(12);
        let record = predicate(&hello.out(), "evidence/records/00-compile.dsse.json");
        assert_eq!(record["exit"], exit, "{}", ran.stderr);
        let told = ran.stderr.lines().find(|line| line.starts_with("kiln: step compile: ")).unwrap_or_default();
        assert!(told.contains(words) && told.contains("peak memory"), "{told}");
        took(&record["usage"], exit["kind"] == "not_executed");
    }
}

/// A full log ends no step: the record counts what is missing, and the tool says so.
#[test]
fn a_full_log_is_told() {
    let flood = "n=0; while [ $n -lt 3000 ]; do echo a line of some length that is written often; n=$((n+1)); done; cc -o hello /inputs/hello.c";
    let hello = script(flood).with("wall_ms = 120000", "log_bytes = 20000, wall_ms = 120000");
    hello.run(&["--boot", "direct"]).expect(0);
    let record = predicate(&hello.out(), "evidence/records/00-compile.dsse.json");
    let out = &record["log"]["out"];
    let number = |key: &str| out[key].as_u64().unwrap();
    assert_eq!((number("writtenLines"), record["exit"]["code"].as_u64()), (3000, Some(0)), "{out}");
    assert!(number("keptBytes") < 20_000 && number("keptBytes") > 1000, "{out}");
    took(&record["usage"], false);
    let verified =
        kiln(["verify".as_ref(), hello.out().as_os_str(), "--site".as_ref(), site().as_os_str(), "--json".as_ref()]);
    let unkept = number("writtenBytes") - number("keptBytes");
    assert_eq!(verified.expect(0).json()["steps"][0]["log_unkept_bytes"], unkept);
}

/// Every account was kept. The image is on a disk, so whoever ran has read from it; workspaces are in memory, so nothing is
/// written to one.
fn took(usage: &Value, not_executed: bool) {
    let number = |key: &str| usage[key].as_u64().unwrap_or_else(|| panic!("no {key} in {usage}"));
    assert!(number("memoryPeakBytes") > 0 && number("cpuUs") > 0 && number("pidsPeak") > 0, "{usage}");
    assert!(not_executed || number("ioReadBytes") > 0, "{usage}");
    assert_eq!(number("ioWrittenBytes"), 0, "{usage}");
}

/// A profile that the policy does not list is refused by the machine; one that it lists runs.
#[test]
fn the_policy_says_which_profiles_run() {
    let refused = Hello::new().with("workdir = ", "profile = \"debug\"\nworkdir = ");
    let ran = refused.run(&["--boot", "direct", "--json"]).expect(10);
    assert_eq!(ran.json()["refusal"]["code"], "profile", "{}", ran.stdout);
    let loopback = Hello::new().with("workdir = ", "profile = \"loopback\"\nproc = \"masked\"\nworkdir = ");
    loopback.run(&["--boot", "direct"]).expect(0);
    let trace = predicate(&loopback.out(), "evidence/traces/00-compile.dsse.json");
    assert!(trace["monitorLog"].get("network").is_none(), "{trace}");
    let record = predicate(&loopback.out(), "evidence/records/00-compile.dsse.json");
    assert_eq!((&record["profile"], &record["proc"]), (&json!("loopback"), &json!("masked")));
}
