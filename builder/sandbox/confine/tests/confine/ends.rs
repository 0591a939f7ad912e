//! Every end has a status and a line of its own.

use std::fs;
use std::process::Command;

use crate::bench::{confine, run, scratch, script, text};

/// Runs a script to an end other than success, and looks for the word that names it.
fn ends(flags: &[&str], shell: &str, status: i32, word: &str) {
    let ran = script(flags, shell);
    let line = ran.complained.lines().last().unwrap_or_default();
    assert_eq!(ran.status, status, "{shell}: {}", ran.complained);
    assert!(line.starts_with("kiln-confine: ") && line.contains(word), "{shell}: {line}");
    assert!(line.contains("memory peak") && line.contains("of processor") && line.contains("read"), "{shell}: {line}");
}

#[test]
fn success_is_silent() {
    let ran = script(&[], "exit 0");
    assert_eq!((ran.status, ran.said.as_str()), (0, ""));
    assert_eq!(ran.complained, "kiln-confine: given up: limits\nkiln-confine: given up: trace\n");
}

#[test]
fn each_end_is_told_apart() {
    ends(&[], "exit 3", 3, "exited with status 3");
    ends(&[], "kill -SEGV $$", 139, "signal 11 (SIGSEGV)");
    ends(&[], "kill -KILL $$", 137, "signal 9 (SIGKILL)");
    ends(&["--timeout", "300ms"], "sleep 600", 124, "timeout");
    ends(
        &["--tmp", "1M", "--file-size", "64K"],
        "exec dd if=/dev/zero of=/tmp/x bs=128K count=1 status=none",
        123,
        "file too large",
    );
    ends(&["--tmp", "1M"], "exec dd if=/dev/zero of=/tmp/x bs=128K status=none", 122, "/tmp was full");
    ends(&[], "exec /etc/passwd", 126, "exited with status 126");
}

#[test]
fn a_command_may_end_in_its_grace() {
    ends(
        &["--timeout", "300ms", "--grace", "1m"],
        "trap 'exit 0' TERM; while :; do sleep 0.05; done",
        124,
        "ended when it was asked to",
    );
}

#[test]
fn a_command_that_is_no_program_is_told_from_one_that_is_not_there() {
    let ran = run(&mut confine(&["--", "not-a-program"]));
    assert!(ran.status == 127 && ran.complained.contains("not in the view"), "{}", ran.complained);
    let ran = run(&mut confine(&["--", "/etc/passwd"]));
    assert!(ran.status == 126 && ran.complained.contains("cannot be executed"), "{}", ran.complained);
}

#[test]
fn a_foreign_system_call_interface_is_a_policy_violation() {
    let scratch = scratch();
    let (source, program) = (scratch.path().join("i386.c"), scratch.path().join("i386"));
    fs::write(&source, "int main(void) { __asm__ volatile(\"int $0x80\" :: \"a\"(20)); return 0; }\n").expect("source");
    let compiled = Command::new("cc").arg(&source).arg("-o").arg(&program).status().expect("cc");
    assert!(compiled.success());
    let bind = format!("{}:/tmp/i386", text(&program));
    let ran = run(&mut confine(&["--tmp", "1M", "--ro", &bind, "--", "/tmp/i386"]));
    assert!(ran.status == 119 && ran.complained.contains("policy violation"), "{} {}", ran.status, ran.complained);
}

#[test]
#[ignore = "needs the cgroup v2 controllers cpu, memory, pids, io"]
fn memory_and_processes_are_limited() {
    let limited = |flags: &[&str], shell: &str| {
        let flags = [&["--root", "/", "--without", "trace"], flags, &["--", "sh", "-c", shell]].concat();
        run(crate::bench::program().args(flags))
    };
    let ran =
        limited(&["--memory", "32M", "--tmp", "1G"], "exec dd if=/dev/zero of=/tmp/x bs=1M count=512 status=none");
    assert!(ran.status == 120 && ran.complained.contains("out of memory"), "{} {}", ran.status, ran.complained);
    let ran = limited(&["--pids", "8"], "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait");
    assert!(ran.status == 121 && ran.complained.contains("out of processes"), "{} {}", ran.status, ran.complained);
}
