//! A step's life: what it finds, how it ends, what is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use kiln_sandbox::{
    Access, ContactError, DetachedTree, Draft, Exit, Layer, Limits, Mount, Policy, Profile, Source, SpawnError,
    TEXT_BYTES_MAX, ViewError,
};

use crate::Test;
use crate::bench::{Bench, pipe, run};

pub(crate) const TESTS: &[Test] = &[
    ("a_step_finds_exactly_what_the_policy_says", a_step_finds_exactly_what_the_policy_says),
    ("every_end_is_told_apart", every_end_is_told_apart),
    ("whatever_it_does_a_step_ends", whatever_it_does_a_step_ends),
    ("loopback_reaches_itself_and_nothing_else", loopback_reaches_itself_and_nothing_else),
    ("a_daemon_left_behind_is_dead", a_daemon_left_behind_is_dead),
    ("another_thread_can_kill", another_thread_can_kill),
    ("a_dropped_step_is_dead", a_dropped_step_is_dead),
    ("outputs_belong_to_root_on_disk", outputs_belong_to_root_on_disk),
    ("a_workspace_in_memory_goes_from_step_to_step", a_workspace_in_memory_goes_from_step_to_step),
    ("what_is_enforced_is_recorded", what_is_enforced_is_recorded),
    ("an_impossible_view_is_refused", an_impossible_view_is_refused),
    ("a_way_out_of_a_writable_tree_is_refused", a_way_out_of_a_writable_tree_is_refused),
    ("a_launcher_refuses_a_threaded_process", a_launcher_refuses_a_threaded_process),
    ("the_longest_text_reaches_the_step", the_longest_text_reaches_the_step),
    ("concurrent_steps_do_not_mix", concurrent_steps_do_not_mix),
    ("no_namespace_is_given_out_twice", no_namespace_is_given_out_twice),
    ("a_program_is_found_in_the_path", a_program_is_found_in_the_path),
    ("nothing_is_left_on_the_host", nothing_is_left_on_the_host),
];

fn a_step_finds_exactly_what_the_policy_says(bench: &Bench) {
    let ran = bench.probe(&["facts", "a b", ""]);
    let expected = "argv [/probe] [facts] [a b] []\nenv [LANG=C]\n\
        pid 2 uid 1000 gid 1000 groups 0 umask 022\n\
        host localhost domain (none) cwd /work/out session 1\nuptime from zero\n";
    assert_eq!(ran.said, expected);
}

fn every_end_is_told_apart(bench: &Bench) {
    let quick = |arguments: &[&str]| {
        let draft = bench.draft(arguments);
        run(&bench.launcher, Draft { limits: Limits { wall_ms: 500, ..draft.limits }, ..draft }).outcome
    };
    assert_eq!(bench.probe(&["exit", "0"]).outcome.exit, Exit::Code { code: 0 });
    assert_eq!(bench.probe(&["exit", "42"]).outcome.exit, Exit::Code { code: 42 });
    assert_eq!(bench.probe(&["self_kill"]).outcome.exit, Exit::Signal { signal: 11 });
    let spun = quick(&["spin"]);
    assert_eq!(spun.exit, Exit::Timeout { in_grace: false });
    assert!((500..5000).contains(&spun.usage.wall_ms), "{:?}", spun.usage);
    assert!(spun.usage.cpu_us > 100_000, "{:?}", spun.usage);
    let missing = Draft { argv: vec!["/nothing".into()], ..bench.draft(&[]) };
    assert_eq!(run(&bench.launcher, missing).outcome.exit, Exit::NotExecutable { errno: libc::ENOENT });
    let no_program = Draft { argv: vec!["/inputs/data".into()], ..bench.draft(&[]) };
    assert_eq!(run(&bench.launcher, no_program).outcome.exit, Exit::NotExecutable { errno: libc::EACCES });
}

fn whatever_it_does_a_step_ends(bench: &Bench) {
    for attack in ["sleep_forever", "stop_self", "deaf", "spin_all"] {
        let draft = bench.draft(&[attack]);
        let outcome = run(&bench.launcher, Draft { limits: Limits { wall_ms: 300, ..draft.limits }, ..draft }).outcome;
        assert!(matches!(outcome.exit, Exit::Timeout { .. }), "{attack}: {:?}", outcome.exit);
    }
}

fn loopback_reaches_itself_and_nothing_else(bench: &Bench) {
    let attacks = ["loopback", "beyond_loopback", "raw", "multipath", "netlink", "vsock"];
    let draft = Draft { profile: Profile::Loopback, ..bench.draft(&attacks) };
    let ran = run(&bench.launcher, draft);
    for (attack, expected) in attacks.iter().zip(["OK", "ENETUNREACH", "EPERM", "EPERM", "EPERM", "EPERM"]) {
        assert_eq!(ran.answer(attack), expected, "{attack}");
    }
}

fn a_daemon_left_behind_is_dead(bench: &Bench) {
    let ran = bench.probe(&["daemon_left"]);
    assert_eq!(ran.outcome.exit, Exit::Code { code: 0 });
    let size = || fs::metadata(bench.workspace().join("late")).map_or(0, |file| file.len());
    let before = size();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(size(), before, "something still writes");
}

fn another_thread_can_kill(bench: &Bench) {
    let policy = Policy::new(bench.draft(&["spin"])).expect("policy");
    let (_reader, writer) = pipe();
    let errors = writer.try_clone().expect("dup");
    let step = bench.launcher.spawn(&policy, writer, errors).expect("step");
    let killer = step.killer();
    let killing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        killer.kill().expect("kill");
    });
    let begin = Instant::now();
    assert_eq!(step.wait().expect("outcome").exit, Exit::Killed);
    assert!(begin.elapsed() < Duration::from_secs(5));
    killing.join().expect("killer");
}

fn a_dropped_step_is_dead(bench: &Bench) {
    let policy = Policy::new(bench.draft(&["spin"])).expect("policy");
    let (reader, writer) = pipe();
    let errors = writer.try_clone().expect("dup");
    drop(bench.launcher.spawn(&policy, writer, errors).expect("step"));
    // The pipe's only other holder was the step.
    assert_eq!(std::io::copy(&mut &reader, &mut std::io::sink()).expect("end of file"), 0);
}

fn outputs_belong_to_root_on_disk(bench: &Bench) {
    use std::os::unix::fs::MetadataExt;
    assert_eq!(bench.probe(&["outputs"]).answer("outputs"), "OK");
    let file = fs::metadata(bench.workspace().join("artifact")).expect("artifact");
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (0, 0, 0o600));
}

fn a_workspace_in_memory_goes_from_step_to_step(bench: &Bench) {
    let workspace = DetachedTree::workspace("out", 1 << 20, 100).expect("workspace");
    let step = |arguments: &[&str], access, slot| {
        let source = Source::Tree(workspace.clone());
        let mounts = vec![Mount { source, target: "/work/out".into(), access }];
        run(&bench.launcher, Draft { mounts, slot, ..bench.draft(arguments) })
    };
    assert_eq!(step(&["outputs"], Access::ReadWrite, 1).answer("outputs"), "OK");
    let second = step(&["outputs", "write_work"], Access::ReadOnly, 2);
    assert_eq!(second.answer("write_work"), "EROFS");
    assert_eq!(step(&["fifo_in_work"], Access::ReadOnly, 3).answer("fifo_in_work"), "EROFS");
    assert_eq!(step(&["write_work"], Access::ReadWrite, 4).answer("write_work"), "OK");
}

fn what_is_enforced_is_recorded(bench: &Bench) {
    let enforced = bench.probe(&["nothing"]).outcome.enforced;
    let limited = enforced.cgroup.files.contains_key("memory.max");
    assert_eq!(enforced.given_up.iter().collect::<Vec<_>>(), if limited { vec![] } else { vec![&Layer::Limits] });
    assert_eq!(enforced.namespaces.len(), 8);
    assert_eq!(enforced.process.uid, 0x7000_0007);
    assert_eq!((enforced.process.capabilities, enforced.process.seccomp_mode), (0, 2));
    assert_eq!((enforced.init.uid, enforced.init.capabilities, enforced.init.seccomp_mode), (0x7000_0400, 0, 2));
    assert!(enforced.process.no_new_privileges);
    assert_eq!(enforced.confirmed.landlock.as_ref().map(|landlock| landlock.abi), Some(7));
    assert_eq!(enforced.confirmed.memfd_noexec, "2");
    assert!(enforced.confirmed.namespaces_max.values().all(|value| value == "0"));
    let mut targets: Vec<_> = enforced.mounts.iter().map(|mount| mount.target.as_str()).collect();
    targets.sort_unstable();
    let expected =
        ["/", "/dev", "/dev/shm", "/inputs", "/inputs/data", "/inputs/tree", "/proc", "/tmp", "/work", "/work/out"];
    assert_eq!(targets, expected);
    assert_eq!(enforced.seccomp_sha256.len(), 64);
}

fn an_impossible_view_is_refused(bench: &Bench) {
    let refusal = |target: &str| {
        let source = Source::Path(bench.workspace());
        let mut draft = bench.draft(&["nothing"]);
        draft.mounts.push(Mount { source, target: target.into(), access: Access::ReadOnly });
        let (_reader, writer) = pipe();
        let errors = writer.try_clone().expect("dup");
        bench.launcher.spawn(&Policy::new(draft).expect("policy"), writer, errors).map(drop).expect_err("no view")
    };
    assert!(matches!(refusal("/nowhere"), SpawnError::View(ViewError::Missing { .. })));
    assert!(matches!(refusal("/nowhere/at/all"), SpawnError::View(ViewError::Missing { .. })));
    let mut draft = bench.draft(&["nothing"]);
    draft.mounts[0].source = Source::Path("/nonexistent".into());
    let (_reader, writer) = pipe();
    let errors = writer.try_clone().expect("dup");
    let error = bench.launcher.spawn(&Policy::new(draft).expect("policy"), writer, errors).map(drop);
    assert!(matches!(error, Err(SpawnError::Source { .. })), "{error:?}");
}

fn a_way_out_of_a_writable_tree_is_refused(bench: &Bench) {
    let attempt = |draft| {
        let (_reader, writer) = pipe();
        let errors = writer.try_clone().expect("dup");
        bench.launcher.spawn(&Policy::new(draft).expect("policy"), writer, errors).map(drop)
    };
    for (make, wanted) in [(make_socket as fn(&Path), "socket"), (make_fifo, "FIFO")] {
        let draft = bench.draft(&["nothing"]);
        let deep = bench.workspace().join("a/b").join("c".repeat(255));
        fs::create_dir_all(&deep).expect("directories");
        fs::write(deep.join("file"), "").expect("file");
        std::os::unix::fs::symlink("/dev", deep.join("link")).expect("link");
        make(&bench.workspace().join("a/b/way"));
        let refused = attempt(draft);
        let Err(SpawnError::Contact(ContactError::Found { target, path, kind })) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((target.as_str(), path.as_str(), kind), ("/work/out", "a/b/way", wanted));
    }
    let draft = bench.draft(&["nothing"]);
    fs::create_dir_all(bench.workspace().join("a/b")).expect("directories");
    attempt(draft).expect("nothing is behind a directory");
}

fn make_socket(path: &Path) {
    std::os::unix::net::UnixListener::bind(path).map(drop).expect("socket");
}

fn make_fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("fifo");
}

fn a_launcher_refuses_a_threaded_process(_: &Bench) {
    let started = std::thread::spawn(|| kiln_sandbox::Launcher::start().map(drop)).join().expect("thread");
    assert!(matches!(started, Err(SpawnError::Threads { count: 2.. })), "{started:?}");
}

fn the_longest_text_reaches_the_step(bench: &Bench) {
    // Quotes take two bytes each on the way to the launcher.
    let text = "\"".repeat(TEXT_BYTES_MAX - 100);
    let ran = bench.probe(&["facts", &text]);
    assert!(ran.said.contains(&text));
}

fn concurrent_steps_do_not_mix(bench: &Bench) {
    let policy = |slot: u16| {
        let code = (slot + 1).to_string();
        Policy::new(Draft { slot, mounts: vec![], workdir: "/".into(), ..bench.draft(&["exit", &code]) })
            .expect("policy")
    };
    std::thread::scope(|scope| {
        for slot in 0..8 {
            let policy = policy(slot);
            scope.spawn(move || {
                for _ in 0..5 {
                    let (_reader, writer) = pipe();
                    let errors = writer.try_clone().expect("dup");
                    let outcome = bench.launcher.spawn(&policy, writer, errors).expect("step").wait().expect("outcome");
                    assert_eq!(outcome.exit, Exit::Code { code: i32::from(slot) + 1 });
                    assert_eq!(outcome.enforced.process.uid, 0x7000_0000 + u32::from(slot));
                }
            });
        }
    });
}

/// The third on come out of sandboxes that were made ahead. While all of them live, no number can be used again.
fn no_namespace_is_given_out_twice(bench: &Bench) {
    let start = |slot| {
        let (reader, writer) = pipe();
        let errors = writer.try_clone().expect("dup");
        let draft = Draft { slot, mounts: vec![], workdir: "/".into(), ..bench.draft(&["sleep_forever"]) };
        (bench.launcher.spawn(&Policy::new(draft).expect("policy"), writer, errors).expect("step"), reader)
    };
    let steps: Vec<_> = (0..4).map(start).collect();
    let numbers: BTreeSet<u64> =
        steps.iter().flat_map(|(step, _)| step.enforced().namespaces.values().copied()).collect();
    assert_eq!(numbers.len(), 4 * 8, "{numbers:?}");
}

fn a_program_is_found_in_the_path(bench: &Bench) {
    let mut draft = bench.draft(&[]);
    draft.argv = vec!["probe".into(), "exit".into(), "5".into()];
    assert_eq!(run(&bench.launcher, draft.clone()).outcome.exit, Exit::NotExecutable { errno: libc::ENOENT });
    draft.env.insert("PATH".into(), "/nothing:/".into());
    assert_eq!(run(&bench.launcher, draft).outcome.exit, Exit::Code { code: 5 });
}

fn nothing_is_left_on_the_host(bench: &Bench) {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").lines().count();
    let descriptors = || fs::read_dir("/proc/self/fd").expect("fd").count();
    let before = (mounts(), descriptors());
    for _ in 0..20 {
        assert_eq!(bench.probe(&["daemon_left"]).outcome.exit, Exit::Code { code: 0 });
    }
    assert_eq!((mounts(), descriptors()), before);
}
