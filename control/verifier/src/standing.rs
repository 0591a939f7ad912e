//! Does what is judged still count? What the site's trust list says of roots, keys, images and policies.
//!
//! The authority asks before it challenges a machine, the verifier at the gates that read each of these; both by these functions.
//! A list is judged at a time that the caller brings: that of a clock, or one on the root's word.

use kiln_formats::certificate::Certificate;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::reference::Reference;
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::{Policy, PublicKey};
use kiln_formats::trust_list::{TrustList, Unfit};

use crate::finding::{Finding, Gate};

/// What the person got of the site's root, later than root, policy and reference values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The newest trust list that they have.
    pub list: TrustList,
    /// When the evidence is judged: at this time the list must count.
    pub judged_at: Timestamp,
}

fn unfit(gate: Gate, object: String) -> impl FnOnce(Unfit) -> Finding {
    move |unfit| Finding::new(gate, unfit.code(), object, unfit.to_string())
}

/// Does the list itself count at a time?
///
/// # Errors
/// A [`Finding`] of gate evidence.
pub fn list(list: &TrustList, at: Timestamp) -> Result<(), Finding> {
    list.counts_at(at).map_err(unfit(Gate::Evidence, format!("trust list {}", list.number)))
}

/// Do root and authority count for a build that is challenged at a time?
///
/// # Errors
/// A [`Finding`] of gate evidence.
pub fn authority(
    list: &TrustList,
    root: &Certificate,
    authority: &Certificate,
    challenged: Timestamp,
) -> Result<(), Finding> {
    let digest = |certificate: &Certificate| certificate.spki().map(|spki| Sha256Digest::of(&spki));
    let pem = root.to_pem().unwrap_or_default();
    list.allows_root(&pem, challenged).map_err(unfit(Gate::Evidence, "root".to_owned()))?;
    for (role, certificate) in [("root", root), ("authority", authority)] {
        let broken = |e: &dyn std::fmt::Display| Finding::new(Gate::Evidence, "certificate", role, e.to_string());
        let key = digest(certificate).map_err(|e| broken(&e))?;
        list.allows_key(role, &key).map_err(unfit(Gate::Evidence, format!("{role} key {key}")))?;
    }
    Ok(())
}

/// Does the machine with this endorsement key count?
///
/// # Errors
/// A [`Finding`] of gate quote.
pub fn machine(list: &TrustList, endorsement_key_sha256: &Sha256Digest) -> Result<(), Finding> {
    let object = format!("machine {endorsement_key_sha256}");
    list.allows_key("machine", endorsement_key_sha256).map_err(unfit(Gate::Quote, object))
}

/// Does the host with this endorsement key count?
///
/// # Errors
/// A [`Finding`] of gate boot.
pub fn host(list: &TrustList, endorsement_key_sha256: &Sha256Digest) -> Result<(), Finding> {
    let object = format!("host {endorsement_key_sha256}");
    list.allows_key("host", endorsement_key_sha256).map_err(unfit(Gate::Boot, object))
}

/// Do image and policy count?
///
/// # Errors
/// A [`Finding`] of gate boot.
pub fn start(list: &TrustList, policy: &Policy, reference: &Reference) -> Result<(), Finding> {
    list.allows_policy(policy).map_err(unfit(Gate::Boot, format!("policy {}", policy.number)))?;
    let object = format!("image {}", reference.image_sha256);
    list.allows_image(&reference.image_sha256, reference.number).map_err(unfit(Gate::Boot, object))
}

/// Does the key count that signed the image's provenance?
///
/// # Errors
/// A [`Finding`] of gate boot.
pub fn image_producer(list: &TrustList, key: &PublicKey) -> Result<(), Finding> {
    let key = key.sha256();
    list.allows_key("image producer", &key).map_err(unfit(Gate::Boot, format!("image producer {key}")))
}

/// Does the key count that signed the job?
///
/// # Errors
/// A [`Finding`] of gate job.
pub fn job_signer(list: &TrustList, key: &PublicKey) -> Result<(), Finding> {
    let key = key.sha256();
    list.allows_key("job signer", &key).map_err(unfit(Gate::Job, format!("job signer {key}")))
}
