//! Certificates: PEM, DER, the profile of a chain, what a step's says of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use kiln_formats::certificate::{Authority, Certificate, StepIdentity};
use kiln_formats::names::BUILDER_METAL;
use kiln_formats::timestamp::Timestamp;

fuzz_target!(|bytes: &[u8]| {
    let _ = Certificate::from_pem(bytes);
    let _ = StepIdentity::from_der(bytes);
    if let Ok(certificate) = Certificate::from_der(bytes) {
        let at = Timestamp::from_unix(1_700_000_000).expect("a second of 2023");
        let _ = Authority::check(&certificate, &certificate, at, BUILDER_METAL);
    }
});
