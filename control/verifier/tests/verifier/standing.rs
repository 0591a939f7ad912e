//! Sound evidence against trust lists: what the root took back turns a pass into a finding, with a code of its own.

use kiln_formats::canonical;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::trust::PublicKey;
use kiln_formats::trust_list::{Minimum, RetiredRoot, Revoked, TrustList, VERSION};
use kiln_verifier::{Anchors, Gate, Standing, verify};

use crate::world::{JOB_KEY, Plan, anchors, at, authority, image_sha256, key, machine, policy, root};

fn list() -> TrustList {
    TrustList {
        version: VERSION,
        site: "test".parse().unwrap(),
        number: 4,
        issued: at(-100),
        expires: at(1000),
        root: root().to_pem().unwrap(),
        retired: Vec::new(),
        minimum: Minimum::default(),
        revoked: Revoked::default(),
    }
}

/// What the verdict is under a list that was changed so, judged at this time; `None` if it passes.
fn judged(change: impl FnOnce(&mut TrustList), seconds: i64) -> Option<(Gate, &'static str)> {
    let mut list = list();
    change(&mut list);
    let standing = Some(Standing { list, judged_at: at(seconds) });
    let verdict = verify(&Plan::default().seal(), &Anchors { standing, ..anchors() });
    assert_eq!(verdict.trust_list, Some(4));
    assert_eq!(verdict.passed(), verdict.findings.is_empty());
    verdict.findings.first().map(|finding| (finding.gate, finding.code))
}

#[test]
fn what_is_not_revoked_passes_and_the_verdict_says_by_which_list() {
    assert_eq!(judged(|_| {}, 0), None);
    assert_eq!(verify(&Plan::default().seal(), &anchors()).trust_list, None);
}

#[test]
fn a_list_counts_for_a_time() {
    assert_eq!(judged(|_| {}, 1001), Some((Gate::Evidence, "trust_list_expired")));
    assert_eq!(judged(|_| {}, -101), Some((Gate::Evidence, "clock_set_back")));
}

#[test]
fn a_root_that_was_replaced_counts_until_then() {
    let old = || root().to_pem().unwrap();
    let replaced = |until: i64| {
        move |list: &mut TrustList| {
            list.root = "another".to_owned();
            list.retired = vec![RetiredRoot { root: old(), until: at(until) }];
        }
    };
    assert_eq!(judged(replaced(0), 5), None);
    assert_eq!(judged(replaced(-1), 5), Some((Gate::Evidence, "root_retired")));
    assert_eq!(judged(|list| list.root = "another".to_owned(), 5), Some((Gate::Evidence, "root_unknown")));
}

#[test]
fn what_is_revoked_fails_at_the_gate_that_reads_it() {
    let spki = |certificate: kiln_formats::certificate::Certificate| Sha256Digest::of(&certificate.spki().unwrap());
    let signer = PublicKey(key(JOB_KEY).verifying_key()).sha256();
    for (digest, gate) in [
        (spki(root()), Gate::Evidence),
        (spki(authority()), Gate::Evidence),
        (machine(), Gate::Quote),
        (signer, Gate::Job),
    ] {
        assert_eq!(judged(|list| list.revoked.keys.extend([digest]), 5), Some((gate, "key_revoked")));
    }
    assert_eq!(judged(|list| list.revoked.images.extend([image_sha256()]), 5), Some((Gate::Boot, "image_revoked")));
    let text = Sha256Digest::of(&canonical::to_vec(&policy()).unwrap());
    assert_eq!(judged(|list| list.revoked.policies.extend([text]), 5), Some((Gate::Boot, "policy_revoked")));
    assert_eq!(judged(|list| list.minimum.image = 1, 5), Some((Gate::Boot, "reference_stale")));
    assert_eq!(judged(|list| list.minimum.policy = 2, 5), Some((Gate::Boot, "policy_rolled_back")));
    assert_eq!(judged(|list| list.minimum.policy = 1, 5), None);
}
