//! Predictions for a UKI made by hand. That real firmware agrees is shown by booting the image.

use super::*;
use crate::pe::tests::sample;

const OS_RELEASE: &[u8] = b"ID=kiln\n";

fn uki(change: impl FnOnce(&mut Vec<(&'static str, Vec<u8>)>)) -> Vec<u8> {
    let kernel = sample(&[(".text", b"code")], b"");
    let mut sections = vec![
        (".sbat", b"sbat,1\n".to_vec()),
        (".osrel", OS_RELEASE.to_vec()),
        (".cmdline", b"quiet".to_vec()),
        (".linux", kernel),
        (".initrd", b"initrd".to_vec()),
    ];
    change(&mut sections);
    let borrowed: Vec<(&str, &[u8])> = sections.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    sample(&borrowed, b"")
}

fn events(uki: &[u8], pcr: u8) -> Vec<(String, String)> {
    let predicted = predict(uki, Bank::Sha256).unwrap();
    predicted.into_iter().filter(|e| e.pcr.get() == pcr).map(|e| (e.name, e.digest.to_string())).collect()
}

#[test]
fn the_stub_measures_in_its_own_order() {
    let names: Vec<String> = events(&uki(|_| ()), 11).into_iter().map(|(name, _)| name).collect();
    let order = [".linux", ".osrel", ".cmdline", ".initrd", ".sbat"];
    let expected: Vec<String> = order.iter().flat_map(|s| [format!("{s} name"), format!("{s} content")]).collect();
    assert_eq!(names, expected);
}

#[test]
fn known_answers() {
    let uki = uki(|_| ());
    // Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.1: the event is the string, the separator four zeros.
    let boot = events(&uki, 4);
    assert_eq!(boot[0].1, "3d6772b4f84ed47595d72a2c4c5ffd15f5bb72c7507fe26f2aaee2c69d5633ba");
    assert_eq!(boot[1].1, "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119");
    assert_eq!(events(&uki, 9)[0].1, Sha256Digest::of(b"q\0u\0i\0e\0t\0\0\0").to_string());
    assert_eq!(events(&uki, 11)[0].1, Sha256Digest::of(b".linux\0").to_string());
    assert_eq!(events(&uki, 11)[3].1, Sha256Digest::of(OS_RELEASE).to_string());
}

#[test]
fn one_byte_changes_the_registers_that_depend_on_it() {
    let values = |uki: &[u8]| values(&predict(uki, Bank::Sha256).unwrap());
    let before = values(&uki(|_| ()));
    assert_eq!(before.keys().collect::<Vec<_>>(), ["11", "4", "9"]);
    let changed = |section: &'static str| {
        let after = values(&uki(|s| s.iter_mut().filter(|(name, _)| *name == section).for_each(|(_, c)| c[0] ^= 1)));
        let differs = |pcr: &str| before[pcr].value != after[pcr].value;
        (differs("4"), differs("9"), differs("11"))
    };
    assert_eq!(changed(".initrd"), (true, true, true));
    assert_eq!(changed(".cmdline"), (true, true, true));
    assert_eq!(changed(".osrel"), (true, true, true), "the stub passes it on in an initrd");
    assert_eq!(changed(".sbat"), (true, false, true));
}

#[test]
fn every_bank_has_its_own_values() {
    let sha384 = predict(&uki(|_| ()), Bank::Sha384).unwrap();
    assert!(sha384.iter().all(|event| event.digest.as_bytes().len() == 48));
    assert!(values(&sha384).is_empty());
    let sm3 = predict(&uki(|_| ()), Bank::Sm3).unwrap();
    assert!(sm3.iter().all(|event| event.digest.as_bytes().len() == 32));
    assert!(values(&sm3).is_empty());
}

#[test]
fn refuses_what_it_cannot_predict() {
    let missing = uki(|sections| sections.retain(|(name, _)| *name != ".initrd"));
    assert_eq!(
        predict(&missing, Bank::Sha256),
        Err(ReferenceError::Section { name: ".initrd", count: 0, expected: 1 })
    );
    let twice = uki(|sections| sections.push((".cmdline", b"rdinit=/evil".to_vec())));
    assert_eq!(predict(&twice, Bank::Sha256), Err(ReferenceError::Section { name: ".cmdline", count: 2, expected: 1 }));
    let profile = uki(|sections| sections.push((".profile", b"ID=other".to_vec())));
    assert!(matches!(predict(&profile, Bank::Sha256), Err(ReferenceError::Section { expected: 0, .. })));
    let kernel = uki(|sections| sections.iter_mut().filter(|(name, _)| *name == ".linux").for_each(|(_, c)| c.clear()));
    assert!(matches!(predict(&kernel, Bank::Sha256), Err(ReferenceError::Pe { part: "kernel in the UKI", .. })));
    assert!(matches!(predict(b"MZ", Bank::Sha256), Err(ReferenceError::Pe { part: "UKI", .. })));
}
