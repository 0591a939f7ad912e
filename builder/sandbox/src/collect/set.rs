//! Several outputs as one set: all of them, or none.

use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::Stat;

use super::walk::{Visitor, walk};
use super::{Bounds, Collected, Error, Leftovers};

/// What an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One regular file: its bytes.
    File,
    /// A directory: an archive of all that is in it.
    Tree,
}

/// One output that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Where it lies.
    pub from: &'a Leftovers,
    /// Its path there.
    pub path: &'a Path,
    /// What it must be.
    pub kind: Kind,
    /// How large it may be, as it is handed out, in bytes.
    pub bytes_max: u64,
}

/// Which output of a set was not taken, and why; none of the others is released.
#[derive(Debug, thiserror::Error)]
#[error("output {at} of the set")]
pub struct NotTaken {
    /// Its place in the set, from 0.
    pub at: usize,
    /// Why.
    pub source: Error,
}

/// Copies every output into a sink of its own, made by `sink` for its place in the set. If one is refused, no sink is returned:
/// dropping the sinks must undo what was written to them.
///
/// # Errors
/// [`NotTaken`] for the first that is missing or is not as wanted.
pub fn take<W: Write>(
    wanted: &[Wanted<'_>],
    mut sink: impl FnMut(usize) -> io::Result<W>,
) -> Result<Vec<(Collected, W)>, NotTaken> {
    let mut taken = Vec::new();
    for (at, Wanted { from, path, kind, bytes_max }) in wanted.iter().enumerate() {
        let not_taken = |source| NotTaken { at, source };
        let failed = |source| Error::Sink { path: path.as_os_str().as_bytes().to_vec(), source };
        let mut to = sink(at).map_err(failed).map_err(not_taken)?;
        let collected = match kind {
            Kind::File => from.copy(path, *bytes_max, &mut to),
            Kind::Tree => from.pack(path, &Bounds { bytes_max: *bytes_max, ..Bounds::default() }, &mut to),
        };
        taken.push((collected.map_err(not_taken)?, to));
    }
    Ok(taken)
}

/// Finds what was not declared.
struct Only<'a> {
    declared: &'a [(&'a Path, Kind)],
}

pub(super) fn only(leftovers: &Leftovers, declared: &[(&Path, Kind)], bounds: &Bounds) -> Result<(), Error> {
    walk(leftovers.root.as_fd(), bounds, &mut Only { declared }).map(drop)
}

impl Only<'_> {
    /// Whether `path` is declared, or lies in a declared tree.
    fn check(&self, path: &[u8], is_way: bool) -> Result<(), Error> {
        let below = |outer: &[u8], inner: &[u8]| {
            outer == b"." || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        let known = self.declared.iter().any(|(declared, kind)| {
            let declared = declared.as_os_str().as_bytes();
            let is_it = match kind {
                Kind::File => declared == path,
                Kind::Tree => below(declared, path),
            };
            is_it || is_way && below(path, declared)
        });
        if known { Ok(()) } else { Err(Error::Undeclared { path: path.to_vec() }) }
    }
}

impl Visitor for Only<'_> {
    /// What is declared is judged when it is taken.
    const REFUSED_MODE: u32 = 0;

    fn names(&mut self, _: &[u8], _: &[OsString]) -> Result<(), Error> {
        Ok(())
    }

    fn directory(&mut self, path: &[u8], _: BorrowedFd<'_>) -> Result<(), Error> {
        self.check(path, true)
    }

    fn file(&mut self, path: &[u8], _: File, _: &Stat) -> Result<(), Error> {
        self.check(path, false)
    }

    fn link(&mut self, path: &[u8], _: usize, _: &CStr) -> Result<(), Error> {
        self.check(path, false)
    }
}
