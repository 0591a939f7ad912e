//! Writing to descriptors at whose other end is somebody else, who takes what we write or does not.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// As `Write::write_all`, also to a descriptor that is non-blocking. `until`: how long it may take to get rid of it all; a blocking
/// descriptor does not know of that.
///
/// # Errors
/// As `Write::write_all`; [`ErrorKind::TimedOut`] if not all is taken by then.
pub(crate) fn write_all(to: &mut File, mut bytes: &[u8], until: Option<Instant>) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(to, until)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until some can be written, or it is too late.
fn wait(to: &File, until: Option<Instant>) -> io::Result<()> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    if left.is_some_and(|left| left.is_zero()) {
        return Err(ErrorKind::TimedOut.into());
    }
    let left = left.map(|left| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() });
    match poll(&mut [PollFd::new(to, PollFlags::OUT)], left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
