//! Flags and policy files: what they do, how they add up, and what is refused.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use crate::bench::{Ran, confine, open_to_all, program, run, scratch, script, text};

#[test]
fn each_flag_reaches_the_command() {
    let scratch = scratch();
    let (read, write) = (scratch.path().join("read"), scratch.path().join("write"));
    for directory in [&read, &write] {
        fs::create_dir(directory).expect("directory");
    }
    fs::write(read.join("file"), "in\n").expect("file");
    let (ro, rw) = (format!("{}:/tmp/read", text(&read)), format!("{}:/tmp/write", text(&write)));
    let flags = [
        ["--ro", &ro],
        ["--rw", &rw],
        ["--tmp", "3M"],
        ["--env", "A=1=2"],
        ["--chdir", "/tmp/write"],
        ["--hostname", "builder"],
        ["--file-size", "8K"],
        ["--open-files", "99"],
        ["--timeout", "1m"],
        ["--profile", "loopback"],
    ];
    let ran = script(
        &flags.concat(),
        "pwd; echo $A; echo $PATH; uname -n; ulimit -n; ulimit -f; cat /tmp/read/file; cp /tmp/read/file copy; \
         touch /tmp/read/x 2>/dev/null || echo read-only; touch /usr/x 2>/dev/null || echo read-only; \
         stat -f -c %b*%S /tmp; ls /tmp; env | wc -l; id -u",
    );
    let expected = "/tmp/write\n1=2\n/usr/local/bin:/usr/bin:/bin\nbuilder\n99\n16\nin\nread-only\nread-only\n768*4096\nread\nwrite\n3\n1000\n";
    assert_eq!((ran.status, ran.said.as_str()), (0, expected), "{}", ran.complained);
    assert_eq!(fs::read_to_string(write.join("copy")).expect("copy"), "in\n");
}

#[test]
fn a_file_in_either_language_is_a_policy_and_flags_come_on_top() {
    let scratch = scratch();
    fs::create_dir(scratch.path().join("src")).expect("directory");
    let toml = "root = '/'\nhostname = 'a'\nwithout = ['limits', 'trace']\n[env]\nA = '1'\n\
        [[tmp]]\ntarget = '/tmp'\nsize = '1M'\n\
        [[mount]]\nsource = 'src'\ntarget = '/tmp/src'\naccess = 'rw'\n";
    let json = r#"{"root": "/", "hostname": "a", "without": ["limits", "trace"], "env": {"A": "1"},
        "mount": [{"source": "src", "target": "/tmp/src", "access": "rw"}], "tmp": [{"target": "/tmp", "size": "1M"}]}"#;
    let mut printed = Vec::new();
    for (name, policy) in [("policy.toml", toml), ("policy.json", json)] {
        let path = scratch.path().join(name);
        fs::write(&path, policy).expect("policy");
        let script = ["--", "sh", "-c", "uname -n; echo $A; touch /tmp/src/x && echo written"];
        let ran = run(program().arg("--policy").arg(&path).args(["--hostname", "b"]).args(script));
        assert_eq!((ran.status, ran.said.as_str()), (0, "b\n1\nwritten\n"), "{}", ran.complained);
        printed.push(run(program().arg("--policy").arg(&path).arg("--print-policy")).said);
    }
    assert_eq!(printed[0], printed[1]);
    let path = scratch.path().join("printed.toml");
    fs::write(&path, &printed[0]).expect("policy");
    assert_eq!(run(program().arg("--policy").arg(&path).arg("--print-policy")).said, printed[0]);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let scratch = scratch();
    let path = scratch.path().join("policy.toml");
    fs::write(&path, "root = '/'\nnet = true\n").expect("policy");
    let file = text(&path);
    for (arguments, word) in [
        (&["--policy", file, "--", "true"][..], "line 2, column 1"),
        (&["--policy", "/not/there", "--", "true"], "No such file"),
        (&["--root", "/"], "COMMAND"),
        (&["--", "true"], "no root"),
        (&["--root", "/", "--memory", "1GB", "--", "true"], "not a size"),
        (&["--root", "/", "--timeout", "soon", "--", "true"], "not a duration"),
        (&["--root", "/", "--ro", "a:b:c", "--", "true"], "more than one colon"),
        (&["--root", "/", "--env", "HOME", "--", "true"], "NAME=VALUE"),
        (&["--root", "/", "--profile", "lax", "--", "true"], "loopback"),
        (&["--root", "/", "--without", "walls", "--", "true"], "landlock"),
        (&["--root", "/", "--without", "view", "--", "true"], "cannot be given up"),
        (&["--root", "/", "--chdir", "work", "--", "true"], "not absolute"),
        (&["--root", "/", "--hostname", "Ä", "--", "true"], "host name"),
        (&["--root", "/", "--memory", "1", "--", "true"], "memory_bytes"),
        (&["--root", "/", "--ro", "/etc:/proc", "--", "true"], "sandbox itself"),
        (&["--root", "/", "--ro", "/etc:/mnt", "--ro", "/usr:/mnt", "--", "true"], "two mounts"),
    ] {
        let ran = run(program().args(arguments));
        assert_eq!((ran.status, ran.said.as_str()), (2, ""), "{arguments:?}: {}", ran.complained);
        assert!(ran.complained.contains(word), "{arguments:?}: {}", ran.complained);
    }
    let ran = run(confine(&["--", "echo"]).arg(OsStr::from_bytes(b"\xff")));
    assert_eq!(ran.status, 2);
    assert!(ran.complained.contains("not UTF-8"), "{}", ran.complained);
}

/// A refusal that names the cause and what to do.
fn refused(ran: &Ran, cause: &str, remedy: &str) {
    assert_eq!((ran.status, ran.said.as_str()), (125, ""), "{}", ran.complained);
    assert!(ran.complained.contains(cause), "no {cause:?} in {}", ran.complained);
    let help = ran.complained.lines().find(|line| line.starts_with("kiln-confine: help: "));
    assert!(help.is_some_and(|help| help.contains(remedy)), "no {remedy:?} in {}", ran.complained);
}

#[test]
fn what_this_host_cannot_give_is_refused_with_a_remedy() {
    let scratch = scratch();
    let (theirs, root) = (scratch.path().join("theirs"), scratch.path().join("root"));
    for directory in [&theirs, &root] {
        fs::create_dir(directory).expect("directory");
    }
    chown(&theirs, Some(65534), None).expect("chown");
    let run = |flags: &[&str]| script(flags, "echo never");
    refused(&run(&["--ro", "/etc:/usr/none"]), "/usr/none", "/tmp/NAME");
    refused(&run(&["--ro", "/etc:/none"]), "/none", "make");
    refused(&run(&["--ro", "/etc:/bin/x"]), "/bin/x", "symbolic link");
    refused(&run(&["--rw", text(&theirs)]), "user 65534", "chown");
    refused(&run(&["--chdir", "/not/there"]), "chdir", "directory of the view");
    let bare = ["--without", "limits", "--without", "trace", "--root", text(&root), "--", "/never"];
    refused(&crate::bench::run(program().args(bare)), "/proc", "make an empty directory /proc");
    let ran = run(&["--ro", "/not/there"]);
    assert_eq!(ran.status, 125);
    assert!(ran.complained.contains("/not/there"), "{}", ran.complained);
}

#[test]
fn what_has_somebody_behind_it_is_not_shown() {
    let scratch = scratch();
    let (fifo, socket) = (scratch.path().join("fifo"), scratch.path().join("socket"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
    for (path, kind) in [(text(&socket), "socket"), (text(&fifo), "FIFO"), ("/dev/zero", "character device")] {
        let cause = format!("{path:?} is a {kind}");
        for flag in ["--ro", "--rw"] {
            refused(&script(&[flag, path], "echo never"), &cause, "name a directory");
        }
        refused(&run(program().args(["--root", path, "--", "echo", "never"])), &cause, "name a directory");
    }
    // Where they are found inside a directory, nobody can write to them if it is read-only.
    let directory = text(scratch.path());
    refused(
        &script(&["--rw", directory], "echo never"),
        "would let the step reach whoever is behind",
        "hand the directory over",
    );
    let ways = script(&["--ro", directory, "--chdir", directory, "--timeout", "10s"], "! { echo x > fifo; } 2>&1");
    assert_eq!((ways.status, ways.said.contains("Permission denied")), (0, true), "{} {}", ways.said, ways.complained);
}

#[test]
fn a_kernel_without_controllers_is_refused_unless_limits_are_given_up() {
    let controllers = crate::bench::cgroup_of(0).with_file_name("cgroup.controllers");
    let controllers = fs::read_to_string(controllers).expect("controllers");
    let ran = run(program().args(["--root", "/", "--without", "trace", "--", "true"]));
    if ["cpu", "memory", "pids"].iter().all(|name| controllers.split_whitespace().any(|word| word == *name)) {
        assert_eq!(ran.status, 0, "{}", ran.complained);
    } else {
        refused(&ran, "lacks the controller", "--without limits");
    }
}

#[test]
fn what_is_given_up_is_said() {
    let ran = script(&["--without", "landlock"], "true");
    assert_eq!(
        ran.complained,
        "kiln-confine: given up: limits\nkiln-confine: given up: landlock\nkiln-confine: given up: trace\n"
    );
}

#[test]
fn only_root_may() {
    let scratch = scratch();
    let copy = scratch.path().join("kiln-confine");
    // By another process: a descriptor of ours to a program being written would go along with another test's fork.
    let copied = std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_kiln-confine")).arg(&copy).status();
    assert!(copied.expect("cp").success());
    open_to_all(&copy);
    let mut command = std::process::Command::new(&copy);
    refused(&run(command.args(["--root", "/", "--", "true"]).uid(65534)), "needs root", "as root");
}

#[test]
fn a_source_that_is_a_link_is_what_it_leads_to() {
    let scratch = scratch();
    fs::create_dir(scratch.path().join("there")).expect("directory");
    fs::write(scratch.path().join("there/file"), "there\n").expect("file");
    symlink("there", scratch.path().join("link")).expect("link");
    let mut command = confine(&["--tmp", "1M", "--ro", "link:/tmp/link", "--", "cat", "/tmp/link/file"]);
    let ran = run(command.current_dir(Path::new(scratch.path())));
    assert_eq!((ran.status, ran.said.as_str()), (0, "there\n"), "{}", ran.complained);
}

#[test]
fn help_has_examples_and_the_version_is_ours() {
    let ran = run(program().arg("--help"));
    assert!(ran.status == 0 && ran.said.contains("Examples:") && ran.said.contains("Exit status:"), "{}", ran.said);
    assert_eq!(run(program().arg("--version")).said, format!("kiln-confine {}\n", env!("CARGO_PKG_VERSION")));
}
