//! The authority's check of the first quote.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::endorsement::{EkPublic, Roots, TpmClass};
use kiln_formats::enrolment::{self, Enrolment, SECRET_BYTES};
use kiln_formats::event::Event;
use kiln_formats::link::{Attestation, Blob};
use kiln_formats::names::BUILDER_FIRMWARE;
use kiln_formats::trust::PublicKey;
use kiln_verifier::attestation::{AttestedMachine, Offer, check};
use kiln_verifier::enrolment::EnrolledMachine;
use kiln_verifier::{Findings, Gate};

use crate::world::{
    ISSUER_KEY, Issuer, Plan, QuoteDraft, STATEMENT_KEY, ak_spki, anchors, at, digest, ek_public, issuer, key, machine,
    policy, reference,
};

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign.
const ATTRIBUTES: u32 = 0x0005_0072;
/// What was in the credential.
const SECRET: [u8; SECRET_BYTES] = [7; SECRET_BYTES];

/// The certified key's `TPMT_PUBLIC`, with these attributes.
fn ak_public(attributes: u32) -> Vec<u8> {
    // Where its SubjectPublicKeyInfo has the coordinates. Source: RFC 5480, section 2.2.
    let spki = ak_spki();
    let mut bytes = vec![0, 0x23, 0, 0x0b];
    bytes.extend(attributes.to_be_bytes());
    bytes.extend([0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10]);
    for coordinate in spki[spki.len() - 64..].chunks(32) {
        bytes.extend([0, 32]);
        bytes.extend(coordinate);
    }
    bytes
}

fn answer(plan: &Plan) -> Attestation {
    let quote = plan.first_quote();
    Attestation {
        binding: plan.binding(),
        statement_key: Blob(PublicKey(key(STATEMENT_KEY).verifying_key()).spki()),
        issuer_key: Blob(PublicKey(key(ISSUER_KEY).verifying_key()).spki()),
        proof: enrolment::proof(&SECRET, &quote.qualifying),
        quote: Blob(quote.attest()),
        signature: Blob(quote.signature()),
        firmware_log: Blob(plan.firmware_log()),
        runtime_log: Blob(plan.runtime_log_of(&plan.boot_events())),
        init_uptime_us: 1,
        sent_uptime_us: 2,
    }
}

fn judge(answer: &Attestation) -> Result<AttestedMachine, Findings> {
    let honest = Plan::default();
    let configuration = honest.configuration_bytes();
    let machine = enrolled(&ek_public(), &ak_public(ATTRIBUTES)).unwrap();
    let challenge = honest.challenge();
    let offer = Offer { machine: &machine, secret: &SECRET, challenge: &challenge, configuration: &configuration };
    check(answer, &offer, &anchors())
}

/// What a machine with these keys enrols as, at a site that lists its endorsement key.
fn enrolled(endorsement_key: &[u8], attestation_key: &[u8]) -> Result<EnrolledMachine, &'static str> {
    enrolled_as(TpmClass::Virtual, endorsement_key, attestation_key)
}

/// The same, of a TPM of this class.
fn enrolled_as(
    class: TpmClass,
    endorsement_key: &[u8],
    attestation_key: &[u8],
) -> Result<EnrolledMachine, &'static str> {
    let keys = EkPublic::parse(endorsement_key).iter().map(|key| (key.sha256(), class)).collect();
    let said = Enrolment {
        endorsement_key: Blob(endorsement_key.to_vec()),
        attestation_key: Blob(attestation_key.to_vec()),
        ..Enrolment::default()
    };
    let roots = Roots { keys, ..Roots::default() };
    kiln_verifier::enrolment::check(&said, &roots, BUILDER_FIRMWARE, at(0))
        .map_err(|Findings(findings)| findings[0].code)
}

#[test]
fn a_machine_is_of_the_class_that_its_builder_id_stands_for() {
    let enrolled = |class| enrolled_as(class, &ek_public(), &ak_public(ATTRIBUTES));
    assert_eq!(enrolled(TpmClass::Virtual).map(|machine| machine.class), Ok(TpmClass::Virtual));
    assert_eq!(enrolled(TpmClass::Hardware).map(drop), Err("machine_class"));
}

fn rejected(change: impl FnOnce(&mut Attestation)) -> (Gate, &'static str) {
    let mut answer = answer(&Plan::default());
    change(&mut answer);
    let Findings(findings) = judge(&answer).unwrap_err();
    (findings[0].gate, findings[0].code)
}

#[test]
fn a_sound_start_is_attested() {
    let machine = judge(&answer(&Plan::default())).unwrap();
    assert_eq!(machine.statement_key.0, key(STATEMENT_KEY).verifying_key());
    assert_eq!(machine.configuration.builder_id, BUILDER_FIRMWARE);
    assert_eq!(machine.clock.reset_count, 7);
}

#[test]
fn anything_else_is_not() {
    assert_eq!(rejected(|a| a.proof = digest("x")), (Gate::Quote, "proof"));
    let binding_sha256 = Plan::default().first_quote().qualifying;
    let other_secret = enrolment::proof(&[8; SECRET_BYTES], &binding_sha256);
    assert_eq!(rejected(|a| a.proof = other_secret), (Gate::Quote, "proof"));
    assert_eq!(rejected(|a| a.binding.endorsement_key_sha256 = digest("x")), (Gate::Quote, "other_machine"));
    assert_eq!(rejected(|a| a.quote.0[40] ^= 1), (Gate::Quote, "quote"));
    assert_eq!(rejected(|a| a.signature.0[40] ^= 1), (Gate::Quote, "quote"));
    let certification = QuoteDraft { kind: 0x8017, ..Plan::default().first_quote() };
    let (attest, signature) = (Blob(certification.attest()), Blob(certification.signature()));
    assert_eq!(rejected(|a| (a.quote, a.signature) = (attest, signature)), (Gate::Quote, "not_a_quote"));
    assert_eq!(rejected(|a| a.binding.challenge.nonce = digest("old")), (Gate::Quote, "other_challenge"));
    assert_eq!(rejected(|a| a.binding.statement_key_sha256 = digest("x")), (Gate::Quote, "proof"));
    let other = Blob(PublicKey(key(9).verifying_key()).spki());
    assert_eq!(rejected(|a| a.statement_key = other), (Gate::Quote, "statement_key"));
    assert_eq!(rejected(|a| a.statement_key.0.clear()), (Gate::Quote, "statement_key"));
    assert_eq!(rejected(|a| a.issuer_key.0.clear()), (Gate::Quote, "issuer_key"));
    assert_eq!(rejected(|a| a.issuer_key = a.statement_key.clone()), (Gate::Quote, "issuer_key"));
    let both = Plan { issuer: Issuer { key: STATEMENT_KEY, ..issuer() }, ..Plan::default() };
    let mut answer = answer(&both);
    answer.issuer_key = answer.statement_key.clone();
    assert_eq!(judge(&answer).unwrap_err().0[0].code, "key_reused");
    assert_eq!(rejected(|a| a.firmware_log.0.clear()), (Gate::Boot, "event_missing"));
    assert_eq!(rejected(|a| a.runtime_log.0.clear()), (Gate::Boot, "runtime_log"));
    let later = Plan::default();
    let mut events = later.boot_events();
    events.push(Event::Job(digest("job")));
    assert_eq!(rejected(|a| a.runtime_log = Blob(later.runtime_log_of(&events))), (Gate::Boot, "event_order"));
}

#[test]
fn keys_that_could_lie_are_not_enrolled() {
    assert!(enrolled(&ek_public(), &ak_public(ATTRIBUTES)).is_ok());
    // noDA, decrypt: each could be made to sign what the TPM did not see; and so could a key that is not restricted.
    for attributes in [ATTRIBUTES | 0x400, ATTRIBUTES | 0x0002_0000] {
        assert_eq!(enrolled(&ek_public(), &ak_public(attributes)), Err("attestation_key_attributes"));
    }
    let unrestricted = ak_public(ATTRIBUTES & !0x0001_0000);
    assert_eq!(enrolled(&ek_public(), &unrestricted), Err("attestation_key_unrestricted"));
    let mut signs = ek_public();
    signs[5] |= 4;
    assert_eq!(enrolled(&signs, &ak_public(ATTRIBUTES)), Err("endorsement_key"));
    assert_eq!(enrolled(&[], &ak_public(ATTRIBUTES)), Err("endorsement_key"));
    assert_eq!(enrolled(&ek_public(), &[]), Err("attestation_key"));
    // Nobody vouches for it, and nobody listed it.
    let said = Enrolment {
        endorsement_key: Blob(ek_public()),
        attestation_key: Blob(ak_public(ATTRIBUTES)),
        ..Enrolment::default()
    };
    let Findings(findings) =
        kiln_verifier::enrolment::check(&said, &Roots::default(), BUILDER_FIRMWARE, at(0)).unwrap_err();
    assert_eq!(findings[0].code, "endorsement_uncertified");
}

#[test]
fn a_machine_that_is_not_on_the_policys_list_is_not_attested() {
    let policy = |machines: &[Sha256Digest]| kiln_formats::trust::Policy {
        machines: Some(machines.iter().copied().collect()),
        ..policy()
    };
    for (list, good) in [(vec![machine()], true), (vec![digest("x")], false), (vec![], false)] {
        let plan = || Plan { policy: policy(&list), ..Plan::default() };
        let judged = {
            let (plan, configuration) = (plan(), plan().configuration_bytes());
            let machine = enrolled(&ek_public(), &ak_public(ATTRIBUTES)).unwrap();
            let challenge = plan.challenge();
            let offer =
                Offer { machine: &machine, secret: &SECRET, challenge: &challenge, configuration: &configuration };
            let anchors = kiln_verifier::Anchors { policy: policy(&list), reference: reference(&plan), ..anchors() };
            check(&answer(&plan), &offer, &anchors)
        };
        match judged {
            Ok(_) => assert!(good, "{list:?}"),
            Err(Findings(findings)) => {
                assert!(!good && findings[0].code == "machine_not_authorised", "{list:?}: {findings:?}")
            }
        }
    }
}

#[test]
fn an_old_quote_does_not_answer_a_new_challenge() {
    // The whole answer is that of another challenge, so only the comparison with what was asked can tell.
    let old = Plan { binding: Box::new(|b| b.challenge.nonce = digest("old")), ..Plan::default() };
    let Findings(findings) = judge(&answer(&old)).unwrap_err();
    assert_eq!((findings[0].gate, findings[0].code), (Gate::Quote, "other_challenge"));
}

#[test]
fn a_machine_that_was_given_something_else_is_not_attested() {
    let other = Plan { configuration: Box::new(|c| c.site = "other".parse().unwrap()), ..Plan::default() };
    let Findings(findings) = judge(&answer(&other)).unwrap_err();
    assert_eq!((findings[0].gate, findings[0].code), (Gate::Boot, "configuration"));
    let values = Plan { first: Box::new(|q| q.pcr_digest = Sha256Digest::of(b"x")), ..Plan::default() };
    let Findings(findings) = judge(&answer(&values)).unwrap_err();
    assert_eq!((findings[0].gate, findings[0].code), (Gate::Boot, "replay_differs"));
}
