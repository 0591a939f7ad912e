//! UKIs of others: sections, and predictions for machines of every kind.
#![no_main]

use kiln_formats::pcr::Bank;
use kiln_formats::prediction::{MachineDescription, Pick, SecureBoot};
use kiln_image::reference::{Variables, predict, sections};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let read = sections(bytes).is_ok();
    for (profile, dtbauto, secure_boot) in [(0, None, SecureBoot::Off), (1, Some(Pick::Index(0)), SecureBoot::On)] {
        let banks = vec![Bank::Sha256];
        let machine = MachineDescription { profile, dtbauto, secure_boot, banks, ..MachineDescription::default() };
        if let Ok(prediction) = predict(bytes, &machine, &Variables::default()) {
            assert!(read, "predicted what cannot be read");
            assert!(prediction.sha256().is_ok(), "a value does not follow from its events");
        }
    }
});
