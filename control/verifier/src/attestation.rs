//! The first quote, judged while the machine waits: the authority's check before it certifies a key.
//!
//! The same code as the gates quote and boot. What is different: the attestation key comes as the TPM describes it, its
//! attributes are checked here, and the runtime log ends with the boot part.

use kiln_formats::canonical;
use kiln_formats::challenge::Challenge;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::link::Attestation;
use kiln_formats::quote::{AkPublic, Clock, Quote};
use kiln_formats::trust::{Configuration, PublicKey};

use crate::Anchors;
use crate::boot::{self, Start};
use crate::finding::{Finding, Findings, Gate};

/// What the authority gave to the machine.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// The challenge that it posed.
    pub challenge: &'a Challenge,
    /// The configuration that it handed out.
    pub configuration: &'a [u8],
}

/// Holding one says: a machine with the published image, started as predicted and given what was offered, answered this
/// challenge with a restricted key of a TPM, and vouches for `statement_key`. It does not say which TPM: that is enrolment.
#[derive(Debug, Clone)]
pub struct AttestedMachine {
    /// The key to certify for statements.
    pub statement_key: PublicKey,
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
    let attestation_key = AkPublic::parse(&answer.attestation_key.0)
        .map_err(|e| wrong("attestation_key", "attestation_key", e.to_string()))?;
    let first = Quote::verify(&answer.quote.0, &answer.signature.0, attestation_key.key())
        .map_err(|e| wrong("quote", "quote", e.to_string()))?;
    let binding = canonical::to_vec(&answer.binding).map_err(|e| wrong("binding", "binding", e.to_string()))?;
    if answer.binding.challenge != *offer.challenge || first.qualifying != Sha256Digest::of(&binding) {
        return Err(wrong("qualifying_data", "quote", "the quote does not answer this challenge".to_owned()).into());
    }
    let statement_key =
        PublicKey::from_spki(&answer.statement_key.0).filter(|key| key.spki() == answer.statement_key.0);
    let statement_key = statement_key
        .ok_or_else(|| wrong("statement_key", "statement_key", "it is not an Ed25519 public key".to_owned()))?;
    if statement_key.sha256() != answer.binding.statement_key_sha256 {
        let reason = "the TPM vouches for another statement key".to_owned();
        return Err(wrong("statement_key", "binding", reason).into());
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
    Ok(AttestedMachine { statement_key, attestation_key, configuration: started.configuration, clock: first.clock })
}
