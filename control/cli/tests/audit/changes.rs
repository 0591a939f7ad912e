//! Twelve single changes of a boot: each is noticed, the event is named, and what changed is said.

use std::fs;

use serde_json::Value;

use super::log::{Edited, hash_list, made_here, runtime_log, wide};
use super::{report, write_machine};

/// The command lines that the person knows of: a log has only their digests.
const LINES: [&str; 4] = ["--command-line", "console=ttyS0 ro", "--command-line", "console=ttyS0 ro init=/bin/sh"];

/// What is changed of a boot, and how.
struct Change {
    name: &'static str,
    edit: fn(&mut Edited, &mut u8, &mut bool),
    /// What the comparison with the boot before says: the event's place after the change (before it, if it is gone), and words.
    difference: (fn(&Edited) -> usize, &'static str),
    /// What holding the log against the registers of the boot before finds: a code, and words.
    finding: (&'static str, &'static str),
}

fn at(name: &'static str) -> usize {
    made_here().find(name)
}

/// Changes of the boot itself: the log is honest about them.
fn of_the_boot() -> Vec<Change> {
    vec![
        Change {
            name: "firmware variable",
            edit: |log, _, _| log.variable("BootOrder", &[2, 0, 1, 0]),
            difference: (
                |log| log.find("BootOrder"),
                "the variable BootOrder changed: BootOrder is 0002, 0001; it was BootOrder is 0001, 0002",
            ),
            finding: ("value_differs", "the events of PCR 1 do not lead to its value"),
        },
        Change {
            name: "Secure Boot off",
            edit: |log, _, _| log.variable("SecureBoot", &[0]),
            difference: (|log| log.find("SecureBoot"), "Secure Boot is off, it was on"),
            finding: ("secure_boot_off", "Secure Boot is off"),
        },
        Change {
            name: "other db key",
            edit: |log, _, _| log.variable("db", &hash_list(&[7])),
            difference: (|log| log.find("db"), "the database db gained sha256 07070707"),
            finding: ("value_differs", "the events of PCR 7 do not lead to its value"),
        },
        Change {
            name: "other kernel",
            edit: |log, _, _| log.remeasure(".linux", b"another kernel"),
            difference: (|log| log.find(".linux"), "the kernel in the image (.linux) changed"),
            finding: ("value_differs", "the events of PCR 11 do not lead to its value"),
        },
        Change {
            name: "one byte of the initrd",
            edit: |log, _, _| log.remeasure(".initrd", b"initrD"),
            difference: (|log| log.find(".initrd"), "the initrd in the image (.initrd) changed"),
            finding: ("value_differs", "the events of PCR 11 do not lead to its value"),
        },
        Change {
            name: "command line token",
            edit: |log, _, _| log.remeasure(".cmdline", &wide(LINES[3])),
            difference: (|log| log.find(".cmdline"), "the kernel command line gained `init=/bin/sh`"),
            finding: ("command_line", "the kernel command line is `console=ttyS0 ro init=/bin/sh`"),
        },
        Change {
            name: "trust bundle",
            edit: |_, trust, _| *trust = 9,
            difference: (|log| log.events.len() + 2, "the trust bundle changed"),
            finding: ("value_differs", "the events of PCR 15 do not lead to its value"),
        },
        Change {
            name: "extra extend of PCR 15",
            edit: |_, _, extra| *extra = true,
            difference: (|log| log.events.len() + 3, "PCR 15 gained an event: \"phase: ready\" by the running system"),
            finding: ("events_added", "\"phase: ready\" by the running system and all after it were added"),
        },
    ]
}

/// Changes of the log alone: the registers are those of the boot that it was.
fn of_the_log() -> Vec<Change> {
    vec![
        Change {
            name: "event dropped",
            edit: |log, _, _| drop(log.events.remove(at(".initrd"))),
            difference: (|_| at(".initrd"), "PCR 11 lost an event: the initrd in the image (.initrd)"),
            finding: ("value_differs", "the events of PCR 11 do not lead to its value"),
        },
        Change {
            name: "events swapped",
            edit: |log, _, _| log.events.swap(at(".linux"), at(".linux") + 1),
            difference: (|log| log.find(".linux"), "was measured at another place"),
            finding: ("events_swapped", "was extended after the event behind it in the log"),
        },
        Change {
            name: "content altered under its digest",
            edit: |log, _, _| *log.events[at("SecureBoot")].data.last_mut().unwrap() = 0,
            difference: (|log| log.find("SecureBoot"), "the same was measured, and described otherwise"),
            finding: ("content_altered", "does not hash to its digest: it was altered"),
        },
        Change {
            name: "log of another boot",
            edit: |log, trust, _| {
                log.events.iter_mut().for_each(|event| event.measure(b"another machine"));
                *trust = 8;
            },
            difference: (|_| 0, "changed"),
            finding: ("another_boot", "the logs are of another boot or another machine"),
        },
    ]
}

fn find<'v>(list: &'v Value, key: &str, starts: &str) -> Option<&'v Value> {
    list.as_array().unwrap().iter().find(|one| one[key].as_str().unwrap().contains(starts))
}

#[test]
fn twelve_single_changes_are_named() {
    let changes: Vec<Change> = of_the_boot().into_iter().chain(of_the_log()).collect();
    assert_eq!(changes.len(), 12);
    for Change { name, edit, difference, finding } in changes {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path();
        write_machine(here, "before", &made_here().encode(), &runtime_log(3, false));
        let (mut log, mut trust, mut extra) = (made_here(), 3, false);
        edit(&mut log, &mut trust, &mut extra);
        write_machine(here, "after", &log.encode(), &runtime_log(trust, extra));

        let (honest, answer) = report(&["before"], here);
        assert_eq!((answer, honest["verdict"].as_str()), (14, Some("unproven")));
        fs::write(here.join("pcrs.json"), serde_json::to_vec(&honest).unwrap()).unwrap();
        let (held, answer) = report(&["before", "--pcrs", "pcrs.json"], here);
        assert_eq!((answer, held["verdict"].as_str()), (0, Some("holds")), "{held:#}");
        let (same, answer) = report(&["before", "before"], here);
        assert_eq!((answer, same["differences"].as_array().map(Vec::len)), (0, Some(0)));

        let (diff, answer) = report(&[&["before", "after"], &LINES[..]].concat(), here);
        assert_eq!((answer, diff["verdict"].as_str()), (13, Some("fails")), "{name}");
        let named = find(&diff["differences"], "words", difference.1).unwrap_or(&Value::Null);
        let place = named["after"].as_u64().or(named["before"].as_u64());
        assert_eq!(place, Some(difference.0(&log) as u64), "{name}: {:#}", diff["differences"]);

        let (audit, answer) = report(&[&["after", "--pcrs", "pcrs.json"], &LINES[..]].concat(), here);
        assert_eq!((answer, audit["verdict"].as_str()), (13, Some("fails")), "{name}");
        let found = audit["findings"].as_array().unwrap();
        let words = found.iter().filter(|one| one["code"] == finding.0).find_map(|one| one["words"].as_str());
        assert!(words.is_some_and(|words| words.contains(finding.1)), "{name}: {found:#?}");
        println!("{name}: {} | {}", named["words"], words.unwrap_or_default());
    }
}

#[test]
fn what_was_altered_is_no_fact() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = made_here();
    *log.events[at("SecureBoot")].data.last_mut().unwrap() = 0;
    write_machine(directory.path(), "machine", &log.encode(), &runtime_log(3, false));
    let (audit, answer) = report(&["machine"], directory.path());
    assert_eq!(answer, 13);
    let event = &audit["events"][at("SecureBoot")];
    assert_eq!((event["worth"].as_str(), event["verdict"].as_str()), (Some("mismatched"), Some("fails")));
    assert!(event["words"].as_str().unwrap().starts_with("NOT WHAT WAS MEASURED"));
    let says = |code: &str| audit["findings"].as_array().unwrap().iter().any(|finding| finding["code"] == code);
    assert!(says("content_altered") && says("secure_boot_unknown") && !says("secure_boot_off"));
}
