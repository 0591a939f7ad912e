//! What the kinds of `/proc` and the debug profile change, and that they change nothing else.

use std::collections::BTreeSet;

use kiln_sandbox::{Draft, Proc, Source};

use crate::Test;
use crate::bench::{Bench, Ran, run};

pub(crate) const TESTS: &[Test] = &[("a_masked_proc_is_a_list", a_masked_proc_is_a_list)];

/// What a masked `/proc` has beside processes.
const FILES: [&str; 7] = ["cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version"];

/// Runs a shell of this machine, in a view of this machine's root file system.
fn shell(bench: &Bench, proc: Proc, script: &str) -> Ran {
    let draft = Draft {
        root: Source::Path("/".into()),
        mounts: vec![],
        proc,
        argv: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        workdir: "/".into(),
        env: [("PATH".to_owned(), "/bin:/usr/bin".to_owned())].into(),
        ..bench.draft(&[])
    };
    run(&bench.launcher, draft)
}

/// Every name in the machine's own `/proc` is asked for by name: those of the list are there, no other is.
fn a_masked_proc_is_a_list(bench: &Bench) {
    let entries = std::fs::read_dir("/proc").expect("this machine's /proc");
    let names: Vec<_> = entries.map(|entry| entry.expect("entry").file_name().into_string().expect("name")).collect();
    let machine = |name: &&String| !name.starts_with(|c: char| c.is_ascii_digit()) && !name.ends_with("self");
    let names: Vec<_> = names.iter().filter(machine).map(String::as_str).collect();
    assert!(names.len() > 20, "{names:?}");
    let ask = format!("for name in {}; do test -e /proc/$name && echo $name; done; true", names.join(" "));
    let there = |proc| shell(bench, proc, &ask).said.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(there(Proc::Minimal), BTreeSet::new());
    assert_eq!(there(Proc::Masked), FILES.map(str::to_owned).into());
    let listed = shell(bench, Proc::Masked, "ls /proc").said;
    assert!(listed.lines().all(|name| name.ends_with("self") || name.parse::<u32>().is_ok()), "{listed}");
    let read = FILES.map(|name| format!("read line < /proc/{name} && echo {name}")).join("; ");
    let write = FILES.map(|name| format!("(: > /proc/{name}) 2> /dev/null && echo wrote {name}")).join("; ");
    let said =
        shell(bench, Proc::Masked, &format!("{read}; {write}; (: > /proc/new) 2> /dev/null || echo no more")).said;
    assert_eq!(said.lines().collect::<Vec<_>>(), [&FILES[..], &["no more"]].concat());
}
