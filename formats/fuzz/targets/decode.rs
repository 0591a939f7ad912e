//! The data of one event, by its type: the first four bytes. Whatever it decodes to is inert, and a fact only if it was hashed.
#![no_main]

use kiln_formats::eventlog::{Content, EventType};
use kiln_formats::pcr::Bank;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((event_type, data)) = bytes.split_first_chunk() else { return };
    let event_type = EventType(u32::from_le_bytes(*event_type));
    let hash = Bank::Sha256.hash(data).expect("a digest");
    let claimed = Content::of(event_type, data, &[]);
    let other = Bank::Sha256.hash(b"something else").expect("a digest");
    let altered = Content::of(event_type, data, &[other]);
    assert!(claimed.fact().is_none() && (altered.fact().is_none() || data == b"something else"));
    for content in [&claimed, &altered, &Content::of(event_type, data, &[hash])] {
        let text = content.to_string();
        assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
    }
});
