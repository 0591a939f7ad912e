//! What every step of the made-up world writes.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::log::{Content, Frame, Stream, Tally};
use kiln_formats::record::{LogSeen, StreamSeen};

/// Its output; there is no error output.
const OUT: &[u8] = &[b'\n'; 128];

/// A log with one frame.
pub(super) fn written(time_us: u64) -> Vec<u8> {
    let mut log = Vec::new();
    Frame { sequence: 0, time_us, content: Content::Wrote { stream: Stream::Out, bytes: OUT } }.encode(&mut log);
    log
}

/// What a record says of that log, whose file holds these bytes.
pub(super) fn seen(log: &[u8]) -> LogSeen {
    LogSeen { sha256: Sha256Digest::of(log), frames: 1, out: stream(OUT), err: stream(b"") }
}

fn stream(bytes: &[u8]) -> StreamSeen {
    let mut tally = Tally::default();
    tally.add(bytes);
    let count = tally.count();
    StreamSeen {
        sha256: tally.sha256(),
        written_bytes: count.bytes,
        written_lines: count.lines,
        kept_bytes: count.bytes,
        kept_lines: count.lines,
    }
}
