//! What becomes of the builder's process before it is the builder.
//!
//! It starts as PID 1's program under another name, with an empty environment, the console as output and the socket to PID 1 as
//! its standard input. Single-threaded until it hands over, because the sandbox forks its launcher first.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::sys::signal::SigSet;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities};

/// What neither the builder nor a step may do, root or not: power is PID 1's, the kernel is nobody's. The sandbox needs most of the
/// others, `CAP_SYS_TIME` too: it sets the clocks of a step's time namespace (time_namespaces(7)).
const TAKEN: [CapabilitySet; 9] = [
    CapabilitySet::SYS_BOOT,
    CapabilitySet::SYS_MODULE,
    CapabilitySet::SYS_RAWIO,
    CapabilitySet::SYSLOG,
    CapabilitySet::MAC_ADMIN,
    CapabilitySet::MAC_OVERRIDE,
    CapabilitySet::BPF,
    CapabilitySet::PERFMON,
    CapabilitySet::WAKE_ALARM,
];

/// Why the builder does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    /// Its descriptors.
    #[error("the builder cannot take its socket")]
    Socket {
        /// What the kernel said.
        source: io::Error,
    },
    /// Its signals.
    #[error("the builder cannot take its signals")]
    Signals {
        /// What the kernel said.
        source: nix::Error,
    },
    /// Its capabilities.
    #[error("the builder cannot give up capabilities")]
    Capabilities {
        /// What the kernel said.
        source: Errno,
    },
}

/// Takes the socket from standard input, which becomes `/dev/null`, unblocks the signals that PID 1 waits for by other means, and
/// gives up [`TAKEN`].
///
/// # Errors
/// [`ChildError`].
pub(crate) fn prepare() -> Result<UnixStream, ChildError> {
    give_up_capabilities().map_err(|source| ChildError::Capabilities { source })?;
    SigSet::empty().thread_set_mask().map_err(|source| ChildError::Signals { source })?;
    take_socket().map_err(|source| ChildError::Socket { source })
}

/// The same for a server's builder, whose standard output is its end of the wire.
///
/// # Errors
/// [`ChildError`].
pub(crate) fn prepare_with_stream() -> Result<(UnixStream, UnixStream), ChildError> {
    let custody = prepare()?;
    let stream = take_stream().map_err(|source| ChildError::Socket { source })?;
    Ok((custody, stream))
}

/// What the wire starts with: its orders. It gives up everything else itself, once it has what it needs.
///
/// # Errors
/// [`ChildError::Socket`].
pub(crate) fn prepare_wire() -> Result<OwnedFd, ChildError> {
    SigSet::empty().thread_set_mask().map_err(|source| ChildError::Signals { source })?;
    take_input().map_err(|source| ChildError::Socket { source })
}

fn take_socket() -> io::Result<UnixStream> {
    take_input().map(UnixStream::from)
}

fn take_input() -> io::Result<OwnedFd> {
    let input = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(input)
}

fn take_stream() -> io::Result<UnixStream> {
    let output = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    nix::unistd::dup2_stdout(io::stderr())?;
    Ok(UnixStream::from(output))
}

fn give_up_capabilities() -> Result<(), Errno> {
    let mut sets = capabilities(None)?;
    for capability in TAKEN {
        remove_capability_from_bounding_set(capability)?;
        sets.effective.remove(capability);
        sets.permitted.remove(capability);
        sets.inheritable.remove(capability);
    }
    set_capabilities(None, sets)
}
