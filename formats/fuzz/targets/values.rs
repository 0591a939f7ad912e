//! Register values as other programs write them: what was read is written as `tpm2_pcrread` would, and read again.
#![no_main]

use kiln_formats::pcr::{Bank, PcrValues};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(values) = PcrValues::from_text(bytes) else { return };
    let mut text = String::new();
    for bank in Bank::ALL {
        text.push_str(&format!("  {bank}:\n"));
        for (_, index, value) in values.iter().filter(|(of, _, _)| *of == bank) {
            text.push_str(&format!("    {:<2}: 0x{value}\n", index.get()));
        }
    }
    assert_eq!(PcrValues::from_text(text.as_bytes()), Ok(values));
});
