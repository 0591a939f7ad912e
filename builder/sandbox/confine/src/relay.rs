//! Passes on what the command says, stream by stream, in order, byte for byte.
//!
//! The command never gets a descriptor of the caller's: not a terminal that it could type into, not a file that it could read or
//! cut. One buffer for each stream, so that a reader who is slow slows the command down and costs no memory. A reader who is gone
//! is a broken pipe for the command as well.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};

use crate::refusal::Refusal;

/// Bytes taken at a time: what a pipe holds. Source: pipe(7).
const BUFFER_BYTES: usize = 64 * 1024;

/// Both streams on their way.
#[derive(Debug)]
pub(crate) struct Relay {
    streams: [(&'static str, JoinHandle<io::Result<()>>); 2],
}

impl Relay {
    /// Begins to pass on to our own standard output and error. Returns the ends for the command.
    ///
    /// # Errors
    /// If there are no more descriptors or threads to be had.
    pub(crate) fn start() -> Result<(Self, OwnedFd, OwnedFd), Refusal> {
        let failed = |source| Refusal::Pipe { source };
        let begin = |name: &str, to: io::Result<OwnedFd>| {
            let (to, (reader, writer)) = (File::from(to.map_err(failed)?), io::pipe().map_err(failed)?);
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || pass(reader, to));
            Ok::<_, Refusal>((thread.map_err(failed)?, OwnedFd::from(writer)))
        };
        let (output, stdout) = begin("output", io::stdout().as_fd().try_clone_to_owned())?;
        let (errors, stderr) = begin("error", io::stderr().as_fd().try_clone_to_owned())?;
        Ok((Self { streams: [("output", output), ("error", errors)] }, stdout, stderr))
    }

    /// Waits until everything is passed on; nothing comes any more once the command's processes are gone.
    ///
    /// # Errors
    /// If something could not be passed on for another reason than that nobody reads.
    pub(crate) fn finish(self) -> Result<(), Refusal> {
        for (stream, thread) in self.streams {
            let passed = thread.join().unwrap_or_else(|_| Err(ErrorKind::Other.into()));
            passed.map_err(|source| Refusal::Output { stream, source })?;
        }
        Ok(())
    }
}

fn pass(mut from: PipeReader, mut to: File) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let taken = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(taken) => taken,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        match write_all(&mut to, buffer.get(..taken).unwrap_or_default()) {
            // Dropping our end of the pipe tells the command.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
    }
}

/// As `Write::write_all`, also to a descriptor that somebody else made non-blocking.
fn write_all(to: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                match poll(&mut [PollFd::new(to, PollFlags::OUT)], None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
