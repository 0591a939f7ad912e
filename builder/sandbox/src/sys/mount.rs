//! The system calls of the mount table: attributes of a mount, and what the kernel knows of each.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// `struct mount_attr`. Source: include/uapi/linux/mount.h.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `MOUNT_ATTR_*`. Source: include/uapi/linux/mount.h.
pub(crate) mod attr {
    /// Nothing below is writable.
    pub(crate) const RDONLY: u64 = 0x1;
    /// Set-user-id bits have no effect.
    pub(crate) const NOSUID: u64 = 0x2;
    /// Device nodes cannot be opened.
    pub(crate) const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub(crate) const NOEXEC: u64 = 0x8;
    /// Owners are mapped through a user namespace.
    pub(crate) const IDMAP: u64 = 0x0010_0000;
}

/// `mount_setattr(2)` on one mount (not its children): adds `set`, and maps owners through `owners` if given.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, set: u64, owners: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: set | if owners.is_some() { attr::IDMAP } else { 0 },
        attr_clr: 0,
        propagation: 0,
        userns_fd: owners.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: the path is a C string of length 0, `attr` outlives the call and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(result)
}

/// `listmount(2)` and `statmount(2)`. Source: arch/x86/entry/syscalls/syscall_64.tbl (libc has no names for them).
const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;
/// `LSMT_ROOT`: the root of the namespace. Source: include/uapi/linux/mount.h.
pub(crate) const LSMT_ROOT: u64 = u64::MAX;
/// `struct mnt_id_req`, first version (24 bytes). Source: include/uapi/linux/mount.h.
#[repr(C)]
struct MountIdRequest {
    size: u32,
    spare: u32,
    mount: u64,
    parameter: u64,
}

impl MountIdRequest {
    fn new(mount: u64, parameter: u64) -> Self {
        Self { size: size_of::<Self>() as u32, spare: 0, mount, parameter }
    }
}

/// `listmount(2)`: the mounts below `mount` that the calling thread can reach, as many as fit. Returns how many were written.
pub(crate) fn list_mounts(mount: u64, ids: &mut [u64]) -> io::Result<usize> {
    let request = MountIdRequest::new(mount, 0);
    // SAFETY: the kernel reads one request and writes at most `ids.len()` numbers; both outlive the call.
    let count = unsafe { libc::syscall(SYS_LISTMOUNT, &raw const request, ids.as_mut_ptr(), ids.len(), 0) };
    check(count)?;
    Ok(count as usize)
}

/// `statmount(2)`: writes a `struct statmount` with the parts that `mask` names, and its strings, to `buffer`.
pub(crate) fn stat_mount(mount: u64, mask: u64, buffer: &mut [u8]) -> io::Result<()> {
    let request = MountIdRequest::new(mount, mask);
    // SAFETY: the kernel reads one request and writes at most `buffer.len()` bytes; both outlive the call.
    check(unsafe { libc::syscall(SYS_STATMOUNT, &raw const request, buffer.as_mut_ptr(), buffer.len(), 0) })
}
