//! What the authority holds a machine's messages against. No waiting, no I/O.

use ed25519_dalek::{SigningKey, VerifyingKey};
use kiln_formats::canonical;
use kiln_formats::certificate::{self, Certificate, IssuerCertificate, SERIAL_BYTES, SpiffeId};
use kiln_formats::challenge::Challenge;
use kiln_formats::decision::{self, Decision, Ruling};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dispatch::{Dispatch, Dispatched, Used};
use kiln_formats::dsse::Envelope;
use kiln_formats::endorsement::Roots;
use kiln_formats::image_provenance::VerifiedProvenance;
use kiln_formats::link::{Attestation, Blob, Certificates, NotAttested};
use kiln_formats::manifest;
use kiln_formats::names::{Name, PAYLOAD_DECISION, PAYLOAD_STATEMENT, PREDICATE_RECORD, PREDICATE_RUNTIME_TRACE};
use kiln_formats::record::StepRecord;
use kiln_formats::runtime_trace::{self, RuntimeTrace};
use kiln_formats::statement::Statement;
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::PublicKey;
use kiln_formats::trust_list::TrustList;
use kiln_verifier::attestation::{self, AttestedMachine};
use kiln_verifier::enrolment::{self, EnrolledMachine};
use kiln_verifier::{Anchors, Finding, Findings, Gate, standing};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::host::Hosting;
use super::{Authority, Fault, Outcome, Signed};
use crate::certify::{CertifyError, LEAF_SECONDS, Purpose, Request};
use crate::ledger::{Act, Issued};
use crate::site::trust_lists::{self, TrustListsError};
use crate::state::Refusal;

/// Does the machine say which TPM it has, and does the site take it for one of the class that the builder id stands for?
pub(super) fn enrolment(
    message: &[u8],
    roots: &Roots,
    builder_id: &str,
    at: Timestamp,
) -> Result<EnrolledMachine, Vec<Finding>> {
    let read = serde_json::from_slice(message).map_err(|error| enrolment::unreadable(&error));
    read.and_then(|read| enrolment::check(&read, roots, builder_id, at)).map_err(|Findings(findings)| findings)
}

/// How far a clock may be behind the time of the last entry, in seconds: two hosts of one site, and what a clock is corrected by.
const SLACK_SECONDS: i64 = 900;

/// A trust list that counts, and what is to be recorded of it: one that is new, or a reference time.
type Trusted = (TrustList, Option<Act>);

/// Does the site's root let this authority challenge anybody, now, under its builder id, for this image and this job?
pub(super) fn trust(authority: &Authority<'_>, now: Timestamp) -> Result<Result<Trusted, Vec<Finding>>, Fault> {
    let Authority { site, state, signer, surroundings, .. } = authority;
    let current = match trust_lists::read(site.directory(), site.root()) {
        Err(TrustListsError::Lists { source, .. }) => return Ok(Err(vec![wrong("trust_list", &source)])),
        current => current?,
    };
    let last = state.last()?;
    if now.unix() < last.unix() - SLACK_SECONDS {
        let reason = format!("it is {now}, and the ledger's last entry is of {last}");
        return Ok(Err(vec![wrong("clock_set_back", &reason)]));
    }
    let known = state.trusted()?;
    let found = (current.list.number, current.sha256);
    match known {
        Some((number, _)) if found.0 < number => return Ok(Err(refusal(Refusal::TrustListRolledBack))),
        Some((number, sha256)) if found.0 == number && found.1 != sha256 => {
            return Ok(Err(refusal(Refusal::TrustListForked)));
        }
        _ => {}
    }
    let act = (known != Some(found) || surroundings.reference_time.is_some()).then_some(Act::Trusted {
        number: current.list.number,
        list_sha256: current.sha256,
        reference_time: surroundings.reference_time,
    });
    let policy = &site.trust().policy;
    let judge = || -> Result<(), Finding> {
        standing::list(&current.list, now)?;
        let chain = certificate::Authority::check(site.root(), signer.certificate(), now, signer.builder_id());
        chain.map_err(|error| Finding { object: "authority".to_owned(), ..wrong(error.code(), &error) })?;
        standing::authority(&current.list, site.root(), signer.certificate(), now)?;
        standing::start(&current.list, policy, authority.reference)?;
        authority.offer.signer(&policy.job_signers).map_or(Ok(()), |key| standing::job_signer(&current.list, &key))
    };
    match judge() {
        Err(finding) => Ok(Err(vec![finding])),
        Ok(()) => Ok(Ok((current.list, act))),
    }
}

fn wrong(code: &'static str, reason: &dyn std::fmt::Display) -> Finding {
    Finding { gate: Gate::Evidence, code, object: "trust list".to_owned(), reason: reason.to_string() }
}

/// Is it the machine that was started, with the image that was published, and does its quote answer this challenge?
pub(super) fn attestation(
    authority: &Authority<'_>,
    answer: &Attestation,
    offer: &attestation::Offer<'_>,
) -> Result<Result<AttestedMachine, Vec<Finding>>, Fault> {
    let nonce = &answer.binding.challenge.nonce;
    if *nonce != offer.challenge.nonce && authority.state.knows(nonce)? {
        return Ok(Err(refusal(Refusal::NonceReused)));
    }
    let anchors = Anchors {
        root: authority.site.root().clone(),
        policy: authority.site.trust().policy.clone(),
        reference: authority.reference.clone(),
        // What the root says was asked before the challenge.
        standing: None,
    };
    Ok(attestation::check(answer, offer, &anchors).map_err(|Findings(findings)| findings))
}

/// What the machine is told: the first finding, and how many more there are. It prints one line.
pub(super) fn answer(findings: &[Finding]) -> NotAttested {
    let Some(first) = findings.first() else {
        let text = |text: &str| text.to_owned();
        return NotAttested { code: text("unknown"), object: text("attestation"), reason: text("it does not hold") };
    };
    let mut refused = NotAttested::from(first.clone());
    if findings.len() > 1 {
        refused.reason.push_str(&format!(" (and {} more)", findings.len() - 1));
    }
    refused
}

/// Why the authority's own state refuses a machine whose quote holds.
pub(super) fn refusal(refusal: Refusal) -> Vec<Finding> {
    let object = "challenge".to_owned();
    vec![Finding { gate: Gate::Quote, code: refusal.code(), object, reason: refusal.to_string() }]
}

/// Certifies the keys of a machine whose quote held, from the time of its challenge on, and says so in the dispatch. All of it leaves
/// when the act is recorded.
pub(super) fn certify(
    authority: &Authority<'_>,
    attested: &AttestedMachine,
    answer: &Attestation,
    provenance: &VerifiedProvenance,
    hosting: Option<Hosting>,
) -> Result<(Certificates, IssuerCertificate, Act), Fault> {
    let challenge = &answer.binding.challenge;
    let (site, build_id, machine) = (authority.site, &challenge.build_id, &attested.endorsement_key_sha256);
    let statement = SpiffeId::statement(site.trust_domain(), machine, build_id).map_err(|_| Fault::BuildId)?;
    let attestation = SpiffeId::attestation(site.trust_domain(), machine, build_id).map_err(|_| Fault::BuildId)?;
    let attestation_key = attested.attestation_key.key().to_spki().map_err(|_| Fault::BuildId)?;
    let (signer, issuer) = (authority.signer, authority.signer.issuer());
    let certify = |purpose, subject: &str, spki: &[u8]| -> Result<(Certificate, Issued), Fault> {
        let mut serial = [0; SERIAL_BYTES];
        (authority.surroundings.random)(&mut serial)?;
        let request = Request { purpose, subject, spki, begin: challenge.issued, seconds: LEAF_SECONDS, serial };
        let certificate = issuer.issue(&request)?;
        let named = Issued::of(&certificate).map_err(CertifyError::from)?;
        Ok((certificate, named))
    };
    let issue = |purpose, subject: &str, spki: &[u8]| -> Result<(String, Issued), Fault> {
        let (certificate, named) = certify(purpose, subject, spki)?;
        Ok((certificate.to_pem().map_err(CertifyError::from)?, named))
    };
    let statement = issue(Purpose::Statement(&statement), "statement", &attested.statement_key.spki())?;
    let attestation = issue(Purpose::Attestation(&attestation), "attestation", &attestation_key)?;
    let issuer_name = certificate::issuer_name(machine, build_id).map_err(CertifyError::from)?;
    let (step_issuer, issuer_named) = certify(Purpose::Issuer(&issuer_name), "issuer", &attested.issuer_key.spki())?;
    let name = SpiffeId::dispatch(site.trust_domain(), machine, build_id).map_err(|_| Fault::BuildId)?;
    let encode = |source| Fault::Encode { source };
    let said = Dispatched {
        binding: &answer.binding,
        quote: &answer.quote.0,
        builder_id: signer.builder_id(),
        policy_sha256: site.trust().policy.sha256().map_err(encode)?,
        hosted: hosting.as_ref().map(|(_, hosted)| *hosted),
    };
    let used = Used {
        reference_sha256: Sha256Digest::of(&canonical::to_vec(authority.reference).map_err(encode)?),
        provenance_sha256: provenance.envelope_sha256,
        class: attested.class,
    };
    let dispatch = dispatch(authority, &said, used, |spki| issue(Purpose::Dispatch(&name), "dispatch", spki))?;
    let certificates = Certificates {
        authority: signer.certificate().to_pem().map_err(CertifyError::from)?,
        statement: statement.0,
        attestation: attestation.0,
        issuer: step_issuer.to_pem().map_err(CertifyError::from)?,
        dispatch: dispatch.0,
        host: hosting.map(|(quote, _)| quote),
    };
    let act = Act::Certified {
        build_id: build_id.clone(),
        ek_sha256: *machine,
        reset_count: attested.clock.reset_count,
        attestation: attestation.1,
        statement: statement.1,
        dispatch: dispatch.1,
        issuer: Some(issuer_named),
    };
    let chain = certificate::Authority::check(site.root(), signer.certificate(), challenge.issued, signer.builder_id());
    let step_issuer = chain.and_then(|chain| chain.issuer(&step_issuer)).map_err(CertifyError::from)?;
    Ok((certificates, step_issuer, act))
}

/// Says what was checked, signed with a key that exists for this and no longer.
fn dispatch(
    authority: &Authority<'_>,
    said: &Dispatched<'_>,
    used: Used,
    certify: impl FnOnce(&[u8]) -> Result<(String, Issued), Fault>,
) -> Result<(Dispatch, Issued), Fault> {
    let mut seed = Zeroizing::new([0; 32]);
    (authority.surroundings.random)(seed.as_mut_slice())?;
    let key = SigningKey::from_bytes(&seed);
    let encode = |source| Fault::Encode { source };
    let sign = |payload: Vec<u8>| -> Result<Blob, Fault> {
        Ok(Blob(Envelope::sign(PAYLOAD_STATEMENT, &payload, &key).to_vec().map_err(encode)?))
    };
    let attestation = said.attestation(used).and_then(|statement| canonical::to_vec(&statement));
    let summary = said.summary(used).and_then(|statement| canonical::to_vec(&statement));
    let (certificate, issued) = certify(&PublicKey(key.verifying_key()).spki())?;
    let dispatch = Dispatch {
        certificate,
        attestation: sign(attestation.map_err(encode)?)?,
        summary: sign(summary.map_err(encode)?)?,
        image: sign(canonical::to_vec(&said.image(used)).map_err(encode)?)?,
    };
    Ok((dispatch, issued))
}

/// Is it this machine's decision, on this job?
pub(super) fn decision(
    authority: &Authority<'_>,
    envelope: &[u8],
    challenge: &Challenge,
    key: &VerifyingKey,
) -> Result<Signed<Decision>, Fault> {
    let signed = |source| Fault::DecisionSignature { source };
    let envelope = Envelope::from_slice_exact(envelope).map_err(signed)?;
    let verified = envelope.verify(PAYLOAD_DECISION, &[*key]).map_err(signed)?;
    let decision: Decision =
        canonical::from_slice_exact(verified.payload()).map_err(|source| Fault::DecisionSyntax { source })?;
    let differing = [
        (decision.version != decision::VERSION, "version"),
        (decision.build_id != challenge.build_id, "build_id"),
        (decision.job_sha256 != challenge.job_sha256, "job_sha256"),
        (decision.trust_sha256 != Sha256Digest::of(authority.site.trust_bytes()), "trust_sha256"),
    ];
    match differing.into_iter().find(|(differs, _)| *differs) {
        Some((_, field)) => Err(Fault::DecisionMismatch { field }),
        None => Ok(Signed { content: decision, payload_sha256: verified.digest() }),
    }
}

/// Is it this machine's record of this step?
pub(super) fn record(envelope: &[u8], step: &Name, key: &VerifyingKey) -> Result<Signed<StepRecord>, Fault> {
    statement("record", PREDICATE_RECORD, envelope, step, key, |record: &StepRecord| record.step == *step)
}

/// Is it this machine's trace of this step of this build?
pub(super) fn trace(
    envelope: &[u8],
    build_id: &Name,
    step: &Name,
    key: &VerifyingKey,
) -> Result<Signed<RuntimeTrace>, Fault> {
    let event = runtime_trace::event(build_id, step);
    let is_its = |trace: &RuntimeTrace| trace.monitored_process.event == event;
    statement("trace", PREDICATE_RUNTIME_TRACE, envelope, step, key, is_its)
}

fn statement<P: DeserializeOwned + Serialize>(
    kind: &'static str,
    predicate: &str,
    envelope: &[u8],
    step: &Name,
    key: &VerifyingKey,
    is_its: impl Fn(&P) -> bool,
) -> Result<Signed<P>, Fault> {
    let signed = |source| Fault::StatementSignature { kind, step: step.clone(), source };
    let envelope = Envelope::from_slice_exact(envelope).map_err(signed)?;
    let verified = envelope.verify(PAYLOAD_STATEMENT, &[*key]).map_err(signed)?;
    let statement: Statement<P> = canonical::from_slice_exact(verified.payload())
        .map_err(|source| Fault::StatementSyntax { kind, step: step.clone(), source })?;
    if statement.is(predicate) && is_its(&statement.predicate) {
        Ok(Signed { content: statement.predicate, payload_sha256: verified.digest() })
    } else {
        Err(Fault::StatementMismatch { kind, step: step.clone() })
    }
}

/// Does the last message fit the decision and the files?
pub(super) fn outcome(said: manifest::Outcome, decision: Decision, artifacts: usize) -> Result<Outcome, Fault> {
    match (said, &decision.verdict) {
        (manifest::Outcome::Refused, Ruling::Deny(_)) => Ok(Outcome::Refused(Box::new(decision))),
        (manifest::Outcome::Built, Ruling::Allow) => Ok(Outcome::Built),
        (manifest::Outcome::StepFailed, Ruling::Allow) if artifacts == 0 => Ok(Outcome::StepFailed),
        (manifest::Outcome::StepFailed, Ruling::Allow) => {
            Err(Fault::Contradiction { said: "that a step failed", did: "sent artifacts" })
        }
        (manifest::Outcome::Refused, Ruling::Allow) => {
            Err(Fault::Contradiction { said: "that it refused the job", did: "allowed it" })
        }
        (manifest::Outcome::Built | manifest::Outcome::StepFailed, Ruling::Deny(_)) => {
            Err(Fault::Contradiction { said: "that it ran the job", did: "refused it" })
        }
    }
}
