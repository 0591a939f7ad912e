//! Is the launcher's word that the machine is gone about this build, and signed with a key that is for nothing else? Beside the gates:
//! it comes after the evidence, and adds to it.

use std::collections::BTreeSet;

use kiln_formats::canonical;
use kiln_formats::certificate::{Authority, Certificate, SpiffeId};
use kiln_formats::challenge::Binding;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::manifest::path;
use kiln_formats::teardown::{TEARDOWN_BYTES_MAX, Teardown, TornDown};
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::Configuration;

use crate::boot;
use crate::evidence::{bytes, certificate};
use crate::finding::{Finding, Gate};
use crate::{Anchors, Bundle, Verdict};

const GATE: Gate = Gate::Evidence;

/// Reads `file`, which lay beside the evidence in `bundle`, on which `verdict` is the word.
///
/// # Errors
/// A [`Finding`] if the evidence does not name machine, build and kind of machine, or if the file is not the launcher's word on them.
pub fn check(file: &[u8], bundle: &Bundle, anchors: &Anchors, verdict: &Verdict) -> Result<TornDown, Finding> {
    let wrong = |e: &dyn std::fmt::Display| Finding::new(GATE, "teardown", path::TEARDOWN, e.to_string());
    let (Some(build_id), Some(machine), Some(builder_id)) = (&verdict.build_id, &verdict.machine, &verdict.builder_id)
    else {
        return Err(wrong(&"the evidence proves no machine that could be gone"));
    };
    if file.len() > TEARDOWN_BYTES_MAX {
        return Err(wrong(&"it is too large"));
    }
    let Teardown { certificate: pem, statement } = canonical::from_slice_exact(file).map_err(|e| wrong(&e))?;
    let leaf = Certificate::from_pem(pem.as_bytes()).map_err(|e| wrong(&e))?;
    // The certificate was made when the machine was gone, and says when.
    let at = Timestamp::from_unix(leaf.begins()).map_err(|e| wrong(&e))?;
    let authority = certificate(bundle, GATE, path::AUTHORITY)?;
    let authority = Authority::check(&anchors.root, &authority, at, builder_id).map_err(|e| wrong(&e))?;
    let signer = authority.teardown(&leaf).map_err(|e| wrong(&e))?;
    if serving(bundle, anchors, verdict)?.contains(&leaf.spki().map_err(|e| wrong(&e))?) {
        let reason = "its key serves for something else as well";
        return Err(Finding::new(GATE, "key_reused", path::TEARDOWN, reason));
    }
    let configuration: Configuration =
        canonical::from_slice_exact(bytes(bundle, GATE, path::CONFIGURATION)?).map_err(|e| wrong(&e))?;
    let expected = SpiffeId::teardown(&configuration.trust_domain, machine, build_id);
    if expected.as_ref() != Ok(&signer.id) {
        return Err(wrong(&format_args!("it is in the name of {}, not of this build's teardown", signer.id)));
    }
    let binding: Binding = canonical::from_slice_exact(bytes(bundle, GATE, path::BINDING)?).map_err(|e| wrong(&e))?;
    let closing_sha256 = Sha256Digest::of(bytes(bundle, GATE, path::CLOSING)?);
    let said = TornDown::read(&statement, &signer.key, build_id, closing_sha256, builder_id).map_err(|e| wrong(&e))?;
    let challenged = binding.challenge.issued;
    if said.ended != at {
        return Err(wrong(&"its certificate is of another time"));
    }
    if !(said.started..=said.ended).contains(&challenged) {
        return Err(wrong(&format_args!("the machine was challenged at {challenged}, which is not in its life")));
    }
    Ok(said)
}

/// Every key that serves for something in the evidence: root, host, authority, machine and steps.
fn serving(bundle: &Bundle, anchors: &Anchors, verdict: &Verdict) -> Result<BTreeSet<Vec<u8>>, Finding> {
    let mut keys = boot::check_roles(bundle, anchors, verdict.host)?;
    for file in bundle.paths().filter(|file| file.starts_with(path::IDENTITIES)) {
        let key = certificate(bundle, GATE, file)?.spki();
        keys.insert(key.map_err(|e| Finding::new(GATE, "certificate", file, e.to_string()))?);
    }
    Ok(keys)
}
