//! DSSE envelopes, and the job inside.

#![no_main]

use libfuzzer_sys::fuzz_target;
use kiln_formats::dsse::Envelope;
use kiln_formats::job::{CheckedJob, Job};
use kiln_formats::{canonical, names};

fuzz_target!(|bytes: &[u8]| {
    let _ = Envelope::from_slice_exact(bytes);
    if let Ok(envelope) = Envelope::from_slice(bytes) {
        let _ = envelope.verify(names::PAYLOAD_JOB, &[]);
    }
    if let Ok(job) = canonical::from_slice_exact::<Job>(bytes) {
        let _ = CheckedJob::new(job);
    }
});
