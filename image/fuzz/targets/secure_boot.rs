//! What firmware keeps for Secure Boot, written by others: a variable store, a database (`.esl`), and what PCR 7 must hold with
//! that database. Input: two bytes of length, an image of that many bytes, and the store or database.
#![no_main]

use kiln_formats::pcr::Bank;
use kiln_formats::prediction::{MachineDescription, SecureBoot};
use kiln_formats::timestamp::Timestamp;
use kiln_image::reference::{Variables, predict};
use kiln_image::secure_boot::{Database, Store, Variable, enrolled};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let (image, kept) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    if let Ok(database) = Database::parse(kept) {
        assert_eq!(database.to_bytes(), kept, "what was read is not what was there");
    }
    if let Ok(store) = Store::parse(kept.to_vec()) {
        let there = store.variables();
        assert!(there.iter().map(|it| it.name.len() + it.content.len()).sum::<usize>() <= kept.len(), "they overlap");
        let database = Database::of_certificate(b"certificate").expect("small");
        let time = Timestamp::from_unix(1_700_000_000).expect("a second of 2023");
        if let Ok(made) = enrolled(kept, &[(Variable::Allowed, database.clone())], time) {
            let made = Store::parse(made).expect("what we write we read");
            let ours = made.variables().pop().expect("one more");
            assert_eq!((made.variables().len(), ours.content), (there.len() + 1, database.to_bytes().as_slice()));
        }
    }
    let empty = Vec::new;
    let Ok(variables) = Variables::new([empty(), empty(), kept.to_vec(), empty(), empty(), empty()]) else { return };
    let machine = MachineDescription { secure_boot: SecureBoot::On, banks: vec![Bank::Sha256], ..MachineDescription::default() };
    if let Ok(prediction) = predict(image, &machine, &variables) {
        assert!(prediction.sha256().is_ok() && prediction.pcrs.contains_key("7"));
    }
});
