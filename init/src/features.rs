//! What the kernel must offer before anything is run: a machine that cannot confine a step does not start.
//!
//! Asked of the running kernel, not read from a configuration. The sandbox reads back per step what was enforced; this is only
//! the early answer.

use std::io;
use std::path::Path;

use crate::sys;

/// The least Landlock that is accepted: audit records of denials. Source: landlock(7), ABI 7 (Linux 6.15).
const LANDLOCK_ABI_MIN: u32 = 7;

/// Security modules that are active.
const MODULES: [&str; 3] = ["lockdown", "yama", "landlock"];

/// What a system call filter can answer. Source: seccomp(2), /proc/sys/kernel/seccomp/actions_avail.
const SECCOMP_ACTIONS: [&str; 4] = ["kill_process", "user_notif", "errno", "allow"];

/// What only a kernel has that tells of executions and denials: audit with system calls, fanotify. Source: proc(5), fanotify(7).
const TRACING: [&str; 2] = ["/proc/self/sessionid", "/proc/sys/fs/fanotify/max_user_groups"];

/// Root neither changes the kernel nor reads secrets out of it. Forced by the kernel's configuration, whatever the command line.
const LOCKDOWN: &str = "confidentiality";

/// What a step's use of the machine is limited with.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// Why the kernel is not one that steps run on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeatureError {
    /// A file of the kernel's cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// Which.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Landlock is missing.
    #[error("the kernel has no Landlock")]
    NoLandlock {
        /// What the kernel said.
        source: io::Error,
    },
    /// Landlock is too old.
    #[error("the kernel's Landlock is version {found}, not {LANDLOCK_ABI_MIN} or later")]
    OldLandlock {
        /// Its version.
        found: u32,
    },
    /// Something of a list is missing.
    #[error("{path} lacks {missing}: {found:?}")]
    Missing {
        /// The kernel's list.
        path: &'static str,
        /// What it lacks.
        missing: &'static str,
        /// What it says.
        found: String,
    },
    /// Root may read or change the kernel.
    #[error("the kernel is not locked down: {found:?}")]
    NotLockedDown {
        /// What the kernel says.
        found: String,
    },
}

/// Checks all of it, and hands the controllers down to the cgroups below the root.
///
/// # Errors
/// [`FeatureError`], at the first thing that is missing.
pub(crate) fn check() -> Result<(), FeatureError> {
    let landlock = sys::landlock_abi().map_err(|source| FeatureError::NoLandlock { source })?;
    if landlock < LANDLOCK_ABI_MIN {
        return Err(FeatureError::OldLandlock { found: landlock });
    }
    contains_all("/sys/kernel/security/lsm", ',', &MODULES)?;
    contains_all("/proc/sys/kernel/seccomp/actions_avail", ' ', &SECCOMP_ACTIONS)?;
    TRACING.iter().try_for_each(|path| read(path).map(drop))?;
    locked_down(&read("/sys/kernel/security/lockdown")?)?;
    contains_all("/sys/fs/cgroup/cgroup.controllers", ' ', &CONTROLLERS)?;
    let hand_down: Vec<String> = CONTROLLERS.iter().map(|controller| format!("+{controller}")).collect();
    let path = "/sys/fs/cgroup/cgroup.subtree_control";
    std::fs::write(path, hand_down.join(" ")).map_err(|source| FeatureError::Io { path, source })?;
    contains_all(path, ' ', &CONTROLLERS)
}

fn read(path: &'static str) -> Result<String, FeatureError> {
    std::fs::read_to_string(Path::new(path)).map_err(|source| FeatureError::Io { path, source })
}

fn contains_all(path: &'static str, separator: char, wanted: &[&'static str]) -> Result<(), FeatureError> {
    let found = read(path)?;
    match first_missing(&found, separator, wanted) {
        Some(missing) => Err(FeatureError::Missing { path, missing, found }),
        None => Ok(()),
    }
}

fn first_missing(list: &str, separator: char, wanted: &[&'static str]) -> Option<&'static str> {
    wanted.iter().copied().find(|wanted| !list.trim_end().split(separator).any(|found| found == *wanted))
}

/// The kernel lists the levels with the active one in brackets. Source: security/lockdown/lockdown.c.
fn locked_down(levels: &str) -> Result<(), FeatureError> {
    let active = levels.split_whitespace().find_map(|level| level.strip_prefix('[')?.strip_suffix(']'));
    match active {
        Some(LOCKDOWN) => Ok(()),
        _ => Err(FeatureError::NotLockedDown { found: levels.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_compared_word_by_word() {
        assert_eq!(first_missing("lockdown,yama,landlock\n", ',', &MODULES), None);
        assert_eq!(first_missing("lockdown,yamaha,landlock", ',', &MODULES), Some("yama"));
        assert_eq!(first_missing("", ' ', &CONTROLLERS), Some("cpu"));
    }

    #[test]
    fn only_the_highest_level_in_force_locks_down() {
        assert!(locked_down("none integrity [confidentiality]\n").is_ok());
        let weaker = "none [integrity] confidentiality\n";
        for bad in [weaker, "[none] integrity confidentiality\n", "confidentiality\n", ""] {
            assert!(matches!(locked_down(bad), Err(FeatureError::NotLockedDown { .. })), "{bad:?}");
        }
    }
}
