//! Did the authority say, before it handed out the job, that it checked this machine for this build?
//!
//! Both statements are made again from the rest of the evidence and compared. Which reference values the authority used they say
//! themselves; whether the boot is good is not taken from them: the gate itself has found that out.

use kiln_formats::certificate::SpiffeId;
use kiln_formats::dispatch::{DispatchError, Dispatched};
use kiln_formats::endorsement::TpmClass;
use kiln_formats::manifest::path;
use kiln_formats::trust::Configuration;

use super::GATE;
use crate::enrolment::MACHINE_CLASS;
use crate::evidence::{bytes, certificate};
use crate::finding::Finding;
use crate::quote::QuotedEvidence;

/// Returns as what the site enrols the machine's TPM, on the authority's word, which fits the builder id.
pub(super) fn check(quoted: &QuotedEvidence<'_>, configuration: &Configuration) -> Result<TpmClass, Finding> {
    let whole = &quoted.whole;
    let leaf = certificate(whole.bundle, GATE, path::DISPATCH_KEY)?;
    let named = |code, reason: String| Finding::new(GATE, code, path::DISPATCH_KEY, reason);
    let signer = whole.authority.dispatch(&leaf).map_err(|e| named("certificate", e.to_string()))?;
    let machine = &whole.binding.endorsement_key_sha256;
    let expected = SpiffeId::dispatch(&configuration.trust_domain, machine, &whole.binding.challenge.build_id);
    if expected.as_ref() != Ok(&signer.id) {
        let reason = format!("it is in the name of {}, not of this build's dispatch at this site", signer.id);
        return Err(named("certificate_name", reason));
    }
    let said = Dispatched {
        binding: &whole.binding,
        quote: bytes(whole.bundle, GATE, path::FIRST_QUOTE)?,
        builder_id: &configuration.builder_id,
    };
    let attestation = bytes(whole.bundle, GATE, path::DISPATCH)?;
    let summary = bytes(whole.bundle, GATE, path::DISPATCH_SUMMARY)?;
    let wrong = |error: DispatchError| {
        let code = if matches!(error, DispatchError::Class { .. }) { MACHINE_CLASS } else { "dispatch" };
        Finding::new(GATE, code, error.statement(), error.to_string())
    };
    Ok(said.check(attestation, summary, &signer.key).map_err(wrong)?.class)
}
