//! A planted fault behind three comparisons: a fuzzer that does not find it at once is blind, and what it says of the other targets
//! is worth nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [first, second, third, ..] = bytes else { return };
    if *first == b'k' && *second == b'i' && *third == b'l' {
        panic!("a planted fault");
    }
});
