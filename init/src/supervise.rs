//! PID 1's long wait: the builder's requests, and the dead.
//!
//! One thread, one wait, everything bounded. The builder is the only child that matters: orphans of steps end up here and are
//! reaped without a look. A builder that ends without a last word, says something that is none of the protocol, or outlives
//! [`LIFETIME`] is a fault.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use kiln_builder::custody::{self, Measurement, Request};
use kiln_formats::event::Event as Measured;
use kiln_formats::manifest::Outcome;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use crate::custody::{Answer, Custody};
use crate::fault::Fault;
use crate::measure::Registers;
use crate::metal::MetalError;
use crate::metal::wire::{Ends, Wire, WireError};
use crate::{power, sys};

/// The longest life of a machine: a job with the longest step (24 hours) and another one beside it.
const LIFETIME: Duration = Duration::from_secs(48 * 60 * 60);

/// How long the builder may take to send the rest of a message, and to take an answer. Milliseconds on an idle machine; steps
/// may keep every processor busy.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the end of a process may come after the end of its socket.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the wait is over without an outcome.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuperviseError {
    /// The builder cannot be started.
    #[error("cannot start the builder")]
    Start {
        /// What the kernel said.
        source: io::Error,
    },
    /// Waiting failed.
    #[error("cannot wait for the builder")]
    Wait {
        /// What the kernel said.
        source: Errno,
    },
    /// A message did not come through.
    #[error("the builder's message did not come through")]
    Message {
        /// Why.
        source: custody::CustodyError,
    },
    /// The builder ended before the job did.
    #[error("the builder ended without a last word: {how}")]
    Ended {
        /// How.
        how: String,
    },
    /// [`LIFETIME`] is over.
    #[error("the machine has lived for {} hours", LIFETIME.as_secs() / 3600)]
    Lifetime,
}

/// The builder's process and PID 1's ways to hear of it.
struct Builder {
    pid: Pid,
    socket: UnixStream,
    deaths: SignalFd,
}

/// Starts the builder and answers it until the job has ended. On a server the builder gets its end of the wire, which rests while a
/// step runs.
///
/// # Errors
/// [`Fault`]: what [`Custody`] says, what the wire says, or [`SuperviseError`].
pub(crate) fn run<R: Registers>(mut custody: Custody<R>, connected: Option<(Wire, Ends)>) -> Result<Outcome, Fault> {
    let (wire, stream) = connected.unzip();
    let mut builder = start(stream).map_err(|source| SuperviseError::Start { source })?;
    let outcome = serve(&mut builder, &mut custody, wire.as_ref());
    // Before its socket is closed, which it would complain about.
    power::end_everyone();
    outcome
}

fn serve<R: Registers>(builder: &mut Builder, custody: &mut Custody<R>, wire: Option<&Wire>) -> Result<Outcome, Fault> {
    let end = Instant::now() + LIFETIME;
    let mut ended = None;
    loop {
        // After its death the builder's last messages are still there.
        let left = if ended.is_some() { Duration::ZERO } else { end.saturating_duration_since(Instant::now()) };
        match next(builder, wire, left)? {
            // Before the builder says that its link is gone: the wire knows why.
            Some(Event::Wire(error)) => return Err(MetalError::from(error).into()),
            Some(Event::Request) => match custody::receive::<Request>(&mut builder.socket) {
                Ok(request) => {
                    let rest = Rest::of(&request);
                    match custody.answer(request)? {
                        Answer::End(outcome) => return Ok(outcome),
                        Answer::Reply(reply) => {
                            rest.zip(wire).map_or(Ok(()), |(rest, wire)| rest.order(wire))?;
                            custody::send(&mut builder.socket, &reply)
                                .map_err(|source| SuperviseError::Message { source })?;
                        }
                    }
                }
                Err(custody::CustodyError::Closed) => return Err(last_word(builder, ended)?.into()),
                Err(source) => return Err(SuperviseError::Message { source }.into()),
            },
            Some(Event::Death) => ended = reap(builder)?.or(ended),
            None if ended.is_some() => return Err(last_word(builder, ended)?.into()),
            None => return Err(SuperviseError::Lifetime.into()),
        }
    }
}

/// What a measured event means for the wire: from a step's begin to its end nothing comes or goes.
enum Rest {
    Begins,
    Ends,
}

impl Rest {
    fn of(request: &Request) -> Option<Self> {
        match request {
            Request::Measure { what: Measurement::Event { event: Measured::StepBegin(..) } } => Some(Self::Begins),
            Request::Measure { what: Measurement::Event { event: Measured::StepTrace(..) } } => Some(Self::Ends),
            _ => None,
        }
    }

    fn order(&self, wire: &Wire) -> Result<(), MetalError> {
        match self {
            Self::Begins => wire.hold(),
            Self::Ends => wire.resume(),
        }
    }
}

fn start(stream: Option<Ends>) -> io::Result<Builder> {
    let (socket, theirs) = UnixStream::pair()?;
    socket.set_read_timeout(Some(MESSAGE_TIMEOUT))?;
    socket.set_write_timeout(Some(MESSAGE_TIMEOUT))?;
    let deaths = SigSet::from(Signal::SIGCHLD);
    deaths.thread_block()?;
    let deaths = SignalFd::with_flags(&deaths, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // The TPM's descriptor is the C library's, which does not promise that it is closed.
    sys::close_on_exec()?;
    let mut builder = Command::new(crate::PROGRAM);
    builder.arg0(crate::BUILDER).env_clear().stdin(OwnedFd::from(theirs));
    if let Some(stream) = stream {
        builder.stdout(OwnedFd::from(stream));
    }
    let child = builder.spawn()?;
    Ok(Builder { pid: Pid::from_child(&child), socket, deaths })
}

/// What PID 1 wakes up for.
enum Event {
    Wire(WireError),
    Request,
    Death,
}

/// Waits; `None` when the time is over. The wire's last word comes before a request, a request before a death.
fn next(builder: &Builder, wire: Option<&Wire>, timeout: Duration) -> Result<Option<Event>, SuperviseError> {
    let timeout = Timespec::try_from(timeout).map_err(|_| SuperviseError::Wait { source: Errno::INVAL })?;
    let socket = builder.socket.as_fd();
    // Without a wire its place is the builder's socket again, and nothing is asked of it.
    let (orders, asked) = wire.map_or((socket, PollFlags::empty()), |wire| (wire.orders(), PollFlags::IN));
    let mut waiting =
        [PollFd::new(&orders, asked), PollFd::new(&socket, PollFlags::IN), PollFd::new(&builder.deaths, PollFlags::IN)];
    match poll(&mut waiting, Some(&timeout)) {
        Ok(_) => {}
        Err(source) => return Err(SuperviseError::Wait { source }),
    }
    let [said, request, death] = waiting.map(|one| !one.revents().is_empty());
    Ok(match wire.filter(|_| said) {
        Some(wire) => Some(Event::Wire(wire.last_word())),
        None if request => Some(Event::Request),
        None => death.then_some(Event::Death),
    })
}

/// Reaps every dead child; says how the builder ended if it was among them.
fn reap(builder: &Builder) -> Result<Option<WaitStatus>, SuperviseError> {
    // The signals only say that somebody died; wait(2) says who.
    while matches!(builder.deaths.read_signal(), Ok(Some(_))) {}
    let mut ended = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == builder.pid => ended = Some(status),
            Ok(Some(_)) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(ended),
            Err(source) => return Err(SuperviseError::Wait { source }),
        }
    }
}

/// The builder's end in words, waiting a moment for it if only its socket ended.
fn last_word(builder: &Builder, mut ended: Option<WaitStatus>) -> Result<SuperviseError, SuperviseError> {
    let end = Instant::now() + EXIT_TIMEOUT;
    while ended.is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
        ended = reap(builder)?;
    }
    let how = match ended {
        None => "it closed its socket and lives".to_owned(),
        Some(status) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("it exited with {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or(0)),
        },
    };
    Ok(SuperviseError::Ended { how })
}
