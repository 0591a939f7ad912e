//! What every test starts from.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// No wait in these tests is meant to take this long, on the slowest machine.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// The program, without any argument.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln-confine"));
    command.stdin(Stdio::null());
    command
}

/// The program under the host's own root, without the two layers that a host may lack.
pub(crate) fn confine(arguments: &[&str]) -> Command {
    let mut command = program();
    command.args(["--root", "/", "--without", "limits", "--without", "trace"]).args(arguments);
    command
}

/// Runs a shell script confined, with more flags in front.
pub(crate) fn script(flags: &[&str], script: &str) -> Ran {
    run(&mut confine(&[flags, &["--", "sh", "-c", script]].concat()))
}

/// A run, in words.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) said: String,
    pub(crate) complained: String,
}

pub(crate) fn run(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().expect("the program");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { status: status.code().expect("it exits by itself"), said: text(stdout), complained: text(stderr) }
}

/// A directory of the host that anyone may enter.
pub(crate) fn scratch() -> TempDir {
    let directory = tempfile::tempdir().expect("directory");
    open_to_all(directory.path());
    directory
}

pub(crate) fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("mode");
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path in text")
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < HANG, "not within {HANG:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Where the steps of a caller with this process id have their cgroups.
pub(crate) fn cgroup_of(pid: u32) -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("mounts");
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("a cgroup2 mount");
    Path::new(mount.split(' ').nth(1).expect("a place")).join(format!("kiln-{pid}"))
}

/// Whether one of the host's slots is held by this process id.
pub(crate) fn has_slot(pid: u32) -> bool {
    let slots = std::fs::read_dir("/run/kiln-confine").expect("slots");
    slots.flatten().any(|slot| std::fs::read_to_string(slot.path()).is_ok_and(|text| text.trim() == pid.to_string()))
}
