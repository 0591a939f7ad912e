//! Which layer is behind a system call that the kernel refused by itself: not by the filter, and not by Landlock, which speak for
//! themselves.
//!
//! The kernel says only which error it was. Where that leaves a choice, the wall that stands in front is named.

use super::call::Call;
use crate::filter;
use crate::layer::Layer;

/// The directory of a path that does not start with a slash is the working directory. Source: `AT_FDCWD`, as a register.
const AT_FDCWD: u64 = 0xFFFF_FF9C;

/// Layer, operation and object of a call that ended in EROFS, EACCES or EPERM. `None`: it did not.
pub(super) fn of(call: &Call) -> Option<(Layer, String, String)> {
    let errno = i32::try_from(call.exit?.checked_neg()?).ok()?;
    let object = object(call);
    let layer = match (errno, call.number) {
        (libc::EROFS, _) => Layer::View,
        (libc::EACCES, libc::SYS_memfd_create) => Layer::AnonymousExec,
        (libc::EACCES, libc::SYS_execve | libc::SYS_execveat) if object.contains("/memfd:") => Layer::AnonymousExec,
        (libc::EPERM, libc::SYS_prlimit64 | libc::SYS_setrlimit) => Layer::ProcessLimits,
        (libc::EPERM, libc::SYS_capset | libc::SYS_prctl) => Layer::Capabilities,
        (libc::EACCES | libc::EPERM, _) => Layer::Identity,
        _ => return None,
    };
    let operation = filter::name(call.number).unwrap_or_else(|| format!("system call {}", call.number));
    Some((layer, operation, object))
}

/// The path that was meant, from the root if the records say so much; of a signal, whom it was for.
fn object(call: &Call) -> String {
    let target = call.paths.iter().rev().find(|item| !item.parent).or(call.paths.first());
    let Some(target) = target else {
        let to = call.first as i32;
        return match call.number {
            libc::SYS_kill | libc::SYS_tgkill | libc::SYS_tkill | libc::SYS_prlimit64 => format!("process {to}"),
            _ => String::new(),
        };
    };
    let relative_to_directory = !is_at(call.number) || call.first & 0xFFFF_FFFF == AT_FDCWD;
    if target.name.starts_with('/') || !relative_to_directory || call.directory.is_empty() {
        return target.name.clone();
    }
    format!("{}/{}", call.directory.trim_end_matches('/'), target.name)
}

/// Whether the first argument is a directory.
fn is_at(number: i64) -> bool {
    filter::name(number).is_some_and(|name| name.contains("at"))
        && ![libc::SYS_stat, libc::SYS_lstat, libc::SYS_creat, libc::SYS_truncate].contains(&number)
}

#[cfg(test)]
mod tests {
    use super::super::call::Item;
    use super::*;

    fn call(number: i64, errno: i32, names: &[&str]) -> Call {
        let item = |(position, name): (usize, &&str)| Item {
            name: (*name).into(),
            file: None,
            parent: position == 0 && names.len() > 1,
        };
        Call {
            number,
            exit: Some(-i64::from(errno)),
            first: AT_FDCWD,
            directory: "/work".into(),
            paths: names.iter().enumerate().map(item).collect(),
            ..Call::default()
        }
    }

    #[test]
    fn the_wall_in_front_is_named() {
        let said = |call: &Call| of(call).map(|(layer, operation, object)| format!("{layer} {operation} {object}"));
        let is = |call: Call, expected: &str| assert_eq!(said(&call).as_deref(), Some(expected));
        is(call(libc::SYS_openat, libc::EROFS, &["/", "/evil"]), "view openat /evil");
        is(call(libc::SYS_openat, libc::EACCES, &["/proc/1/environ"]), "identity openat /proc/1/environ");
        is(call(libc::SYS_chmod, libc::EPERM, &["a"]), "identity chmod /work/a");
        is(call(libc::SYS_execveat, libc::EACCES, &["/memfd:m"]), "anonymous_exec execveat /memfd:m");
        is(call(libc::SYS_prlimit64, libc::EPERM, &[]), "process_limits prlimit64 process -100");
        let other = Call { first: 5, ..call(libc::SYS_openat, libc::EROFS, &["a"]) };
        assert_eq!(said(&other).as_deref(), Some("view openat a"));
        assert_eq!(said(&call(libc::SYS_openat, libc::ENOENT, &["/x"])), None);
        assert_eq!(said(&Call { exit: Some(3), ..call(libc::SYS_openat, 0, &["/x"]) }), None);
        assert_eq!(said(&Call { exit: None, ..Call::default() }), None);
    }
}
