//! The other end of a step's filter: hears of each call that is denied aloud, while its caller waits, and says no.
//!
//! Lossless, because it is synchronous: a step that floods it slows only itself. A waiting caller can be killed as ever. There is
//! no code here that lets a call pass. Source: seccomp_unotify(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::numbers;
use crate::sys;

/// Flags of `clone(2)` beside the exit signal in the lowest byte.
const CLONE_FLAGS: u64 = !0xFF;
/// What a mode is printed of.
const MODE: u64 = 0o17_7777;

/// A step's listener.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

/// One call that was denied: its name, and those arguments that are no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: String,
}

impl Listener {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Denies the call that waits longest. `None`: whoever waited has been killed.
    pub(crate) fn deny_one(&self) -> io::Result<Option<Call>> {
        let Some(asked) = gone(sys::receive_notification(self.0.as_fd()))? else { return Ok(None) };
        let number = i64::from(asked.data.nr);
        let unsupported = numbers::ATTRIBUTES.iter().any(|(listed, _)| *listed == number);
        let errno = if unsupported { libc::ENOTSUP } else { libc::EPERM };
        gone(sys::answer_notification(self.0.as_fd(), asked.id, errno))?;
        // Killed before it had the answer: denied all the same.
        Ok(Some(describe(number, asked.data.args)))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `None` in place of the error that says that the caller is dead. Source: seccomp_unotify(2), ENOENT.
fn gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        result => result.map(Some),
    }
}

/// Names a call by what the filter looked at: 32 bits of each argument, as the kernel does.
fn describe(number: i64, args: [u64; 6]) -> Call {
    let low = |position: usize| args.get(position).copied().unwrap_or_default() & 0xFFFF_FFFF;
    let mode = |position: usize| format!("mode={:#o}", low(position) & MODE);
    let arguments = match number {
        libc::SYS_socket | libc::SYS_socketpair => format!("domain={} type={:#x} protocol={}", low(0), low(1), low(2)),
        libc::SYS_clone => format!("flags={:#x}", low(0) & CLONE_FLAGS),
        libc::SYS_unshare => format!("flags={:#x}", low(0)),
        libc::SYS_setns => format!("type={:#x}", low(1)),
        libc::SYS_ioctl => format!("command={:#x}", low(1)),
        libc::SYS_personality => format!("persona={:#x}", low(0)),
        libc::SYS_seccomp => format!("operation={} flags={:#x}", low(0), low(1)),
        libc::SYS_ptrace => format!("request={:#x}", low(0)),
        libc::SYS_prctl => format!("option={}", low(0)),
        libc::SYS_madvise => format!("advice={}", low(2)),
        libc::SYS_bpf | libc::SYS_keyctl => format!("command={}", low(0)),
        libc::SYS_chmod | libc::SYS_fchmod | libc::SYS_creat | libc::SYS_mkdir | libc::SYS_mknod => mode(1),
        libc::SYS_fchmodat | libc::SYS_fchmodat2 | libc::SYS_mkdirat | libc::SYS_mknodat | libc::SYS_open => mode(2),
        libc::SYS_openat => mode(3),
        _ => String::new(),
    };
    let name = numbers::name(number).unwrap_or_else(|| format!("system call {number}"));
    Call { name, arguments }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_by_what_the_filter_looked_at() {
        let call = |number, args| {
            let Call { name, arguments } = describe(number, args);
            format!("{name} {arguments}")
        };
        // High bits are not the kernel's business, and not ours.
        assert_eq!(call(libc::SYS_socket, [16 | 1 << 32, 3, 0, 0, 0, 0]), "socket domain=16 type=0x3 protocol=0");
        assert_eq!(call(libc::SYS_clone, [0x1000_0011, 0, 0, 0, 0, 0]), "clone flags=0x10000000");
        assert_eq!(call(libc::SYS_openat, [0, 0, 0o101, 0o4755, 0, 0]), "openat mode=0o4755");
        assert_eq!(call(libc::SYS_mount, [1, 2, 3, 4, 5, 6]), "mount ");
        assert_eq!(call(467, [0; 6]), "open_tree_attr ");
        assert_eq!(call(9999, [0; 6]), "system call 9999 ");
    }
}
