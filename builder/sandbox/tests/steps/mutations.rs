//! Switches layers off and sees the probe's answers change, exactly as listed: no layer is decoration, and where two layers cover
//! one attack, each is seen to hold alone.
//!
//! Only attacks whose answer does not depend on what else a kernel was configured with are compared.

use kiln_sandbox::{Layer, Policy, ReadBackError, SpawnError};

use crate::Test;
use crate::attacks::ANSWERS;
use crate::bench::{Bench, pipe, run};

pub(crate) const TESTS: &[Test] = &[
    ("a_layer_off_changes_exactly_these_answers", a_layer_off_changes_exactly_these_answers),
    ("what_is_off_is_read_back_as_off", what_is_off_is_read_back_as_off),
    ("a_layer_that_is_missing_stops_the_step", a_layer_that_is_missing_stops_the_step),
];

/// Layers that are left out behind the caller's back.
pub(crate) const SABOTAGED: [Layer; 7] = [
    Layer::Seccomp,
    Layer::Landlock,
    Layer::Capabilities,
    Layer::NestedNamespaces,
    Layer::AnonymousExec,
    Layer::Descriptors,
    Layer::Trace,
];

/// Layers that are off, and the answers that are then others than with every layer on.
pub(crate) struct Mutant {
    pub(crate) off: &'static [Layer],
    changes: &'static [(&'static str, &'static str)],
}

const COMPARED: [&str; 26] = [
    "inet",
    "netlink",
    "loopback",
    "unix_in_work",
    "listener",
    "memfd_exec",
    "unshare_user",
    "unshare_net",
    "clone_user",
    "do_clone3",
    "do_mount",
    "do_umount",
    "do_chroot",
    "do_hostname",
    "write_root",
    "write_input",
    "host_file",
    "mknod_device",
    "fifo_in_work",
    "set_id",
    "set_id_at_open",
    "dir_in_shm",
    "ptrace_init",
    "kill_init",
    "become_root",
    "terminal",
];

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        off: &[Layer::Seccomp],
        changes: &[
            ("inet", "OK"),
            ("netlink", "OK"),
            // Landlock still forbids every port.
            ("loopback", "EACCES"),
            ("listener", "OK"),
            // The settings in the user namespace still allow none.
            ("unshare_user", "ENOSPC"),
            ("clone_user", "ENOSPC"),
            ("do_clone3", "OK"),
            // Landlock still forbids devices.
            ("mknod_device", "EACCES"),
            ("set_id", "OK"),
            ("set_id_at_open", "OK"),
            ("terminal", "ENOTTY"),
        ],
    },
    Mutant {
        off: &[Layer::Landlock],
        changes: &[("unix_in_work", "OK"), ("fifo_in_work", "OK"), ("dir_in_shm", "OK")],
    },
    Mutant { off: &[Layer::AnonymousExec], changes: &[("memfd_exec", "OK")] },
    Mutant {
        off: &[Layer::Seccomp, Layer::NestedNamespaces],
        changes: &[("unshare_user", "OK"), ("clone_user", "OK")],
    },
    // Without the layer, execve itself takes the capabilities of a user other than root.
    Mutant { off: &[Layer::Capabilities], changes: &[] },
    Mutant { off: &[Layer::Descriptors], changes: &[] },
];

/// What a mutant should answer: its own changes over those of each smaller mutant over the table.
fn expected(mutant: &Mutant, attack: &str) -> &'static str {
    let smaller = MUTANTS.iter().filter(|other| other.off.iter().all(|layer| mutant.off.contains(layer)));
    let changes = smaller.flat_map(|other| other.changes).rev();
    let mut all = changes.chain(ANSWERS).filter(|(name, _)| *name == attack);
    all.next().expect("an attack of the table").1
}

fn a_layer_off_changes_exactly_these_answers(bench: &Bench) {
    let mut wrong = Vec::new();
    for mutant in MUTANTS {
        for attack in COMPARED {
            let ran = run(bench.mutant(mutant.off), bench.draft(&[attack]));
            let given_up = &ran.outcome.enforced.given_up;
            assert!(mutant.off.iter().all(|layer| given_up.contains(layer)), "what is given up is recorded");
            let expected = expected(mutant, attack);
            if ran.answer(attack) != expected {
                wrong.push(format!("{:?} off: {attack}: {} instead of {expected}", mutant.off, ran.answer(attack)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn what_is_off_is_read_back_as_off(bench: &Bench) {
    let enforced = |launcher| run(launcher, bench.draft(&["nothing"])).outcome.enforced;
    assert_eq!(enforced(&bench.launcher).descriptors, [0, 1, 2, 3]);
    // The step still holds what its set-up opened.
    assert!(enforced(bench.mutant(&[Layer::Descriptors])).descriptors.len() > 4);
    assert_ne!(enforced(bench.mutant(&[Layer::Capabilities])).process.capabilities, 0);
    assert_eq!(enforced(bench.mutant(&[Layer::Seccomp])).process.seccomp_mode, 0);
    assert_eq!(enforced(bench.mutant(&[Layer::Landlock])).confirmed.landlock, None);
    assert_ne!(enforced(bench.mutant(&[Layer::AnonymousExec])).confirmed.memfd_noexec, "2");
}

fn a_layer_that_is_missing_stops_the_step(bench: &Bench) {
    for (sabotaged, launcher) in &bench.saboteurs {
        let policy = Policy::new(bench.draft(&["write_work"])).expect("policy");
        let (reader, writer) = pipe();
        let errors = writer.try_clone().expect("dup");
        let stopped = launcher.spawn(&policy, writer, errors).map(drop);
        let Err(SpawnError::ReadBack(ReadBackError::NotEnforced { layer, .. })) = stopped else {
            panic!("{sabotaged} left out: {stopped:?}");
        };
        assert_eq!(layer, *sabotaged);
        assert_eq!(std::io::copy(&mut &reader, &mut std::io::sink()).expect("end of file"), 0, "it said nothing");
        assert!(!bench.workspace().join("file").exists(), "it did nothing");
    }
}
