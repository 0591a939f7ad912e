//! What goes wrong outside of the job: the run ends with a clear line, no artifact, and nothing left on the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::fixture::{Hello, Ran, finish, processes_with, scratch, tool, toolchain};

/// How long a machine may take to get somewhere, emulated and beside other tests.
const PATIENCE: Duration = Duration::from_secs(240);

/// A run whose runtime directory is its own, so that everything in it can be found and counted.
struct Watched {
    hello: Hello,
    runtime: tempfile::TempDir,
    child: Child,
}

impl Watched {
    fn start(hello: Hello, more: &[&str]) -> Self {
        fs::write(hello.path("job.toml"), &hello.draft).unwrap();
        let runtime = scratch();
        let mut arguments = hello.arguments("job.toml", &["--boot", "direct", "--accel", "tcg"]);
        arguments.extend(more.iter().map(Into::into));
        let mut command = Command::new(tool());
        command
            .args(arguments)
            .env("TMPDIR", runtime.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self { hello, runtime, child: command.spawn().unwrap() }
    }

    /// The process of this run whose command line starts with the program.
    fn process(&self, program: &str) -> u32 {
        let until = Instant::now() + PATIENCE;
        let ours = self.runtime.path().to_str().unwrap();
        while Instant::now() < until {
            for entry in fs::read_dir("/proc").unwrap().flatten() {
                let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                let is_it = command.split(' ').next().is_some_and(|first| first.ends_with(program));
                if is_it && command.contains(ours) {
                    return entry.file_name().to_str().unwrap().parse().unwrap();
                }
            }
            sleep(Duration::from_millis(50));
        }
        panic!("no {program} within {PATIENCE:?}");
    }

    /// Waits until the run's own error output, which tells the phases, has said something.
    fn until_said(&mut self, word: &str) -> String {
        use std::io::Read as _;
        let mut said = String::new();
        let stderr = self.child.stderr.as_mut().unwrap();
        let mut byte = [0];
        while !said.contains(word) {
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "the run ended before it said {word:?}:\n{said}");
            said.push(char::from(byte[0]));
        }
        said
    }

    /// Waits for the end and asserts that nothing is left.
    fn ends(self, codes: &[i32]) -> Ran {
        let Self { hello, runtime, child } = self;
        let ran = finish(child);
        assert!(codes.contains(&ran.code), "exit {}\n{}\n{}", ran.code, ran.stdout, ran.stderr);
        nothing_left(&hello, runtime.path());
        ran
    }
}

fn nothing_left(hello: &Hello, runtime: &Path) {
    let files: Vec<PathBuf> = fs::read_dir(runtime).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.is_empty(), "left behind: {files:?}");
    let processes = processes_with(runtime.to_str().unwrap());
    assert!(processes.is_empty(), "still there: {processes:?}");
    assert!(!hello.out().join("artifacts").exists(), "artifacts were released");
    assert!(hello.leftovers().is_empty(), "left behind: {:?}", hello.leftovers());
}

fn kill(signal: &str, process: u32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

/// A job whose step runs for as long as it may.
fn slow() -> Hello {
    Hello::new()
        .with(
            "argv = [\"cc\", \"-O1\", \"-o\", \"hello\", \"/inputs/hello.c\"]",
            "argv = [\"sh\", \"-c\", \"echo kiln-step-is-running; sleep 100\"]",
        )
        .with("wall_ms = 120000", "wall_ms = 110000")
}

#[test]
fn a_tpm_that_fails_before_the_quote() {
    let run = Watched::start(Hello::new(), &[]);
    run.process("qemu-system-x86_64");
    kill("-KILL", run.process("swtpm"));
    let ran = run.ends(&[20]);
    assert!(!ran.stderr.trim().is_empty());
}

#[test]
fn a_tpm_that_fails_while_a_step_runs() {
    let mut run = Watched::start(slow().with("sleep 100", "sleep 5"), &[]);
    run.until_said("kiln-step-is-running");
    kill("-KILL", run.process("swtpm"));
    run.ends(&[20]);
}

#[test]
fn a_machine_killed_in_a_step() {
    let mut run = Watched::start(slow(), &[]);
    run.until_said("kiln-step-is-running");
    kill("-KILL", run.process("qemu-system-x86_64"));
    run.ends(&[20]);
}

#[test]
fn the_person_pressing_ctrl_c() {
    let mut run = Watched::start(slow(), &[]);
    run.until_said("kiln-step-is-running");
    kill("-INT", run.child.id());
    run.ends(&[130]);
}

#[test]
fn the_tool_itself_killed_leaves_no_process() {
    let mut run = Watched::start(slow(), &[]);
    run.until_said("kiln-step-is-running");
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while !processes_with(run.runtime.path().to_str().unwrap()).is_empty() {
        assert!(Instant::now() < until, "{:?}", processes_with(run.runtime.path().to_str().unwrap()));
        sleep(Duration::from_millis(50));
    }
    assert!(!run.hello.out().exists());
}

#[test]
fn a_run_past_its_deadline() {
    let run = Watched::start(slow(), &["--deadline", "20"]);
    let ran = run.ends(&[20]);
    assert!(ran.stderr.contains("deadline"), "{}", ran.stderr);
}

#[test]
fn a_truncated_image() {
    let hello = Hello::new();
    let (root_hash, path) = toolchain();
    let short = scratch();
    let file = short.path().join("c.img");
    let bytes = fs::read(path).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2 / 4096 * 4096]).unwrap();
    let run = Watched::start(hello, &["--image-disk", &format!("{root_hash}={}", file.display())]);
    run.ends(&[10, 12, 20]);
}

#[test]
fn an_output_larger_than_its_limit() {
    let hello = Hello::new().with("size_bytes_max = 1048576", "size_bytes_max = 64");
    let run = Watched::start(hello, &[]);
    run.ends(&[12]);
}

#[test]
fn a_failing_step_leaves_evidence_and_no_artifact() {
    let hello = Hello::new().with("\"-O1\"", "\"-no-such-option\"");
    let run = Watched::start(hello, &["--json"]);
    let out = run.hello.out();
    let Watched { hello, runtime, child } = run;
    let ran = finish(child).expect(12);
    nothing_left(&hello, runtime.path());
    assert!(out.join("evidence/records/00-compile.dsse.json").exists(), "{}", ran.stdout);
    let log = fs::read(out.join("evidence/logs/00-compile.log")).unwrap();
    assert!(String::from_utf8_lossy(&log).contains("no-such-option"));
}

#[test]
fn a_step_past_its_limit_of_memory_time_or_processes() {
    let limits = [
        ("memory_bytes = 67108864, wall_ms = 120000", "a=x; while :; do a=$a$a; done", "memory"),
        ("wall_ms = 2000", "sleep 60", "wall"),
        ("pids = 16, wall_ms = 60000", "f() { f | f & }; f; sleep 2; exit 1", "pids"),
    ];
    for (limit, script, expected) in limits {
        let hello = Hello::new()
            .with(
                "argv = [\"cc\", \"-O1\", \"-o\", \"hello\", \"/inputs/hello.c\"]",
                &format!("argv = [\"sh\", \"-c\", {script:?}]"),
            )
            .with("wall_ms = 120000", limit);
        let run = Watched::start(hello, &[]);
        let out = run.hello.out();
        let Watched { hello, runtime, child } = run;
        let ran = finish(child).expect(12);
        nothing_left(&hello, runtime.path());
        let envelope: serde_json::Value =
            serde_json::from_slice(&fs::read(out.join("evidence/records/00-compile.dsse.json")).unwrap()).unwrap();
        let payload = decode(envelope["payload"].as_str().unwrap());
        let record: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        let exit = &record["predicate"]["exit"];
        assert_eq!(exit["limit"], expected, "{exit}\n{}", ran.stderr);
    }
}

fn decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[test]
fn a_host_without_the_tools_is_told_what_to_install() {
    let hello = Hello::new();
    fs::write(hello.path("job.toml"), &hello.draft).unwrap();
    let empty = scratch();
    let output = Command::new(tool())
        .args(hello.arguments("job.toml", &["--boot", "direct"]))
        .env("PATH", empty.path())
        .env_remove("CI")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(20), "{}", String::from_utf8_lossy(&output.stderr));
}
