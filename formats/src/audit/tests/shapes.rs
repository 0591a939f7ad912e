//! Logs of shapes that no machine of ours writes: each leads to the right values, or to words that say why not.

use super::super::*;
use super::log::{Ev, boot_of, made_here, wide};
use crate::eventlog::{EventLog, EventLogError};

/// Banks and events as firmware of Hyper-V declares them.
const MANY: [Bank; 3] = [Bank::Sha1, Bank::Sha256, Bank::Sha384];

fn audited(firmware: &[u8]) -> Audit {
    let boot = boot_of(firmware, &[]);
    let values = boot.replay();
    audit(&boot, &Against { values: Some(&values), ..Against::default() })
}

fn codes(audit: &Audit) -> Vec<&'static str> {
    audit.findings.iter().map(|finding| finding.code).collect()
}

fn register(index: u32) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

/// A Windows pair: identifier, length, value.
fn pair(id: u32, value: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], &(value.len() as u32).to_le_bytes(), value].concat()
}

#[test]
fn sm3_alone() {
    let log = made_here().in_banks(&[Bank::Sm3]).encode();
    let found = audited(&log);
    assert_eq!(found.verdict(), Verdict::Holds, "{:?}", found.findings);
    // Only a separator was measured into PCR 3. Source: Python's hashlib, sm3 over 32 zeros and sm3 over four zeros.
    let value = found.replayed.get(Bank::Sm3, register(3)).unwrap().to_string();
    assert_eq!(value, "0d72b0164e4fa67d6b43d3cb8ead734737e479767e0d545eff22c6fe6275b357");
}

/// The order of an event's digests is its own: Hyper-V has another one than its header.
#[test]
fn digests_in_another_order_than_the_header() {
    let straight = made_here().in_banks(&MANY);
    let mut turned = made_here().in_banks(&MANY);
    for (at, event) in turned.events.iter_mut().enumerate() {
        event.digests.rotate_left(at % MANY.len());
    }
    let (straight, turned) = (audited(&straight.encode()), audited(&turned.encode()));
    assert_eq!(turned.replayed, straight.replayed);
    assert_eq!((turned.verdict(), codes(&turned)), (Verdict::Holds, codes(&straight)));
}

#[test]
fn what_windows_measures() {
    let mut log = made_here().in_banks(&MANY);
    let module =
        [pair(0x0007_0001, &wide("\\Windows\\system32\\winload.efi")), pair(0x0007_0002, &[0, 0, 16, 0, 0, 0, 0, 0])];
    let events = [
        pair(0x4001_0001, &[pair(0x0005_0001, &[0]), pair(0x0005_0003, &[1])].concat()),
        pair(0x4001_0001, &pair(0x4001_0003, &module.concat())),
    ];
    let mut add = |register, event_type, data: &[u8]| {
        let mut event = Ev::new(register, event_type, data, data);
        event.digests = MANY.iter().map(|bank| (bank.algorithm(), Vec::new())).collect();
        event.measure(data);
        log.events.push(event);
    };
    add(11, 0x0c, &[0; 4]);
    add(12, 0x06, &events[0]);
    add(13, 0x06, &events[1]);
    (12..15).for_each(|register| add(register, 0x04, b"WBCL"));
    log.events.push(Ev::new(u32::MAX, 0x03, &pair(0xc001_0004, &[7; 40]), b""));
    let found = audited(&log.encode());
    assert_eq!(found.verdict(), Verdict::Holds, "{:?}", found.findings);
    let words: Vec<_> = found.events.iter().map(|event| event.words.as_str()).collect();
    let says = |text: &str| words.iter().any(|words| words.contains(text));
    assert!(says("TESTSIGNING") && says("winload.efi") && says("TRUSTPOINT"), "{words:#?}");
    // What Windows says of itself counts only under its digest.
    let at = log.events.iter().position(|event| event.register == 12).unwrap();
    let last = log.events[at].data.len() - 1;
    log.events[at].data[last] ^= 1;
    assert!(codes(&audited(&log.encode())).contains(&"content_altered"));
}

/// A trust domain's log: SHA-384, register 1 to 4, and an area of `0xff` behind it.
#[test]
fn a_trust_domain_with_padding() {
    let mut log = made_here().in_banks(&[Bank::Sha384]);
    for event in &mut log.events {
        event.register = event.register % 4 + 1;
    }
    let table = [&[9][..], b"TdxTable\0", &1_u64.to_le_bytes(), &[7; 16], &0x8090_0000_u64.to_le_bytes()].concat();
    let mut tables = Ev::new(1, 0x8000_000b, &table, b"table");
    tables.digests = vec![(Bank::Sha384.algorithm(), Vec::new())];
    tables.measure(b"table");
    log.events.push(tables);
    let bytes = [log.encode(), vec![0xff; 64 << 10]].concat();
    let found = audited(&bytes);
    assert_eq!((found.verdict(), found.trust_domain), (Verdict::Holds, true), "{:?}", found.findings);
    assert_eq!(EventLog::parse(&bytes).unwrap().padding_bytes(), 64 << 10);
}

/// A dynamic launch after the start: its registers are at ones before it and begin at zero with it.
#[test]
fn a_dynamic_launch() {
    let launch = |event_type| {
        let mut log = made_here();
        log.events.push(Ev::new(17, event_type, b"", b"loader"));
        log.events.push(Ev::new(18, 0x0502, b"", b"authority"));
        (log.encode(), log)
    };
    let expected = |start: u8, measured: &[u8]| {
        Bank::Sha256.hash(&[[start; 32].as_slice(), Bank::Sha256.hash(measured).unwrap().as_bytes()].concat())
    };
    let (bytes, _) = launch(0x402);
    let found = audited(&bytes);
    assert_eq!(found.verdict(), Verdict::Holds, "{:?}", found.findings);
    assert_eq!(found.replayed.get(Bank::Sha256, register(17)).copied(), expected(0, b"loader"));
    assert_eq!(found.replayed.get(Bank::Sha256, register(18)).copied(), expected(0, b"authority"));
    let (bytes, _) = launch(0x501);
    assert_eq!(audited(&bytes).replayed.get(Bank::Sha256, register(17)).copied(), expected(0xff, b"loader"));
}

#[test]
fn no_separator_is_said() {
    let mut log = made_here();
    log.events.retain(|event| event.event_type != 0x04);
    let found = audited(&log.encode());
    assert!(
        codes(&found).contains(&"separator_missing")
            && !codes(&audited(&made_here().encode())).contains(&"separator_missing")
    );
    assert_eq!(found.verdict(), Verdict::Holds, "it is no contradiction");
}

#[test]
fn a_log_without_its_beginning_or_its_end() {
    let whole = made_here().in_banks(&MANY);
    let bytes = whole.encode();
    let mut headless = Vec::new();
    for cut in 0..bytes.len() {
        match EventLog::parse(&bytes[cut..]) {
            Ok(log) => assert_eq!((cut, log.event_count()), (0, whole.events.len())),
            Err(EventLogError::HeaderMissing) => headless.push(cut),
            Err(_) => {}
        }
    }
    assert!(headless.len() >= whole.events.len(), "{headless:?}");
    let said = EventLogError::HeaderMissing.to_string();
    assert!(said.contains("beginning is missing"), "{said}");
    // The last event is cut: what is said names where it begins.
    let shorter = whole.part(0..whole.events.len() - 1);
    let last = shorter.encode().len();
    for cut in last + 1..bytes.len() {
        assert_eq!(EventLog::parse(&bytes[..cut]), Err(EventLogError::Truncated { offset: last }));
    }
    assert_eq!(EventLog::parse(&[]), Err(EventLogError::Empty));
    // Events that are missing behind the header are for the registers to tell.
    let values = boot_of(&bytes, &[]).replay();
    let rest = whole.part(3..whole.events.len()).encode();
    let found = audit(&boot_of(&rest, &[]), &Against { values: Some(&values), ..Against::default() });
    assert!(found.verdict() == Verdict::Fails && codes(&found).contains(&"value_differs"), "{:?}", codes(&found));
}

/// A variable whose name is no text is still a variable, and its value is what was measured.
#[test]
fn a_name_that_is_no_text() {
    let value = [2, 0, 1, 0];
    let mut data = vec![7; 16];
    data.extend([6_u64.to_le_bytes(), 4_u64.to_le_bytes()].concat());
    data.extend([0x42, 0, 0, 0xd8, 0x2e, 0x20, 0x1b, 0, 0xff, 0xdf, 0x41, 0]);
    data.extend(value);
    let mut log = made_here();
    log.events.push(Ev::new(1, 0x8000_0002, &data, &value));
    let found = audited(&log.encode());
    let event = found.events.last().unwrap();
    assert_eq!((found.verdict(), event.worth), (Verdict::Holds, Worth::Verified), "{:?}", found.findings);
    assert!(event.words.chars().all(|c| c.is_ascii() && !c.is_control()), "{}", event.words);
}
