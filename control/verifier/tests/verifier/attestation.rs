//! The authority's check of the first quote.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::event::Event;
use kiln_formats::link::{Attestation, Blob};
use kiln_formats::names::BUILDER_FIRMWARE;
use kiln_formats::trust::PublicKey;
use kiln_verifier::attestation::{AttestedMachine, Offer, check};
use kiln_verifier::{Findings, Gate};

use crate::world::{Plan, STATEMENT_KEY, ak_public, anchors, digest, key};

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign.
const ATTRIBUTES: u32 = 0x0005_0072;

fn answer(plan: &Plan) -> Attestation {
    let quote = plan.first_quote();
    Attestation {
        binding: plan.binding(),
        statement_key: Blob(PublicKey(key(STATEMENT_KEY).verifying_key()).spki()),
        attestation_key: Blob(ak_public(ATTRIBUTES)),
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
    let offer = Offer { challenge: &honest.challenge(), configuration: &configuration };
    check(answer, &offer, &anchors())
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
    // noDA, decrypt and an unrestricted key: each could be made to sign what the TPM did not see.
    for attributes in [ATTRIBUTES | 0x400, ATTRIBUTES | 0x0002_0000, ATTRIBUTES & !0x0001_0000] {
        assert_eq!(rejected(|a| a.attestation_key = Blob(ak_public(attributes))), (Gate::Quote, "attestation_key"));
    }
    assert_eq!(rejected(|a| a.quote.0[40] ^= 1), (Gate::Quote, "quote"));
    assert_eq!(rejected(|a| a.signature.0[40] ^= 1), (Gate::Quote, "quote"));
    assert_eq!(rejected(|a| a.binding.challenge.nonce = digest("old")), (Gate::Quote, "qualifying_data"));
    assert_eq!(rejected(|a| a.binding.statement_key_sha256 = digest("x")), (Gate::Quote, "qualifying_data"));
    let other = Blob(PublicKey(key(9).verifying_key()).spki());
    assert_eq!(rejected(|a| a.statement_key = other), (Gate::Quote, "statement_key"));
    assert_eq!(rejected(|a| a.statement_key.0.clear()), (Gate::Quote, "statement_key"));
    assert_eq!(rejected(|a| a.firmware_log.0.clear()), (Gate::Boot, "event_missing"));
    assert_eq!(rejected(|a| a.runtime_log.0.clear()), (Gate::Boot, "runtime_log"));
    let later = Plan::default();
    let mut events = later.boot_events();
    events.push(Event::Job(digest("job")));
    assert_eq!(rejected(|a| a.runtime_log = Blob(later.runtime_log_of(&events))), (Gate::Boot, "event_order"));
}

#[test]
fn an_old_quote_does_not_answer_a_new_challenge() {
    // The whole answer is that of another challenge, so only the comparison with what was asked can tell.
    let old = Plan { binding: Box::new(|b| b.challenge.nonce = digest("old")), ..Plan::default() };
    let Findings(findings) = judge(&answer(&old)).unwrap_err();
    assert_eq!((findings[0].gate, findings[0].code), (Gate::Quote, "qualifying_data"));
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
