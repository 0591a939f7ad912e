//! Did a key of the step's own sign for it, which this build's machine certified as what the step was?
//!
//! The machine certifies a key for a step that it admitted and began, and for nothing else; here that is held against the job, the
//! decision's build and the record, and no key may serve twice.

use kiln_formats::certificate::{SpiffeId, StepCertificate, StepIdentity};
use kiln_formats::job::Step;
use kiln_formats::manifest::path;
use kiln_formats::record::StepRecord;

use super::{Chain, GATE};
use crate::boot::StepEvents;
use crate::evidence::certificate;
use crate::finding::Finding;
use crate::job::AllowedJob;

/// The certificate of the step that the log names, if it is one of this build's machine, in that step's name.
pub(super) fn read(
    allowed: &AllowedJob<'_>,
    sequence: u32,
    event: &StepEvents,
    chain: &mut Chain,
) -> Result<StepCertificate, Finding> {
    let file = path::identity(sequence, &event.name);
    let whole = &allowed.booted.quoted.whole;
    let wrong = |code, reason: String| Finding::new(GATE, code, file.as_str(), reason);
    let leaf = certificate(whole.bundle, GATE, &file)?;
    let checked = whole.issuer.step(&leaf).map_err(|e| wrong("certificate", e.to_string()))?;
    let domain = &allowed.booted.configuration.trust_domain;
    let (machine, build_id) = (&whole.binding.endorsement_key_sha256, &whole.binding.challenge.build_id);
    if SpiffeId::step(domain, machine, build_id, &event.name).as_ref() != Ok(&checked.id) {
        let reason = format!("it is in the name of {}, not of this step of this build at this site", checked.id);
        return Err(wrong("certificate_name", reason));
    }
    if !chain.keys.insert(leaf.spki().map_err(|e| wrong("certificate", e.to_string()))?) {
        return Err(wrong("key_reused", "its key serves for something else as well".to_owned()));
    }
    Ok(checked)
}

/// What the certificate says of the step is what the job orders and the record tells.
pub(super) fn check(
    allowed: &AllowedJob<'_>,
    file: &str,
    step: &Step,
    record: &StepRecord,
    said: &StepIdentity,
    chain: &mut Chain,
) {
    let expected = StepIdentity::of(allowed.job_sha256, step, record.image_root_hash, &record.enforced);
    let differing = expected.map_or(Some("enforced_sha256"), |expected| expected.differs_in(said));
    if let Some(field) = differing {
        chain.add("certificate_identity", format!("{file}: {field}"), "it is the certificate of another step");
    }
}
