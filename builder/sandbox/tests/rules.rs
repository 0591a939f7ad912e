//! Audit's rules of a launcher are there while it lives, and gone soon after, however it ended.
//!
//! Its own harness: launchers must be forked while there is one thread, and some of them are killed. Needs root, and audit.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test of its own harness: clippy cannot see that it is one"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_sandbox::{Draft, Launcher, Layer, Limits, Policy, Proc, Profile, Requirements, Source};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// No wait here is meant to take this long, on the slowest machine.
const HANG: Duration = Duration::from_secs(60);
/// The first of some slots that no other test takes.
const SLOT: u16 = 920;
/// Messages of audit. Source: include/uapi/linux/audit.h, include/uapi/linux/netlink.h.
const DONE: u16 = 3;
const ADD_RULE: u16 = 1011;
const DEL_RULE: u16 = 1012;
const LIST_RULES: u16 = 1013;

fn main() {
    if std::env::args().any(|argument| argument == "--hold") {
        return hold();
    }
    if std::env::args().any(|argument| argument == "--list") {
        println!("rules_live_as_long_as_their_launcher: test");
        return;
    }
    // Whoever has audit's standing rules on holds this shared: with them there are no others.
    let users = File::create(std::env::temp_dir().join("kiln-audit.lock")).expect("lock file");
    users.lock().expect("lock");
    let before = kiln_sandbox::switch_audit_on().expect("audit (needs root in the initial namespaces)");
    let standing: Vec<Vec<u8>> = rules().into_iter().filter(|rule| key(rule) == "kiln").collect();
    standing.iter().for_each(|rule| drop(request(DEL_RULE, rule)));
    rules_live_as_long_as_their_launcher();
    standing.iter().for_each(|rule| drop(request(ADD_RULE, rule)));
    before.restore().expect("audit as it was");
    println!("test rules_live_as_long_as_their_launcher ... ok");
}

fn rules_live_as_long_as_their_launcher() {
    // One that ends as it should, one whose caller is killed; beside them one that goes on.
    let witness = Holder::start();
    let (ends, orphan) = (Holder::start(), Holder::start());
    let (ended, orphaned) = (ends.launcher, orphan.launcher);
    ends.end();
    orphan.kill();
    until("the rules of both are gone", || rules_of(ended) == 0 && rules_of(orphaned) == 0);
    assert_eq!(rules_of(witness.launcher), 2, "whose launcher lives has them");

    // A launcher that is killed itself cannot take them away; the next one that ends does.
    let victim = Holder::start();
    let killed = victim.launcher;
    kill(killed);
    victim.kill();
    until("the launcher is gone", || !fs::exists(format!("/proc/{killed}")).expect("procfs"));
    assert_eq!(rules_of(killed), 2, "nobody takes them away");
    Holder::start().end();
    until("they are gone", || rules_of(killed) == 0);
    assert_eq!(rules_of(witness.launcher), 2, "whose launcher lives has them");
    let last = witness.launcher;
    witness.end();
    until("all are gone", || rules_of(last) == 0);
}

/// In a process of its own: a launcher, for as long as somebody holds the other end of standard input.
fn hold() {
    let requirements = Requirements::all().without(Layer::Limits).expect("not essential");
    let launcher = Launcher::start_with(requirements).expect("a launcher");
    // Rules are made for the first step, whatever becomes of it.
    let draft = Draft {
        root: Source::Path("/".into()),
        mounts: vec![],
        temporaries: vec![],
        argv: vec!["/bin/true".into()],
        env: BTreeMap::new(),
        workdir: "/".into(),
        limits: Limits::default(),
        profile: Profile::Strict,
        proc: Proc::Minimal,
        hostname: "localhost".into(),
        slot: SLOT + (std::process::id() % 16) as u16,
    };
    let policy = Policy::new(draft).expect("a policy");
    let null = || OwnedFd::from(File::options().write(true).open("/dev/null").expect("null"));
    let _ = launcher.spawn(&policy, null(), null()).expect("a step").wait();
    let _ = std::io::stdin().read(&mut [0]);
    drop(launcher);
}

/// Such a process, and its launcher.
struct Holder {
    process: Child,
    input: ChildStdin,
    launcher: u32,
}

impl Holder {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let mut process = command.arg("--hold").stdin(Stdio::piped()).spawn().expect("this program again");
        let input = process.stdin.take().expect("piped");
        let children = format!("/proc/{0}/task/{0}/children", process.id());
        let mut launcher = None;
        until("there is a launcher with its rules", || {
            let child = fs::read_to_string(&children).expect("children");
            launcher = child.split_whitespace().next().and_then(|pid| pid.parse().ok());
            launcher.is_some_and(|pid| rules_of(pid) == 2)
        });
        Self { process, input, launcher: launcher.expect("found") }
    }

    fn end(mut self) {
        self.input.write_all(b".").expect("it listens");
        assert!(self.process.wait().expect("it ends").success());
    }

    fn kill(mut self) {
        self.process.kill().expect("it lives");
        self.process.wait().expect("it ends");
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < HANG, "not within {HANG:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn rules_of(launcher: u32) -> usize {
    rules().iter().filter(|rule| key(rule) == format!("kiln-launcher-{launcher}")).count()
}

/// The key of a `struct audit_rule_data`: its last word is the length of the text behind it, which padding may follow.
fn key(rule: &[u8]) -> String {
    String::from_utf8_lossy(&rule[(4 + 4 * 64) * 4..]).trim_end_matches('\0').to_owned()
}

/// The rules of the machine.
fn rules() -> Vec<Vec<u8>> {
    let socket = request(LIST_RULES, &[]);
    let mut rules = Vec::new();
    loop {
        match receive(&socket) {
            (DONE, _) => return rules,
            (LIST_RULES, rule) => rules.push(rule),
            _ => {}
        }
    }
}

fn request(kind: u16, payload: &[u8]) -> OwnedFd {
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::AUDIT));
    let socket = socket.expect("a socket");
    let mut message = (16 + payload.len() as u32).to_ne_bytes().to_vec();
    message.extend([kind.to_ne_bytes(), 5_u16.to_ne_bytes()].concat());
    message.extend([0; 8]);
    message.extend(payload);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).expect("asked");
    socket
}

fn receive(socket: &OwnedFd) -> (u16, Vec<u8>) {
    let mut buffer = vec![0; 16 * 1024];
    let (_, length) = rustix::net::recv(socket, &mut buffer, RecvFlags::empty()).expect("an answer");
    (u16::from_ne_bytes([buffer[4], buffer[5]]), buffer[16..length].to_vec())
}
