//! What is kept of a log: its beginning, its end, and exact counts of what lies between. Pure.
//!
//! The room is the job's `log_bytes`. A quarter of it, at most [`TAIL_BYTES_MAX`], is for the end: the last lines say why a step
//! failed. The rest is for the beginning, which is handed out as it comes. Frames are kept whole or not at all; where the room
//! is small they are cut small, so that it is used.

use std::collections::VecDeque;

use kiln_formats::digest::Sha256Digest;
use kiln_formats::log::{
    Content, Count, FRAME_BYTES_MAX, Frame, HEAD_BYTES, Missing, NOTES_BYTES, Stream, Tally, bytes_max,
};
use kiln_formats::record::{LogSeen, StreamSeen};

/// The most that is held of a log's end, in bytes: some thousand lines, and not much to wait for when the step has ended.
const TAIL_BYTES_MAX: usize = 256 << 10;
/// What part of the room is for the end.
const TAIL_PART: usize = 4;
/// How many frames the end has room for at least, heads apart.
const TAIL_FRAMES_MIN: usize = 4;
/// The smallest bound on a frame: three times its head.
const FRAME_BYTES_MIN: usize = 64;

/// A whole log: the frames that were kept, and what a record says of it.
#[derive(Debug)]
pub(crate) struct Log {
    /// The file.
    pub(crate) frames: Vec<u8>,
    /// What it holds, and what it lacks.
    pub(crate) seen: LogSeen,
}

/// One stream so far.
#[derive(Debug, Default)]
struct Side {
    written: Tally,
    kept: Count,
}

/// The newest frames, encoded, since the beginning is full.
#[derive(Debug)]
struct Tail {
    frames: VecDeque<Held>,
    bytes: usize,
    /// When its first frame came.
    time_us: u64,
    missing: Missing,
}

/// A frame that is held back, or will be missing.
#[derive(Debug)]
struct Held {
    encoded: Vec<u8>,
    stream: Stream,
    count: Count,
}

/// A log that a step is writing.
#[derive(Debug)]
pub(super) struct Keeper {
    head_bytes_max: usize,
    tail_bytes_max: usize,
    frames: Vec<u8>,
    sequence: u64,
    out: Side,
    err: Side,
    tail: Option<Tail>,
}

impl Keeper {
    /// An empty log with this much room.
    pub(super) fn new(log_bytes: u64) -> Self {
        let room = usize::try_from(bytes_max(log_bytes)).unwrap_or(usize::MAX).saturating_sub(NOTES_BYTES);
        let tail_bytes_max = (room / TAIL_PART).min(TAIL_BYTES_MAX);
        Self {
            head_bytes_max: room - tail_bytes_max,
            tail_bytes_max,
            frames: Vec::new(),
            sequence: 0,
            out: Side::default(),
            err: Side::default(),
            tail: None,
        }
    }

    /// The most bytes that may be taken at once.
    pub(super) fn frame_bytes(&self) -> usize {
        (self.tail_bytes_max / TAIL_FRAMES_MIN).saturating_sub(HEAD_BYTES).clamp(FRAME_BYTES_MIN, FRAME_BYTES_MAX)
    }

    /// Takes what a step wrote at once, at most [`Self::frame_bytes`]. Returns what is to be sent on now.
    pub(super) fn take(&mut self, stream: Stream, time_us: u64, bytes: &[u8]) -> Vec<u8> {
        if bytes.is_empty() {
            return Vec::new();
        }
        let mut encoded = Vec::with_capacity(HEAD_BYTES + bytes.len());
        let frame = Frame { sequence: self.sequence, time_us, content: Content::Wrote { stream, bytes } };
        self.sequence = frame.encode(&mut encoded);
        let side = self.side(stream);
        side.written.add(bytes);
        let mut count = Count::default();
        count.add(bytes);
        let mut now = Vec::new();
        if self.tail.is_none() {
            if self.frames.len() + encoded.len() <= self.head_bytes_max {
                self.keep(&Held { encoded: Vec::new(), stream, count }, &encoded);
                return encoded;
            }
            Frame { sequence: frame.sequence, time_us, content: Content::Held }.encode(&mut now);
            self.frames.extend_from_slice(&now);
        }
        let missing = Missing::default();
        let tail = self.tail.get_or_insert(Tail { frames: VecDeque::new(), bytes: 0, time_us, missing });
        tail.take(Held { encoded, stream, count }, self.tail_bytes_max);
        now
    }

    /// Both streams are closed. Returns the log, and what of it is still to be sent.
    pub(super) fn finish(mut self) -> (Log, Vec<u8>) {
        let sent = self.frames.len();
        if let Some(Tail { frames, time_us, missing, .. }) = self.tail.take() {
            if missing.frames > 0 {
                let first = self.sequence.saturating_sub(missing.frames).saturating_sub(frames.len() as u64);
                Frame { sequence: first, time_us, content: Content::Gap(missing) }.encode(&mut self.frames);
            }
            for held in frames {
                self.keep(&held, &held.encoded);
            }
        }
        let Self { frames, sequence, out, err, .. } = self;
        let end = frames.get(sent..).unwrap_or_default().to_vec();
        let seen = LogSeen { sha256: Sha256Digest::of(&frames), frames: sequence, out: out.seen(), err: err.seen() };
        (Log { frames, seen }, end)
    }

    fn keep(&mut self, frame: &Held, encoded: &[u8]) {
        let side = self.side(frame.stream);
        side.kept.bytes += frame.count.bytes;
        side.kept.lines += frame.count.lines;
        self.frames.extend_from_slice(encoded);
    }

    fn side(&mut self, stream: Stream) -> &mut Side {
        match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        }
    }
}

impl Side {
    fn seen(&self) -> StreamSeen {
        let (written, kept) = (self.written.count(), self.kept);
        StreamSeen {
            sha256: self.written.sha256(),
            written_bytes: written.bytes,
            written_lines: written.lines,
            kept_bytes: kept.bytes,
            kept_lines: kept.lines,
        }
    }
}

impl Tail {
    /// Holds one more frame, and lets go of as many old ones as it needs.
    fn take(&mut self, held: Held, bytes_max: usize) {
        self.bytes += held.encoded.len();
        self.frames.push_back(held);
        while self.bytes > bytes_max {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.bytes -= oldest.encoded.len();
            let side = match oldest.stream {
                Stream::Out => &mut self.missing.out,
                Stream::Err => &mut self.missing.err,
            };
            side.bytes += oldest.count.bytes;
            side.lines += oldest.count.lines;
            self.missing.frames += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_formats::log::split_first;
    use kiln_formats::manifest::FILE_BYTES_MAX;

    /// Feeds a log and checks what must hold of every one: what is sent is what is kept, and the record is about it.
    fn kept<'a>(log_bytes: u64, writes: impl IntoIterator<Item = (Stream, &'a [u8])>) -> (Log, Vec<u8>, Vec<u8>) {
        let mut keeper = Keeper::new(log_bytes);
        let (mut sent, mut out, mut err) = (Vec::new(), Vec::new(), Vec::new());
        let at_once = keeper.frame_bytes();
        for (at, (stream, bytes)) in (0..).zip(writes) {
            for part in bytes.chunks(at_once) {
                sent.extend(keeper.take(stream, at, part));
                let tail = keeper.tail.as_ref().map_or(0, |tail| tail.bytes);
                assert!((keeper.frames.len() + tail) as u64 <= bytes_max(log_bytes));
            }
            if stream == Stream::Out { out.extend_from_slice(bytes) } else { err.extend_from_slice(bytes) }
        }
        let (log, end) = keeper.finish();
        sent.extend(end);
        assert!(sent == log.frames, "what was sent is not what is kept");
        assert!(log.frames.len() as u64 <= bytes_max(log_bytes));
        kiln_formats::log::Log::of_record(&log.frames, &log.seen).unwrap();
        assert_eq!(log.seen.out.sha256, Sha256Digest::of(&out));
        assert_eq!(log.seen.err.sha256, Sha256Digest::of(&err));
        (log, out, err)
    }

    fn contents(mut log: &[u8]) -> Vec<u8> {
        let mut contents = Vec::new();
        while let Some((frame, rest)) = split_first(log).unwrap() {
            match frame.content {
                Content::Wrote { bytes, .. } => contents.extend_from_slice(bytes),
                Content::Held => contents.extend_from_slice(b"[held]"),
                Content::Gap(missing) => contents.extend_from_slice(format!("[{}]", missing.frames).as_bytes()),
            }
            log = rest;
        }
        contents
    }

    #[test]
    fn a_short_log_is_kept_as_it_is() {
        let (log, ..) = kept(4096, [(Stream::Out, b"12345\n".as_slice()), (Stream::Err, b"678")]);
        assert_eq!(contents(&log.frames), b"12345\n678");
        assert_eq!((log.seen.frames, log.seen.out.written_lines, log.seen.err.kept_bytes), (2, 1, 3));
        assert!(kept(4096, []).0.frames.is_empty());
    }

    #[test]
    fn a_flood_keeps_its_beginning_and_its_end() {
        let lines: Vec<String> = (0..100_000).map(|at| format!("line {at}\n")).collect();
        let writes =
            lines.iter().map(|line| (Stream::Out, line.as_bytes())).chain([(Stream::Err, b"why\n".as_slice())]);
        let (log, out, _) = kept(8192, writes);
        let shown = String::from_utf8(contents(&log.frames)).unwrap();
        assert!(shown.starts_with("line 0\nline 1\n") && shown.ends_with("line 99998\nline 99999\nwhy\n"), "{shown}");
        let (frames, seen) = (log.seen.frames, &log.seen.out);
        assert_eq!((frames, seen.written_bytes, seen.written_lines), (100_001, out.len() as u64, 100_000));
        assert!(log.frames.len() > 8000 && seen.kept_lines > 200, "{seen:?}");
    }

    #[test]
    fn what_fits_into_the_end_is_not_missing() {
        let writes = [(Stream::Out, [b'x'; 1000].as_slice()); 3];
        let (log, ..) = kept(3600, writes);
        assert!(contents(&log.frames).windows(6).any(|bytes| bytes == b"[held]"));
        assert_eq!(log.seen.out.kept_bytes, 3000);
        let (log, ..) = kept(3300, writes);
        assert!(log.seen.out.kept_bytes < 3000);
    }

    #[test]
    fn a_log_with_next_to_no_room_still_counts() {
        for log_bytes in [1, 50, 100, 300, 4095] {
            let (log, ..) = kept(log_bytes, [(Stream::Out, [b'\n'; 10_000].as_slice()), (Stream::Err, &[b'x'; 9999])]);
            assert_eq!((log.seen.out.written_lines, log.seen.err.written_bytes), (10_000, 9999));
        }
    }

    #[test]
    fn single_bytes_cannot_outgrow_the_room() {
        let (log, ..) = kept(FILE_BYTES_MAX, std::iter::repeat_n((Stream::Out, b"x".as_slice()), 4_000_000));
        assert_eq!(log.seen.out.written_bytes, 4_000_000);
        assert!(log.seen.out.kept_bytes < 4_000_000);
    }
}
