//! The two system calls that no crate wraps. All of this crate's `unsafe` is here.

#![expect(unsafe_code, reason = "system calls without a safe wrapper; each block is one call")]

use std::io;

/// Asks only for the version. Source: linux/landlock.h.
const LANDLOCK_CREATE_RULESET_VERSION: libc::c_ulong = 1;

/// The version of Landlock that the kernel enforces.
///
/// # Errors
/// `ENOSYS` where Landlock is not compiled in, `EOPNOTSUPP` where it is not active.
pub(crate) fn landlock_abi() -> io::Result<u32> {
    let no_attributes = std::ptr::null::<libc::c_void>();
    // SAFETY: landlock_create_ruleset(2): with this flag the call takes a null pointer and a size of zero, reads and writes no
    // memory and makes no file descriptor.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, no_attributes, 0_usize, LANDLOCK_CREATE_RULESET_VERSION)
    };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

/// Marks every file descriptor from 3 on to be closed when another program is executed.
///
/// # Errors
/// What close_range(2) says.
pub(crate) fn close_on_exec() -> io::Result<()> {
    // SAFETY: close_range(2): with CLOSE_RANGE_CLOEXEC the call closes nothing and takes no pointer, so no owner of a
    // descriptor in this process can notice it.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
