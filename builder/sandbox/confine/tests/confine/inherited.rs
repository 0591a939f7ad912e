//! What a caller has set for its own memory, timers and disk is not the command's.

use std::fs;
use std::process::Command;

use crate::bench::{confine, run, scratch, text};

/// Sets it, and executes the rest of its arguments. What this kernel does not have is not set.
const CALLER: &str = r#"
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int count, char **words) {
    (void)count;
    prctl(67, 1, 0, 0, 0);                     /* PR_SET_MEMORY_MERGE */
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    prctl(PR_SET_TIMERSLACK, 12345678, 0, 0, 0);
    syscall(SYS_ioprio_set, 1, 0, 1 << 13);    /* this process, IOPRIO_CLASS_RT */
    execv(words[1], words + 1);
    return 1;
}
"#;
/// Says it, as a process of the caller's and as a step.
const SAY: &str = "cat /proc/self/timerslack_ns; grep THP_enabled /proc/self/status; ionice; \
                   grep merge_any /proc/self/ksm_stat 2>/dev/null || true";

#[test]
fn nothing_of_the_callers_settings_reaches_the_command() {
    let scratch = scratch();
    let (source, caller) = (scratch.path().join("caller.c"), scratch.path().join("caller"));
    fs::write(&source, CALLER).expect("source");
    let compiled = Command::new("cc").args(["-o", text(&caller), text(&source)]).status().expect("a C compiler");
    assert!(compiled.success());
    let under = |command: &mut Command| {
        let mut all = Command::new(&caller);
        all.arg(command.get_program()).args(command.get_args());
        run(&mut all)
    };
    let words = |said: &str| said.split_whitespace().map(str::to_owned).collect::<Vec<_>>();

    // Whoever does not take it off has it.
    let own = words(&under(Command::new("/bin/sh").args(["-c", SAY])).said);
    assert_eq!(own[..5], ["12345678", "THP_enabled:", "0", "realtime:", "prio"], "{own:?}");

    let ran = under(&mut confine(&["--", "sh", "-c", SAY]));
    let step = words(&ran.said);
    assert_eq!(ran.status, 0, "{}", ran.complained);
    assert_eq!(step[1..5], ["THP_enabled:", "1", "none:", "prio"], "{step:?}");
    assert_eq!(step[0], "50000");
    assert!(!step.ends_with(&["ksm_merge_any:".to_owned(), "yes".to_owned()]), "{step:?}");
}

/// As a service manager does for a service that must not change the kernel's settings.
#[test]
fn settings_that_the_caller_cannot_write_are_written_all_the_same() {
    let command = confine(&["--", "true"]);
    let hide = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && \
                ! sh -c 'echo 0 > /proc/sys/vm/memfd_noexec' 2>/dev/null && exec \"$@\"";
    let mut all = Command::new("unshare");
    all.args(["--mount", "sh", "-c", hide, "sh"]).arg(command.get_program()).args(command.get_args());
    let ran = run(&mut all);
    // Each setting is read back, so it was started with all of them.
    assert_eq!(ran.status, 0, "{}", ran.complained);
}
