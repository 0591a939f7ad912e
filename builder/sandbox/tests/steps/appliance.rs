//! The harness as the only program of a machine: what it mounts and sets when it is PID 1, and how it says what came of it.
//!
//! The machine is the appliance's kernel with the harness as `/init` and the compiled probe beside it; mounts and settings are
//! those of the appliance (`/sysctl` has its table, one `PATH VALUE` a line). `tests/machine/hostile.rs` boots it; by hand, what stands
//! after `--` in the kernel's command line selects tests.

use std::ffi::CStr;
use std::fs;
use std::process::exit;

use nix::sys::reboot::{RebootMode, reboot};
use rustix::fs::CWD;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};

/// What the arguments of the harness are there.
pub(crate) const ARGUMENTS: [&str; 3] = ["--limits", "--probe", "/probe"];
/// What hands down to cgroups below the root.
const CONTROLLERS: &str = "+cpu +io +memory +pids";
/// Where, what, and how; as in the appliance's own table.
const MOUNTS: [(&str, &str, MountFlags, &CStr); 5] = [
    ("/proc", "proc", MountFlags::NOSUID, c""),
    ("/sys", "sysfs", MountFlags::NOSUID, c""),
    ("/sys/fs/cgroup", "cgroup2", MountFlags::NOSUID, c""),
    ("/dev", "devtmpfs", MountFlags::NOSUID, c""),
    ("/tmp", "tmpfs", MountFlags::NOSUID, c"mode=0755,size=80%"),
];

/// Whether this process is the machine's first.
pub(crate) fn is_first() -> bool {
    std::process::id() == 1
}

/// Makes the machine what the appliance makes of it.
pub(crate) fn prepare() {
    for (target, ..) in MOUNTS.iter().filter(|(target, ..)| target.matches('/').count() == 1) {
        fs::create_dir_all(target).expect("a mount point");
    }
    // The initial root cannot be left by pivot_root, which the launcher needs.
    let root =
        open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).expect("the root");
    rustix::process::fchdir(&root).expect("into the root");
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).expect("over the root");
    rustix::process::chroot(".").expect("the root");
    for (target, kind, flags, data) in MOUNTS {
        mount(kind, target, kind, flags, data).expect("a mount of the appliance");
    }
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", CONTROLLERS).expect("controllers");
    let settings = fs::read_to_string("/sysctl").expect("the appliance's settings");
    for line in settings.lines() {
        let (path, value) = line.split_once(' ').expect("PATH VALUE");
        let file = format!("/proc/sys/{path}");
        // What the kernel was built without has no setting.
        if fs::exists(&file).expect("a look at a setting") {
            fs::write(&file, value).expect("a setting");
        }
    }
}

/// Says how many tests passed, and switches the machine off.
pub(crate) fn finish(passed: usize, failed: &[&str]) -> ! {
    println!("hostile: {passed} passed, {} failed {failed:?}", failed.len());
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    println!("cannot switch off: {error}");
    exit(1)
}
