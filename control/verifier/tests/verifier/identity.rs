//! Gates 1 to 3 and 5: the steps' own keys. A machine, or whoever holds its keys, certifies what it may not, or signs with another key.

use kiln_formats::certificate::Certificate;
use kiln_formats::manifest::path;
use kiln_verifier::{Gate, verify};

use crate::world::{ISSUER_KEY, Issuer, Plan, STATEMENT_KEY, StepPlan, anchors, digest, issuer, name};
use crate::{Row, check};

/// The first step's certificate, edited before it is issued.
fn first(change: impl Fn(&mut StepPlan) + 'static) -> Plan {
    let identity = move |step: usize, plan: &mut StepPlan| {
        if step == 0 {
            change(plan);
        }
    };
    Plan { identity: Box::new(identity), ..Plan::default() }
}

fn without(file: &'static str) -> Plan {
    let files = Box::new(move |files: &mut std::collections::BTreeMap<String, Vec<u8>>| drop(files.remove(file)));
    Plan { files, ..Plan::default() }
}

fn of_issuer(issuer: Issuer) -> Plan {
    Plan { issuer, ..Plan::default() }
}

#[test]
fn a_step_s_certificate_is_of_this_step_and_key_alone() {
    let gate = Gate::Step;
    let rows: Vec<Row> = vec![
        ("none", without("evidence/identities/00-unpack.pem"), gate, "file_missing", "00-unpack.pem"),
        ("another domain", first(|s| s.trust_domain = name("b.example")), gate, "certificate_name", "in the name of"),
        ("another step's name", first(|s| s.step = name("make")), gate, "certificate_name", "in the name of"),
        ("another machine", first(|s| s.machine = digest("x")), gate, "certificate", "not issued"),
        ("another build", first(|s| s.build_id = name("00")), gate, "certificate", "not issued"),
        ("another issuer's key", first(|s| s.issuer_key = 9), gate, "certificate", "signature"),
        ("the statement key as issuer", first(|s| s.issuer_key = STATEMENT_KEY), gate, "certificate", "signature"),
        ("a longer life", first(|s| s.seconds += 1), gate, "certificate", "as long as"),
        ("another job", first(|s| s.identity.job_sha256 = digest("x")), gate, "certificate_identity", "job_sha256"),
        ("another step", first(|s| s.identity.step_sha256 = digest("x")), gate, "certificate_identity", "step_sha256"),
        ("image", first(|s| s.identity.image_root_hash = digest("x")), gate, "certificate_identity", "image_root_hash"),
        ("argv", first(|s| s.identity.argv_sha256 = digest("x")), gate, "certificate_identity", "argv_sha256"),
        (
            "sandbox",
            first(|s| s.identity.enforced_sha256 = digest("x")),
            gate,
            "certificate_identity",
            "enforced_sha256",
        ),
        ("signed with the statement key", first(|s| s.signer = STATEMENT_KEY), gate, "record", "signature"),
        ("signed with the next step's key", first(|s| s.signer = 11), gate, "record", "signature"),
        (
            "the statement key's own",
            first(|s| (s.key, s.signer) = (STATEMENT_KEY, STATEMENT_KEY)),
            gate,
            "key_reused",
            "00-unpack.pem",
        ),
        (
            "the issuer's own",
            first(|s| (s.key, s.signer) = (ISSUER_KEY, ISSUER_KEY)),
            gate,
            "key_reused",
            "00-unpack.pem",
        ),
        (
            "one key for two steps",
            Plan { identity: Box::new(|_, s| (s.key, s.signer) = (10, 10)), ..Plan::default() },
            gate,
            "key_reused",
            "01-build.pem",
        ),
    ];
    check(rows);
}

#[test]
fn the_issuer_is_this_build_s_and_has_no_other_role() {
    check(vec![
        ("none", without(path::ISSUER), Gate::Evidence, "file_missing", "issuer.pem"),
        (
            "issued by another",
            of_issuer(Issuer { issuer_key: 9, ..issuer() }),
            Gate::Evidence,
            "certificate",
            "issuer.pem",
        ),
        (
            "of another build",
            of_issuer(Issuer { build_id: "ff112233445566778899aabbccddeeff", ..issuer() }),
            Gate::Boot,
            "certificate_name",
            "issuer.pem",
        ),
        (
            "not the key that was quoted",
            Plan { binding: Box::new(|b| b.issuer_key_sha256 = digest("x")), ..Plan::default() },
            Gate::Quote,
            "issuer_key",
            "binding.json",
        ),
        (
            "the statement key",
            of_issuer(Issuer { key: STATEMENT_KEY, ..issuer() }),
            Gate::Boot,
            "key_reused",
            "issuer.pem",
        ),
    ]);
}

/// The certificate of one boot's step does not pass under the issuer of another boot, and names what it is.
#[test]
fn a_step_of_another_boot_is_none_of_this_one() {
    let bundle = Plan::default().seal();
    let other =
        Plan { issuer: Issuer { key: 7, ..issuer() }, identity: Box::new(|_, s| s.issuer_key = 7), ..Plan::default() };
    let other = other.seal();
    assert!(verify(&bundle, &anchors()).passed() && verify(&other, &anchors()).passed());
    let file = path::identity(0, &name("unpack"));
    let foreign = other.bytes(&file).unwrap().to_vec();
    assert!(Certificate::from_pem(&foreign).is_ok());
    let swapped =
        Plan { files: Box::new(move |files| drop(files.insert(file.clone(), foreign.clone()))), ..Plan::default() };
    check(vec![("of another boot", swapped, Gate::Step, "certificate", "signature")]);
}
