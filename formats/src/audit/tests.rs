//! Twelve single changes of a boot, each named; on a boot made here and on the logs of real machines.

pub(super) mod log;
mod shapes;

use log::{Edited, Ev, boot_of, made_here, runtime_log_in};

use super::*;
use crate::eventlog::corpus::real_logs;
use crate::eventlog::{EventLog, EventType};

/// The command lines that the person knows of.
const LINES: [&str; 2] = ["console=ttyS0 ro", "console=ttyS0 ro init=/bin/sh"];

/// A boot and the trust bundle in its runtime log.
pub(super) struct Scene {
    pub(super) firmware: Edited,
    pub(super) trust: u8,
    pub(super) extra: bool,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self { firmware: made_here(), trust: 3, extra: false }
    }

    pub(super) fn with<R>(&self, look: impl FnOnce(&Boot<'_>) -> R) -> R {
        let firmware = self.firmware.encode();
        let runtime = runtime_log_in(&self.firmware.banks(), self.trust, self.extra);
        look(&boot_of(&firmware, &runtime))
    }

    pub(super) fn values(&self) -> PcrValues {
        self.with(|boot| boot.replay())
    }
}

/// What differs from the boot before to the boot after, in words.
fn words(before: &Scene, after: &Scene) -> Vec<String> {
    before.with(|a| after.with(|b| diff(a, b, &LINES).into_iter().map(|difference| difference.words).collect()))
}

/// A boot that was changed: its log is honest, so that comparing it names the change.
#[test]
fn single_changes_of_a_boot_are_named() {
    type Edit = fn(&mut Scene);
    let table: [(&str, Edit, &[&str]); 9] = [
        (
            "firmware variable",
            |s| s.firmware.variable("BootOrder", &[2, 0, 1, 0]),
            &["the variable BootOrder changed: BootOrder is 0002, 0001; it was BootOrder is 0001, 0002"],
        ),
        ("Secure Boot off", |s| s.firmware.variable("SecureBoot", &[0]), &["Secure Boot is off, it was on"]),
        (
            "other db key",
            |s| s.firmware.variable("db", &log::hash_list(&[7])),
            &[
                "the database db gained sha256 0707070707070707070707070707070707070707070707070707070707070707 and lost sha256 0505",
            ],
        ),
        (
            "other kernel",
            |s| s.firmware.remeasure(".linux", b"another kernel"),
            &["the kernel in the image (.linux) changed"],
        ),
        (
            "one byte of the initrd",
            |s| {
                s.firmware.remeasure(".initrd", b"initrD");
                s.firmware.remeasure("Linux initrd", b"initrD");
            },
            &["the initrd that the kernel was given changed", "the initrd in the image (.initrd) changed"],
        ),
        (
            "command line token",
            |s| s.firmware.remeasure(".cmdline", &log::wide(LINES[1])),
            &["the kernel command line gained `init=/bin/sh`"],
        ),
        ("trust bundle", |s| s.trust = 9, &["the trust bundle changed"]),
        (
            "extra extend of PCR 15",
            |s| s.extra = true,
            &["PCR 15 gained an event: \"phase: ready\" by the running system"],
        ),
        (
            "option ROM",
            |s| s.firmware.insert_rom(),
            &[
                "PCR 2 gained an event: an option ROM of a network card (PciRoot(0x0)/Pci(0x19,0x0)/Offset(0x0,0x0), as the log says) was loaded",
            ],
        ),
    ];
    for (name, edit, expected) in table {
        let (before, mut after) = (Scene::new(), Scene::new());
        assert_eq!(words(&before, &after), Vec::<String>::new());
        edit(&mut after);
        let found = words(&before, &after);
        println!("{name}: {found:?}");
        assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{name}: {found}");
        }
        // Held against the values of the boot before, the changed boot fails and is named.
        let values = before.values();
        let audit = before.with(|other| {
            after.with(|boot| audit(boot, &Against { values: Some(&values), other: Some(other), ..Against::default() }))
        });
        assert!(!audit.holds(), "{name}");
        assert!(audit.findings.iter().any(|finding| finding.severity == Severity::Failure), "{name}");
    }
}

/// A log that was changed while the TPM holds the values of the boot.
#[test]
fn single_changes_of_a_log_are_named() {
    let honest = Scene::new();
    let values = honest.values();
    let held = |scene: &Scene, values: &PcrValues| {
        scene.with(|boot| audit(boot, &Against { values: Some(values), command_lines: &LINES, ..Against::default() }))
    };
    let sound = held(&honest, &values);
    assert!(sound.holds(), "{:?}", sound.findings);
    let failure = |audit: &Audit, code: &str| {
        let found = audit.findings.iter().find(|finding| finding.code == code && finding.severity == Severity::Failure);
        let found = found.unwrap_or_else(|| panic!("no {code} in {:#?}", audit.findings));
        assert!(!audit.holds());
        (found.register.map(PcrIndex::get), found.event, found.words.clone())
    };

    // An event dropped: the register's value is not reached.
    let mut dropped = Scene::new();
    let at = dropped.firmware.find(".initrd");
    dropped.firmware.events.remove(at);
    let (register, _, words) = failure(&held(&dropped, &values), "value_differs");
    assert_eq!(register, Some(11));
    assert!(words.contains("missing from this log"), "{words}");
    let named = honest.with(|a| dropped.with(|b| diff(a, b, &[])));
    assert_eq!(named.len(), 1);
    assert_eq!((named[0].change, named[0].before), (Change::Removed, Some(at)));

    // An event added.
    let mut added = Scene::new();
    added.firmware.insert_rom();
    let (register, event, words) = failure(&held(&added, &values), "event_added");
    assert_eq!((register, event), (Some(2), Some(added.firmware.find("rom"))));
    assert!(words.contains("was never extended"), "{words}");

    // Two events swapped.
    let mut swapped = Scene::new();
    let at = swapped.firmware.find(".linux");
    swapped.firmware.events.swap(at, at + 1);
    let (register, event, words) = failure(&held(&swapped, &values), "events_swapped");
    assert_eq!((register, event), (Some(11), Some(at)), "{words}");

    // Content altered under its digest.
    let mut altered = Scene::new();
    let at = altered.firmware.find("SecureBoot");
    *altered.firmware.events[at].data.last_mut().unwrap() = 0;
    let audited = held(&altered, &values);
    let (register, event, words) = failure(&audited, "content_altered");
    assert_eq!((register, event), (Some(7), Some(at)), "{words}");
    assert!(audited.events[at].words.starts_with("NOT WHAT WAS MEASURED"), "{}", audited.events[at].words);
    assert_eq!(audited.events[at].worth, Worth::Mismatched);
    let off = |finding: &&Finding| finding.code.starts_with("secure_boot_o");
    assert_eq!(audited.findings.iter().filter(off).count(), 0, "altered data became a fact");

    // The log of another boot.
    let mut other = Scene { trust: 9, ..Scene::new() };
    other.firmware.events.iter_mut().for_each(|event| event.measure(b"another machine"));
    failure(&held(&other, &values), "another_boot");

    // The OS extended what no log has.
    let mut later = values.clone();
    later.extend(PcrIndex::RUNTIME, &Bank::Sha256.hash(b"x").unwrap());
    let (register, _, words) = failure(&held(&honest, &later), "value_differs");
    assert_eq!(register, Some(15));
    assert!(words.contains("extended by the OS after boot and that is missing from this log"), "{words}");
    let mut unnamed = values.clone();
    unnamed.extend(PcrIndex::new(13).unwrap(), &Bank::Sha256.hash(b"x").unwrap());
    let (register, _, words) = failure(&held(&honest, &unnamed), "value_without_events");
    assert_eq!(register, Some(13));
    assert!(words.contains("was extended by the OS after boot and is missing from this log"), "{words}");

    // What needs no log to be known is named: systemd's phases, and its separator in a register without events.
    let mut phases = values.clone();
    for word in ["enter-initrd", "leave-initrd"] {
        phases.extend(PcrIndex::new(11).unwrap(), &Bank::Sha256.hash(word.as_bytes()).unwrap());
    }
    let (register, _, words) = failure(&held(&honest, &phases), "os_words_missing");
    assert_eq!(register, Some(11));
    assert!(words.contains("systemd's words enter-initrd, leave-initrd lead to"), "{words}");
    let mut separated = values.clone();
    separated.extend(PcrIndex::new(13).unwrap(), &Bank::Sha256.hash(b"os-separator").unwrap());
    assert_eq!(failure(&held(&honest, &separated), "os_words_missing").0, Some(13));

    // A quote over other values.
    let quoted = |scene: &Scene, digest| {
        let quoted = Quoted::by_kiln(digest).unwrap();
        scene.with(|boot| audit(boot, &Against { quoted: Some(&quoted), ..Against::default() }))
    };
    assert!(quoted(&honest, values.quote_digest()).holds());
    failure(&quoted(&honest, later.quote_digest()), "quote_differs");
    // Without anything to hold against nothing holds.
    assert!(!honest.with(|boot| audit(boot, &Against::default())).holds());
}

/// Every event of every real log: left out, doubled, swapped with the next one of its register, altered.
#[test]
fn changes_of_real_logs_fail_and_are_placed() {
    for real in real_logs("changes_of_real_logs_fail_and_are_placed") {
        let honest = Edited::of(&EventLog::parse(&real.bytes).unwrap());
        let values = boot_of(&honest.encode(), &[]).replay();
        let against = Against { values: Some(&values), ..Against::default() };
        let sound = audit(&boot_of(&honest.encode(), &[]), &against);
        let failures = |audit: &Audit| audit.findings.iter().filter(|f| f.severity == Severity::Failure).count();
        assert_eq!(failures(&sound), 0, "{}: {:#?}", real.file, sound.findings);
        // Some events of a long log, all of a short one.
        let step = honest.events.len().div_ceil(6).max(1);
        for at in (0..honest.events.len()).step_by(step) {
            let event = &honest.events[at];
            if event.event_type == 3 || event.digests.is_empty() {
                continue;
            }
            let audit_of = |edit: &dyn Fn(&mut Vec<Ev>)| {
                let mut edited = Edited::of(&EventLog::parse(&real.bytes).unwrap());
                edit(&mut edited.events);
                audit(&boot_of(&edited.encode(), &[]), &against)
            };
            let place = |audit: &Audit| {
                audit.findings.iter().find(|f| f.severity == Severity::Failure).and_then(|f| f.register)
            };
            for edit in
                [&(|e: &mut Vec<Ev>| drop(e.remove(at))) as &dyn Fn(&mut Vec<Ev>), &|e| e.insert(at, e[at].clone())]
            {
                let audited = audit_of(edit);
                assert!(!audited.holds(), "{} event {at}", real.file);
                assert!(failures(&audited) > 0, "{} event {at}", real.file);
                let placed = place(&audited).map(|index| u32::from(index.get()));
                assert_eq!(placed, Some(event.register), "{} {at}", real.file);
            }
            // Behind the entry that vouched, old shims have six bytes of nothing.
            let from_the_end = if event.event_type == EventType::VARIABLE_AUTHORITY.0 { 7 } else { 1 };
            let altered = audit_of(&|events| {
                let data = &mut events[at].data;
                if let Some(byte) = data.len().checked_sub(from_the_end).and_then(|last| data.get_mut(last)) {
                    *byte ^= 0x20;
                }
            });
            let worth = sound.events[at].worth;
            assert_ne!(
                (worth, altered.events[at].worth),
                (Worth::Verified, Worth::Verified),
                "{} event {at}",
                real.file
            );
        }
    }
}

/// What a hostile log writes stays text.
#[test]
fn hostile_text_is_inert() {
    let mut scene = Scene::new();
    let hostile = "<script>alert(1)</script>\u{202e}\n";
    let command = [b"grub_cmd: ", hostile.as_bytes(), b"\0"].concat();
    scene.firmware.events.push(Ev::new(8, 0x0d, &command, hostile.as_bytes()));
    scene.firmware.events.push(Ev::new(8, 0x0d, b"\x1b[31m", b"x"));
    let audit = scene.with(|boot| audit(boot, &Against::default()));
    let subject = Subject::new("made here");
    let report = Report::Audit(&subject, &audit);
    let (text, json) = (report.text(Style::Plain), report.json().unwrap());
    assert!(text.contains("script"), "it is shown");
    for out in [&text, &json] {
        assert!(out.chars().all(|c| c == '\n' || !c.is_control()) && !out.contains('\u{202e}'));
    }
    let document: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((document["version"].as_u64(), document["verdict"].as_str()), (Some(1), Some("unproven")));
}
