//! A step's output and error output as frames: `kind, sequence, monotonic time, length, bytes`.
//!
//! The step decides the bytes of its two streams and nothing else: it cannot forge a frame's head, its place or its time. Every
//! frame has the next sequence number, whether it is kept or not. A log that grows beyond its room keeps its beginning and its
//! end. Where the beginning is full stands a note, [`Content::Held`]: from here on only the newest frames are held. What had to
//! go is counted exactly by a second note behind it, [`Content::Gap`]; then come the frames of the end. A log in which nothing is
//! missing has no gap. The digests of the whole streams, missing bytes included, are in the step's record (`crate::record`).
//!
//! [`split_first`] reads one frame, [`Order`] says whether it may stand where it stands, [`Log`] is a whole log that was checked.

mod whole;

pub use whole::{Log, Tally, Unlike};

use crate::manifest::FILE_BYTES_MAX;

/// The most bytes that one frame carries.
pub const FRAME_BYTES_MAX: usize = 16 << 10;
/// The bytes of a frame's head: kind (1), sequence (8), microseconds since the step's start (8), length (4); little endian.
pub const HEAD_BYTES: usize = 21;
/// The bytes of a gap's counts: frames, bytes and lines of output, bytes and lines of error output (8 each, little endian).
const GAP_BYTES: usize = 40;
/// The bytes of both notes together.
pub const NOTES_BYTES: usize = 2 * HEAD_BYTES + GAP_BYTES;

/// The largest log of a step with this limit, in bytes: heads are within the limit, the two notes come on top.
#[must_use]
pub fn bytes_max(log_bytes: u64) -> u64 {
    let notes = NOTES_BYTES as u64;
    log_bytes.min(FILE_BYTES_MAX - notes) + notes
}

/// Which of its two streams a step wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Bytes, and how many of them end a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Bytes.
    pub bytes: u64,
    /// Line feeds among them.
    pub lines: u64,
}

impl Count {
    /// Counts some more.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        self.lines = self.lines.saturating_add(bytes.iter().filter(|byte| **byte == b'\n').count() as u64);
    }
}

/// What is missing in one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missing {
    /// Frames of both streams.
    pub frames: u64,
    /// What they carried of the output.
    pub out: Count,
    /// What they carried of the error output.
    pub err: Count,
}

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its place, from 0; a note has that of the first frame that was held or is missing.
    pub sequence: u64,
    /// When, in microseconds since the step's start; never before the frame before it.
    pub time_us: u64,
    /// What.
    pub content: Content<'a>,
}

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// What the step wrote at once, or a part of it.
    Wrote {
        /// Where to.
        stream: Stream,
        /// 1 to [`FRAME_BYTES_MAX`] bytes.
        bytes: &'a [u8],
    },
    /// The beginning is full: what follows is the end, and comes when the step's streams are closed.
    Held,
    /// Frames that are missing here.
    Gap(Missing),
}

/// Why bytes are no log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A kind that there is not.
    #[error("frame of kind {kind}, which is none of 1 (output), 2 (error output), 3 (held), 4 (gap)")]
    Kind {
        /// Its number.
        kind: u8,
    },
    /// A frame that is larger or smaller than any of its kind.
    #[error("frame of kind {kind} with {bytes} bytes")]
    Length {
        /// Its kind's number.
        kind: u8,
        /// Its length.
        bytes: u32,
    },
    /// A frame that does not follow the one before it.
    #[error("frame {sequence} where frame {expected} belongs")]
    Sequence {
        /// Its number.
        sequence: u64,
        /// The next number.
        expected: u64,
    },
    /// A frame that was written before the one before it.
    #[error("frame {sequence} goes back in time")]
    Time {
        /// Its number.
        sequence: u64,
    },
    /// A note where none can be.
    #[error("a note before frame {sequence} has no place there")]
    Note {
        /// Its number.
        sequence: u64,
    },
    /// A gap whose counts cannot be.
    #[error("the counts of the gap before frame {sequence} contradict each other")]
    Counts {
        /// Its number.
        sequence: u64,
    },
    /// Bytes behind the last whole frame.
    #[error("the last frame is cut short")]
    Torn,
}

impl Frame<'_> {
    /// Appends the frame's bytes. Longer contents are cut into several frames; returns the sequence number after the last one.
    pub fn encode(&self, to: &mut Vec<u8>) -> u64 {
        match &self.content {
            Content::Wrote { stream, bytes } => {
                let kind = match stream {
                    Stream::Out => 1,
                    Stream::Err => 2,
                };
                bytes.chunks(FRAME_BYTES_MAX).fold(self.sequence, |sequence, part| {
                    head(to, kind, sequence, self.time_us, part.len());
                    to.extend_from_slice(part);
                    sequence.saturating_add(1)
                })
            }
            Content::Held => {
                head(to, 3, self.sequence, self.time_us, 0);
                self.sequence
            }
            Content::Gap(Missing { frames, out, err }) => {
                head(to, 4, self.sequence, self.time_us, GAP_BYTES);
                for count in [*frames, out.bytes, out.lines, err.bytes, err.lines] {
                    to.extend_from_slice(&count.to_le_bytes());
                }
                self.sequence.saturating_add(*frames)
            }
        }
    }
}

fn head(to: &mut Vec<u8>, kind: u8, sequence: u64, time_us: u64, length: usize) {
    to.push(kind);
    to.extend_from_slice(&sequence.to_le_bytes());
    to.extend_from_slice(&time_us.to_le_bytes());
    // A frame's length has two bytes' worth at most.
    to.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

/// Takes a number off the front.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes.split_first_chunk().map(|(number, rest)| (u64::from_le_bytes(*number), rest))
}

/// Takes the first frame off `bytes`; `None` if it is not complete yet.
///
/// # Errors
/// [`Error::Kind`] and [`Error::Length`]: these bytes were never written by a machine.
pub fn split_first(bytes: &[u8]) -> Result<Option<(Frame<'_>, &[u8])>, Error> {
    let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
    let head = number(rest).and_then(|(sequence, rest)| number(rest).map(|(time_us, rest)| (sequence, time_us, rest)));
    let Some((sequence, time_us, rest)) = head else { return Ok(None) };
    let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let bytes = u32::from_le_bytes(*length);
    let length = bytes as usize;
    let good = match kind {
        1 | 2 => (1..=FRAME_BYTES_MAX).contains(&length),
        3 => length == 0,
        4 => length == GAP_BYTES,
        kind => return Err(Error::Kind { kind }),
    };
    if !good {
        return Err(Error::Length { kind, bytes });
    }
    let Some((body, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let content = match kind {
        1 => Content::Wrote { stream: Stream::Out, bytes: body },
        2 => Content::Wrote { stream: Stream::Err, bytes: body },
        3 => Content::Held,
        _ => Content::Gap(missing(body).ok_or(Error::Length { kind, bytes })?),
    };
    Ok(Some((Frame { sequence, time_us, content }, rest)))
}

fn missing(body: &[u8]) -> Option<Missing> {
    let (frames, rest) = number(body)?;
    let (out_bytes, rest) = number(rest)?;
    let (out_lines, rest) = number(rest)?;
    let (err_bytes, rest) = number(rest)?;
    let (err_lines, _) = number(rest)?;
    let count = |bytes, lines| Count { bytes, lines };
    Some(Missing { frames, out: count(out_bytes, out_lines), err: count(err_bytes, err_lines) })
}

/// How far a log has come: which frame may be next.
#[derive(Debug, Clone, Default)]
pub struct Order {
    next: u64,
    time_us: u64,
    notes: Notes,
}

/// Which notes there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Notes {
    #[default]
    None,
    /// The last frame was the first note: a gap may follow.
    Held,
    /// There is no place for another one.
    Done,
}

impl Order {
    /// Takes the next frame of a log.
    ///
    /// # Errors
    /// Why it cannot be the next one: [`Error::Sequence`], [`Error::Time`], [`Error::Note`], [`Error::Counts`].
    pub fn take(&mut self, frame: &Frame<'_>) -> Result<(), Error> {
        let Frame { sequence, time_us, content } = *frame;
        if sequence != self.next {
            return Err(Error::Sequence { sequence, expected: self.next });
        }
        if time_us < self.time_us {
            return Err(Error::Time { sequence });
        }
        let (frames, notes) = match (content, self.notes) {
            (Content::Wrote { .. }, Notes::None) => (1, Notes::None),
            (Content::Wrote { .. }, _) => (1, Notes::Done),
            (Content::Held, Notes::None) => (0, Notes::Held),
            (Content::Gap(missing), Notes::Held) if missing.can_be() => (missing.frames, Notes::Done),
            (Content::Gap(_), Notes::Held) => return Err(Error::Counts { sequence }),
            _ => return Err(Error::Note { sequence }),
        };
        let next = sequence.checked_add(frames).ok_or(Error::Counts { sequence })?;
        (self.next, self.time_us, self.notes) = (next, time_us, notes);
        Ok(())
    }
}

impl Missing {
    /// Whether frames can have carried that: something each, no more than fits, no more lines than bytes.
    fn can_be(&self) -> bool {
        let Self { frames, out, err } = self;
        let bytes = out.bytes.checked_add(err.bytes);
        let fits = frames.checked_mul(FRAME_BYTES_MAX as u64).zip(bytes);
        *frames > 0
            && fits.is_some_and(|(most, bytes)| (*frames..=most).contains(&bytes))
            && out.lines <= out.bytes
            && err.lines <= err.bytes
    }
}

#[cfg(test)]
mod tests;
