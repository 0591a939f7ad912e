//! The launcher's word that the machine is gone: of this build's machine, by a key that was certified for it and serves for nothing else.

use kiln_formats::canonical;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::manifest::path;
use kiln_formats::names::{BUILDER_FIRMWARE, PAYLOAD_STATEMENT};
use kiln_formats::teardown::{Teardown, TornDown};
use kiln_verifier::{Bundle, Finding, Gate, teardown, verify};

use crate::world::{
    AUTHORITY_KEY, DISPATCH_KEY, ISSUER_KEY, Leaf, Plan, STATEMENT_KEY, anchors, at, digest, ed25519_spki, issuer, key,
    name, statement_leaf,
};

/// The key of an honest launcher.
const TEARDOWN_KEY: u8 = 20;

/// What an honest launcher says of a bundle's machine.
fn gone(bundle: &Bundle) -> TornDown {
    TornDown {
        build_id: name(issuer().build_id),
        closing_sha256: Sha256Digest::of(bundle.bytes(path::CLOSING).unwrap()),
        builder_id: BUILDER_FIRMWARE.to_owned(),
        started: at(-30),
        ended: at(60),
    }
}

/// The certificate of the launcher's key, whichever that is.
fn leaf(seed: u8) -> Leaf {
    let id = statement_leaf().id.replace("/statement", "/teardown");
    Leaf { spki: ed25519_spki(seed), id, first: at(60).unix(), ..statement_leaf() }
}

/// What is made of a sound bundle with such a word beside it.
fn judge(said: impl FnOnce(TornDown) -> TornDown, leaf: &Leaf, signer: u8) -> Result<TornDown, Finding> {
    let bundle = Plan::default().seal();
    let verdict = verify(&bundle, &anchors());
    assert!(verdict.passed());
    let payload = canonical::to_vec(&said(gone(&bundle)).statement()).unwrap();
    let statement = Envelope::sign(PAYLOAD_STATEMENT, &payload, &key(signer));
    let file = Teardown { certificate: leaf.issue().to_pem().unwrap(), statement };
    teardown::check(&canonical::to_vec(&file).unwrap(), &bundle, &anchors(), &verdict)
}

#[test]
fn an_honest_launcher_is_believed() {
    let said = judge(|said| said, &leaf(TEARDOWN_KEY), TEARDOWN_KEY).unwrap();
    assert_eq!((said.started, said.ended), (at(-30), at(60)));
}

/// Each is certified for the teardown, rightly, and its holder signed: what is wrong is that it is a key of somebody else's.
#[test]
fn no_key_of_another_role_speaks_for_the_launcher() {
    let root = 1;
    let (first_step, second_step) = (10, 11);
    for seed in [root, AUTHORITY_KEY, STATEMENT_KEY, DISPATCH_KEY, ISSUER_KEY, first_step, second_step] {
        let found = judge(|said| said, &leaf(seed), seed).unwrap_err();
        assert_eq!((found.gate, found.code, found.object.as_str()), (Gate::Evidence, "key_reused", "teardown.json"));
    }
}

#[test]
fn another_word_is_none() {
    let by = |leaf: Leaf| judge(|said| said, &leaf, TEARDOWN_KEY);
    let says = |change: fn(&mut TornDown)| {
        let said = |mut said: TornDown| {
            change(&mut said);
            said
        };
        judge(said, &leaf(TEARDOWN_KEY), TEARDOWN_KEY)
    };
    let ours = || leaf(TEARDOWN_KEY);
    let rows = [
        ("a key that nobody certified", judge(|said| said, &ours(), 21), "did not sign"),
        ("another authority's", by(Leaf { issuer_key: 9, ..ours() }), "signature"),
        ("the name of the statement key", by(Leaf { id: statement_leaf().id, ..ours() }), "in the name of"),
        ("another time", by(Leaf { first: at(61).unix(), ..ours() }), "of another time"),
        ("another build", says(|said| said.build_id = name("ff")), "does not say"),
        ("another end", says(|said| said.closing_sha256 = digest("x")), "does not say"),
        ("started after the challenge", says(|said| said.started = at(1)), "not in its life"),
    ];
    for (what, found, word) in rows {
        let found = found.unwrap_err();
        assert_eq!(found.code, "teardown", "{what}: {found}");
        assert!(found.reason.contains(word), "{what}: {found}");
    }
}
