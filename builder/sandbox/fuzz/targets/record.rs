//! The kernel's audit records, and the calls they are put together to.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    kiln_sandbox::read_records(bytes);
});
