//! The boot that is made here, held against its own reference values and against others.

use super::super::tests::Scene;
use super::super::tests::log::Ev;
use super::super::{Against, Severity, audit};
use crate::boot::BootEvent;
use crate::digest::Sha256Digest;
use crate::pcr::{Bank, PcrIndex};
use crate::prediction::{EventPrediction, PcrPrediction, Registers};
use crate::reference::{EventReference, MachineReference, PcrReference};

/// What is measured into these registers is predicted.
const REGISTERS: [u32; 4] = [4, 9, 11, 15];

/// The reference values of the boot in `banks`: what its events measure, in order.
fn reference(banks: &[Bank]) -> Registers {
    let mut scene = Scene::new();
    scene.firmware = scene.firmware.in_banks(&[Bank::Sha256, Bank::Sha384]);
    let of = |register: u32| {
        let index = PcrIndex::new(register).unwrap();
        let events = scene.with(|boot| {
            let events = boot.events().filter(|event| event.extends() == Some(index));
            let named = |event: BootEvent<'_>| EventPrediction {
                name: event.to_string(),
                digests: banks.iter().map(|bank| event.digest(*bank).unwrap()).collect(),
            };
            events.map(named).collect()
        });
        (register.to_string(), PcrPrediction::of(index, banks, events))
    };
    REGISTERS.into_iter().map(of).collect()
}

/// What fails: the code, the register, and in words.
fn held(scene: &Scene, reference: &Registers) -> Vec<(&'static str, u8, String)> {
    let values = scene.values();
    let against = Against { values: Some(&values), reference: Some(reference), ..Against::default() };
    let audit = scene.with(|boot| audit(boot, &against));
    let failures = audit.findings.into_iter().filter(|finding| finding.severity == Severity::Failure);
    failures.map(|finding| (finding.code, finding.register.map_or(99, PcrIndex::get), finding.words)).collect()
}

fn changed(banks: &[Bank], edit: fn(&mut Scene)) -> Scene {
    let mut scene = Scene::new();
    scene.firmware = scene.firmware.in_banks(banks);
    edit(&mut scene);
    scene
}

/// Reference values name the event that is not the expected one, and agree with the boot that they are of.
#[test]
fn changes_are_named() {
    let reference = reference(&[Bank::Sha256]);
    assert_eq!(held(&Scene::new(), &reference), []);
    // What comes after the boot part of PCR 15 is not for the reference values to say.
    assert_eq!(held(&Scene { extra: true, ..Scene::new() }, &reference), []);
    let one = |edit: fn(&mut Scene), (code, register, words): (&str, u8, &str)| {
        let found = held(&changed(&[Bank::Sha256], edit), &reference);
        assert!(
            matches!(found.as_slice(), [(c, r, w)] if *c == code && *r == register && w.contains(words)),
            "{found:?}"
        );
    };
    one(|s| s.firmware.remeasure(".linux", b"x"), ("event_differs", 11, "the kernel in the image (.linux)"));
    one(|s| s.trust = 9, ("event_differs", 15, "the trust bundle"));
    one(
        |s| drop(s.firmware.events.remove(s.firmware.find("Linux initrd"))),
        ("event_missing", 9, "initrd (Linux initrd) is expected"),
    );
    one(|s| s.firmware.events.push(Ev::new(4, 0x0d, b"more", b"x")), ("event_unexpected", 4, "more"));
}

#[test]
fn every_bank_that_both_have_is_held() {
    let (both, sha384) = ([Bank::Sha256, Bank::Sha384], [Bank::Sha384]);
    for banks in [&both[..], &sha384] {
        let mut scene = changed(&both, |_| ());
        assert_eq!(held(&scene, &reference(banks)), []);
        // One event is another in SHA-384 alone.
        let at = scene.firmware.find(".linux");
        scene.firmware.events[at].digests[1].1[0] ^= 1;
        let found = held(&scene, &reference(banks));
        assert!(matches!(found.as_slice(), [("event_differs", 11, _)]), "{found:?}");
        assert_eq!(held(&scene, &reference(&[Bank::Sha256])), []);
    }
    // A log that has none of the banks is not passed over.
    let found = held(&changed(&[Bank::Sha256], |_| ()), &reference(&sha384));
    assert_eq!(
        found.iter().map(|(code, register, _)| (*code, *register)).collect::<Vec<_>>(),
        [("reference_bank", 11), ("reference_bank", 15), ("reference_bank", 4), ("reference_bank", 9)]
    );
}

#[test]
fn values_that_contradict_themselves_are_no_fault_of_the_boot_and_no_pass() {
    let contradicting = |register: &str, edit: fn(&mut PcrPrediction)| {
        let mut reference = reference(&[Bank::Sha256]);
        let mut entry = reference.remove("9").unwrap();
        edit(&mut entry);
        reference.insert(register.to_owned(), entry);
        held(&Scene::new(), &reference).first().map(|(code, _, _)| *code)
    };
    let other = |register: &mut PcrPrediction| register.values = Bank::Sha256.hash(b"x").into_iter().collect();
    assert_eq!(contradicting("9", other), Some("reference_contradicts"));
    assert_eq!(contradicting("09", |_| ()), Some("reference_malformed"));
}

/// The document that verifiers read says the same of the bank that it has.
#[test]
fn a_machines_reference_has_the_bank_that_is_quoted() {
    let predicted = reference(&[Bank::Sha256]);
    let sha256 = |digest: &[u8]| Sha256Digest::from_bytes(digest.try_into().unwrap());
    let of = |(number, register): (&String, &PcrPrediction)| {
        let digest = |digests: &crate::prediction::Digests| sha256(digests.get(Bank::Sha256).unwrap().as_bytes());
        let event =
            |event: &EventPrediction| EventReference { name: event.name.clone(), sha256: digest(&event.digests) };
        let events = register.events.iter().map(event).collect();
        (number.clone(), PcrReference { value: digest(&register.values), events })
    };
    let machine = MachineReference { builder_id: "x".to_owned(), pcrs: predicted.iter().map(of).collect() };
    assert_eq!(machine.registers(), predicted);
}
