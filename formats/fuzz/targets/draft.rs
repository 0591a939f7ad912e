//! Jobs as people write them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use kiln_formats::timestamp::Timestamp;

fuzz_target!(|text: &str| {
    let expires = Timestamp::from_unix(4_000_000_000).expect("a second of 2096");
    let _ = kiln_formats::job::draft::parse(text, expires);
});
