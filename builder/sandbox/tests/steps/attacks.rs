//! What each attack gets under every layer: the table is the promise.

use kiln_sandbox::{Exit, Profile};

use crate::Test;
use crate::bench::{Bench, run};

pub(crate) const TESTS: &[Test] = &[
    ("every_attack_gets_its_answer", every_attack_gets_its_answer),
    ("a_foreign_abi_is_killed", a_foreign_abi_is_killed),
    ("loopback_reaches_itself_and_nothing_else", loopback_reaches_itself_and_nothing_else),
];

/// Attack and answer, in the strict profile.
pub(crate) const ANSWERS: &[(&str, &str)] = &[
    // No network, whichever way.
    ("inet", "EPERM"),
    ("inet6", "EPERM"),
    ("raw", "EPERM"),
    ("packet", "EPERM"),
    ("netlink", "EPERM"),
    ("vsock", "EPERM"),
    ("alg", "EPERM"),
    ("xdp", "EPERM"),
    ("high_domain", "EPERM"),
    ("multipath", "EPERM"),
    ("loopback", "EPERM"),
    ("do_io_uring", "ENOSYS"),
    // Its own processes may talk.
    ("unix_pair", "OK"),
    ("unix_in_tmp", "OK"),
    ("unix_in_work", "EACCES"),
    // The kernel's surface.
    ("do_bpf", "EPERM"),
    ("do_perf", "EPERM"),
    ("do_userfaultfd", "EPERM"),
    ("do_keyctl", "EPERM"),
    ("do_add_key", "EPERM"),
    ("do_reboot", "EPERM"),
    ("do_kexec", "EPERM"),
    ("do_module", "EPERM"),
    ("do_clock", "EPERM"),
    ("do_hostname", "EPERM"),
    ("do_personality", "EPERM"),
    ("do_iopl", "EPERM"),
    ("do_syslog", "EPERM"),
    ("do_handle", "EPERM"),
    ("listener", "EPERM"),
    ("unknown_call", "ENOSYS"),
    ("memfd_exec", "EACCES"),
    // Namespaces.
    ("unshare_user", "EPERM"),
    ("unshare_net", "EPERM"),
    ("clone_user", "EPERM"),
    ("do_clone3", "ENOSYS"),
    ("do_setns", "EPERM"),
    // The view.
    ("do_mount", "EPERM"),
    ("remount", "EPERM"),
    ("do_umount", "EPERM"),
    ("do_fsopen", "EPERM"),
    ("do_open_tree", "EPERM"),
    ("do_mount_setattr", "EPERM"),
    ("do_pivot", "EPERM"),
    ("do_chroot", "EPERM"),
    ("write_root", "EROFS"),
    ("write_scaffold", "EROFS"),
    ("write_dev", "EROFS"),
    ("write_proc", "EROFS"),
    ("write_input", "EROFS"),
    ("truncate_input", "EROFS"),
    ("chmod_input", "EROFS"),
    ("unlink_input", "EROFS"),
    ("link_input", "EXDEV"),
    ("write_work", "OK"),
    ("host_file", "ENOENT"),
    ("core_pattern", "ENOENT"),
    ("proc_cmdline", "ENOENT"),
    ("sysfs", "ENOENT"),
    ("init_environ", "ENOENT"),
    ("init_root", "ENOENT"),
    ("dev_kvm", "ENOENT"),
    ("dev_tpm", "ENOENT"),
    ("dev_mapper", "ENOENT"),
    ("dev_null", "OK"),
    ("random_byte", "OK"),
    ("mknod_device", "EPERM"),
    ("mknod_mem", "EPERM"),
    ("fifo_in_work", "EACCES"),
    ("fifo_in_tmp", "OK"),
    ("set_id", "EPERM"),
    ("set_id_at_open", "EPERM"),
    ("set_attribute", "EOPNOTSUPP"),
    ("dir_in_shm", "EACCES"),
    ("file_in_shm", "OK"),
    // Others.
    ("ptrace_init", "EPERM"),
    ("traceme", "EPERM"),
    ("kill_init", "EPERM"),
    ("pidfd_steal", "EPERM"),
    ("read_init", "EPERM"),
    ("become_root", "EINVAL"),
    ("raise_files", "EPERM"),
    ("terminal", "EPERM"),
    ("terminal_high", "EPERM"),
    ("descriptors", "EBADF"),
    // Storage.
    ("big_file", "EFBIG"),
    ("fill_tmp", "ENOSPC"),
];

fn every_attack_gets_its_answer(bench: &Bench) {
    let mut wrong = Vec::new();
    for (attack, expected) in ANSWERS {
        let ran = bench.probe(&[attack]);
        if ran.answer(attack) != *expected || ran.outcome.exit != (Exit::Code { code: 0 }) {
            wrong.push(format!("{attack}: {} instead of {expected}, {:?}", ran.answer(attack), ran.outcome.exit));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn a_foreign_abi_is_killed(bench: &Bench) {
    assert_eq!(bench.probe(&["x32_call"]).outcome.exit, Exit::PolicyViolation);
    // A kernel without the i386 interface raises SIGSEGV before the filter is asked.
    let exit = bench.probe(&["i386_call"]).outcome.exit;
    assert!(matches!(exit, Exit::PolicyViolation | Exit::Signal { signal: 11 }), "{exit:?}");
}

fn loopback_reaches_itself_and_nothing_else(bench: &Bench) {
    let attacks = ["loopback", "beyond_loopback", "raw", "multipath", "netlink", "vsock"];
    let draft = kiln_sandbox::Draft { profile: Profile::Loopback, ..bench.draft(&attacks) };
    let ran = run(&bench.launcher, draft);
    for (attack, expected) in attacks.iter().zip(["OK", "ENETUNREACH", "EPERM", "EPERM", "EPERM", "EPERM"]) {
        assert_eq!(ran.answer(attack), expected, "{attack}");
    }
}
