//! What was written is read, and what no machine writes is refused.

use proptest::prelude::*;

use super::*;
use crate::digest::Sha256Digest;
use crate::record::{LogSeen, StreamSeen};

fn wrote(sequence: u64, time_us: u64, stream: Stream, bytes: &[u8]) -> Frame<'_> {
    Frame { sequence, time_us, content: Content::Wrote { stream, bytes } }
}

fn held(sequence: u64, time_us: u64) -> Frame<'static> {
    Frame { sequence, time_us, content: Content::Held }
}

fn gap(sequence: u64, time_us: u64, frames: u64, out: (u64, u64), err: (u64, u64)) -> Frame<'static> {
    let count = |(bytes, lines)| Count { bytes, lines };
    let missing = Missing { frames, out: count(out), err: count(err) };
    Frame { sequence, time_us, content: Content::Gap(missing) }
}

fn encoded(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.encode(&mut bytes);
    }
    bytes
}

proptest! {
    #[test]
    fn what_was_written_is_read(bytes in proptest::collection::vec(any::<u8>(), 1..40_000), time_us: u64) {
        let mut written = Vec::new();
        let next = wrote(0, time_us, Stream::Err, &bytes).encode(&mut written);
        prop_assert_eq!(next, bytes.len().div_ceil(FRAME_BYTES_MAX) as u64);
        let log = Log::parse(&written).unwrap();
        prop_assert_eq!((log.frames, log.missing), (next, Missing::default()));
        prop_assert_eq!(log.err.sha256(), Sha256Digest::of(&bytes));
        prop_assert_eq!((log.err.count().bytes, log.out.count().bytes), (bytes.len() as u64, 0));
        prop_assert_eq!(Log::parse(&written[..written.len() - 1]).unwrap_err(), Error::Torn);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Log::parse(&bytes);
    }

    #[test]
    fn a_damaged_log_is_read_or_refused(at: usize, byte: u8) {
        let mut bytes = whole();
        let at = at % bytes.len();
        bytes[at] = byte;
        let (mut rest, mut again) = (bytes.as_slice(), Vec::new());
        while let Ok(Some((frame, after))) = split_first(rest) {
            frame.encode(&mut again);
            rest = after;
        }
        // What can be read is written the same, byte by byte.
        prop_assert_eq!(&again, &bytes[..again.len()]);
        prop_assert!(Log::parse(&bytes).is_err() || again.len() == bytes.len());
    }
}

/// A log with everything that a log can have.
fn whole() -> Vec<u8> {
    encoded(&[
        wrote(0, 5, Stream::Out, b"one\n"),
        wrote(1, 5, Stream::Err, b"two"),
        held(2, 9),
        gap(2, 9, 3, (7, 1), (2, 2)),
        wrote(5, 11, Stream::Out, b"end\n"),
    ])
}

#[test]
fn the_middle_may_be_missing() {
    let log = Log::parse(&whole()).unwrap();
    assert_eq!(log.frames, 6);
    assert_eq!((log.out.count(), log.err.count()), (Count { bytes: 8, lines: 2 }, Count { bytes: 3, lines: 0 }));
    assert_eq!(log.missing.out, Count { bytes: 7, lines: 1 });
    // Held back and not missing; and all of the end missing.
    assert_eq!(Log::parse(&encoded(&[held(0, 1), wrote(0, 1, Stream::Out, b"x")])).unwrap().frames, 1);
    assert_eq!(Log::parse(&encoded(&[held(0, 1), gap(0, 1, 2, (2, 0), (0, 0))])).unwrap().frames, 2);
}

#[test]
fn frames_out_of_order_are_refused() {
    let (a, b) = (wrote(0, 5, Stream::Out, b"a"), wrote(1, 5, Stream::Out, b"b"));
    let rows: [(&[Frame<'_>], Error); 12] = [
        (&[b], Error::Sequence { sequence: 1, expected: 0 }),
        (&[a, a], Error::Sequence { sequence: 0, expected: 1 }),
        (&[a, wrote(1, 4, Stream::Out, b"b")], Error::Time { sequence: 1 }),
        (&[a, gap(1, 5, 1, (1, 0), (0, 0))], Error::Note { sequence: 1 }),
        (&[held(0, 1), held(0, 1)], Error::Note { sequence: 0 }),
        (&[held(0, 1), a, gap(1, 5, 1, (1, 0), (0, 0))], Error::Note { sequence: 1 }),
        (&[held(0, 1), a, held(1, 5)], Error::Note { sequence: 1 }),
        (&[held(0, 1), gap(0, 1, 0, (0, 0), (0, 0))], Error::Counts { sequence: 0 }),
        (&[held(0, 1), gap(0, 1, 2, (1, 0), (0, 0))], Error::Counts { sequence: 0 }),
        (&[held(0, 1), gap(0, 1, 1, (16_385, 0), (0, 0))], Error::Counts { sequence: 0 }),
        (&[held(0, 1), gap(0, 1, 1, (1, 2), (0, 0))], Error::Counts { sequence: 0 }),
        (&[a, held(1, 5), gap(1, 5, u64::MAX, (1, 0), (0, 0))], Error::Counts { sequence: 1 }),
    ];
    for (at, (frames, error)) in rows.into_iter().enumerate() {
        assert_eq!(Log::parse(&encoded(frames)).unwrap_err(), error, "row {at}");
    }
}

#[test]
fn heads_that_no_machine_writes_are_refused() {
    assert_eq!(split_first(&[5; 21]), Err(Error::Kind { kind: 5 }));
    assert_eq!(split_first(&[1; 21]), Err(Error::Length { kind: 1, bytes: 0x0101_0101 }));
    for kind in [1, 4] {
        let mut empty = [0; 21];
        empty[0] = kind;
        assert_eq!(split_first(&empty), Err(Error::Length { kind, bytes: 0 }));
    }
    assert_eq!(split_first(&[1; 20]), Ok(None));
}

#[test]
fn a_log_is_held_against_its_record() {
    let bytes = whole();
    let stream = |sha256, [written_bytes, written_lines, kept_bytes, kept_lines]: [u64; 4]| StreamSeen {
        sha256,
        written_bytes,
        written_lines,
        kept_bytes,
        kept_lines,
    };
    // The digest of a stream with a gap cannot be checked; that of one without can.
    let err = stream(Sha256Digest::of(b"two"), [3, 0, 3, 0]);
    let out = stream(Sha256Digest::of(b"anything"), [15, 3, 8, 2]);
    let seen = LogSeen { sha256: Sha256Digest::of(&bytes), frames: 6, out, err };
    assert_eq!(Log::of_record(&bytes, &seen).unwrap_err(), Unlike::Counts { what: "error output" });
    let seen = LogSeen { err: StreamSeen { written_bytes: 5, written_lines: 2, ..seen.err }, ..seen };
    Log::of_record(&bytes, &seen).unwrap();
    let unlike = |change: &dyn Fn(&mut LogSeen)| {
        let mut seen = seen.clone();
        change(&mut seen);
        Log::of_record(&bytes, &seen).unwrap_err()
    };
    assert_eq!(unlike(&|seen| seen.sha256 = Sha256Digest::of(b"x")), Unlike::Digest);
    assert_eq!(unlike(&|seen| seen.frames = 5), Unlike::Counts { what: "frames" });
    for change in [
        (|seen| seen.out.written_bytes += 1) as fn(&mut LogSeen),
        |seen| seen.out.written_lines += 1,
        |seen| seen.out.kept_bytes += 1,
        |seen| seen.out.kept_lines += 1,
    ] {
        assert_eq!(unlike(&change), Unlike::Counts { what: "output" });
    }
    let bytes = encoded(&[wrote(0, 1, Stream::Out, b"x\n")]);
    let out = stream(Sha256Digest::of(b"y\n"), [2, 1, 2, 1]);
    let err = stream(Sha256Digest::of(b""), [0; 4]);
    let seen = LogSeen { sha256: Sha256Digest::of(&bytes), frames: 1, out, err };
    assert_eq!(Log::of_record(&bytes, &seen).unwrap_err(), Unlike::Stream { what: "output" });
}

#[test]
fn a_log_never_outgrows_a_file() {
    assert_eq!(bytes_max(100), 100 + NOTES_BYTES as u64);
    assert_eq!(bytes_max(u64::MAX), FILE_BYTES_MAX);
}
