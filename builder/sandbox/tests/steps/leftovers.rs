//! Nothing of a step is left, and no step sees anything of another: neither after it nor beside it.

use std::collections::BTreeSet;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use kiln_sandbox::{Draft, Exit, Policy};

use crate::Test;
use crate::bench::{Bench, pipe, run};

pub(crate) const TESTS: &[Test] = &[
    ("a_step_leaves_nothing_behind", a_step_leaves_nothing_behind),
    ("the_next_step_finds_nothing", the_next_step_finds_nothing),
    ("a_step_beside_it_is_not_there", a_step_beside_it_is_not_there),
];

/// How long the kernel may take to forget what has ended: less than a millisecond; the bound is for a busy machine.
const GOING: Duration = Duration::from_secs(5);
/// A slot that no other test takes.
const SLOT: u16 = 901;

/// Steps that try to leave something: processes, stopped and deaf ones among them, objects of every kind, open files.
const LEAVERS: [&str; 7] =
    ["daemon_left", "stop_children", "leave_objects", "out_mapped", "out_late", "unix_abstract", "out_deep"];

/// All that the machine could still hold of a step, by kind.
fn held() -> Vec<(&'static str, BTreeSet<String>)> {
    let lines = |path: &str| -> BTreeSet<String> {
        fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    };
    let ours = format!("/kiln-{}/step-", std::process::id());
    let (mut processes, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir("/proc").expect("procfs").filter_map(Result::ok) {
        let path = entry.path();
        // By cgroup: other suites may run on the machine, with the same users.
        let Ok(cgroup) = fs::read_to_string(path.join("cgroup")) else { continue };
        if cgroup.lines().any(|line| line.contains(&ours)) {
            processes.insert(path.display().to_string());
            let links = fs::read_dir(path.join("ns")).into_iter().flatten().filter_map(Result::ok);
            namespaces.extend(links.filter_map(|link| Some(fs::read_link(link.path()).ok()?.display().to_string())));
        }
    }
    // Keys of the step's user, which no other suite has: the id stands in the sixth field.
    let user = (0x7000_0000 + u32::from(SLOT)).to_string();
    let keys = lines("/proc/keys").into_iter().filter(|line| line.split_whitespace().nth(5) == Some(&user));
    let cgroups = walk("/sys/fs/cgroup").into_iter().filter(|path| path.contains(&ours)).collect();
    let descriptors = fs::read_dir("/proc/self/fd").expect("fd").count().to_string();
    vec![
        ("processes", processes),
        ("namespaces", namespaces),
        ("keys", keys.collect()),
        ("cgroups", cgroups),
        ("mounts", lines("/proc/self/mountinfo")),
        ("shared memory", lines("/proc/sysvipc/shm")),
        ("semaphores", lines("/proc/sysvipc/sem")),
        ("message queues", lines("/proc/sysvipc/msg")),
        ("descriptors", BTreeSet::from([descriptors])),
    ]
}

/// Every directory below one, however the machine mounts its hierarchies.
fn walk(top: &str) -> Vec<String> {
    let (mut found, mut waiting) = (Vec::new(), vec![std::path::PathBuf::from(top)]);
    while let Some(here) = waiting.pop() {
        let entries = fs::read_dir(&here).into_iter().flatten().filter_map(Result::ok);
        waiting.extend(entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
        found.push(here.display().to_string());
    }
    found
}

fn a_step_leaves_nothing_behind(bench: &Bench) {
    // What is kept for the next step is of no step: the owner map of this one's user, and an empty sandbox.
    run(&bench.launcher, Draft { slot: SLOT, ..bench.draft(&["daemon_left"]) });
    bench.launcher.rest();
    let before = held();
    for leaver in LEAVERS {
        let draft = bench.draft(&[leaver]);
        let ran = run(&bench.launcher, Draft { slot: SLOT, ..draft });
        assert_eq!(ran.verdict(leaver), "OK", "{leaver}");
        bench.launcher.rest();
        // A process that has ended stands in /proc until its last processor has let go of it.
        let begin = Instant::now();
        while held() != before && begin.elapsed() < GOING {
            std::thread::sleep(Duration::from_millis(1));
        }
        for ((kind, before), (_, after)) in before.iter().zip(held()) {
            assert_eq!(*before, after, "{kind} after {leaver}");
        }
    }
    // The same means see a step that lives.
    let policy = Policy::new(bench.draft(&["sleep_forever"])).expect("policy");
    let (_reader, writer) = pipe();
    let step = bench.launcher.spawn(&policy, writer.try_clone().expect("dup"), writer).expect("step");
    let living = held();
    for kind in ["processes", "namespaces", "cgroups"] {
        let of = |held: &[(&str, BTreeSet<String>)]| held.iter().find(|(name, _)| *name == kind).expect("kind").1.len();
        assert!(of(&living) > of(&before), "{kind} of a living step are seen");
    }
    step.killer().kill().expect("kill");
    assert_eq!(step.wait().expect("outcome").exit, Exit::Killed);
}

fn the_next_step_finds_nothing(bench: &Bench) {
    assert_eq!(bench.probe(&["leave_objects"]).verdict("leave_objects"), "OK");
    for (find, expected) in [
        ("find_shm", "ENOENT"),
        ("find_semaphore", "ENOENT"),
        ("find_messages", "ENOENT"),
        ("find_tmp", "ENOENT"),
        ("find_shared_file", "ENOENT"),
        ("find_any_ipc", "EINVAL"),
    ] {
        // At the same desk: the same user, the same names.
        assert_eq!(bench.probe(&[find]).verdict(find), expected, "{find}");
    }
}

fn a_step_beside_it_is_not_there(bench: &Bench) {
    let name = SocketAddr::from_abstract_name(b"kiln-hostile").expect("a name");
    let _listening = UnixListener::bind_addr(&name).expect("an abstract socket of the host's");
    let policy = Policy::new(bench.draft_at(8, &["unix_held"])).expect("policy");
    let (reader, writer) = pipe();
    let step = bench.launcher.spawn(&policy, writer.try_clone().expect("dup"), writer).expect("step");
    let killer = step.killer();
    // Waited for all the while: whoever waits answers for what it executes.
    let waiting = std::thread::spawn(move || step.wait().expect("outcome").exit);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(reader), &mut line).expect("a line");
    assert_eq!(line, "holding\n");
    for (probe, expected) in [
        ("unix_of_host", "ECONNREFUSED"),
        ("unix_of_other", "ECONNREFUSED"),
        ("signal_walk", "1:EPERM"),
        ("kill_all", "ESRCH"),
        ("other_storage", "ENOENT"),
    ] {
        assert_eq!(bench.probe(&[probe]).verdict(probe), expected, "{probe}");
    }
    killer.kill().expect("kill");
    assert_eq!(waiting.join().expect("waiter"), Exit::Killed);
}
