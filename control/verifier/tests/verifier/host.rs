//! A machine on a host that quotes: the host's own quote is judged, and nobody's word stands in for it.

use std::collections::BTreeSet;

use kiln_formats::certificate::Certificate;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::host::Host;
use kiln_formats::manifest::path;
use kiln_formats::names::{BUILDER_HOSTED, BUILDER_SECURE_BOOT};
use kiln_formats::trust::Policy;
use kiln_formats::trust_list::{self, TrustList};
use kiln_verifier::{Anchors, Gate, Standing, verify};

use crate::mode::{machine, taking};
use crate::world::{AK, HOST_AK, Plan, QuoteDraft, at, digest, host, name, root};

/// A machine on that host, and what a person holds who takes it.
fn hosted() -> (Plan, Anchors) {
    let plan = machine(BUILDER_HOSTED, BUILDER_HOSTED);
    let anchors = taking(&plan, &[BUILDER_HOSTED]);
    (plan, anchors)
}

fn found(plan: &Plan, anchors: &Anchors) -> (Gate, &'static str) {
    let verdict = verify(&plan.seal(), anchors);
    assert!(!verdict.passed() && verdict.artifacts.is_empty());
    verdict.findings.first().map(|finding| (finding.gate, finding.code)).unwrap()
}

#[test]
fn the_verdict_names_the_host() {
    let (plan, anchors) = hosted();
    let verdict = verify(&plan.seal(), &anchors);
    assert!(verdict.passed(), "{:?}", verdict.findings);
    assert_eq!(verdict.host, Some(digest("host")));
    // And none where there is none.
    let plan = machine(BUILDER_SECURE_BOOT, BUILDER_SECURE_BOOT);
    let verdict = verify(&plan.seal(), &taking(&plan, &[BUILDER_SECURE_BOOT]));
    assert!(verdict.passed(), "{:?}", verdict.findings);
    assert_eq!(verdict.host, None);
}

/// The authority signs whatever it is asked to, and the machine takes it: the quote alone decides.
#[test]
fn an_authority_that_lies_of_the_host_is_found_out() {
    type Edit = fn(&mut QuoteDraft);
    let cases: [(&str, Edit, &str); 7] = [
        ("for another build", |it| it.qualifying = digest("other"), "host_other_build"),
        ("by another key", |it| it.key = HOST_AK + 1, "host_quote"),
        ("by the machine's own key", |it| it.key = AK, "host_quote"),
        ("no quote", |it| it.kind = 0x8017, "host_quote"),
        ("made outside a TPM", |it| it.magic = 0, "host_quote"),
        ("of other registers", |it| it.selection = [1, 0, 0], "host_registers"),
        ("of a host that booted otherwise", |it| it.pcr_digest = digest("other"), "host_registers"),
    ];
    for (what, edit, code) in cases {
        let (plan, anchors) = hosted();
        let plan = Plan { host: Some(Box::new(edit)), ..plan };
        assert_eq!(found(&plan, &anchors), (Gate::Boot, code), "{what}");
    }
    let (plan, anchors) = hosted();
    assert_eq!(found(&Plan { host: None, ..plan }, &anchors), (Gate::Boot, "host_missing"));
    // Where no host is known of, a quote is nothing to be proud of.
    let plan = machine(BUILDER_SECURE_BOOT, BUILDER_SECURE_BOOT);
    let anchors = taking(&plan, &[BUILDER_SECURE_BOOT]);
    assert_eq!(found(&Plan { host: Some(Box::new(|_| {})), ..plan }, &anchors), (Gate::Boot, "host_unexpected"));
}

/// The person's own policy says which hosts count, and what they must have booted; not the machine's.
#[test]
fn the_person_s_policy_names_the_hosts() {
    let found_under = |hosts: Vec<Host>| {
        let (plan, anchors) = hosted();
        let policy = Policy { hosts, ..plan.policy.clone() };
        let plan = Plan { policy: policy.clone(), ..plan };
        // The machine was given that policy: PCR 15 is as predicted from it.
        found(&plan, &Anchors { policy, ..taking_of(&plan, anchors) })
    };
    assert_eq!(found_under(Vec::new()), (Gate::Boot, "host_unknown"));
    let other = Host { endorsement_key_sha256: digest("other host"), ..host() };
    assert_eq!(found_under(vec![other]), (Gate::Boot, "host_unknown"));
    let mut updated = host();
    updated.pcrs.insert("7".to_owned(), digest("after an update"));
    assert_eq!(found_under(vec![updated]), (Gate::Boot, "host_registers"));
    let mut empty = host();
    empty.pcrs.clear();
    assert_eq!(found_under(vec![empty]), (Gate::Boot, "host_entry"));
}

fn taking_of(plan: &Plan, anchors: Anchors) -> Anchors {
    Anchors { reference: taking(plan, &[BUILDER_HOSTED]).reference, ..anchors }
}

/// A host that quotes with the key with which its machine does vouches for itself.
#[test]
fn host_and_machine_have_two_keys() {
    let (plan, anchors) = hosted();
    let own = Host { attestation_key: kiln_formats::link::Blob(crate::world::public_area(AK)), ..host() };
    let policy = Policy { hosts: vec![own], ..plan.policy.clone() };
    let plan = Plan { policy: policy.clone(), host: Some(Box::new(|it| it.key = AK)), ..plan };
    let anchors = Anchors { policy, ..taking_of(&plan, anchors) };
    assert_eq!(found(&plan, &anchors), (Gate::Boot, "key_reused"));
}

#[test]
fn a_host_can_be_taken_back() {
    let standing = |keys: &[Sha256Digest]| {
        let root: Certificate = root();
        let list = TrustList {
            version: trust_list::VERSION,
            site: name("test"),
            number: 1,
            issued: at(0),
            expires: at(1000),
            root: root.to_pem().unwrap(),
            retired: Vec::new(),
            minimum: trust_list::Minimum::default(),
            revoked: trust_list::Revoked { keys: keys.iter().copied().collect::<BTreeSet<_>>(), ..Default::default() },
        };
        Some(Standing { list, judged_at: at(10) })
    };
    let (plan, anchors) = hosted();
    let with = |keys: &[Sha256Digest]| Anchors { standing: standing(keys), ..anchors.clone() };
    assert!(verify(&plan.seal(), &with(&[])).passed());
    assert_eq!(found(&plan, &with(&[digest("host")])), (Gate::Boot, "key_revoked"));
}

/// After the machine is gone nobody adds, takes or changes it: the last quote covers it.
#[test]
fn the_host_s_quote_is_part_of_the_evidence() {
    let (plan, anchors) = hosted();
    let mut bundle = plan.seal();
    let file = bundle.remove(path::HOST_QUOTE).unwrap();
    let code = |bundle: &kiln_verifier::Bundle| verify(bundle, &anchors).findings[0].code;
    assert_eq!(code(&bundle), "file_missing");
    bundle.insert(path::HOST_QUOTE, kiln_verifier::Content::Bytes(b"{}".to_vec()));
    assert_eq!(code(&bundle), "file_changed");
    bundle.insert(path::HOST_QUOTE, file);
    assert!(verify(&bundle, &anchors).passed());
}
