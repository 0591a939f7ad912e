//! What a step executes and is denied is in its trace, whole, whatever it does about it.

use kiln_sandbox::{Denial, Draft, Execution, Exit, Layer, Trace};
use sha2::{Digest, Sha256};

use crate::Test;
use crate::bench::{Bench, run};

pub(crate) const TESTS: &[Test] = &[
    ("a_whole_process_tree_is_traced", a_whole_process_tree_is_traced),
    ("long_arguments_are_cut_and_said_to_be", long_arguments_are_cut_and_said_to_be),
    ("what_is_hashed_is_what_runs", what_is_hashed_is_what_runs),
    ("a_denial_of_each_layer_is_named", a_denial_of_each_layer_is_named),
    ("a_flood_of_denials_is_counted", a_flood_of_denials_is_counted),
    ("executions_beyond_the_list_are_counted", executions_beyond_the_list_are_counted),
    ("a_step_cannot_switch_its_trace_off", a_step_cannot_switch_its_trace_off),
    ("traces_of_concurrent_steps_do_not_mix", traces_of_concurrent_steps_do_not_mix),
    ("a_trace_that_is_given_up_is_none", a_trace_that_is_given_up_is_none),
];

fn draft(bench: &Bench, arguments: &[&str]) -> Draft {
    let mut draft = bench.draft(arguments);
    draft.argv[0] = "/traced".into();
    draft
}

fn traced(bench: &Bench, arguments: &[&str]) -> Trace {
    let outcome = run(&bench.launcher, draft(bench, arguments)).outcome;
    assert_eq!(outcome.exit, Exit::Code { code: 0 });
    outcome.trace.expect("a trace")
}

/// How often it was denied. Alternatives of the object are divided by `|`: of a file that was not made, older kernels tell only the
/// directory.
fn count(trace: &Trace, layer: Layer, operation: &str, object: &str) -> u64 {
    let is = |found: &str| object.split('|').any(|object| object == found);
    let same = |denial: &&Denial| (denial.layer, &*denial.operation) == (layer, operation) && is(&denial.object);
    trace.denials.iter().find(same).map_or(0, |denial| denial.count)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn a_whole_process_tree_is_traced(bench: &Bench) {
    let trace = traced(bench, &["tree"]);
    let program = std::fs::read(bench.image("traced")).expect("program");
    let made = [program.as_slice(), b"made here"].concat();
    let script = b"#!/traced nothing\n".as_slice();
    let expected: &[(&str, &[u8], &[&str])] = &[
        ("/traced", &program, &["/traced", "tree"]),
        ("/traced", &program, &["forked", "nothing"]),
        ("/traced", &program, &["vforked", "nothing"]),
        ("/traced", &program, &["daemon", "nothing"]),
        ("/tmp/script", script, &["/traced", "nothing", "/tmp/script", "of \"its\"\\x0a own"]),
        ("/work/out/made", &made, &["made", "nothing"]),
        ("/work/out/made", &made, &["relative", "nothing"]),
        ("/work/out/made", &made, &["fd", "nothing"]),
        ("/traced", &program, &["", "nothing", "\\xff\\\\"]),
    ];
    assert_eq!((trace.executions.len(), trace.executions_unlisted), (expected.len(), 0), "{:#?}", trace.executions);
    for (path, content, argv) in expected {
        let found = trace.executions.iter().find(|execution| execution.argv == *argv);
        let found = found.unwrap_or_else(|| panic!("{argv:?} of {:#?}", trace.executions));
        assert_eq!((found.path.as_str(), &found.sha256), (*path, &sha256(content)), "{argv:?}");
        assert!(!found.argv_cut);
    }
    let main = trace.executions.first().expect("the main process");
    let by_main = |execution: &&Execution| execution.parent == main.pid;
    // All but itself and the daemon, whose parent was gone.
    assert_eq!(trace.executions.iter().filter(by_main).count(), expected.len() - 2);
    assert_eq!(trace.denials, []);
}

fn long_arguments_are_cut_and_said_to_be(bench: &Bench) {
    let trace = traced(bench, &["long_argv"]);
    let cut = trace.executions.iter().find(|execution| execution.argv_cut).expect("a cut one");
    assert_eq!(cut.argv[..2], ["long", "nothing"]);
    assert!(cut.argv[2].len() > 3000 && cut.argv.iter().map(String::len).sum::<usize>() <= 4096);
}

/// A script is written over while it is executed. Its first line, which the kernel acted on, comes back in the arguments; the
/// digest must be that of the very file with this line.
fn what_is_hashed_is_what_runs(bench: &Bench) {
    let trace = traced(bench, &["race"]);
    let scripts: Vec<_> = trace.executions.iter().filter(|execution| execution.path == "/tmp/changing").collect();
    for execution in &scripts {
        let line = format!("#!/traced {}\n", execution.argv[1]);
        assert_eq!(execution.sha256, sha256(line.as_bytes()), "{execution:?}");
    }
    let mut versions: Vec<_> = scripts.iter().map(|execution| &execution.sha256).collect();
    versions.sort_unstable();
    versions.dedup();
    assert!(versions.len() > 1, "it never changed in {} executions", scripts.len());
}

fn a_denial_of_each_layer_is_named(bench: &Bench) {
    let trace = traced(bench, &["denials"]);
    for (layer, operation, object) in [
        (Layer::Seccomp, "socket", "domain=16 type=0x3 protocol=0"),
        (Layer::Seccomp, "unshare", "flags=0x10000000"),
        (Layer::Seccomp, "setxattr", ""),
        (Layer::Landlock, "fs.make_dir", "/dev/shm"),
        (Layer::View, "openat", "/|/evil"),
        (Layer::Identity, "openat", "/work/out/../../inputs/data"),
        (Layer::View, "chown", "/traced"),
        (Layer::Identity, "kill", "process 1"),
        (Layer::Identity, "execve", "/tmp/plain"),
        (Layer::ProcessLimits, "prlimit64", "process 0"),
        (Layer::AnonymousExec, "memfd_create", ""),
    ] {
        assert_eq!(count(&trace, layer, operation, object), 1, "{layer} {operation} {object}: {:#?}", trace.denials);
    }
    assert_eq!((trace.denials.len(), trace.denials_unlisted), (11, 0));
}

fn a_flood_of_denials_is_counted(bench: &Bench) {
    let flood = |name| traced(bench, &[name, "3000"]);
    assert_eq!(count(&flood("deny"), Layer::Seccomp, "socket", "domain=2 type=0x1 protocol=0"), 3000);
    assert_eq!(count(&flood("deny_view"), Layer::View, "openat", "/|/evil"), 3000);
    let landlock = flood("deny_landlock");
    let listed = count(&landlock, Layer::Landlock, "fs.make_dir", "/dev/shm");
    assert_eq!(listed + landlock.denials_unlisted, 3000);
}

fn executions_beyond_the_list_are_counted(bench: &Bench) {
    let mut draft = draft(bench, &["many", "4200"]);
    draft.limits.wall_ms = 300_000;
    let trace = run(&bench.launcher, draft).outcome.trace.expect("a trace");
    assert_eq!((trace.executions.len(), trace.executions_unlisted), (4096, 4201 - 4096));
}

fn a_step_cannot_switch_its_trace_off(bench: &Bench) {
    let trace = traced(bench, &["blind"]);
    let argvs: Vec<_> = trace.executions.iter().map(|execution| execution.argv[0].as_str()).collect();
    assert_eq!(argvs, ["/traced", "blind"]);
    assert_eq!(count(&trace, Layer::Landlock, "fs.make_dir", "/dev/shm"), 1);
    assert_eq!(count(&trace, Layer::Identity, "kill", "process 1"), 1);
    assert_eq!(count(&trace, Layer::Seccomp, "socket", "domain=16 type=0x3 protocol=9"), 1);
    assert_eq!(count(&trace, Layer::Seccomp, "fanotify_init", ""), 1);
}

fn traces_of_concurrent_steps_do_not_mix(bench: &Bench) {
    std::thread::scope(|scope| {
        for slot in 20..24 {
            let denials = u64::from(slot);
            let arguments = ["deny_landlock".to_owned(), denials.to_string()];
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let draft = Draft { slot, mounts: vec![], workdir: "/".into(), ..draft(bench, &arguments) };
            scope.spawn(move || {
                let trace = run(&bench.launcher, draft).outcome.trace.expect("a trace");
                assert_eq!(count(&trace, Layer::Landlock, "fs.make_dir", "/dev/shm"), denials);
                assert_eq!((trace.denials.len(), trace.executions.len()), (1, 1), "{trace:#?}");
            });
        }
    });
}

fn a_trace_that_is_given_up_is_none(bench: &Bench) {
    let outcome = run(bench.mutant(&[Layer::Trace]), draft(bench, &["denials"])).outcome;
    assert_eq!((outcome.trace, outcome.exit), (None, Exit::Code { code: 0 }));
    assert!(outcome.enforced.given_up.contains(&Layer::Trace));
}
