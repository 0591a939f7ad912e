//! Archives of others: every entry lies in the archive.
#![no_main]

use kiln_image::cpio::{entries, find};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let all = entries(bytes).map(|(name, content)| name.len() + content.len()).sum::<usize>();
    assert!(all <= bytes.len(), "entries overlap");
    let _ = find(bytes, "init");
});
