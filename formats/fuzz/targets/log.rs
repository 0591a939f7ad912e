//! A step's log, whole and frame by frame.

#![no_main]

use kiln_formats::log::{Log, split_first};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let mut copy = Vec::new();
    while let Ok(Some((frame, after))) = split_first(rest) {
        frame.encode(&mut copy);
        rest = after;
    }
    assert_eq!(copy, &bytes[..copy.len()], "a frame that is read is written the same");
    if Log::parse(bytes).is_ok() {
        assert_eq!(copy.len(), bytes.len());
    }
});
