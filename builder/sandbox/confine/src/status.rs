//! The status descriptor: one JSON line when the command is about to start, one when it has ended.
//!
//! Whoever holds the other end may not read. So there is a bound to the wait for it, without which no time limit of the command's
//! would count: its time does not run before the first line is written.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde::Serialize;
use thiserror::Error;

use crate::end::End;
use crate::write::write_all;

/// How long a line may wait for its reader: nobody who reads along is away for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody who reads along.
#[derive(Debug)]
pub(crate) struct Status(Option<File>);

/// A line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(crate) enum Line<'a> {
    /// Everything is enforced and read back; the command is about to be executed.
    Started {
        /// Its main process, in our pid namespace.
        pid: i32,
        slot: u16,
        /// Its user on the host.
        user: u32,
        namespaces: &'a BTreeMap<String, u64>,
    },
    /// Nothing of it is left. The only line if it was not started.
    Ended {
        /// What we answer.
        status: u8,
        end: &'a End,
    },
}

/// Why nobody can read along.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("cannot write to status descriptor {number}")]
    Open { number: u32, source: io::Error },
    #[error("cannot tell the status descriptor")]
    Write { source: io::Error },
    #[error("nobody took a line from the status descriptor for {} s", PATIENCE.as_secs())]
    Unread,
}

impl Status {
    /// Takes the inherited descriptor `number`: a pipe or a file.
    ///
    /// # Errors
    /// If it is not open for writing.
    pub(crate) fn open(number: Option<u32>) -> Result<Self, Error> {
        let open = |number| {
            // The kernel's own name for the descriptor; no number is ever taken for one. It is opened anew, so that the flags are
            // ours: the caller's own descriptor stays as it is.
            let mut ours = OpenOptions::new();
            let ours = ours.append(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
            let file = ours.open(format!("/proc/self/fd/{number}"));
            file.map_err(|source| Error::Open { number, source })
        };
        Ok(Self(number.map(open).transpose()?))
    }

    /// Writes one line. After a line that could not be written there is no other: its reader has lost the thread.
    ///
    /// # Errors
    /// If it cannot be written, or nobody takes it in time.
    pub(crate) fn tell(&mut self, line: &Line<'_>) -> Result<(), Error> {
        let Some(mut file) = self.0.take() else { return Ok(()) };
        let failed = |source: io::Error| match source.kind() {
            ErrorKind::TimedOut => Error::Unread,
            _ => Error::Write { source },
        };
        let mut bytes = serde_json::to_vec(line).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        write_all(&mut file, &bytes, Some(Instant::now() + PATIENCE)).map_err(failed)?;
        self.0 = Some(file);
        Ok(())
    }
}
