//! Passes on what the command says, stream by stream, in order, byte for byte.
//!
//! The command never gets a descriptor of the caller's: not a terminal that it could type into, not a file that it could read or
//! cut. One buffer for each stream, so that a reader who is slow slows the command down and costs no memory. A reader who is gone
//! is a broken pipe for the command as well.
//!
//! The command may have given its end of the pipe to somebody outside, through a socket that it can reach. So the end is not when
//! nobody has it any more, but when the command is gone and what it left in the pipe is taken.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionbio, ioctl_fionread};

use crate::refusal::Refusal;
use crate::write::write_all;

/// Bytes taken at a time: what a pipe holds. Source: pipe(7).
const BUFFER_BYTES: usize = 64 * 1024;

/// Both streams on their way. Dropped, it is over as well, without anybody waiting.
#[derive(Debug)]
pub(crate) struct Relay {
    streams: [(&'static str, JoinHandle<io::Result<()>>); 2],
    /// Dropped once the command is gone, which tells both threads.
    running: PipeWriter,
}

impl Relay {
    /// Begins to pass on to our own standard output and error. Returns the ends for the command.
    ///
    /// # Errors
    /// If there are no more descriptors or threads to be had.
    pub(crate) fn start() -> Result<(Self, OwnedFd, OwnedFd), Refusal> {
        let failed = |source| Refusal::Pipe { source };
        let (over, running) = io::pipe().map_err(failed)?;
        let over = Arc::new(over);
        let begin = |name: &str, to: io::Result<OwnedFd>| {
            let (to, (reader, writer)) = (File::from(to.map_err(failed)?), io::pipe().map_err(failed)?);
            // Only our end: each end has flags of its own.
            ioctl_fionbio(&reader, true).map_err(|error| failed(error.into()))?;
            let over = Arc::clone(&over);
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || pass(reader, to, &over));
            Ok::<_, Refusal>((thread.map_err(failed)?, OwnedFd::from(writer)))
        };
        let (output, stdout) = begin("output", io::stdout().as_fd().try_clone_to_owned())?;
        let (errors, stderr) = begin("error", io::stderr().as_fd().try_clone_to_owned())?;
        Ok((Self { streams: [("output", output), ("error", errors)], running }, stdout, stderr))
    }

    /// Waits until everything is passed on that the command said. Its processes are gone, so nothing more of it comes.
    ///
    /// # Errors
    /// If something could not be passed on for another reason than that nobody reads.
    pub(crate) fn finish(self) -> Result<(), Refusal> {
        let Self { streams, running } = self;
        drop(running);
        for (stream, thread) in streams {
            let passed = thread.join().unwrap_or_else(|_| Err(ErrorKind::Other.into()));
            passed.map_err(|source| Refusal::Output { stream, source })?;
        }
        Ok(())
    }
}

/// What came of taking one buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// There may be more.
    Some,
    /// There is nothing now.
    Nothing,
    /// There is nothing more to come, or nobody to take it.
    End,
}

/// Dropping our end of the pipe, at the end of this, tells the command.
fn pass(mut from: PipeReader, mut to: File, over: &PipeReader) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    while !is_over(&from, over)? {
        if take(&mut from, &mut to, &mut buffer)? == Taken::End {
            return Ok(());
        }
    }
    // What is in the pipe now, and not what somebody outside goes on writing.
    let mut rest = (&from).take(ioctl_fionread(&from)?);
    while take(&mut rest, &mut to, &mut buffer)? == Taken::Some {}
    Ok(())
}

/// Waits until something can be taken, or the command is gone. Whether it is gone.
fn is_over(from: &PipeReader, over: &PipeReader) -> io::Result<bool> {
    let mut polled = [PollFd::new(from, PollFlags::IN), PollFd::new(over, PollFlags::IN)];
    match poll(&mut polled, None) {
        Ok(_) => Ok(polled.last().is_some_and(|over| !over.revents().is_empty())),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes one buffer, at most, and passes it on.
fn take(from: &mut impl Read, to: &mut File, buffer: &mut [u8]) -> io::Result<Taken> {
    let taken = match from.read(buffer) {
        Ok(0) => return Ok(Taken::End),
        Ok(taken) => taken,
        Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(Taken::Some),
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Taken::Nothing),
        Err(error) => return Err(error),
    };
    match write_all(to, buffer.get(..taken).unwrap_or_default(), None) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Taken::End),
        result => result.map(|()| Taken::Some),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn somebody_outside_who_goes_on_writing_is_not_listened_to() {
        let ((from, mut writer), (over, running)) = (io::pipe().expect("pipe"), io::pipe().expect("pipe"));
        ioctl_fionbio(&from, true).expect("flags");
        writer.write_all(b"the last words").expect("room");
        let outside = std::thread::spawn(move || while writer.write_all(&[b'x'; 4096]).is_ok() {});
        drop(running);
        let heard = tempfile::NamedTempFile::new().expect("file");
        pass(from, heard.reopen().expect("file"), &over).expect("passed on");
        outside.join().expect("it finds the pipe broken");
        assert!(std::fs::read(heard.path()).expect("file").starts_with(b"the last words"));
    }
}
