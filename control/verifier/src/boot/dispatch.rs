//! Did the authority say, before it handed out the job, that it checked this machine for this build?
//!
//! All three statements are made again from the rest of the evidence and the person's own policy, and compared. Which reference values
//! and which provenance the authority used they say themselves. Whether the boot is good is not taken from them: the gate itself has
//! found that out. That a producer whom the policy names made the image is.

use kiln_formats::certificate::SpiffeId;
use kiln_formats::dispatch::{DispatchError, Dispatched, Envelopes};
use kiln_formats::endorsement::TpmClass;
use kiln_formats::host::Hosted;
use kiln_formats::manifest::path;
use kiln_formats::trust::{Configuration, Policy};

use super::GATE;
use crate::enrolment::MACHINE_CLASS;
use crate::evidence::{bytes, certificate};
use crate::finding::Finding;
use crate::quote::QuotedEvidence;

/// Returns as what the site enrols the machine's TPM, on the authority's word, which fits the builder id.
pub(super) fn check(
    quoted: &QuotedEvidence<'_>,
    configuration: &Configuration,
    policy: &Policy,
    hosted: Option<Hosted>,
) -> Result<TpmClass, Finding> {
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
        policy_sha256: policy.sha256().map_err(|e| named("dispatch", e.to_string()))?,
        hosted,
    };
    let found = Envelopes {
        attestation: bytes(whole.bundle, GATE, path::DISPATCH)?,
        summary: bytes(whole.bundle, GATE, path::DISPATCH_SUMMARY)?,
        image: bytes(whole.bundle, GATE, path::DISPATCH_IMAGE)?,
    };
    let wrong = |error: DispatchError| {
        let code = if matches!(error, DispatchError::Class { .. }) { MACHINE_CLASS } else { "dispatch" };
        Finding::new(GATE, code, error.statement(), error.to_string())
    };
    Ok(said.check(found, &signer.key).map_err(wrong)?.class)
}
