//! The reader against systemd's records, torn logs, exports of real logs, and noise.

use proptest::prelude::*;

use super::*;
use crate::boot::Boot;
use crate::eventlog::EventLog;
use crate::eventlog::corpus::real_logs;
use crate::pcr::Bank;

/// A record as systemd 262 writes it. Source: its measurement log.
const SEPARATOR: &str = r#"{"pcr":7,"digests":[{"hashAlg":"sha256","digest":"ff5b9d73c97a68b3fe2c2bd9f4e9a1e4a3f0d3d6b1f0f3f0f0f0f0f0f0f0f841"}],"content_type":"systemd","content":{"string":"os-separator","bootId":"189c18dd7ba245f38cf49d9ac154b525","timestamp":1515761,"eventType":"os-separator"}}"#;

fn word(pcr: u32, text: &str) -> String {
    let digest = Bank::Sha256.hash(text.as_bytes()).unwrap();
    format!(
        "\x1e{{\"pcr\":{pcr},\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{digest}\"}}],\"content_type\":\"systemd\",\"content\":{{\"string\":\"{text}\",\"eventType\":\"phase\"}}}}\n"
    )
}

#[test]
fn a_word_must_hash_to_its_digest() {
    let log = format!("\x1e{SEPARATOR}\n{}", word(11, "enter-initrd"));
    let parsed = CelLog::parse(log.as_bytes()).unwrap();
    assert_eq!((parsed.form(), parsed.record_count(), parsed.damaged_count()), (Form::Sequence, 2, 0));
    let holds: Vec<_> = parsed.records().map(|record| record.text_holds()).collect();
    assert_eq!(holds, [Some(false), Some(true)], "the first digest is made up");
}

#[test]
fn a_torn_log_says_where_and_keeps_the_rest() {
    let whole = [word(11, "enter-initrd"), word(11, "leave-initrd"), word(15, "machine-id:1")].concat();
    for cut in 1..whole.len() {
        let torn = CelLog::parse(&whole.as_bytes()[..cut]);
        let complete = whole[..cut].matches("}\n").count();
        match torn {
            // A record without its line end is still all there.
            Ok(log) => assert!(log.record_count() >= complete && log.record_count() + log.damaged_count() >= 1),
            Err(error) => assert_eq!((error, cut), (CelError::Empty, 1)),
        }
    }
    // systemd appends to a log that is torn.
    let middle = [&whole[..whole.len() / 2], &word(15, "machine-id:1")].concat();
    let parsed = CelLog::parse(middle.as_bytes()).unwrap();
    assert_eq!((parsed.record_count(), parsed.damaged_count()), (2, 1));
    assert!(parsed.entries().nth(1).unwrap().is_err());
}

/// The example of the specification, and an algorithm by its number. Source: TCG Canonical Event Log Format 1.0, section 5.3.
#[test]
fn the_specifications_example_is_read() {
    let example = r#"{"content":{"event_type":"EV_COMPACT_HASH","event_data":"44656c6c20436f6e66696775726174696f6e20496e666f726d6174696f6e2032"},"content_type":"pcclient_std","pcr":6,"recnum":2,"digests":[{"hashAlg":"sha1","digest":"bac9a8935b720760bcdea2faae75152f5d1e4bea"},{"hashAlg":"0x000B","digest":"d18bf8d221a3a3b08774c8d077328c4b2ca205e4f1618ad4bac2b5786f453bc7"}]}"#;
    let text = format!("[{example}]");
    let record = CelLog::parse(text.as_bytes()).unwrap().records().next().unwrap();
    assert_eq!((record.number, record.target), (Some(2), Target::Register(6)));
    assert_eq!(record.digests.iter().map(BankDigest::bank).collect::<Vec<_>>(), [Bank::Sha1, Bank::Sha256]);
    let data = b"Dell Configuration Information 2".to_vec();
    assert_eq!(record.content, RecordContent::Firmware { event_type: EventType(12), data });
}

#[test]
fn records_of_other_shapes_are_damage() {
    for bad in [
        r#"{"pcr":24,"digests":[]}"#,
        r#"{"pcr":1,"nv_index":2,"digests":[]}"#,
        r#"{"digests":[]}"#,
        r#"{"pcr":1,"digests":[{"hashAlg":"sha256","digest":"00"}]}"#,
        r#"{"pcr":1}"#,
        r#"{"pcr":-1,"digests":[]}"#,
        r#"{"pcr":1,"digests":[],"content_type":"pcclient_std","content":{"event_type":"EV_NONE"}}"#,
        "{}{}",
    ] {
        let log = CelLog::parse(bad.as_bytes()).unwrap();
        assert_eq!((log.record_count(), log.damaged_count()), (0, 1), "{bad}");
    }
    for good in [
        r#"{"pcr":1,"digests":[{"hashAlg":"sha3_512","digest":"00"}]}"#,
        r#"{"nv_index":29495296,"digests":[],"content_type":"systemd","content":{}}"#,
        r#"{"pcr":4294967295,"digests":[],"content_type":"pcclient_std","content":{"event_type":3}}"#,
        r#"{"pcr":1,"digests":[],"content_type":"ima_template","content":"x"}"#,
    ] {
        let log = CelLog::parse(good.as_bytes()).unwrap();
        assert_eq!((log.record_count(), log.damaged_count()), (1, 0), "{good}");
    }
}

#[test]
fn an_export_replays_to_the_same_values() {
    let runtime = [word(15, "a"), word(15, "b"), word(11, "c")].concat();
    let runtime = CelLog::parse(runtime.as_bytes()).unwrap();
    for log in &real_logs("an_export_replays_to_the_same_values") {
        let firmware = EventLog::parse(&log.bytes).unwrap();
        let both = Boot { firmware: Some(firmware.clone()), runtime: Some(runtime.clone()) };
        let text = export(Some(&firmware), Some(&runtime));
        assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_array());
        let exported = CelLog::parse(text.as_bytes()).unwrap();
        let header = usize::from(firmware.header().is_some());
        assert_eq!(exported.record_count(), firmware.event_count() + 3 + header, "{}", log.file);
        assert_eq!((exported.form(), exported.damaged_count()), (Form::Array, 0));
        let read = Boot { firmware: None, runtime: Some(exported.clone()) };
        assert_eq!(read.replay(), both.replay(), "{}", log.file);
        // Read and written again it is the same text, but for digests of unknown algorithms.
        assert_eq!(export(None, Some(&exported)), text, "{}", log.file);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = CelLog::parse(&bytes);
        let _ = CelLog::parse(&[b"[".as_slice(), &bytes].concat());
        let _ = CelLog::parse(&[b"\x1e{\"pcr\":1".as_slice(), &bytes].concat());
    }

    #[test]
    fn every_byte_is_in_a_record_or_damaged(cut in 0_usize..600, flip in 0_usize..600) {
        let mut bytes = [word(11, "enter-initrd"), word(15, "x"), word(15, "y")].concat().into_bytes();
        if let Some(byte) = bytes.get_mut(flip) {
            *byte ^= 1;
        }
        bytes.truncate(cut.max(2));
        if let Ok(log) = CelLog::parse(&bytes) {
            prop_assert_eq!(log.entries().count(), log.record_count() + log.damaged_count());
        }
    }
}
