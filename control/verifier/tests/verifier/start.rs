//! Gates 1 to 3: wholeness, quotes, boot.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::event::Event;
use kiln_formats::manifest::{File, Manifest, path};
use kiln_formats::names::BUILDER_DIRECT;
use kiln_verifier::{Content, Gate, verify};

use crate::world::{FirmwareEvent, Leaf, Plan, anchors, at, attestation_leaf, digest, name, reference, statement_leaf};
use crate::{check, findings};

#[test]
fn evidence() {
    let gate = Gate::Evidence;
    check(vec![
        (
            "build id",
            Plan { binding: Box::new(|b| b.challenge.build_id = name("x")), ..Plan::default() },
            gate,
            "binding",
            "hex",
        ),
        (
            "version",
            Plan { binding: Box::new(|b| b.challenge.version = 2), ..Plan::default() },
            gate,
            "binding",
            "version",
        ),
        (
            "late leaf",
            Plan { statement_leaf: Leaf { first: at(1).unix(), ..statement_leaf() }, ..Plan::default() },
            gate,
            "certificate",
            "not valid",
        ),
        (
            "other authority",
            Plan { statement_leaf: Leaf { issuer_key: 9, ..statement_leaf() }, ..Plan::default() },
            gate,
            "certificate",
            "signature",
        ),
        (
            "quote key for statements",
            Plan { statement_leaf: attestation_leaf(), ..Plan::default() },
            gate,
            "certificate",
            "extended key usage",
        ),
        ("uncertified key", Plan { statement_key: 9, ..Plan::default() }, gate, "manifest", "signature"),
        (
            "manifest version",
            Plan { manifest: Box::new(|m| m.version = 2), ..Plan::default() },
            gate,
            "manifest",
            "version",
        ),
        (
            "other build",
            Plan { manifest: Box::new(|m| m.build_id = name("x")), ..Plan::default() },
            gate,
            "manifest",
            "build",
        ),
        (
            "finished early",
            Plan { manifest: Box::new(|m| m.finished = at(-1)), ..Plan::default() },
            gate,
            "manifest",
            "before",
        ),
        ("unsorted", Plan { manifest: Box::new(|m| m.files.reverse()), ..Plan::default() }, gate, "manifest", "sorted"),
        (
            "lists the closing",
            Plan { manifest: Box::new(|m| list(m, path::CLOSING, 1)), ..Plan::default() },
            gate,
            "manifest",
            "after it",
        ),
        (
            "unlisted",
            Plan { manifest: Box::new(|m| drop(m.files.pop())), ..Plan::default() },
            gate,
            "file_unlisted",
            "traces/01-build",
        ),
        (
            "wrong size",
            Plan { manifest: Box::new(|m| m.files[0].size += 1), ..Plan::default() },
            gate,
            "file_changed",
            "libz.a",
        ),
        (
            "closing version",
            Plan { closing: Box::new(|c| c.version = 2), ..Plan::default() },
            gate,
            "closing",
            "version",
        ),
        (
            "closing build",
            Plan { closing: Box::new(|c| c.build_id = name("x")), ..Plan::default() },
            gate,
            "closing",
            "build_id",
        ),
        (
            "closing log",
            Plan { closing: Box::new(|c| c.runtime_log_sha256 = digest("x")), ..Plan::default() },
            gate,
            "closing",
            "runtime_log",
        ),
    ]);
}

/// Lists one more file.
fn list(manifest: &mut Manifest, path: &str, size: u64) {
    manifest.files.push(File { path: path.into(), sha256: digest("x"), size });
    manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
}

#[test]
fn files_have_a_largest_size_and_number() {
    let huge = Plan { manifest: Box::new(|m| list(m, "evidence/huge", 1 << 52)), ..Plan::default() };
    let mut bundle = huge.seal();
    bundle.insert("evidence/huge", Content::Digest { sha256: digest("x"), size: 1 << 52 });
    assert_eq!(verify(&bundle, &anchors()).findings[0].code, "file_too_large");
    let many = Plan {
        manifest: Box::new(|m| (0..1024).for_each(|at| list(m, &format!("evidence/{at}"), 1))),
        ..Plan::default()
    };
    assert_eq!(findings(&many, &anchors())[0].code, "too_many_files");
}

#[test]
fn quote() {
    let gate = Gate::Quote;
    check(vec![
        (
            "late leaf",
            Plan { attestation_leaf: Leaf { first: at(1).unix(), ..attestation_leaf() }, ..Plan::default() },
            gate,
            "certificate",
            "not valid",
        ),
        (
            "statement key for quotes",
            Plan { attestation_leaf: statement_leaf(), ..Plan::default() },
            gate,
            "certificate",
            "usage",
        ),
        ("other TPM", Plan { first: Box::new(|q| q.key = 0x43), ..Plan::default() }, gate, "quote", "signature"),
        ("other TPM last", Plan { last: Box::new(|q| q.key = 0x43), ..Plan::default() }, gate, "quote", "signature"),
        (
            "forged with TPM2_Sign",
            Plan { first: Box::new(|q| q.magic = 1), ..Plan::default() },
            gate,
            "quote",
            "GENERATED",
        ),
        (
            "a time attestation",
            Plan { last: Box::new(|q| q.kind = 0x8019), ..Plan::default() },
            gate,
            "not_a_quote",
            "not a quote",
        ),
        (
            "fewer registers",
            Plan { last: Box::new(|q| q.selection[1] = 0x7f), ..Plan::default() },
            gate,
            "quote",
            "0-15",
        ),
        (
            "other challenge",
            Plan { first: Box::new(|q| q.qualifying = digest("x")), ..Plan::default() },
            gate,
            "qualifying_data",
            "challenge",
        ),
        (
            "other closing",
            Plan { last: Box::new(|q| q.qualifying = digest("x")), ..Plan::default() },
            gate,
            "qualifying_data",
            "closing",
        ),
        (
            "other statement key",
            Plan { binding: Box::new(|b| b.statement_key_sha256 = digest("x")), ..Plan::default() },
            gate,
            "statement_key",
            "vouched",
        ),
        (
            "reset between",
            Plan { last: Box::new(|q| q.reset_count += 1), ..Plan::default() },
            gate,
            "tpm_reset",
            "reset",
        ),
        (
            "restart between",
            Plan { last: Box::new(|q| q.restart_count += 1), ..Plan::default() },
            gate,
            "tpm_reset",
            "reset",
        ),
        (
            "swapped in time",
            Plan { last: Box::new(|q| q.clock_ms = 999), ..Plan::default() },
            gate,
            "quote_order",
            "older",
        ),
        (
            "other firmware",
            Plan { last: Box::new(|q| q.firmware_version += 1), ..Plan::default() },
            gate,
            "tpm_changed",
            "two TPMs",
        ),
    ]);
    let unsafe_clock = Plan { first: Box::new(|q| q.safe = false), ..Plan::default() };
    let verdict = verify(&unsafe_clock.seal(), &anchors());
    assert!(verdict.passed() && !verdict.tpm.unwrap().clock_safe);
}

/// A machine whose firmware measured something else.
fn booted(change: impl FnOnce(&mut Vec<FirmwareEvent>)) -> Plan {
    let mut plan = Plan::default();
    change(&mut plan.firmware);
    plan
}

fn measured(register: u32, place: usize, what: &str) -> Plan {
    booted(|events| {
        let event = events.iter_mut().filter(|event| event.register == register).nth(place).unwrap();
        event.sha256 = digest(what);
    })
}

fn extra(register: u32) -> FirmwareEvent {
    FirmwareEvent { register, kind: 0xd, name: "extra", sha256: digest("extra"), data: b"extra".to_vec() }
}

fn events(change: impl Fn(&mut Vec<Event>) + 'static) -> Plan {
    Plan { events: Box::new(change), ..Plan::default() }
}

#[test]
fn boot_names_the_event_that_differs() {
    let gate = Gate::Boot;
    check(vec![
        ("other image", measured(4, 2, "evil"), gate, "event_differs", "PCR 4 event 2: image"),
        (
            "other command line",
            measured(9, 0, "init=/bin/sh"),
            gate,
            "event_differs",
            "PCR 9 event 0: kernel command line",
        ),
        ("other initrd", measured(11, 3, "evil"), gate, "event_differs", "PCR 11 event 3: .initrd content"),
        ("event missing", booted(|events| drop(events.pop())), gate, "event_missing", "PCR 9 event 1: initrd"),
        (
            "event more",
            booted(|events| events.push(extra(4))),
            gate,
            "event_unexpected",
            "PCR 4 event 3: EV_IPL \"extra\"",
        ),
        ("swapped", booted(|events| events.swap(5, 6)), gate, "event_differs", "PCR 11 event 0: .linux name"),
        (
            "other configuration",
            Plan { configuration: Box::new(|c| c.site = name("other")), ..Plan::default() },
            gate,
            "event_differs",
            "PCR 15 event 1: configuration",
        ),
        (
            "other trust bundle",
            Plan { trust: Box::new(|t| t.policy.job_signers.clear()), ..Plan::default() },
            gate,
            "event_differs",
            "PCR 15 event 2: trust",
        ),
        (
            "other init",
            events(|events| events[0] = Event::Init(digest("evil"))),
            gate,
            "event_differs",
            "PCR 15 event 0: init",
        ),
    ]);
    // One change that shows in several registers is named in all of them.
    let mut plan = measured(4, 2, "evil");
    plan.firmware.last_mut().unwrap().sha256 = digest("evil");
    let objects: Vec<String> = findings(&plan, &anchors()).into_iter().map(|finding| finding.object).collect();
    assert_eq!(
        objects,
        ["PCR 9 event 1: initrd", "PCR 4 event 2: image"].map(String::from).into_iter().rev().collect::<Vec<_>>()
    );
}

#[test]
fn boot_takes_no_log_on_its_word() {
    let gate = Gate::Boot;
    let mut rows = vec![
        (
            "a value that no event explains",
            Plan { first: Box::new(|q| q.pcr_digest = digest("x")), ..Plan::default() },
            gate,
            "replay_differs",
            "first.attest",
        ),
        (
            "an extend after final",
            Plan { last: Box::new(|q| q.pcr_digest = digest("x")), ..Plan::default() },
            gate,
            "replay_differs",
            "last.attest",
        ),
        (
            "text altered under its digest",
            Plan { runtime_log: Box::new(|log| replace(log, "step-end:build", "step-end:guild")), ..Plan::default() },
            gate,
            "runtime_log",
            "digest",
        ),
        ("empty log", Plan { runtime_log: Box::new(Vec::clear), ..Plan::default() }, gate, "runtime_log", "empty"),
        (
            "no firmware log",
            Plan { files: Box::new(|files| drop(files.remove(path::FIRMWARE_LOG))), ..Plan::default() },
            gate,
            "event_missing",
            "PCR 11",
        ),
        (
            "torn firmware log",
            Plan {
                files: Box::new(|files| files.get_mut(path::FIRMWARE_LOG).unwrap().truncate(700)),
                ..Plan::default()
            },
            gate,
            "firmware_log",
            "fit",
        ),
        (
            "other manifest",
            events(|events| {
                let at = events.len() - 2;
                events[at] = Event::Manifest(digest("x"));
            }),
            gate,
            "manifest_event",
            "manifest",
        ),
        (
            "certificate of another build",
            Plan {
                statement_leaf: Leaf { id: "spiffe://test.example/build/other/statement".into(), ..statement_leaf() },
                ..Plan::default()
            },
            gate,
            "certificate_name",
            "statement.pem",
        ),
        (
            "certificate of another site",
            Plan {
                attestation_leaf: Leaf { id: attestation_leaf().id.replace("test.", "other."), ..attestation_leaf() },
                ..Plan::default()
            },
            gate,
            "certificate_name",
            "attestation.pem",
        ),
    ];
    for register in [8, 12, 13, 14, 15] {
        let plan = booted(|events| events.push(extra(register)));
        rows.push(("a register that must stay untouched", plan, gate, "register_touched", "extra"));
    }
    check(rows);
}

fn replace(log: &mut Vec<u8>, from: &str, to: &str) {
    *log = String::from_utf8(log.clone()).unwrap().replace(from, to).into_bytes();
}

#[test]
fn events_come_in_one_order() {
    let gate = Gate::Boot;
    type Change = (&'static str, fn(&mut Vec<Event>));
    let changes: [Change; 10] = [
        ("no init", |events| drop(events.remove(0))),
        ("trust before configuration", |events| events.swap(1, 2)),
        ("no job", |events| drop(events.remove(3))),
        ("two jobs", |events| events.insert(4, events[3].clone())),
        ("two decisions", |events| events.insert(5, events[4].clone())),
        ("input after a step", |events| events.swap(5, 6)),
        ("end before begin", |events| events.swap(6, 7)),
        ("end of another step", |events| events.swap(7, 9)),
        ("output before the last step ended", |events| events.swap(9, 10)),
        ("provenance before output", |events| events.swap(10, 11)),
    ];
    check(changes.map(|(what, change)| (what, events(change), gate, "event_order", "expected")).into());
    check(vec![
        (
            "something after final",
            events(|events| events.push(Event::Final)),
            gate,
            "event_after_final",
            "nothing more",
        ),
        ("no final", events(|events| drop(events.pop())), gate, "log_truncated", "expected"),
    ]);
}

/// A server's uplink is one of its boot events: the predicted one, or no job.
#[test]
fn an_uplink_is_the_predicted_one() {
    let server = |uplink: Option<&str>| Plan { uplink: uplink.map(digest), ..Plan::default() };
    let of = |plan: &Plan| kiln_verifier::Anchors { reference: reference(plan), ..anchors() };
    let expected = of(&server(Some("uplink")));
    assert!(verify(&server(Some("uplink")).seal(), &expected).holds());
    let finding = findings(&server(Some("another")), &expected).remove(0);
    assert_eq!(
        (finding.gate, finding.code, finding.object.as_str()),
        (Gate::Boot, "event_differs", "PCR 15 event 1: uplink")
    );
    assert_eq!(findings(&server(None), &expected)[0].code, "event_differs");
    // And a machine for which none is predicted has none.
    assert_eq!(findings(&server(Some("uplink")), &of(&server(None)))[0].code, "event_differs");
    let late = |events: &mut Vec<Event>| events.insert(2, Event::Uplink(digest("uplink")));
    check(vec![("late uplink", events(late), Gate::Boot, "event_order", "expected trust")]);
}

#[test]
fn configuration_and_trust_are_the_sites() {
    // Reference values that follow whatever was measured: what remains is the comparison with the anchors.
    let with = |plan: Plan| {
        let anchors = kiln_verifier::Anchors { reference: reference(&plan), ..anchors() };
        findings(&plan, &anchors).remove(0)
    };
    let finding =
        with(Plan { trust: Box::new(|t| t.root = crate::world::authority().to_pem().unwrap()), ..Plan::default() });
    assert_eq!((finding.gate, finding.code, finding.reason.contains("root")), (Gate::Boot, "trust", true), "{finding}");
    let finding = with(Plan { trust: Box::new(|t| t.policy.job_signers.clear()), ..Plan::default() });
    assert_eq!((finding.code, finding.reason.contains("policy")), ("trust", true), "{finding}");
    let finding = with(Plan { trust: Box::new(|t| t.version = 2), ..Plan::default() });
    assert_eq!(finding.code, "trust", "{finding}");
    let finding = with(Plan { configuration: Box::new(|c| c.version = 2), ..Plan::default() });
    assert_eq!((finding.gate, finding.code), (Gate::Boot, "configuration"), "{finding}");
    let finding = with(Plan {
        configuration: Box::new(|c| c.builder_id = BUILDER_DIRECT.into()),
        authority: crate::world::authority_of(BUILDER_DIRECT, crate::world::AUTHORITY_KEY),
        ..Plan::default()
    });
    assert_eq!((finding.gate, finding.code), (Gate::Boot, "builder_id"), "{finding}");
    // Other bytes than those that were measured, listed by the machine itself: no configuration, and another one.
    type Files = std::collections::BTreeMap<String, Vec<u8>>;
    let listed = |edit: fn(&mut Vec<u8>)| {
        let files = move |files: &mut Files| edit(files.get_mut(path::CONFIGURATION).unwrap());
        let finding = with(Plan { files: Box::new(files), ..Plan::default() });
        assert_eq!(finding.object, path::CONFIGURATION, "{finding}");
        (finding.gate, finding.code)
    };
    assert_eq!(listed(|bytes| bytes.push(b' ')), (Gate::Evidence, "not_canonical"));
    let another =
        |bytes: &mut Vec<u8>| *bytes = String::from_utf8_lossy(bytes).replace(":\"test\"", ":\"tist\"").into();
    assert_eq!(listed(another), (Gate::Boot, "configuration"));
}

#[test]
fn a_reference_value_must_follow_from_its_events() {
    let mut anchors = anchors();
    anchors.reference.machines[0].pcrs.get_mut("11").unwrap().value = Sha256Digest::from_bytes([1; 32]);
    let finding = findings(&Plan::default(), &anchors).remove(0);
    assert_eq!((finding.code, finding.object.as_str()), ("value_differs", "PCR 11"));
    let (_, pcr) = anchors.reference.machines[0].pcrs.pop_first().unwrap();
    anchors.reference.machines[0].pcrs.insert("011".into(), pcr);
    assert_eq!(findings(&Plan::default(), &anchors)[0].code, "reference_values");
}
