//! Quotes, signatures and keys of foreign TPMs: two lengths of two bytes, then quote, signature and key.
#![no_main]

use kiln_formats::quote::{ForeignQuote, QuoteKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [a, b, c, d, rest @ ..] = bytes else { return };
    let (attest_bytes, signature_bytes) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
    let (attest, rest) = rest.split_at(usize::from(attest_bytes).min(rest.len()));
    let (signature, key) = rest.split_at(usize::from(signature_bytes).min(rest.len()));
    let Ok(key) = QuoteKey::read(key) else { return };
    if let Ok(quote) = ForeignQuote::verify(attest, signature, &key) {
        assert!(quote.quoted.digest_of(&Default::default()).is_some());
    }
});
