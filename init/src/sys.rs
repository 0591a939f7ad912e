//! The system calls that no crate wraps. All of this crate's `unsafe` is here.

#![expect(unsafe_code, reason = "system calls without a safe wrapper; each block is one call")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

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

/// Binds a packet socket to one network card: it then has that card's frames and no others. Source: packet(7).
///
/// # Errors
/// What bind(2) says.
pub(crate) fn bind_packets(socket: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let every_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or(0).to_be();
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or(0),
        sll_protocol: every_protocol,
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let bytes = u32::try_from(size_of_val(&address)).unwrap_or(0);
    // SAFETY: bind(2): the address lives through the call, is of the family that it names, and its length is that of its type;
    // the kernel only reads it.
    let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), bytes) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a network card up or down. Source: netdevice(7), SIOCSIFFLAGS.
///
/// # Errors
/// What ioctl(2) says; `ENAMETOOLONG` for a name that no card has.
pub(crate) fn set_up(socket: BorrowedFd<'_>, name: &str, up: bool) -> io::Result<()> {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    if name.len() >= ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (place, byte) in ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    let flags = libc::c_short::try_from(if up { libc::IFF_UP } else { 0 }).unwrap_or(0);
    let request = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: netdevice(7): SIOCSIFFLAGS reads one ifreq, which lives through the call; its name ends in a zero byte.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
