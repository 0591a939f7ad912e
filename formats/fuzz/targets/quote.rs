//! What a TPM signs: key, signature, attestation structure.

#![no_main]

use libfuzzer_sys::fuzz_target;
use kiln_formats::quote::{AkPublic, QuoteSignature};

fuzz_target!(|bytes: &[u8]| {
    let _ = QuoteSignature::parse(bytes);
    let _ = QuoteSignature::normalise(bytes);
    let _ = AkPublic::parse(bytes);
});
