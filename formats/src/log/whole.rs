//! A whole log, checked: every frame in its place, and what it says of both streams.

use crate::digest::{Digester, Sha256Digest};
use crate::record::{LogSeen, StreamSeen};

use super::{Content, Count, Error, Missing, Order, Stream, split_first};

/// What came of one stream: counts and the digest of all bytes in order.
#[derive(Clone, Default)]
pub struct Tally {
    digester: Digester,
    count: Count,
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tally").field(&self.count).finish()
    }
}

impl Tally {
    /// Takes in the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.digester.update(bytes);
        self.count.add(bytes);
    }

    /// How much there was so far.
    #[must_use]
    pub fn count(&self) -> Count {
        self.count
    }

    /// The digest of all of it.
    #[must_use]
    pub fn sha256(&self) -> Sha256Digest {
        self.digester.clone().finish()
    }
}

/// A log whose frames are whole and in order. It does not say that a machine wrote it: a record does.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// How many frames there were, kept or not; notes are not counted.
    pub frames: u64,
    /// What is missing.
    pub missing: Missing,
    /// What was kept of the output.
    pub out: Tally,
    /// What was kept of the error output.
    pub err: Tally,
}

/// How a log differs from what a record says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unlike {
    /// Its bytes are others.
    #[error("it is not the log of the record")]
    Digest,
    /// It is no log.
    #[error("it does not consist of whole frames in order")]
    Frames {
        /// Why not.
        #[from]
        source: Error,
    },
    /// Its frames, bytes or lines are more or fewer.
    #[error("its length is not that of the record: {what}")]
    Counts {
        /// Of what.
        what: &'static str,
    },
    /// Nothing of a stream is missing, and its digest is another.
    #[error("the {what} is not that of the record")]
    Stream {
        /// Which.
        what: &'static str,
    },
}

impl Log {
    /// Reads a log from its first frame to its last.
    ///
    /// # Errors
    /// [`Error`]; a log of no frames is one.
    pub fn parse(mut bytes: &[u8]) -> Result<Self, Error> {
        let (mut log, mut order) = (Self::default(), Order::default());
        while let Some((frame, rest)) = split_first(bytes)? {
            order.take(&frame)?;
            match frame.content {
                Content::Wrote { stream: Stream::Out, bytes } => log.out.add(bytes),
                Content::Wrote { stream: Stream::Err, bytes } => log.err.add(bytes),
                Content::Held => {}
                Content::Gap(missing) => log.missing = missing,
            }
            bytes = rest;
        }
        log.frames = order.next;
        if bytes.is_empty() { Ok(log) } else { Err(Error::Torn) }
    }

    /// Reads the log that a record speaks of, and holds it against the record.
    ///
    /// # Errors
    /// [`Unlike`].
    pub fn of_record(bytes: &[u8], seen: &LogSeen) -> Result<Self, Unlike> {
        if Sha256Digest::of(bytes) != seen.sha256 {
            return Err(Unlike::Digest);
        }
        let log = Self::parse(bytes)?;
        if log.frames != seen.frames {
            return Err(Unlike::Counts { what: "frames" });
        }
        stream("output", &log.out, log.missing.out, &seen.out)?;
        stream("error output", &log.err, log.missing.err, &seen.err)?;
        Ok(log)
    }
}

/// Kept and missing make what was written; if nothing is missing, the digest is that of what was kept.
fn stream(what: &'static str, kept: &Tally, missing: Count, seen: &StreamSeen) -> Result<(), Unlike> {
    let count = kept.count();
    let written = (count.bytes.checked_add(missing.bytes), count.lines.checked_add(missing.lines));
    let same = (count.bytes, count.lines) == (seen.kept_bytes, seen.kept_lines)
        && written == (Some(seen.written_bytes), Some(seen.written_lines));
    if !same {
        return Err(Unlike::Counts { what });
    }
    if missing.bytes == 0 && kept.sha256() != seen.sha256 {
        return Err(Unlike::Stream { what });
    }
    Ok(())
}
