//! Real evidence, altered in every way that a single hand can: each time the verdict says where.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kiln_formats::canonical;
use kiln_formats::certificate::Certificate;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::manifest::path;
use kiln_formats::reference::Reference;
use kiln_formats::trust::Policy;
use kiln_verifier::{Anchors, Bundle, Content, Gate, Verdict, verify};
use serde_json::Value;

use crate::fixture::{files, good, kiln, scratch, site};

/// Files of up to this many bytes have every byte changed; of longer ones every so many-th.
const EVERY_BYTE_MAX: usize = 2048;

fn anchors() -> Anchors {
    good();
    site_anchors()
}

/// What the tests' site trusts, once it has built something: its reference values come with the first image.
pub(crate) fn site_anchors() -> Anchors {
    let reference = fs::read_dir(site().join("reference")).unwrap().next().unwrap().unwrap().path();
    Anchors {
        standing: None,
        root: Certificate::from_pem(&fs::read(site().join("root.pem")).unwrap()).unwrap(),
        policy: canonical::from_slice_exact::<Policy>(&fs::read(site().join("policy.json")).unwrap()).unwrap(),
        reference: canonical::from_slice_exact::<Reference>(&fs::read(reference).unwrap()).unwrap(),
    }
}

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// The files that a verifier gets of a run's output.
pub(crate) fn evidence_in(out: &Path) -> Files {
    files(out).into_iter().filter(|(name, _)| ![path::VERDICT, path::TEARDOWN].contains(&name.as_str())).collect()
}

fn evidence() -> Files {
    evidence_in(good())
}

pub(crate) fn judge(files: &Files, anchors: &Anchors) -> Verdict {
    let mut bundle = Bundle::new();
    for (name, bytes) in files {
        bundle.insert(name.clone(), Content::Bytes(bytes.clone()));
    }
    verify(&bundle, anchors)
}

/// The first gate that objects.
fn stopped_at(verdict: &Verdict) -> Option<Gate> {
    verdict.findings.iter().map(|finding| finding.gate).min()
}

/// The gates that may object to a change of a file: the first that reads it. Certificates and the binding are read to check the
/// manifest's signature; what the manifest lists is compared with it; what it cannot list is under the closing and the last quote.
fn gates_of(name: &str) -> &'static [Gate] {
    match name {
        path::RUNTIME_LOG | path::LAST_QUOTE | path::LAST_SIGNATURE => &[Gate::Evidence, Gate::Quote],
        path::CLOSING => &[Gate::Evidence, Gate::Quote],
        _ => &[Gate::Evidence],
    }
}

#[test]
fn untouched_it_holds() {
    let verdict = judge(&evidence(), &anchors());
    assert!(verdict.passed(), "{:?}", verdict.findings);
}

#[test]
fn every_file_is_needed_and_none_may_be_added() {
    let anchors = anchors();
    for name in evidence().keys() {
        let mut files = evidence();
        files.remove(name);
        let verdict = judge(&files, &anchors);
        assert!(
            !verdict.passed() && stopped_at(&verdict).is_some_and(|gate| gates_of(name).contains(&gate)),
            "without {name}: {verdict:?}"
        );
    }
    for extra in ["evidence/extra", "artifacts/extra", "extra"] {
        let mut files = evidence();
        files.insert(extra.into(), Vec::new());
        assert_eq!(stopped_at(&judge(&files, &anchors)), Some(Gate::Evidence), "with {extra}");
    }
}

#[test]
fn no_byte_is_free() {
    let anchors = anchors();
    let good = evidence();
    let mut changed = 0;
    for (name, bytes) in &good {
        let stride = if bytes.len() <= EVERY_BYTE_MAX { 1 } else { bytes.len() / 512 };
        for at in (0..bytes.len()).step_by(stride) {
            let mut files = good.clone();
            files.get_mut(name).unwrap()[at] ^= 1 << (at % 8);
            let verdict = judge(&files, &anchors);
            assert!(!verdict.passed(), "{name}: byte {at} is free");
            assert!(
                stopped_at(&verdict).is_some_and(|gate| gates_of(name).contains(&gate)),
                "{name}: byte {at}: {verdict:?}"
            );
            changed += 1;
        }
        let mut files = good.clone();
        let short = files.get_mut(name).unwrap().pop().is_some();
        assert!(!short || !judge(&files, &anchors).passed(), "{name}: cut short");
        files.get_mut(name).unwrap().extend_from_slice(b"\n\n");
        assert!(!judge(&files, &anchors).passed(), "{name}: longer");
    }
    assert!(changed > 5000, "only {changed} changes were tried");
}

/// Every value inside a document, by its path.
fn leaves(tree: &Value, at: &str, found: &mut Vec<String>) {
    match tree {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            leaves(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found)
        }),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| leaves(value, &format!("{at}/{index}"), found))
        }
        _ => found.push(at.to_owned()),
    }
}

fn another(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(format!("{text}x")),
        Value::Number(number) => Value::from(number.as_u64().unwrap_or(0) + 1),
        Value::Bool(truth) => Value::Bool(!truth),
        other => Value::String(format!("{other}")),
    }
}

/// Every field of every JSON document and, inside envelopes, of every payload: changed, and written canonically again.
#[test]
fn no_field_is_free() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let anchors = anchors();
    let good = evidence();
    let mut changed = 0;
    for (name, bytes) in good.iter().filter(|(name, _)| name.ends_with(".json") || name.ends_with(".jsonl")) {
        let document: Value = serde_json::from_slice(bytes).unwrap();
        let payload = document.get("payload").and_then(|text| STANDARD.decode(text.as_str()?).ok());
        let payload: Option<Value> = payload.map(|bytes| serde_json::from_slice(&bytes).unwrap());
        let mut fields = Vec::new();
        leaves(&document, "", &mut fields);
        let mut inner = Vec::new();
        payload.iter().for_each(|tree| leaves(tree, "", &mut inner));
        let outside = fields.iter().map(|field| {
            let mut tree = document.clone();
            *tree.pointer_mut(field).unwrap() = another(tree.pointer(field).unwrap());
            (field.clone(), tree)
        });
        let inside = inner.iter().map(|field| {
            let mut tree = payload.clone().unwrap();
            *tree.pointer_mut(field).unwrap() = another(tree.pointer(field).unwrap());
            let mut envelope = document.clone();
            envelope["payload"] = Value::String(STANDARD.encode(canonical::to_vec(&tree).unwrap()));
            (format!("payload{field}"), envelope)
        });
        for (field, tree) in outside.chain(inside) {
            let mut files = good.clone();
            files.insert(name.clone(), canonical::to_vec(&tree).unwrap());
            let verdict = judge(&files, &anchors);
            assert!(!verdict.passed(), "{name}: {field} is free");
            assert!(
                stopped_at(&verdict).is_some_and(|gate| gates_of(name).contains(&gate)),
                "{name}: {field}: {verdict:?}"
            );
            changed += 1;
        }
    }
    assert!(changed > 200, "only {changed} fields were tried");
}

#[test]
fn another_root_policy_or_reference_is_noticed() {
    let good = evidence();
    let mut other = anchors();
    other.policy.job_signers.clear();
    assert!(!judge(&good, &other).passed(), "a policy without signers");
    let mut other = anchors();
    other.policy.builder_ids.clear();
    assert!(!judge(&good, &other).passed(), "a policy without builders");
    for machine in 0..anchors().reference.machines.len() {
        let mut other = anchors();
        let builder = &mut other.reference.machines[machine];
        let firmware = builder.builder_id == kiln_formats::names::BUILDER_FIRMWARE;
        for (pcr, expected) in &mut builder.pcrs {
            expected.value = Sha256Digest::of(pcr.as_bytes());
            expected.events.iter_mut().for_each(|event| event.sha256 = Sha256Digest::of(b"another"));
        }
        let verdict = judge(&good, &other);
        assert_eq!(!verdict.passed(), firmware, "{verdict:?}");
        assert!(!firmware || stopped_at(&verdict) == Some(Gate::Boot), "{verdict:?}");
    }
}

/// The tool says the same: exit 13, the gate, and what is wrong.
#[test]
fn the_tool_rejects_a_single_flipped_bit() {
    let copy = scratch();
    for (name, mut bytes) in files(good()) {
        if name == "artifacts/hello" {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        let to = copy.path().join(&name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
    let ran =
        kiln(["verify".as_ref(), copy.path().as_os_str(), "--site".as_ref(), site().as_os_str(), "--json".as_ref()])
            .expect(13);
    let finding = &ran.json()["findings"][0];
    assert_eq!(finding["gate"], "evidence");
    assert!(finding["object"].as_str().unwrap().contains("artifacts/hello"), "{finding}");
}
