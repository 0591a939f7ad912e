//! The runtime trace of a step.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = kiln_formats::runtime_trace::read(bytes);
});
