//! Kernel settings: a fixed table, written once and read back.
//!
//! A setting may be missing only where the table says which feature it belongs to and that our kernel is built without it; a
//! setting that is missing for another reason is an error. Source of the names: Documentation/admin-guide/sysctl of Linux.

use std::io;
use std::path::Path;

/// One setting.
struct Sysctl {
    /// Its path below `/proc/sys`.
    path: &'static str,
    value: &'static str,
    /// The feature without which the kernel has no such setting, if our kernel may be built without it.
    absent_without: Option<&'static str>,
}

const fn always(path: &'static str, value: &'static str) -> Sysctl {
    Sysctl { path, value, absent_without: None }
}

const fn unless_absent(path: &'static str, value: &'static str, feature: &'static str) -> Sysctl {
    Sysctl { path, value, absent_without: Some(feature) }
}

/// What is set. The second group is off in our kernel's configuration as well (`kernel-config/absent.config`).
const TABLE: [Sysctl; 18] = [
    // Addresses and messages of the kernel are nobody's business.
    always("kernel/kptr_restrict", "2"),
    always("kernel/dmesg_restrict", "1"),
    always("kernel/perf_event_paranoid", "3"),
    always("kernel/randomize_va_space", "2"),
    // Nobody traces, whatever they may do otherwise: not even the builder reads PID 1's memory, where the statement key is.
    // Source: Documentation/admin-guide/LSM/Yama.rst; /proc/PID/mem and pidfd_getfd(2) ask the same question.
    always("kernel/yama/ptrace_scope", "3"),
    // Links, pipes and files in directories that anyone may write to.
    always("fs/protected_symlinks", "1"),
    always("fs/protected_hardlinks", "1"),
    always("fs/protected_fifos", "2"),
    always("fs/protected_regular", "2"),
    always("fs/suid_dumpable", "0"),
    // Typing into another's terminal.
    always("dev/tty/legacy_tiocsti", "0"),
    unless_absent("kernel/core_pattern", "", "CONFIG_COREDUMP"),
    unless_absent("kernel/unprivileged_bpf_disabled", "1", "CONFIG_BPF_SYSCALL"),
    unless_absent("kernel/io_uring_disabled", "2", "CONFIG_IO_URING"),
    unless_absent("vm/unprivileged_userfaultfd", "0", "CONFIG_USERFAULTFD"),
    unless_absent("kernel/modules_disabled", "1", "CONFIG_MODULES"),
    unless_absent("kernel/kexec_load_disabled", "1", "CONFIG_KEXEC_CORE"),
    unless_absent("kernel/sysrq", "0", "CONFIG_MAGIC_SYSRQ"),
];

/// Why a setting does not hold.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SysctlError {
    /// It cannot be written or read back.
    #[error("cannot set the kernel setting {path}")]
    Io {
        /// Its path below `/proc/sys`.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It reads back as something else.
    #[error("the kernel setting {path} is {found:?} after {value:?} was written")]
    Value {
        /// Its path below `/proc/sys`.
        path: &'static str,
        /// What was written.
        value: &'static str,
        /// What was read.
        found: String,
    },
}

/// Writes the table below `directory` (`/proc/sys`).
///
/// # Errors
/// [`SysctlError`], at the first setting that does not hold.
pub(crate) fn set_all(directory: &Path) -> Result<(), SysctlError> {
    TABLE.iter().try_for_each(|sysctl| set(directory, sysctl))
}

fn set(directory: &Path, sysctl: &Sysctl) -> Result<(), SysctlError> {
    let Sysctl { path, value, absent_without } = *sysctl;
    let file = directory.join(path);
    let failed = |source| SysctlError::Io { path, source };
    // Not std::fs::write: it would make a file that is not there.
    let opened = std::fs::OpenOptions::new().write(true).truncate(true).open(&file);
    match opened.and_then(|mut file| io::Write::write_all(&mut file, format!("{value}\n").as_bytes())) {
        Err(source) if source.kind() == io::ErrorKind::NotFound && absent_without.is_some() => return Ok(()),
        written => written.map_err(failed)?,
    }
    let found = std::fs::read_to_string(&file).map_err(failed)?;
    if found.trim_end() == value { Ok(()) } else { Err(SysctlError::Value { path, value, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_feature_that_is_off_excuses_a_missing_setting() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(set_all(directory.path()), Err(SysctlError::Io { path: "kernel/kptr_restrict", .. })));
        for sysctl in TABLE.iter().filter(|sysctl| sysctl.absent_without.is_none()) {
            let file = directory.path().join(sysctl.path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "an older value").unwrap();
        }
        set_all(directory.path()).unwrap();
        assert_eq!(std::fs::read_to_string(directory.path().join("kernel/kptr_restrict")).unwrap(), "2\n");
        assert!(!directory.path().join("kernel/sysrq").exists());
    }

    #[test]
    fn a_setting_that_does_not_take_is_an_error() {
        // /dev/null takes every write and reads back empty.
        let sysctl = always("null", "1");
        assert!(matches!(set(Path::new("/dev"), &sysctl), Err(SysctlError::Value { path: "null", .. })));
    }
}
