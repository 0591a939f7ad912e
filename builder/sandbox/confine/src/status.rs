//! The status descriptor: one JSON line when the command is about to start, one when it has ended.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};

use serde::Serialize;
use thiserror::Error;

use crate::end::End;

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
}

impl Status {
    /// Takes the inherited descriptor `number`: a pipe or a file.
    ///
    /// # Errors
    /// If it is not open for writing.
    pub(crate) fn open(number: Option<u32>) -> Result<Self, Error> {
        let open = |number| {
            // The kernel's own name for the descriptor; no number is ever taken for one.
            let file = OpenOptions::new().append(true).open(format!("/proc/self/fd/{number}"));
            file.map_err(|source| Error::Open { number, source })
        };
        Ok(Self(number.map(open).transpose()?))
    }

    /// Writes one line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn tell(&mut self, line: &Line<'_>) -> Result<(), Error> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let failed = |source| Error::Write { source };
        let mut bytes = serde_json::to_vec(line).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        file.write_all(&bytes).map_err(failed)
    }
}
