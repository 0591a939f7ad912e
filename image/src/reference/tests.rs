//! Predictions for UKIs made by hand. That firmware, stub and kernel agree is shown by booting; that other people's tools do, by
//! asking them.

use kiln_formats::prediction::{MachineDescription, Pick, Prediction};
use proptest::prelude::*;

use super::*;
use crate::pe::tests::sample;

const OS_RELEASE: &[u8] = b"ID=kiln\n";
const STUB_257: &[u8] = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####";

type Parts = Vec<(&'static str, Vec<u8>)>;

/// A PE file that says that it is Linux 7.3.
fn kernel() -> Vec<u8> {
    let mut kernel = sample(&[(".text", b"code")], b"");
    kernel.resize(0x1000, 0);
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x20e..0x210].copy_from_slice(&0x700u16.to_le_bytes());
    kernel[0x900..0x90b].copy_from_slice(b"7.3.4-kiln ");
    kernel
}

fn uki(change: impl FnOnce(&mut Parts)) -> Vec<u8> {
    let mut sections = vec![
        (".sdmagic", STUB_257.to_vec()),
        (".sbat", b"sbat,1\n".to_vec()),
        (".osrel", OS_RELEASE.to_vec()),
        (".cmdline", b"quiet".to_vec()),
        (".linux", kernel()),
        (".initrd", b"initrd".to_vec()),
    ];
    change(&mut sections);
    let borrowed: Vec<(&str, &[u8])> = sections.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    sample(&borrowed, b"")
}

fn set(sections: &mut Parts, name: &str, content: &[u8]) {
    sections.iter_mut().filter(|(other, _)| *other == name).for_each(|(_, old)| *old = content.to_vec());
}

fn with(change: impl FnOnce(&mut MachineDescription)) -> MachineDescription {
    let mut machine = MachineDescription { banks: vec![Bank::Sha256], ..MachineDescription::default() };
    change(&mut machine);
    machine
}

fn on(uki: &[u8], machine: &MachineDescription) -> Prediction {
    predict(uki, machine, &Variables::default()).unwrap()
}

fn events(uki: &[u8], pcr: u8) -> Vec<(String, String)> {
    let mut predicted = on(uki, &with(|_| ()));
    let register = predicted.pcrs.remove(&pcr.to_string()).unwrap();
    let digest = |event: &EventPrediction| event.digests.get(Bank::Sha256).unwrap().to_string();
    register.events.into_iter().map(|event| (event.name.clone(), digest(&event))).collect()
}

fn names(prediction: &Prediction, pcr: &str) -> Vec<String> {
    prediction.pcrs[pcr].events.iter().map(|event| event.name.clone()).collect()
}

#[test]
fn the_stub_measures_in_its_own_order() {
    let order = [".linux", ".osrel", ".cmdline", ".initrd", ".sbat"];
    let expected: Vec<String> = order.iter().flat_map(|s| [format!("{s} name"), format!("{s} content")]).collect();
    assert_eq!(names(&on(&uki(|_| ()), &with(|_| ())), "11"), expected);
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
    // Source: the log of a machine with OVMF and no keys, PCR 7.
    let secure_boot = events(&uki, 7);
    assert_eq!(secure_boot[0].1, "115aa827dbccfb44d216ad9ecfda56bdea620b860a94bed5b7a27bba1c4d02d8");
    assert_eq!(secure_boot[1].1, "dea7b80ab53a3daaa24d5cc46c64e1fa9ffd03739f90aadbd8c0867c4a5b4890");
    assert_eq!(
        secure_boot.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["SecureBoot", "PK", "KEK", "db", "dbx", "separator"]
    );
}

#[test]
fn one_byte_changes_the_registers_that_depend_on_it() {
    let values = |uki: &[u8]| image_registers(uki).unwrap();
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
    let all = on(&uki(|_| ()), &with(|machine| machine.banks = Bank::ALL.to_vec()));
    for (number, register) in &all.pcrs {
        assert_eq!(register.values.iter().count(), Bank::ALL.len(), "PCR {number}");
        assert!(register.events.iter().all(|event| event.digests.iter().count() == Bank::ALL.len()));
    }
    assert_eq!(
        predict(&uki(|_| ()), &with(|machine| machine.banks.clear()), &Variables::default()),
        Err(ReferenceError::NoBank)
    );
}

#[test]
fn what_is_untouched_is_predicted_as_such() {
    let prediction = on(&uki(|_| ()), &with(|_| ()));
    for register in ["8", "12", "13", "14"] {
        let register = &prediction.pcrs[register];
        assert!(register.events.is_empty() && register.values.iter().all(|value| value.is_zero()));
    }
    assert!(prediction.not_predicted.is_empty(), "{:?}", prediction.not_predicted);
}

#[test]
fn a_profile_takes_the_place_of_what_it_names() {
    let uki = uki(|sections| {
        sections.push((".profile", b"ID=main\n".to_vec()));
        sections.push((".profile", b"ID=other\n".to_vec()));
        sections.push((".cmdline", b"loud".to_vec()));
    });
    let main = on(&uki, &with(|_| ()));
    let other = on(&uki, &with(|machine| machine.profile = 1));
    assert_eq!(names(&main, "11"), names(&other, "11"));
    let cmdline =
        |prediction: &Prediction| prediction.pcrs["9"].events[0].digests.get(Bank::Sha256).unwrap().to_string();
    assert_eq!(cmdline(&main), Sha256Digest::of(b"q\0u\0i\0e\0t\0\0\0").to_string());
    assert_eq!(cmdline(&other), Sha256Digest::of(b"l\0o\0u\0d\0\0\0").to_string());
    assert_eq!(names(&other, "12"), ["profile"]);
    let third = predict(&uki, &with(|machine| machine.profile = 2), &Variables::default());
    assert_eq!(third, Err(ReferenceError::NoProfile { profile: 2 }));
}

#[test]
fn what_the_hardware_chooses_is_said_or_not_predicted() {
    let uki = uki(|sections| {
        sections.push((".dtbauto", b"first".to_vec()));
        sections.push((".dtbauto", b"second".to_vec()));
        sections.push((".efifw", b"firmware".to_vec()));
    });
    let open = on(&uki, &with(|_| ()));
    assert!(open.not_predicted["11"].contains(".dtbauto") && !open.pcrs.contains_key("11"));
    let none = on(&uki, &with(|machine| machine.dtbauto = Some(Pick::None)));
    assert!(!names(&none, "11").iter().any(|name| name.contains("auto")), "stub 257 does not know .efifw");
    let second = on(&uki, &with(|machine| machine.dtbauto = Some(Pick::Index(1))));
    assert_eq!(
        second.pcrs["11"].events.last().unwrap().digests.get(Bank::Sha256).unwrap().to_string(),
        Sha256Digest::of(b"second").to_string()
    );
    let third = predict(&uki, &with(|machine| machine.dtbauto = Some(Pick::Index(2))), &Variables::default());
    assert_eq!(third, Err(ReferenceError::NoSection { name: ".dtbauto", index: 2 }));
}

#[test]
fn the_stubs_version_decides() {
    let of = |magic: &str| on(&uki(|sections| set(sections, ".sdmagic", magic.as_bytes())), &with(|_| ()));
    let newer = of("LoaderInfo: systemd-stub 258");
    assert_eq!(names(&newer, "4"), ["boot attempt", "separator", "UKI"], "it loads the kernel by itself");
    let unknown = of("LoaderInfo: systemd-stub 300");
    assert!(unknown.not_predicted["9"].contains("initrds") && unknown.pcrs.contains_key("11"));
    let other = of("LoaderInfo: somebody else");
    assert_eq!(other.not_predicted.keys().collect::<Vec<_>>(), ["11", "12", "13", "14", "4", "8", "9"]);
    assert_eq!(other.pcrs.keys().collect::<Vec<_>>(), ["2", "7"]);
    let old = of("LoaderInfo: systemd-stub 251");
    assert!(["4", "9", "11"].iter().all(|register| old.not_predicted.contains_key(*register)));
}

#[test]
fn the_kernels_version_decides() {
    let of = |version: &[u8]| {
        let uki = uki(|sections| {
            let mut kernel = kernel();
            kernel[0x900..0x900 + version.len()].copy_from_slice(version);
            set(sections, ".linux", &kernel);
        });
        on(&uki, &with(|_| ()))
    };
    assert!(of(b"5.17.0 ").pcrs.contains_key("9"));
    assert!(of(b"5.16.9 ").not_predicted["9"].contains("5.17"));
    assert!(of(b"next ").not_predicted["9"].contains("version"));
}

#[test]
fn how_the_image_is_loaded_decides_the_order() {
    let kernel = on(&uki(|_| ()), &with(|machine| machine.boot = BootPath::Kernel));
    assert_eq!(names(&kernel, "4"), ["UKI", "boot attempt", "separator", "kernel"]);
    let gce = on(&uki(|_| ()), &with(|machine| machine.firmware = Firmware::Gce));
    assert_eq!(names(&gce, "4"), ["boot attempt", "separator"]);
    assert!(gce.not_predicted["2"].contains("partition table"));
}

#[test]
fn refuses_what_it_cannot_predict() {
    let predict = |uki: &[u8]| predict(uki, &with(|_| ()), &Variables::default());
    let missing = uki(|sections| sections.retain(|(name, _)| *name != ".linux"));
    assert_eq!(predict(&missing), Err(ReferenceError::NoUki { name: ".linux" }));
    let kernel = uki(|sections| set(sections, ".linux", b"not a program"));
    assert!(matches!(predict(&kernel), Err(ReferenceError::Pe { part: "kernel in the UKI", .. })));
    assert!(matches!(predict(b"MZ"), Err(ReferenceError::Pe { part: "UKI", .. })));
    let twice = uki(|sections| sections.push((".cmdline", b"rdinit=/evil".to_vec())));
    assert_eq!(predict(&twice).unwrap().pcrs["11"], predict(&uki(|_| ())).unwrap().pcrs["11"], "the first counts");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_give_a_prediction_or_an_error(changes in proptest::collection::vec((0usize..0x900, any::<u8>()), 1..8)) {
        let mut file = uki(|sections| sections.push((".profile", b"ID=main\n".to_vec())));
        for (at, value) in changes {
            file[at] = value;
        }
        let _ = predict(&file, &with(|machine| machine.secure_boot = SecureBoot::On), &Variables::default());
        let _ = sections(&file);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(predict(&bytes, &with(|_| ()), &Variables::default()).is_err());
    }
}
