//! The first quote, judged while the machine waits: the authority's check before it certifies a key.
//!
//! The same code as the gates quote and boot. What is different: the attestation key is the one that the machine enrolled with
//! ([`crate::enrolment`]), and the runtime log ends with the boot part.

use kiln_formats::canonical;
use kiln_formats::challenge::Challenge;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::endorsement::TpmClass;
use kiln_formats::enrolment;
use kiln_formats::link::Attestation;
use kiln_formats::quote::{AkPublic, Clock, Quote};
use kiln_formats::trust::{Configuration, PublicKey};

use crate::Anchors;
use crate::boot::{self, Start};
use crate::enrolment::{EnrolledMachine, Secret};
use crate::finding::{Finding, Findings, Gate};
use crate::standing;

/// What the authority gave to the machine.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Which machine it is, if it opens the credential.
    pub machine: &'a EnrolledMachine,
    /// What was in the credential.
    pub secret: &'a Secret,
    /// The challenge that it posed.
    pub challenge: &'a Challenge,
    /// The configuration that it handed out.
    pub configuration: &'a [u8],
}

/// Holding one says: the machine with the TPM of this endorsement key, with the published image, started as predicted and given
/// what was offered, answered this challenge with a restricted key of that TPM, vouches for `statement_key` and `issuer_key`, and may
/// build. It does not say that the machine was not attested before in this boot: whoever keeps `clock.reset_count` finds that out.
#[derive(Debug, Clone)]
pub struct AttestedMachine {
    /// Which machine: the digest of its endorsement key.
    pub endorsement_key_sha256: Sha256Digest,
    /// As what the site enrols its TPM.
    pub class: TpmClass,
    /// The key to certify for statements.
    pub statement_key: PublicKey,
    /// The key to certify for the certificates of steps.
    pub issuer_key: PublicKey,
    /// The key to certify for attestation.
    pub attestation_key: AkPublic,
    /// The configuration that the machine measured.
    pub configuration: Configuration,
    /// The TPM's clock and counters; whoever enrols TPMs refuses a reset count that was seen before.
    pub clock: Clock,
}

/// Checks a machine's answer to a challenge.
///
/// # Errors
/// [`Findings`] of the gates quote and boot; never empty.
pub fn check(answer: &Attestation, offer: &Offer<'_>, anchors: &Anchors) -> Result<AttestedMachine, Findings> {
    let wrong = |code, object: &str, reason: String| Finding::new(Gate::Quote, code, object, reason);
    let binding = canonical::to_vec(&answer.binding).map_err(|e| wrong("binding", "binding", e.to_string()))?;
    let binding_sha256 = Sha256Digest::of(&binding);
    if answer.binding.challenge != *offer.challenge {
        return Err(wrong("other_challenge", "binding", "it does not answer this challenge".to_owned()).into());
    }
    let EnrolledMachine { endorsement_key, class, attestation_key } = offer.machine;
    let endorsement_key_sha256 = endorsement_key.sha256();
    if answer.binding.endorsement_key_sha256 != endorsement_key_sha256 {
        let reason = "another machine answers than the one that enrolled".to_owned();
        return Err(wrong("other_machine", "binding", reason).into());
    }
    if !enrolment::proves(&answer.proof, offer.secret, &binding_sha256) {
        let reason = "the machine did not open the credential: its attestation key is not in the TPM with this \
                      endorsement key, or it answers for another enrolment";
        return Err(wrong("proof", "proof", reason.to_owned()).into());
    }
    let first = Quote::verify(&answer.quote.0, &answer.signature.0, attestation_key.key())
        .map_err(|e| wrong(e.code(), "quote", e.to_string()))?;
    if first.qualifying != binding_sha256 {
        return Err(wrong("qualifying_data", "quote", "the quote does not answer this challenge".to_owned()).into());
    }
    let bound = |word: &'static str, spki: &[u8], expected: Sha256Digest| {
        let key = PublicKey::from_spki(spki).filter(|key| key.spki() == spki);
        let key = key.ok_or_else(|| wrong(word, word, "it is not an Ed25519 public key".to_owned()))?;
        match key.sha256() == expected {
            true => Ok(key),
            false => Err(wrong(word, "binding", "the TPM vouches for another key".to_owned())),
        }
    };
    let statement_key = bound("statement_key", &answer.statement_key.0, answer.binding.statement_key_sha256)?;
    let issuer_key = bound("issuer_key", &answer.issuer_key.0, answer.binding.issuer_key_sha256)?;
    if statement_key == issuer_key {
        let reason = "it is the statement key: no key serves two roles".to_owned();
        return Err(wrong("key_reused", "issuer_key", reason).into());
    }
    let started = boot::check_start(
        &Start {
            firmware_log: Some(&answer.firmware_log.0),
            runtime_log: &answer.runtime_log.0,
            configuration: offer.configuration,
            image_sha256: offer.challenge.image_sha256,
            first: &first,
        },
        anchors,
    )?;
    check_machine(&endorsement_key_sha256, anchors)?;
    Ok(AttestedMachine {
        endorsement_key_sha256,
        class: *class,
        statement_key,
        issuer_key,
        attestation_key: attestation_key.clone(),
        configuration: started.configuration,
        clock: first.clock,
    })
}

/// Genuine is not enough: the policy may say which machines build.
pub(crate) fn check_machine(endorsement_key_sha256: &Sha256Digest, anchors: &Anchors) -> Result<(), Finding> {
    if anchors.policy.allows_machine(endorsement_key_sha256) {
        return match &anchors.standing {
            Some(standing) => standing::machine(&standing.list, endorsement_key_sha256),
            None => Ok(()),
        };
    }
    let object = format!("machine {endorsement_key_sha256}");
    let reason = "the policy does not list this machine among those that may build";
    Err(Finding::new(Gate::Quote, "machine_not_authorised", object, reason))
}
