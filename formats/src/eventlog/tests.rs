//! The parser and the fold, against logs made here, against the machines' logs beside the workspace, and against noise.

use proptest::prelude::*;

use super::corpus::{RealLog, real_log, real_logs};
use super::*;
use crate::pcr::PcrValues;

fn event2(register: u32, event_type: u32, digests: &[(u16, &[u8])], data: &[u8]) -> Vec<u8> {
    let mut bytes = [register.to_le_bytes(), event_type.to_le_bytes(), (digests.len() as u32).to_le_bytes()].concat();
    for (algorithm, digest) in digests {
        bytes.extend(algorithm.to_le_bytes());
        bytes.extend(*digest);
    }
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

fn event1(register: u32, event_type: u32, digest: &[u8; 20], data: &[u8]) -> Vec<u8> {
    let mut bytes = [register.to_le_bytes(), event_type.to_le_bytes()].concat();
    bytes.extend(digest);
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

fn header(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    data.extend((algorithms.len() as u32).to_le_bytes());
    for (id, size) in algorithms {
        data.extend(id.to_le_bytes());
        data.extend(size.to_le_bytes());
    }
    data.push(0);
    event1(0, 3, &[0; 20], &data)
}

fn extended(start: [u8; 32], digest: [u8; 32]) -> Option<BankDigest> {
    Bank::Sha256.hash(&[start, digest].concat())
}

fn replay(bytes: &[u8], index: u32) -> Option<BankDigest> {
    let values = EventLog::parse(bytes).unwrap().replay();
    values.get(Bank::Sha256, PcrIndex::new(index).unwrap()).copied()
}

#[test]
fn an_unknown_bank_is_passed_over_by_its_declared_size() {
    let log = [
        header(&[(0x7777, 5), (0x0b, 32), (0x12, 32)]),
        // Digests in another order than the header's, as Hyper-V writes them.
        event2(1, 0x8401, &[(0x12, &[9; 32]), (0x0b, &[1; 32]), (0x7777, &[2; 5])], b"data"),
    ]
    .concat();
    assert_eq!(replay(&log, 1), extended([0; 32], [1; 32]));
    let parsed = EventLog::parse(&log).unwrap();
    let event = parsed.events().next().unwrap();
    assert_eq!(event.to_string(), "0x00008401 \"data\"");
    assert_eq!(event.digest(Bank::Sm3), BankDigest::new(Bank::Sm3, &[9; 32]));
    let undeclared = [header(&[(0x0b, 32)]), event2(1, 1, &[(0x7777, &[2; 5])], b"")].concat();
    assert!(matches!(EventLog::parse(&undeclared), Err(EventLogError::UnknownAlgorithm { algorithm: 0x7777, .. })));
}

#[test]
fn pcr_0_starts_where_the_log_says() {
    let mut start = [0; 32];
    let locality = event2(0, 3, &[(0x0b, &[0; 32])], b"StartupLocality\0\x03");
    let crtm = event2(0, 8, &[(0x0b, &[1; 32])], b"");
    start[31] = 3;
    assert_eq!(replay(&[header(&[(0x0b, 32)]), locality.clone(), crtm].concat(), 0), extended(start, [1; 32]));
    let hcrtm = event2(0, 0x8000_0010, &[(0x0b, &[1; 32])], b"HCRTM");
    start[31] = 4;
    assert_eq!(replay(&[header(&[(0x0b, 32)]), locality, hcrtm].concat(), 0), extended(start, [1; 32]));
}

#[test]
fn dynamic_registers_start_at_ones_until_a_launch_resets_them() {
    let plain = [header(&[(0x0b, 32)]), event2(17, 1, &[(0x0b, &[1; 32])], b"")].concat();
    assert_eq!(replay(&plain, 17), extended([0xff; 32], [1; 32]));
    let launch = [header(&[(0x0b, 32)]), event2(17, 0x402, &[(0x0b, &[1; 32])], b"")].concat();
    assert_eq!(replay(&launch, 17), extended([0; 32], [1; 32]));
}

#[test]
fn no_action_extends_nothing_wherever_it_points() {
    let log = [header(&[(0x0b, 32)]), event2(u32::MAX, 3, &[(0x0b, &[1; 32])], b"SP800-155 Event3")].concat();
    assert_eq!(EventLog::parse(&log).unwrap().replay(), PcrValues::new());
    let beyond = [header(&[(0x0b, 32)]), event2(24, 1, &[(0x0b, &[1; 32])], b"")].concat();
    assert!(matches!(EventLog::parse(&beyond), Err(EventLogError::UnknownRegister { register: 24, .. })));
}

#[test]
fn padding_ends_the_log_and_hides_nothing() {
    let log = [header(&[(0x0b, 32)]), event2(2, 1, &[(0x0b, &[1; 32])], &[0, 0, 0])].concat();
    for pad in [0x00, 0xff] {
        let padded = [log.clone(), vec![pad; 100]].concat();
        let parsed = EventLog::parse(&padded).unwrap();
        assert_eq!((parsed.event_count(), parsed.padding_bytes()), (1, 100));
        assert_eq!(replay(&padded, 2), replay(&log, 2));
        let hidden = [padded, event2(2, 1, &[(0x0b, &[1; 32])], b"x")].concat();
        assert!(EventLog::parse(&hidden).is_err());
    }
    assert_eq!(EventLog::parse(&[]), Err(EventLogError::Empty));
    assert_eq!(EventLog::parse(&[0xff; 4096]), Err(EventLogError::Empty));
}

#[test]
fn sizes_beyond_the_input_are_refused() {
    let mut log = [header(&[(0x0b, 32)]), event2(2, 1, &[(0x0b, &[1; 32])], b"data!")].concat();
    let size_at = log.len() - 9;
    log[size_at..size_at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(EventLog::parse(&log), Err(EventLogError::Truncated { offset: header(&[(0x0b, 32)]).len() }));
    let twice = [header(&[(0x0b, 32)]), event2(2, 1, &[(0x0b, &[1; 32]), (0x0b, &[2; 32])], b"x")].concat();
    assert!(matches!(EventLog::parse(&twice), Err(EventLogError::RepeatedAlgorithm { .. })));
    for bad in [header(&[]), header(&[(0x0b, 20)]), header(&[(0x0b, 32), (0x0b, 32)]), header(&[(0x99, 0)])] {
        assert_eq!(EventLog::parse(&bad), Err(EventLogError::MalformedHeader));
    }
}

#[test]
fn what_other_firmware_writes_is_read() {
    // A dynamic launch of a TPM 1.2 has its records in a container.
    let events = [event1(17, 0x402, &[1; 20], b""), event1(18, 0x410, &[2; 20], b"")].concat();
    let mut container = b"TXT Event Container\0".to_vec();
    container.extend([0; 20]);
    container.extend(48_u32.to_le_bytes());
    container.extend((48 + events.len() as u32).to_le_bytes());
    let whole = [container.clone(), events.clone(), vec![0; 64]].concat();
    let log = EventLog::parse(&whole).unwrap();
    assert_eq!((log.event_count(), log.layout()), (2, Layout::Sha1));
    assert_eq!(log.replay(), EventLog::parse(&events).unwrap().replay());
    container[44..48].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(EventLog::parse(&[container, events].concat()), Err(EventLogError::MalformedHeader));
    // coreboot names what it measured; U-Boot calls the device tree by a word.
    let digest = [(0x0b, &[7; 32][..])];
    let log = [
        header(&[(0x0b, 32)]),
        event2(2, 5, &digest, b"CBFS: bootblock\0"),
        event2(0, 11, &digest, b"dts\0"),
        event2(2, 5, &digest, b"Calling INT 19h"),
    ]
    .concat();
    let log = EventLog::parse(&log).unwrap();
    let worth: Vec<_> = log.events().map(|event| matches!(event.content(), Content::NotHashed(_))).collect();
    assert_eq!(worth, [true, true, false]);
    assert_eq!(log.events().nth(1).unwrap().to_string(), "EV_TABLE_OF_DEVICES \"dts\"");
}

#[test]
fn what_old_shims_write_is_verified_but_for_the_byte_that_they_leave_out() {
    let written = [decode::written_variable("Shim", b"entry"), vec![0, 0, 0, 0, 0, 0xaf]].concat();
    let weighed = |data: &[u8], measured: &[u8]| {
        let digests = [Bank::Sha256.hash(measured).unwrap(), Bank::Sha1.hash(measured).unwrap()];
        let verified = |event_type| match Content::of(event_type, data, &digests) {
            Content::Verified(fact) => Some(fact.coverage()),
            Content::Mismatched(_) => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(verified(EventType::VARIABLE_DRIVER_CONFIG), Some(Coverage::Whole).filter(|_| data == measured));
        verified(EventType::VARIABLE_AUTHORITY)
    };
    let (last, shorter) = (written.len() - 1, written.len() - 2);
    assert_eq!(weighed(&written, &written), Some(Coverage::Whole));
    assert_eq!(weighed(&written, &written[..last]), Some(Coverage::Padded));
    assert_eq!(weighed(&written, &written[..shorter]), None);
    // The byte that is left out must not be one of the variable's.
    assert_eq!(weighed(&written[..written.len() - 6], &written[..written.len() - 7]), None);
    let mut altered = written.clone();
    altered[last - 7] ^= 1;
    assert_eq!(weighed(&altered, &written[..last]), None);
}

/// Firmware for a TPM 1.2 extends a variable's value alone: whose value it is anyone could have written.
#[test]
fn a_value_without_its_name_proves_nothing() {
    let data = decode::written_variable("SecureBoot", &[1]);
    let content = |bank: Bank, measured: &[u8]| {
        Content::of(EventType::VARIABLE_DRIVER_CONFIG, &data, &[bank.hash(measured).unwrap()])
    };
    assert!(matches!(content(Bank::Sha1, &data), Content::Verified(_)));
    assert!(matches!(content(Bank::Sha1, &[1]), Content::NotHashed(_)));
    assert!(matches!(content(Bank::Sha1, &[0]), Content::Mismatched(_)), "another value is a contradiction");
    assert!(matches!(content(Bank::Sha256, &[1]), Content::Mismatched(_)), "no firmware for a TPM 2.0 does this");
}

#[test]
fn events_are_bounded() {
    let one = event1(1, 13, &[7; 20], b"");
    assert!(EventLog::parse(&one.repeat(EVENTS_MAX)).is_ok());
    assert_eq!(EventLog::parse(&one.repeat(EVENTS_MAX + 1)), Err(EventLogError::TooManyEvents));
}

#[test]
fn real_logs_replay_to_the_machines_values() {
    let mut compared = 0;
    let logs = real_logs("real_logs_replay_to_the_machines_values");
    for RealLog { file, bytes, index: entry } in &logs {
        let log = EventLog::parse(bytes).unwrap_or_else(|error| panic!("{file}: {error}"));
        if let Some(events) = entry["events"].as_u64() {
            assert_eq!(log.event_count() as u64, events, "{file}: events");
        }
        let values = log.replay();
        for (bank, registers) in entry["pcrs"].as_object().into_iter().flatten() {
            for (register, expected) in registers.as_object().unwrap() {
                // The kernel's IMA extends PCR 10 after the firmware's log has ended.
                if file == "own__ovmf-sdstub-uki.bin" && register == "10" {
                    continue;
                }
                let index = PcrIndex::new(register.parse().unwrap()).unwrap();
                let found = values.get_or_reset(Bank::from_name(bank).unwrap(), index);
                assert_eq!(found.to_string(), expected.as_str().unwrap(), "{file}: {bank} {index}");
                compared += 1;
            }
        }
    }
    println!("{compared} register values of {} logs compared", logs.len());
    assert!(logs.is_empty() || compared > 300, "only {compared} values compared");
}

/// What real events are worth, by type: an event that must hash to its data does, but for the ones that are known not to.
#[test]
fn real_content_hashes_to_its_digest() {
    let mut worth = std::collections::BTreeMap::<String, [usize; 5]>::new();
    let mut mismatched = Vec::new();
    for RealLog { file, bytes, .. } in &real_logs("real_content_hashes_to_its_digest") {
        for event in EventLog::parse(bytes).unwrap().events() {
            let content = event.content();
            let column = match content {
                Content::Verified(_) => 0,
                Content::Mismatched(_) => 1,
                Content::NotHashed(_) => 2,
                Content::Unmeasured(_) => 3,
                Content::Uncheckable(_) => 4,
            };
            worth.entry(event.event_type.to_string()).or_default()[column] += 1;
            if column == 1 {
                mismatched.push(format!("{file}: {content}"));
            }
        }
    }
    println!("verified, mismatched, not hashed, unmeasured, unchecked: {worth:#?}");
    assert_eq!(mismatched, Vec::<String>::new());
    assert!(worth.is_empty() || worth["EV_EFI_VARIABLE_DRIVER_CONFIG"][0] > 100);
}

/// Every event of the real logs has a form that is known, but for those listed.
#[test]
fn real_content_is_decoded() {
    let mut opaque = std::collections::BTreeMap::<String, usize>::new();
    for RealLog { file, bytes, .. } in &real_logs("real_content_is_decoded") {
        for event in EventLog::parse(bytes).unwrap().events() {
            let content = event.content();
            println!("{file} {} {} {content}", event.register, event.event_type);
            let bare = match content.alleged() {
                decode::Decoded::Opaque(_) => true,
                decode::Decoded::Variable(variable) => matches!(variable.value, decode::VariableValue::Bytes),
                _ => false,
            };
            if bare {
                *opaque.entry(format!("{file} {content}")).or_default() += 1;
            }
        }
    }
    println!("{opaque:#?}");
}

#[test]
fn mutated_real_logs_never_panic() {
    let Some(original) = real_log("mutated_real_logs_never_panic", "own__ovmf-sdstub-uki.bin") else { return };
    for position in (0..original.len()).step_by(3) {
        let mut bytes = original.clone();
        bytes[position] ^= [0x01, 0x80, 0xff][position % 9 / 3];
        exercise(&bytes);
        exercise(&original[..position]);
    }
}

fn exercise(bytes: &[u8]) {
    if let Ok(log) = EventLog::parse(bytes) {
        let events = log.events().filter(|event| !event.to_string().is_empty()).count();
        assert_eq!(events, log.event_count());
        let _ = log.replay();
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        exercise(&bytes);
        exercise(&[header(&[(0x0b, 32), (0x04, 20)]), bytes].concat());
    }

    #[test]
    fn arbitrary_events_never_panic(
        events in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<u32>(), any::<[u8; 6]>()), 0..64)
    ) {
        let mut bytes = header(&[(0x0b, 32)]);
        for (register, event_type, count, rest) in events {
            bytes.extend([(register % 30).to_le_bytes(), (event_type % 20).to_le_bytes(), (count % 3).to_le_bytes()].concat());
            bytes.extend(rest);
        }
        exercise(&bytes);
    }
}
