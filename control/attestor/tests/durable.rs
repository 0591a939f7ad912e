//! A process that keeps a state is killed at every point, and its disk is full: nothing is granted twice, and nothing that was
//! acknowledged is lost.
//!
//! The child is this program again. It does one act for each line that it reads, and writes what came of it. kill -9 leaves what
//! the kernel has; that a commit also reached the disk is SQLite's `synchronous=FULL`, which no test here pulls a plug on.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use kiln_attestor::ledger::{Act, Issued};
use kiln_attestor::site::{self, Names, PROFILES, Site};
use kiln_attestor::state::{Archive, State, StateError};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::names::Name;
use kiln_formats::timestamp::Timestamp;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, prlimit};

/// Which site the child keeps, and which build it begins with.
const CHILD: &str = "KILN_DURABLE_CHILD";
const ACTS: [&str; 4] = ["challenged", "certified", "handed_over", "ended"];
/// One test waits for whatever child comes next, so there is one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn now() -> Timestamp {
    Timestamp::from_unix(1_790_000_000).unwrap()
}

fn build_id(build: u32) -> Name {
    format!("{build:032x}").parse().unwrap()
}

fn act(build: u32, what: &str) -> Act {
    let digest = |what: &str| Sha256Digest::of(format!("{what}{build}").as_bytes());
    let (build_id, ek_sha256) = (build_id(build), digest("ek"));
    let issued = |what: &str| Issued { serial: format!("{build:032x}"), key_sha256: digest(what) };
    match what {
        "challenged" => Act::Challenged {
            build_id,
            nonce: digest("nonce"),
            job_sha256: digest("job"),
            image_sha256: digest("image"),
            builder_id: "test".to_owned(),
            ek_sha256,
        },
        "certified" => {
            let (attestation, statement, dispatch) = (issued("attestation"), issued("statement"), issued("dispatch"));
            Act::Certified { build_id, ek_sha256, reset_count: 1, attestation, statement, dispatch, issuer: None }
        }
        "handed_over" => Act::HandedOver { build_id, job_sha256: digest("job") },
        _ => Act::Ended { build_id, outcome: "built".to_owned() },
    }
}

fn record(state: &State, act: Act) -> Result<bool, StateError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(state.record(act, now())).map(|answer| answer.is_ok())
}

fn new_site(parent: &Path) -> Site {
    let directory = parent.join("site");
    let names = Names { site: "demo".parse().unwrap(), trust_domain: "demo.example".parse().unwrap() };
    site::create(&directory, &names, &PROFILES, now(), getrandom::fill).unwrap();
    Site::open(&directory, now()).unwrap()
}

/// What the child does: an act for a line, until there are no more, and then it closes.
fn keep(site: &str) {
    let (directory, first) = site.rsplit_once('#').unwrap();
    let state = State::open(&Site::open(Path::new(directory), now()).unwrap()).unwrap();
    let mut first: u32 = first.parse().unwrap();
    say("open");
    let mut acts = ACTS.iter().cycle();
    for _line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let what = acts.next().unwrap();
        match record(&state, act(first, what)) {
            Ok(granted) => say(&format!("{} {first} {what}", if granted { "granted" } else { "refused" })),
            Err(error) => say(&format!("fault {first} {what} {error}")),
        }
        first += u32::from(*what == "ended");
    }
}

/// One line, in one write.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\nKEEP {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

struct Keeper {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Keeper {
    /// Starts the child; a file that it makes too large is an error to it and not its end.
    fn start(site: &Site, test: &str, first: u32) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
        command.env(CHILD, format!("{}#{first}", site.directory().display()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut keeper = Self { child, orders, answers };
        assert_eq!(keeper.answer().unwrap(), "open");
        keeper
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// The next thing that the child says; none if it is gone.
    fn answer(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(said) = line.strip_prefix("KEEP ").filter(|_| line.ends_with('\n')) {
                return Some(said.trim_end().to_owned());
            }
        }
    }

    fn order(&mut self) {
        self.orders.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    fn one(&mut self) -> String {
        self.order();
        self.answer().unwrap()
    }
}

/// How often each act of each build was granted, by a ledger that holds.
fn granted(site: &Site) -> BTreeMap<(Name, &'static str), u32> {
    let mut granted = BTreeMap::new();
    Archive::open(site)
        .unwrap()
        .verify(None, |entry| {
            let what = match &entry.act {
                Act::Challenged { .. } => ACTS[0],
                Act::Certified { .. } => ACTS[1],
                Act::HandedOver { .. } => ACTS[2],
                Act::Ended { .. } => ACTS[3],
                Act::Begun { .. } | Act::Trusted { .. } | Act::Refused { .. } => return,
            };
            *granted.entry((entry.act.build_id().unwrap().clone(), what)).or_default() += 1;
        })
        .unwrap();
    granted
}

/// Lets the child go from system call to system call, and kills it at the `last`th stop. `false` if it came to its end before.
fn kill_at(keeper: &mut Keeper, last: u32) -> bool {
    let pid = keeper.pid();
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_EXITKILL;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread = Pid::from_raw(task.unwrap().file_name().to_str().unwrap().parse().unwrap());
        ptrace::seize(thread, options).unwrap();
        ptrace::interrupt(thread).unwrap();
    }
    for _ in ACTS {
        keeper.order();
    }
    drop(keeper.orders.take());
    let (mut stops, mut killed) = (0, false);
    loop {
        let (thread, signal) = match waitpid(None, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceSyscall(thread) => {
                stops += 1;
                if stops == last {
                    // Its threads end one by one, and the process after them.
                    kill(pid, Signal::SIGKILL).unwrap();
                    killed = true;
                }
                if killed {
                    continue;
                }
                (thread, None)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, ..) if ended == pid => return killed,
            _ => continue,
        };
        ptrace::syscall(thread, signal).unwrap();
    }
}

#[test]
fn a_state_survives_kill_9_at_every_system_call() {
    if let Some(site) = std::env::var_os(CHILD) {
        return keep(site.to_str().unwrap());
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let parent = tempfile::tempdir().unwrap();
    let site = new_site(parent.path());
    let (mut build, mut killed, mut acknowledged) = (0, true, 0);
    let mut unacknowledged_and_written = 0;
    while killed {
        build += 1;
        let mut keeper = Keeper::start(&site, "a_state_survives_kill_9_at_every_system_call", build);
        // Every second stop: one call's end and the next one's beginning are the same point.
        killed = kill_at(&mut keeper, 2 * build);
        let said: Vec<String> = std::iter::from_fn(|| keeper.answer()).collect();
        let found = granted(&site);
        for (place, what) in ACTS.into_iter().enumerate() {
            let written = found.get(&(build_id(build), what)).copied().unwrap_or(0);
            assert!(written <= 1, "{what} of build {build} was granted {written} times");
            match said.get(place) {
                Some(said) => {
                    assert_eq!(*said, format!("granted {build} {what}"));
                    assert_eq!(written, 1, "{what} of build {build} was acknowledged and is lost");
                    acknowledged += 1;
                }
                None => unacknowledged_and_written += written,
            }
        }
        // Whoever comes after the crash gets what was not granted, once, and nothing that was.
        let state = State::open(&site).unwrap();
        for what in ACTS {
            let before = found.contains_key(&(build_id(build), what));
            assert_eq!(record(&state, act(build, what)).unwrap(), !before, "{what} of build {build}");
        }
        drop(state);
    }
    let found = granted(&site);
    assert!(found.values().all(|times| *times == 1), "something was granted twice");
    assert_eq!(found.len(), ACTS.len() * build as usize);
    // The child really was killed all along the way, also between a commit and its acknowledgement.
    assert!(build > 50 && acknowledged > 50 && unacknowledged_and_written > 0, "{build} {acknowledged}");
    println!(
        "killed at {} points; {acknowledged} acknowledged, {unacknowledged_and_written} written and not told",
        build - 1
    );
}

#[test]
fn a_full_disk_is_a_fault_and_passes() {
    if let Some(site) = std::env::var_os(CHILD) {
        return keep(site.to_str().unwrap());
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let parent = tempfile::tempdir().unwrap();
    let site = new_site(parent.path());
    let mut keeper = Keeper::start(&site, "a_full_disk_is_a_fault_and_passes", 1);
    assert_eq!(keeper.one(), "granted 1 challenged");
    let pid = rustix::process::Pid::from_raw(keeper.pid().as_raw());
    let limit = |bytes| prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    let journal = site.directory().join("attestor.db-wal");
    let full = journal.metadata().unwrap().len();
    // Not a byte more, and then some, which is a torn write.
    for room in [0, 100, 4000] {
        limit(Some(full + room));
        let said = keeper.one();
        assert!(said.starts_with("fault 1 ") && said.contains("cannot write the state"), "{said}");
        assert_eq!(granted(&site).len(), 1, "{room}");
    }
    limit(None);
    assert_eq!(keeper.one(), "granted 2 challenged");
    assert_eq!(keeper.one(), "granted 2 certified");
    drop(keeper.orders.take());
    assert!(keeper.child.wait().unwrap().success());
    assert_eq!(granted(&site).len(), 3);
    let state = State::open(&site).unwrap();
    assert!(record(&state, act(1, "certified")).unwrap());
    assert!(!record(&state, act(2, "certified")).unwrap());
}
