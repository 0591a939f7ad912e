//! Signals, sudden death and neighbours: however a run ends, nothing of it is left.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{cgroup_of, confine, has_slot, run, scratch, script, text, until};

/// A confined command that runs until it is ended, and its main process.
struct Running {
    child: Child,
    step: i32,
    /// Kept open for the last line.
    status: BufReader<File>,
}

fn running(flags: &[&str], shell: &str) -> Running {
    let scratch = scratch();
    let pipe = scratch.path().join("status");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    // Held open by us as well, so that the program finds a reader.
    let status = File::options().read(true).write(true).open(&pipe).expect("fifo");
    let command = confine(&[flags, &["--status-fd", "3", "--", "sh", "-c", shell]].concat());
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "exec \"$@\" 3>\"$0\"", text(&pipe)]).arg(command.get_program()).args(command.get_args());
    let child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program");
    let mut line = String::new();
    let mut status = BufReader::new(status);
    status.read_line(&mut line).expect("a line");
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let step = line["pid"].as_i64().unwrap_or_else(|| panic!("not started: {line}")) as i32;
    assert!(alive(step));
    Running { child, step, status }
}

fn alive(pid: i32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).expect("kill");
}

#[test]
fn a_signal_ends_everything() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let Running { child, step, status } = running(&[], "trap '' INT TERM HUP QUIT; sleep 600 & echo ready; wait");
        let pid = child.id();
        assert!(cgroup_of(pid).exists() && has_slot(pid));
        send(&child, signal);
        let output = child.wait_with_output().expect("status");
        let complained = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(128 + signal as i32), "{complained}");
        assert!(complained.contains(&format!("interrupted by {signal}")), "{complained}");
        drop(status);
        assert!(!alive(step) && !cgroup_of(pid).exists() && !has_slot(pid));
    }
}

#[test]
fn nothing_is_left_of_an_ordinary_run() {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let before = mounts();
    let mut child = confine(&["--tmp", "1M", "--", "sh", "-c", "sleep 600 & exit 0"]).spawn().expect("the program");
    let pid = child.id();
    assert!(child.wait().expect("status").success());
    assert!(!cgroup_of(pid).exists() && !has_slot(pid));
    assert_eq!(mounts(), before);
}

#[test]
fn the_death_of_the_program_is_the_death_of_the_command_and_the_next_run_clears_up() {
    let Running { mut child, step, status: _status } = running(&[], "sleep 600 & sleep 600");
    let pid = child.id();
    let group = cgroup_of(pid).join("step-0/cgroup.procs");
    let read = || fs::read_to_string(&group).expect("members");
    until("init, shell and sleeps run", || read().lines().count() >= 3);
    let members: Vec<i32> = read().lines().map(|line| line.parse().expect("a number")).collect();
    assert!(members.contains(&step), "{members:?}");
    send(&child, Signal::SIGKILL);
    child.wait().expect("status");
    until("the command is dead", || members.iter().all(|member| !alive(*member)));
    // Another test's run may have cleared up already.
    assert_eq!(script(&[], "true").status, 0);
    until("cleared away", || !cgroup_of(pid).exists() && !has_slot(pid));
}

#[test]
fn neighbours_have_users_of_their_own() {
    let runs: Vec<Running> = (0..4).map(|_| running(&[], "read never < /dev/zero; sleep 600")).collect();
    let user = |step: i32| {
        let status = fs::read_to_string(format!("/proc/{step}/status")).expect("status");
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next().map(str::to_owned))
            .expect("a user")
    };
    let users: BTreeSet<String> = runs.iter().map(|running| user(running.step)).collect();
    assert_eq!(users.len(), runs.len());
    for Running { child, .. } in &runs {
        send(child, Signal::SIGTERM);
    }
    for Running { mut child, status: _status, .. } in runs {
        child.wait().expect("status");
    }
}

#[test]
fn a_reader_who_never_reads_can_be_left() {
    let flags = ["--", "sh", "-c", "head -c 60000 /dev/zero; head -c 90000 /dev/zero & sleep 0.3"];
    let mut child = confine(&flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program");
    let pid = child.id();
    until("the command has begun", || cgroup_of(pid).join("step-0").exists());
    until("the command is over", || {
        !has_slot(pid) && !cgroup_of(pid).exists() && child.try_wait().is_ok_and(|s| s.is_none())
    });
    send(&child, Signal::SIGTERM);
    assert_eq!(child.wait().expect("status").code(), Some(143));
    let mut rest = Vec::new();
    child.stdout.take().expect("output").read_to_end(&mut rest).expect("output");
    assert!(rest.len() < 150_000);
}

#[test]
fn a_start_that_hangs_can_be_ended() {
    // The slots of a /run of its own, whose lock somebody holds: the program's own descriptor 3, so that it goes with it.
    let hang =
        "mount -t tmpfs none /run && mkdir -m 700 /run/kiln-confine && exec flock -F /run/kiln-confine/lock \"$@\"";
    let command = confine(&["--", "echo", "never"]);
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["-m", "sh", "-c", hang, "sh"]).arg(command.get_program()).args(command.get_args());
    let mut child =
        unshare.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("unshare");
    let pid = child.id();
    until("it has begun", || cgroup_of(pid).exists());
    send(&child, Signal::SIGTERM);
    until("it ends", || child.try_wait().expect("status").is_some());
    let output = child.wait_with_output().expect("status");
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(143), &b""[..]), "{complained}");
    assert!(complained.contains("interrupted by SIGTERM: the start"), "{complained}");
    assert!(!cgroup_of(pid).exists());
}

#[test]
fn signals_reach_the_command_again_inside() {
    let ran = run(&mut confine(&["--", "sh", "-c", "grep SigBlk /proc/self/status; kill -TERM $$; sleep 600"]));
    assert_eq!((ran.status, ran.said.as_str()), (143, "SigBlk:\t0000000000000000\n"), "{}", ran.complained);
}
