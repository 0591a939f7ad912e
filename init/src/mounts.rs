//! The machine's file systems: a fixed table, mounted once, in this order.
//!
//! The initial root file system cannot be left with pivot_root(2), which the sandbox needs, and it is writable. So the root
//! becomes a read-only bind mount of it first. Nothing else is ever mounted by PID 1; disks are the builder's.

use std::ffi::CStr;
use std::io;

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_remount, move_mount, open_tree};

/// One file system.
struct Mount {
    target: &'static str,
    kind: &'static str,
    flags: MountFlags,
    data: &'static CStr,
}

/// No program there runs with its owner's rights, and no device file there is one.
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
/// [`PLAIN`], and no program there runs at all.
const DATA: MountFlags = PLAIN.union(MountFlags::NOEXEC);

/// What is mounted. Parents come before children.
const TABLE: [Mount; 7] = [
    Mount { target: "/proc", kind: "proc", flags: DATA, data: c"" },
    Mount { target: "/sys", kind: "sysfs", flags: DATA.union(MountFlags::RDONLY), data: c"" },
    // The firmware's event log, and which security modules are active.
    Mount { target: "/sys/kernel/security", kind: "securityfs", flags: DATA.union(MountFlags::RDONLY), data: c"" },
    Mount { target: "/sys/fs/cgroup", kind: "cgroup2", flags: DATA, data: c"" },
    Mount { target: "/dev", kind: "devtmpfs", flags: MountFlags::NOSUID.union(MountFlags::NOEXEC), data: c"" },
    // Sockets and mount points; 16 MiB is a hundred times what they take.
    Mount { target: "/run", kind: "tmpfs", flags: DATA, data: c"mode=0700,size=16m,nr_inodes=64k" },
    // Workspaces and images: what steps write, and run. Each workspace has a limit of its own below this one.
    Mount { target: "/scratch", kind: "tmpfs", flags: PLAIN, data: c"mode=0700,size=80%,nr_inodes=4m" },
];

/// Why the machine has not its file systems.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    /// A mount point that is not there cannot be made.
    #[error("cannot make the mount point {target}")]
    Point {
        /// Where.
        target: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The root cannot be made read-only.
    #[error("cannot switch to a read-only root")]
    Root {
        /// What the kernel said.
        source: rustix::io::Errno,
    },
    /// A file system of the table.
    #[error("cannot mount {target}")]
    Mount {
        /// Where.
        target: &'static str,
        /// What the kernel said.
        source: rustix::io::Errno,
    },
}

/// Switches to the read-only root and mounts the table.
///
/// # Errors
/// [`MountError`], at the first thing that fails.
pub(crate) fn mount_all() -> Result<(), MountError> {
    // Those inside another file system are made by that file system.
    for target in TABLE.iter().map(|mount| mount.target).filter(|target| target.matches('/').count() == 1) {
        match std::fs::create_dir(target) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(MountError::Point { target, source });
            }
            _ => {}
        }
    }
    switch_root().map_err(|source| MountError::Root { source })?;
    for Mount { target, kind, flags, data } in TABLE {
        mount(kind, target, kind, flags, data).map_err(|source| MountError::Mount { target, source })?;
    }
    Ok(())
}

/// Puts a read-only clone of the root over the root and moves into it.
fn switch_root() -> Result<(), rustix::io::Errno> {
    let root = open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    rustix::process::fchdir(&root)?;
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    mount_remount("/", MountFlags::BIND | MountFlags::RDONLY | PLAIN, c"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_nothing_gains_rights() {
        for (at, mount) in TABLE.iter().enumerate() {
            let later = TABLE.iter().skip(at + 1);
            assert!(later.into_iter().all(|other| !mount.target.starts_with(&format!("{}/", other.target))));
            assert!(mount.flags.contains(MountFlags::NOSUID), "{}", mount.target);
            assert!(mount.flags.contains(MountFlags::NODEV) || mount.target == "/dev", "{}", mount.target);
            assert!(mount.flags.contains(MountFlags::NOEXEC) || mount.target == "/scratch", "{}", mount.target);
            assert!(mount.kind != "tmpfs" || mount.data.to_string_lossy().contains("size="), "{}", mount.target);
        }
    }
}
