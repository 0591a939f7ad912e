//! The fold takes what was written and nothing else, whatever the bytes are.

use proptest::prelude::*;

use super::*;

fn chain() -> Chain {
    Chain::new("demo".parse().unwrap(), Sha256Digest::of(b"key"))
}

/// Three entries as they are written.
fn entries() -> Vec<Vec<u8>> {
    let acts = [
        Act::Begun {
            site: "demo".parse().unwrap(),
            trust_domain: "demo.example".parse().unwrap(),
            ledger_key_sha256: Sha256Digest::of(b"key"),
        },
        Act::refused(None, "quote", "evil\u{1b}[2J\nwords"),
        Act::Ended { build_id: "00".parse().unwrap(), outcome: "built".to_owned() },
    ];
    let mut chain = chain();
    let write = |act: Act| {
        let (sequence, previous_sha256) = chain.next();
        let time = Timestamp::from_unix(1_790_000_000).unwrap();
        let bytes = Entry { version: VERSION, sequence, time, previous_sha256, act }.to_vec().unwrap();
        chain.take(sequence, &bytes).unwrap();
        bytes
    };
    acts.into_iter().map(write).collect()
}

#[test]
fn foreign_words_are_cut_and_printable() {
    let Act::Refused { object, .. } = Act::refused(None, "code", &"\u{1b}\n\u{9b}é".repeat(500)) else { panic!() };
    assert_eq!(object, "é".repeat(OBJECT_CHARS_MAX));
    assert!(String::from_utf8(entries()[1].clone()).unwrap().contains("evil[2Jwords"));
}

#[test]
fn the_form_is_the_documented_one() {
    let text = String::from_utf8(entries()[2].clone()).unwrap();
    let previous = Sha256Digest::of(&entries()[1]);
    let expected = format!(
        r#"{{"act":{{"build_id":"00","kind":"ended","outcome":"built"}},"previous_sha256":"{previous}","sequence":2,"time":"2026-09-21T14:13:20Z","version":1}}"#
    );
    assert_eq!(text, expected);
}

#[test]
fn one_beginning_and_it_is_the_site_s() {
    let entries = entries();
    for other in [
        Chain::new("other".parse().unwrap(), Sha256Digest::of(b"key")),
        Chain::new("demo".parse().unwrap(), Sha256Digest::of(b"other")),
    ] {
        let mut other = other;
        assert!(matches!(other.take(0, &entries[0]), Err(Break::Beginning { sequence: 0, .. })));
    }
    let mut twice = chain();
    twice.take(0, &entries[0]).unwrap();
    let mut again: Entry = canonical::from_slice_exact(&entries[0]).unwrap();
    again.sequence = 1;
    again.previous_sha256 = Sha256Digest::of(&entries[0]);
    assert!(matches!(twice.take(1, &again.to_vec().unwrap()), Err(Break::Beginning { sequence: 1, .. })));
    let mut newer: Entry = canonical::from_slice_exact(&entries[0]).unwrap();
    newer.version = 2;
    assert!(matches!(chain().take(0, &newer.to_vec().unwrap()), Err(Break::Version { sequence: 0, version: 2 })));
}

proptest! {
    /// An entry with anything in its middle replaced is taken only if it is the same; then the next one or the head would tell.
    #[test]
    fn other_bytes_are_another_entry(at in 0_usize..200, with in proptest::collection::vec(any::<u8>(), 0..40), cut in 0_usize..40) {
        let entries = entries();
        let mut changed = entries[1].clone();
        let from = at.min(changed.len());
        let to = (from + cut).min(changed.len());
        changed.splice(from..to, with);
        let mut chain = chain();
        chain.take(0, &entries[0]).unwrap();
        if chain.take(1, &changed).is_ok() {
            prop_assert_eq!(chain.take(2, &entries[2]).is_ok(), changed == entries[1]);
        }
    }

    /// No entry has two spellings: what is read from changed bytes is written as those bytes.
    #[test]
    fn what_is_taken_is_written_as_it_was(
        which in 0_usize..3,
        at: prop::sample::Index,
        with in prop_oneof![prop::sample::select(&b" \n\t0+\"\\"[..]), any::<u8>()],
        cut in 0_usize..2,
    ) {
        let entries = entries();
        let mut chain = chain();
        for (sequence, entry) in (0..).zip(&entries[..which]) {
            chain.take(sequence, entry).unwrap();
        }
        let mut changed = entries[which].clone();
        let at = at.index(changed.len());
        changed.splice(at..at + cut, [with]);
        if let Ok(taken) = chain.take(which as u64, &changed) {
            prop_assert_eq!(taken.to_vec().unwrap(), changed);
        }
    }

    #[test]
    fn any_bytes_are_no_head(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
        prop_assert!(Head::verify(&bytes, &"demo".parse().unwrap(), &key).is_err());
    }
}
