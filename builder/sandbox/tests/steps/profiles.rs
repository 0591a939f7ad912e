//! What the kinds of `/proc`, the debug profile and the limits change, and that they change nothing else; views that cannot be had.

use std::fs;
use std::sync::Barrier;
use std::time::Duration;

use kiln_sandbox::{Access, Draft, Exit, Limits, Mount, Policy, Proc, Profile, Source, SpawnError, Temporary};

use crate::Test;
use crate::bench::{Bench, Ran, pipe, run};

pub(crate) const TESTS: &[Test] = &[
    ("a_masked_proc_is_a_list", a_masked_proc_is_a_list),
    ("debugging_reaches_children_and_nobody_else", debugging_reaches_children_and_nobody_else),
    ("a_step_out_of_time_is_asked_first", a_step_out_of_time_is_asked_first),
    ("a_full_file_system_is_named", a_full_file_system_is_named),
    ("a_file_too_large_is_named", a_file_too_large_is_named),
    ("a_hostile_image_is_no_view", a_hostile_image_is_no_view),
    ("many_steps_run_at_the_same_time", many_steps_run_at_the_same_time),
];

/// What a masked `/proc` has beside processes.
const FILES: [&str; 7] = ["cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version"];
/// Steps that all wait for the last of them.
const MANY: u16 = 32;

fn asking(bench: &Bench, arguments: &[&str]) -> Draft {
    Draft { argv: [&["/ask"], arguments].concat().into_iter().map(str::to_owned).collect(), ..bench.draft(&[]) }
}

/// Every name in the machine's own `/proc` is used by name: those of the list tell something, no other does, none can be written.
fn a_masked_proc_is_a_list(bench: &Bench) {
    let entries = fs::read_dir("/proc").expect("this machine's /proc").map(|entry| entry.expect("entry"));
    let entries = entries.filter(|entry| !entry.file_type().expect("type").is_symlink());
    let names = entries.map(|entry| entry.file_name().into_string().expect("name"));
    let names: Vec<_> = names.filter(|name| !name.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert!(names.len() > 20, "{names:?}");
    let below = ["sys/kernel/hostname", "new"];
    let asked: Vec<_> = names.iter().map(String::as_str).chain(below).collect();
    let said = |proc| {
        let arguments = [&["use"], &asked[..]].concat();
        run(&bench.launcher, Draft { proc, ..asking(bench, &arguments) }).said
    };
    let expected = |of: fn(&str) -> &'static str| {
        asked.iter().map(|name| format!("{name} {} refused\n", of(name))).collect::<String>()
    };
    assert_eq!(said(Proc::Minimal), expected(|_| "ENOENT"));
    let masked = |name: &str| match name {
        "sys/kernel/hostname" | "new" => "ENOENT",
        name if FILES.contains(&name) => "text",
        _ => "empty",
    };
    assert_eq!(said(Proc::Masked), expected(masked));
}

/// Where Yama forbids tracing, the profile is a refusal that says so.
fn debugging_reaches_children_and_nobody_else(bench: &Bench) {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_else(|_| "0".to_owned());
    let draft = |profile| Draft { profile, ..asking(bench, &["debug"]) };
    if !["0", "1"].contains(&scope.trim()) {
        let (_reader, writer) = pipe();
        let policy = Policy::new(draft(Profile::Debug)).expect("policy");
        let refused = bench.launcher.spawn(&policy, writer.try_clone().expect("dup"), writer).map(drop);
        assert!(matches!(refused, Err(SpawnError::Unavailable { .. })), "{refused:?}");
        return;
    }
    let said = |profile| run(&bench.launcher, draft(profile)).said;
    let debug = "stopped OK\npeek OK\nread OK\nwrite OK\nregisters OK\ngo OK\nchild 0\ninit EPERM\nread init EPERM\n";
    assert_eq!(said(Profile::Debug), debug);
    let strict = said(Profile::Strict);
    assert!(strict.contains("peek EPERM\nread EPERM\nwrite EPERM\nregisters EPERM\ngo EPERM\n"), "{strict}");
    let attacks = [
        "inet",
        "loopback",
        "unshare_user",
        "bpf_map",
        "userfault",
        "keyring",
        "ptrace_init",
        "pidfd_steal",
        "compare_init",
        "memfd_exec",
        "unknown_call",
    ];
    let of = |profile| {
        let ran = run(&bench.launcher, Draft { profile, ..bench.draft(&attacks) });
        assert_eq!(ran.outcome.exit, Exit::Code { code: 0 });
        ran.said
    };
    assert_eq!(of(Profile::Debug), of(Profile::Strict));
}

fn a_step_out_of_time_is_asked_first(bench: &Bench) {
    let after = |what, grace_ms| {
        let draft = asking(bench, &[what]);
        let limits = Limits { wall_ms: 700, grace_ms, ..draft.limits };
        let Ran { outcome, said } = run(&bench.launcher, Draft { limits, ..draft });
        assert_eq!(said, "waiting\n");
        assert!(outcome.usage.wall_ms >= 700, "{:?}", outcome.usage);
        (outcome.exit, outcome.usage.wall_ms)
    };
    let (exit, wall_ms) = after("polite", 30_000);
    assert_eq!(exit, Exit::Timeout { in_grace: true });
    assert!(wall_ms < 30_000, "{wall_ms}");
    let (exit, wall_ms) = after("stubborn", 300);
    assert_eq!(exit, Exit::Timeout { in_grace: false });
    assert!(wall_ms >= 1000, "{wall_ms}");
    assert_eq!(after("polite", 0).0, Exit::Timeout { in_grace: false });
}

fn a_full_file_system_is_named(bench: &Bench) {
    for (what, target) in [("fill", "/tmp"), ("fill_files", "/tmp"), ("fill_files", "/dev/shm")] {
        let draft = asking(bench, &[what, target]);
        let temporaries = vec![Temporary { target: "/tmp".into(), size_bytes_max: 1 << 20, inodes_max: 64 }];
        let exit = run(&bench.launcher, Draft { temporaries, ..draft }).outcome.exit;
        assert_eq!(exit, Exit::DiskLimit { target: target.into(), code: Some(3) }, "{what} {target}");
    }
    // Full, and yet a success.
    let ran = bench.probe(&["fill_tmp"]);
    assert_eq!(ran.outcome.exit, Exit::Code { code: 0 });
}

fn a_file_too_large_is_named(bench: &Bench) {
    assert_eq!(run(&bench.launcher, asking(bench, &["big"])).outcome.exit, Exit::FileLimit);
}

/// Links and files where the view mounts, each of which must be a refusal: what the image says is never followed.
fn a_hostile_image_is_no_view(bench: &Bench) {
    let refusal = |spoil: &dyn Fn(&std::path::Path), mounts: Vec<Mount>| {
        let image = tempfile::tempdir().expect("directory");
        for directory in ["proc", "dev", "tmp", "work", "inputs", "elsewhere"] {
            fs::create_dir(image.path().join(directory)).expect("directory of the image");
        }
        spoil(image.path());
        let root = Source::Path(image.path().to_owned());
        let draft = Draft { root, mounts, workdir: "/".into(), ..asking(bench, &["use"]) };
        let (_reader, writer) = pipe();
        let policy = Policy::new(draft).expect("policy");
        bench.launcher.spawn(&policy, writer.try_clone().expect("dup"), writer).map(drop).expect_err("no view")
    };
    let link = |name: &'static str, to: &'static str| {
        move |image: &std::path::Path| {
            fs::remove_dir(image.join(name)).expect("directory");
            std::os::unix::fs::symlink(to, image.join(name)).expect("link");
        }
    };
    for place in ["proc", "dev", "tmp"] {
        for to in ["elsewhere", "/", "/elsewhere", "../../../../..", "/proc/self/root", "nowhere"] {
            let error = refusal(&link(place, to), vec![]);
            assert!(matches!(error, SpawnError::View(_)), "{place} -> {to}: {error:?}");
        }
        let file = |image: &std::path::Path| {
            fs::remove_dir(image.join(place)).expect("directory");
            fs::write(image.join(place), "").expect("file");
        };
        let error = refusal(&file, vec![]);
        assert!(matches!(error, SpawnError::View(_) | SpawnError::Setup { .. }), "{place} is a file: {error:?}");
    }
    let input = || {
        let source = Source::Path(bench.image("usr"));
        vec![Mount { source, target: "/inputs/usr".into(), access: Access::ReadOnly }]
    };
    for to in ["elsewhere", "/proc/self/cwd", "/"] {
        let error = refusal(&link("inputs", to), input());
        assert!(matches!(error, SpawnError::View(_)), "inputs -> {to}: {error:?}");
    }
}

/// All of them live at one moment: none ends before the last has started.
fn many_steps_run_at_the_same_time(bench: &Bench) {
    let all = Barrier::new(MANY.into());
    std::thread::scope(|scope| {
        for slot in 0..MANY {
            let draft = Draft { slot, mounts: vec![], workdir: "/".into(), ..asking(bench, &["polite"]) };
            let limits = Limits { wall_ms: 300_000, ..draft.limits };
            let policy = Policy::new(Draft { limits, ..draft }).expect("policy");
            let all = &all;
            scope.spawn(move || {
                let (_reader, writer) = pipe();
                let errors = writer.try_clone().expect("dup");
                let step = bench.launcher.spawn(&policy, writer, errors).expect("a step");
                all.wait();
                let killer = step.killer();
                let killing = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(20));
                    killer.kill().expect("kill");
                });
                let outcome = step.wait().expect("an outcome");
                killing.join().expect("killer");
                assert_eq!(outcome.exit, Exit::Killed);
                assert_eq!(outcome.enforced.process.uid, 0x7000_0000 + u32::from(slot));
            });
        }
    });
}
