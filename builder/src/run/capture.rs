//! Takes in what a step writes: both streams at once, as frames, sent on while the step runs and kept for the evidence.
//!
//! The step waits for the host to take its log: what is in flight is bounded. Beyond the job's `log_bytes` nothing is kept or
//! sent, only counted.

use std::io;
use std::time::Instant;

use kiln_formats::digest::Sha256Digest;
use kiln_formats::log::{FRAME_BYTES_MAX, Frame, HEAD_BYTES, Stream};
use kiln_formats::manifest::FILE_BYTES_MAX;
use kiln_formats::record::LogSeen;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::link::{LinkError, Upload};

/// Why a step's log could not be taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaptureError {
    /// The host does not take it.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A pipe failed.
    #[error("cannot read what the step writes")]
    Pipe(#[from] io::Error),
}

/// What was kept of a step's log, and how much there was.
#[derive(Debug, Default)]
pub(crate) struct Log {
    frames: Vec<u8>,
    written_bytes: u64,
    kept_bytes: u64,
}

impl Log {
    /// What a record says of it.
    pub(crate) fn seen(&self) -> LogSeen {
        let Self { frames, written_bytes, kept_bytes } = self;
        LogSeen { sha256: Sha256Digest::of(frames), written_bytes: *written_bytes, kept_bytes: *kept_bytes }
    }

    /// The frames that were kept.
    pub(crate) fn into_frames(self) -> Vec<u8> {
        self.frames
    }

    /// Counts what a step wrote and keeps what there is room for. Returns the new frames.
    fn take(&mut self, stream: Stream, time_us: u64, bytes: &[u8], kept_bytes_max: u64) -> Vec<u8> {
        self.written_bytes = self.written_bytes.saturating_add(bytes.len() as u64);
        let room_in_file = FILE_BYTES_MAX.saturating_sub((self.frames.len() + HEAD_BYTES) as u64);
        let room = kept_bytes_max.saturating_sub(self.kept_bytes).min(room_in_file);
        let kept = bytes.get(..usize::try_from(room).unwrap_or(usize::MAX)).unwrap_or(bytes);
        self.kept_bytes = self.kept_bytes.saturating_add(kept.len() as u64);
        let mut frames = Vec::new();
        Frame { stream, time_us, bytes: kept }.encode(&mut frames);
        self.frames.extend_from_slice(&frames);
        frames
    }
}

/// Reads both streams to their ends. The log is still open then.
///
/// # Errors
/// [`CaptureError`]; the step must then be killed by the caller.
pub(crate) async fn capture(
    upload: &mut Upload,
    mut out: impl AsyncRead + Unpin,
    mut err: impl AsyncRead + Unpin,
    kept_bytes_max: u64,
) -> Result<Log, CaptureError> {
    let started = Instant::now();
    let mut log = Log::default();
    let (mut of_out, mut of_err) = (vec![0; FRAME_BYTES_MAX], vec![0; FRAME_BYTES_MAX]);
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        let (stream, bytes, open) = tokio::select! {
            broken = upload.broken() => return Err(broken.into()),
            read = out.read(&mut of_out), if out_open => (Stream::Out, of_out.get(..read?), &mut out_open),
            read = err.read(&mut of_err), if err_open => (Stream::Err, of_err.get(..read?), &mut err_open),
        };
        let bytes = bytes.unwrap_or_default();
        *open = !bytes.is_empty();
        let time_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let frames = log.take(stream, time_us, bytes, kept_bytes_max);
        if !frames.is_empty() {
            upload.send(frames.into()).await?;
        }
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_formats::log::split_first;

    #[test]
    fn what_is_beyond_the_limit_is_counted_and_not_kept() {
        let mut log = Log::default();
        assert!(!log.take(Stream::Out, 1, b"12345", 8).is_empty());
        assert!(!log.take(Stream::Err, 2, b"67890", 8).is_empty());
        assert!(log.take(Stream::Out, 3, b"lost", 8).is_empty());
        let seen = log.seen();
        assert_eq!((seen.written_bytes, seen.kept_bytes), (14, 8));
        let frames = log.into_frames();
        assert_eq!(seen.sha256, Sha256Digest::of(&frames));
        let (first, rest) = split_first(&frames).unwrap().unwrap();
        let (second, rest) = split_first(rest).unwrap().unwrap();
        assert_eq!((first.bytes, second.bytes, rest.len()), (b"12345".as_slice(), b"678".as_slice(), 0));
    }

    #[test]
    fn a_log_of_many_small_frames_stays_within_a_file() {
        let mut log = Log { frames: vec![0; FILE_BYTES_MAX as usize - HEAD_BYTES - 1], ..Log::default() };
        assert_eq!(log.take(Stream::Out, 1, b"ab", u64::MAX).len(), HEAD_BYTES + 1);
        assert!(log.take(Stream::Out, 1, b"c", u64::MAX).is_empty());
        assert_eq!(log.frames.len() as u64, FILE_BYTES_MAX);
        assert_eq!((log.written_bytes, log.kept_bytes), (3, 1));
    }
}
