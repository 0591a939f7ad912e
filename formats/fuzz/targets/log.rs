//! Frames of a step's log.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((_, after))) = kiln_formats::log::split_first(rest) {
        rest = after;
    }
});
