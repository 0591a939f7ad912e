//! A step's output and error output as frames: `stream, monotonic time, length, bytes`.
//!
//! The step decides the bytes and nothing else: it cannot forge a frame's head, its stream or its time.

/// The most bytes that one frame carries.
pub const FRAME_BYTES_MAX: usize = 16 << 10;
/// The bytes of a frame's head: stream (1), microseconds since the step's start (8, little endian), length (4, little endian).
pub const HEAD_BYTES: usize = 13;

/// Which of its two streams a step wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What a step wrote at once, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Where to.
    pub stream: Stream,
    /// When, in microseconds since the step's start.
    pub time_us: u64,
    /// What; at most [`FRAME_BYTES_MAX`] bytes.
    pub bytes: &'a [u8],
}

/// Why bytes are no frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A stream that there is not.
    #[error("frame for stream {stream}, which is neither 1 (output) nor 2 (error output)")]
    Stream {
        /// Its number.
        stream: u8,
    },
    /// A frame larger than any that is written.
    #[error("frame of {bytes} bytes, more than {FRAME_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: u32,
    },
}

impl Frame<'_> {
    /// Appends the frame's bytes. Longer contents are cut into several frames.
    pub fn encode(&self, to: &mut Vec<u8>) {
        for part in self.bytes.chunks(FRAME_BYTES_MAX) {
            to.push(match self.stream {
                Stream::Out => 1,
                Stream::Err => 2,
            });
            to.extend_from_slice(&self.time_us.to_le_bytes());
            to.extend_from_slice(&u32::try_from(part.len()).unwrap_or(0).to_le_bytes());
            to.extend_from_slice(part);
        }
    }
}

/// Takes the first frame off `bytes`; `None` if it is not complete yet.
///
/// # Errors
/// [`Error::Stream`] and [`Error::TooLong`]: these bytes were never written by a machine.
pub fn split_first(bytes: &[u8]) -> Result<Option<(Frame<'_>, &[u8])>, Error> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let [stream, t0, t1, t2, t3, t4, t5, t6, t7, l0, l1, l2, l3] = *head;
    let stream = match stream {
        1 => Stream::Out,
        2 => Stream::Err,
        stream => return Err(Error::Stream { stream }),
    };
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if length as usize > FRAME_BYTES_MAX {
        return Err(Error::TooLong { bytes: length });
    }
    let time_us = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
    Ok(rest.split_at_checked(length as usize).map(|(bytes, rest)| (Frame { stream, time_us, bytes }, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..40_000), time_us: u64) {
            let mut written = Vec::new();
            Frame { stream: Stream::Err, time_us, bytes: &bytes }.encode(&mut written);
            let (mut rest, mut read) = (written.as_slice(), Vec::new());
            while let Some((frame, after)) = split_first(rest).unwrap() {
                prop_assert_eq!((frame.stream, frame.time_us), (Stream::Err, time_us));
                read.extend_from_slice(frame.bytes);
                rest = after;
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(read, bytes);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>) {
            let _ = split_first(&bytes);
        }
    }

    #[test]
    fn heads_that_no_machine_writes_are_refused() {
        assert_eq!(split_first(&[3; 13]), Err(Error::Stream { stream: 3 }));
        assert_eq!(split_first(&[1; 13]), Err(Error::TooLong { bytes: 0x0101_0101 }));
        assert_eq!(split_first(&[1; 12]), Ok(None));
    }
}
