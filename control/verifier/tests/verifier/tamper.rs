//! A host that signs nothing: whatever it does to the files of a sound bundle, the bundle no longer holds.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use kiln_formats::manifest::{Outcome, path};
use kiln_verifier::{Anchors, Bundle, Content, Finding, Gate, verify};
use proptest::prelude::*;
use serde_json::Value;

use crate::world::{Plan, anchors, digest};

static ANCHORS: LazyLock<Anchors> = LazyLock::new(anchors);
static BUNDLE: LazyLock<Bundle> = LazyLock::new(|| Plan::default().seal());

/// The first finding of a bundle that must not hold.
fn rejected(bundle: &Bundle, what: &str) -> Finding {
    let verdict = verify(bundle, &ANCHORS);
    assert!(!verdict.holds() && !verdict.passed() && verdict.artifacts.is_empty(), "{what}: it holds");
    verdict.findings.into_iter().next().unwrap_or_else(|| panic!("{what}: no finding"))
}

fn with(bundle: &Bundle, file: &str, bytes: Vec<u8>) -> Bundle {
    let mut other = bundle.clone();
    other.insert(file, Content::Bytes(bytes));
    other
}

fn paths(bundle: &Bundle) -> Vec<String> {
    bundle.paths().map(str::to_owned).collect()
}

/// Where a change of one file is noticed, if nothing else is changed.
fn gate_of(file: &str) -> Gate {
    if [path::LAST_QUOTE, path::LAST_SIGNATURE].contains(&file) { Gate::Quote } else { Gate::Evidence }
}

#[test]
fn removing_any_file_is_rejected() {
    for outcome in [Outcome::Built, Outcome::StepFailed] {
        let bundle = Plan { outcome, ..Plan::default() }.seal();
        for file in paths(&bundle) {
            let mut other = bundle.clone();
            other.remove(&file);
            let finding = rejected(&other, &file);
            assert_eq!((finding.gate, finding.code), (Gate::Evidence, "file_missing"), "{file}: {finding}");
            assert_eq!(finding.object, file);
        }
    }
}

#[test]
fn adding_any_file_is_rejected() {
    let bundle = &*BUNDLE;
    for file in ["artifacts/evil", "evidence/boot/extra", "extra", "verdict.json"] {
        let finding = rejected(&with(bundle, file, vec![]), file);
        assert_eq!((finding.gate, finding.code, finding.object.as_str()), (Gate::Evidence, "file_unlisted", file));
    }
}

#[test]
fn flipping_a_bit_of_any_file_is_rejected() {
    let bundle = Plan::default().seal();
    for file in paths(&bundle) {
        let Some(bytes) = bundle.bytes(&file).map(<[u8]>::to_vec) else {
            let mut other = bundle.clone();
            other.insert(file.as_str(), Content::Digest { sha256: digest("evil"), size: 8 });
            assert_eq!(rejected(&other, &file).code, "file_changed");
            other.insert(file.as_str(), Content::Digest { sha256: digest("!<arch>\n"), size: 9 });
            assert_eq!(rejected(&other, &file).code, "file_changed");
            continue;
        };
        // Every byte of what is short, a sample of what is long; the formats' own tests flip every bit of their bytes.
        for at in (0..bytes.len()).step_by(bytes.len().div_ceil(16)) {
            let mut other = bytes.clone();
            other[at] ^= 1 << (at % 8);
            let finding = rejected(&with(&bundle, &file, other), &format!("{file} byte {at}"));
            assert_eq!(finding.gate, gate_of(&file), "{file} byte {at}: {finding}");
        }
        for other in [vec![], [&bytes[..], b"\n"].concat(), bytes[..bytes.len() - 1].to_vec()] {
            let finding = rejected(&with(&bundle, &file, other), &file);
            assert_eq!(finding.gate, gate_of(&file), "{file}: {finding}");
        }
    }
}

#[test]
fn exchanging_files_is_rejected() {
    let bundle = Plan::default().seal();
    // Files of another build of the same machine, each alone in the place of ours.
    let other = Plan { artifact: b"evil".to_vec(), ..Plan::default() }.seal();
    let mut exchanged = 0;
    for file in paths(&bundle).into_iter().filter(|file| bundle.get(file) != other.get(file)) {
        let mut mixed = bundle.clone();
        mixed.insert(file.as_str(), other.get(&file).unwrap().clone());
        let finding = rejected(&mixed, &file);
        assert_eq!(finding.gate, gate_of(&file), "{file}: {finding}");
        exchanged += 1;
    }
    assert!(exchanged >= 6, "{exchanged}");
    for (one, two) in [(path::FIRST_QUOTE, path::LAST_QUOTE), (path::STATEMENT_KEY, path::ATTESTATION_KEY)] {
        let mut swapped = bundle.clone();
        swapped.insert(one, bundle.get(two).unwrap().clone());
        swapped.insert(two, bundle.get(one).unwrap().clone());
        assert_eq!(rejected(&swapped, one).gate, Gate::Evidence);
    }
}

/// Every leaf of a document, by its JSON pointer.
fn leaves(value: &Value, pointer: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, field) in fields {
                leaves(field, format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                leaves(item, format!("{pointer}/{at}"), found);
            }
        }
        _ => found.push(pointer),
    }
}

/// Another value that a reader might take for the field's.
fn other_value(value: &Value) -> Value {
    match value {
        Value::Null => Value::Bool(true),
        Value::Bool(bool) => Value::Bool(!bool),
        Value::Number(number) => (number.as_u64().unwrap_or(0) + 1).into(),
        Value::String(text) => match text.chars().next_back() {
            // Another digit keeps digests and times well-formed; another letter keeps names so.
            Some(last) => {
                let other = if last == '0' {
                    '1'
                } else if last.is_ascii_digit() {
                    '0'
                } else if last == 'a' {
                    'b'
                } else {
                    'a'
                };
                Value::String(format!("{}{other}", &text[..text.len() - last.len_utf8()]))
            }
            None => "x".into(),
        },
        Value::Array(_) => serde_json::json!(["x"]),
        Value::Object(_) => serde_json::json!({"x": 1}),
    }
}

/// The payload of an envelope, and the envelope with another payload under the old signature.
fn payload_of(envelope: &Value) -> Value {
    let bytes =
        kiln_formats::dsse::Envelope::from_slice(&serde_json::to_vec(envelope).unwrap()).unwrap().alleged_payload();
    serde_json::from_slice(&bytes.unwrap()).unwrap()
}

fn with_payload(envelope: &Value, payload: &Value) -> Value {
    // The same encoding that the formats use, so that only the signature can tell.
    let bytes = kiln_formats::canonical::to_vec(payload).unwrap();
    let encoded = kiln_formats::dsse::Envelope::new("x", &bytes, &[0; 64]).to_vec().unwrap();
    let encoded: Value = serde_json::from_slice(&encoded).unwrap();
    let mut other = envelope.clone();
    other["payload"] = encoded["payload"].clone();
    other
}

/// What a host can do about the files that name each other: list the changed file's digest, and close over the changed list.
/// What it cannot do is sign.
fn relisted(bundle: &Bundle, file: &str) -> Bundle {
    let mut other = bundle.clone();
    let content = other.get(file).unwrap().clone();
    let bytes = match &content {
        Content::Bytes(bytes) => bytes.clone(),
        Content::Digest { .. } => vec![],
    };
    let sha256 = kiln_formats::digest::Sha256Digest::of(&bytes);
    let mut envelope: Value = serde_json::from_slice(other.bytes(path::MANIFEST).unwrap()).unwrap();
    let mut manifest = payload_of(&envelope);
    for listed in manifest["files"].as_array_mut().unwrap() {
        if listed["path"] == file {
            listed["sha256"] = sha256.to_string().into();
            listed["size"] = bytes.len().into();
        }
    }
    envelope = with_payload(&envelope, &manifest);
    let envelope_bytes = kiln_formats::canonical::to_vec(&envelope).unwrap();
    let mut closing: Value = serde_json::from_slice(other.bytes(path::CLOSING).unwrap()).unwrap();
    let payload = kiln_formats::canonical::to_vec(&manifest).unwrap();
    closing["manifest_sha256"] = kiln_formats::digest::Sha256Digest::of(&payload).to_string().into();
    closing["manifest_envelope_sha256"] = kiln_formats::digest::Sha256Digest::of(&envelope_bytes).to_string().into();
    other.insert(path::MANIFEST, Content::Bytes(envelope_bytes));
    other.insert(path::CLOSING, Content::Bytes(kiln_formats::canonical::to_vec(&closing).unwrap()));
    other
}

#[test]
fn changing_any_field_of_any_document_is_rejected() {
    let bundle = Plan::default().seal();
    let mut fields = BTreeMap::new();
    // The second record has the same fields as the first.
    let documents = |file: &String| file.ends_with(".json") && !file.contains("/01-");
    for file in paths(&bundle).into_iter().filter(documents) {
        let document: Value = serde_json::from_slice(bundle.bytes(&file).unwrap()).unwrap();
        let signed = file.ends_with(".dsse.json");
        let inner = if signed { payload_of(&document) } else { document.clone() };
        let mut pointers = Vec::new();
        leaves(&inner, String::new(), &mut pointers);
        for (at, pointer) in pointers.iter().enumerate() {
            let mut changed = inner.clone();
            let field = changed.pointer_mut(pointer).unwrap();
            *field = other_value(field);
            let changed = if signed { with_payload(&document, &changed) } else { changed };
            let bytes = kiln_formats::canonical::to_vec(&changed).unwrap();
            assert_ne!(Some(bytes.as_slice()), bundle.bytes(&file), "{file} {pointer}: nothing was changed");
            let other = with(&bundle, &file, bytes);
            let what = format!("{file} {pointer}");
            let finding = rejected(&other, &what);
            assert_eq!(finding.gate, gate_of(&file), "{what}: {finding}");
            if at % 5 == 0 && file != path::CLOSING {
                // Listing the change does not help: the manifest's signature, or the last quote, tells.
                let finding = rejected(&relisted(&other, &file), &what);
                assert!(finding.gate <= Gate::Quote, "{what}: {finding}");
            }
        }
        fields.insert(file, pointers.len());
    }
    println!("fields changed: {fields:?}");
    assert_eq!(fields.len(), 12);
    assert!(fields.values().sum::<usize>() > 230, "{fields:?}");
}

#[test]
fn a_whole_bundle_signed_by_others_is_rejected() {
    // The host makes up keys and signs everything itself: only what it cannot get certified gives it away.
    let rows = [
        ("own statement key", Plan { statement_key: 9, ..Plan::default() }, Gate::Evidence),
        (
            "own quote key",
            Plan { first: Box::new(|q| q.key = 9), last: Box::new(|q| q.key = 9), ..Plan::default() },
            Gate::Quote,
        ),
        ("own job", Plan { job_key: 9, ..Plan::default() }, Gate::Job),
    ];
    for (what, plan, gate) in rows {
        assert_eq!(rejected(&plan.seal(), what).gate, gate, "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn arbitrary_mutations_never_hold_and_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<Vec<u8>>(), 0u8..5), 1..4)
    ) {
        let bundle = &*BUNDLE;
        let paths = paths(bundle);
        let mut other = bundle.clone();
        for (which, place, noise, kind) in edits {
            let file = which.get(&paths);
            let mut bytes = bundle.bytes(file).unwrap_or_default().to_vec();
            let at = place.index(bytes.len() + 1);
            match kind {
                0 => drop(other.remove(file)),
                1 => other.insert(file.as_str(), Content::Bytes(noise)),
                2 => {
                    bytes.truncate(at);
                    other.insert(file.as_str(), Content::Bytes(bytes));
                }
                3 => {
                    bytes.splice(at..at, noise);
                    other.insert(file.as_str(), Content::Bytes(bytes));
                }
                _ => {
                    let end = (at + noise.len()).min(bytes.len());
                    bytes[at..end].copy_from_slice(&noise[..end - at]);
                    other.insert(file.as_str(), Content::Bytes(bytes));
                }
            }
        }
        let same = paths.iter().all(|file| {
            other.get(file) == bundle.get(file) || matches!((other.get(file), bundle.get(file)),
                (Some(Content::Bytes(bytes)), Some(Content::Digest { sha256, .. }))
                    if kiln_formats::digest::Sha256Digest::of(bytes) == *sha256)
        });
        prop_assert_eq!(verify(&other, &ANCHORS).passed(), same);
    }
}
