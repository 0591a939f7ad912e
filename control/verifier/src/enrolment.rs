//! Which TPM does a machine say that it has, and may it be believed? The authority's check before it challenges one.
//!
//! Who vouches for an endorsement key is the site's choice ([`Roots`]). That the machine can *use* the key is not shown here but by
//! the credential that it opens ([`crate::attestation`]); and only that, once, to the authority: a credential cannot be opened
//! again by whoever reads the evidence later.

use kiln_formats::endorsement::{CaCertificate, EkCertificate, EkPublic, PathFault, Roots, TpmClass};
use kiln_formats::enrolment::{Enrolment, SECRET_BYTES};
use kiln_formats::link::Blob;
use kiln_formats::quote::{AkPublic, PublicError};
use kiln_formats::timestamp::Timestamp;

use crate::finding::{Finding, Findings, Gate};

/// The code of a machine whose TPM is of another class than the builder id stands for.
pub(crate) const MACHINE_CLASS: &str = "machine_class";

/// What is in a credential.
pub type Secret = [u8; SECRET_BYTES];

/// Holding one says: the site believes that a TPM of this class has this endorsement key, and the attestation key, if it is in that TPM, signs
/// nothing but what the TPM made itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledMachine {
    /// What names the machine, and what credentials are encrypted to.
    pub endorsement_key: EkPublic,
    /// As what the site enrols the TPM; the class that the builder id stands for.
    pub class: TpmClass,
    /// What credentials are for, and what the quotes of this boot must be signed with.
    pub attestation_key: AkPublic,
}

/// Says why what a machine sent is no enrolment at all.
#[must_use]
pub fn unreadable(reason: &dyn std::fmt::Display) -> Findings {
    wrong("enrolment", "enrolment", reason).into()
}

/// Judges an enrolment of a machine that would be certified under this builder id, at a time, which is the authority's.
///
/// # Errors
/// [`Findings`] of gate quote; never empty.
pub fn check(
    enrolment: &Enrolment,
    roots: &Roots,
    builder_id: &str,
    at: Timestamp,
) -> Result<EnrolledMachine, Findings> {
    let machine = vouched(enrolment, roots, at)?;
    machine.class.check(builder_id).map_err(|other| wrong(MACHINE_CLASS, &machine.object(), &other))?;
    Ok(machine)
}

/// Judges what a host says of its TPM, which is to quote for the machines that stand on it: a device, whatever they have.
///
/// # Errors
/// [`Findings`] of gate quote; never empty.
pub fn check_host(enrolment: &Enrolment, roots: &Roots, at: Timestamp) -> Result<EnrolledMachine, Findings> {
    let host = vouched(enrolment, roots, at)?;
    match host.class {
        TpmClass::Hardware => Ok(host),
        TpmClass::Virtual => {
            Err(wrong(MACHINE_CLASS, &host.object(), &"the site does not enrol it as hardware").into())
        }
    }
}

impl EnrolledMachine {
    fn object(&self) -> String {
        format!("endorsement key {}", self.endorsement_key.sha256())
    }
}

/// Somebody whom the site believes vouches for the endorsement key.
fn vouched(enrolment: &Enrolment, roots: &Roots, at: Timestamp) -> Result<EnrolledMachine, Findings> {
    if !enrolment.is_bounded() {
        return Err(unreadable(&"it has more certificates than a TPM keeps"));
    }
    let attestation_key = AkPublic::parse(&enrolment.attestation_key.0)
        .map_err(|fault| wrong(attestation_code(fault), "attestation_key", &fault))?;
    let endorsement_key = EkPublic::parse(&enrolment.endorsement_key.0)
        .map_err(|fault| wrong("endorsement_key", "endorsement_key", &fault))?;
    let class = match roots.keys.get(&endorsement_key.sha256()) {
        Some(class) => *class,
        None => check_certificates(enrolment, &endorsement_key, roots, at)?,
    };
    Ok(EnrolledMachine { endorsement_key, class, attestation_key })
}

/// fixedTPM, fixedParent, restricted and sign say where a key is and what it signs; each way to lack them has its word.
fn attestation_code(fault: PublicError) -> &'static str {
    match fault {
        PublicError::Attributes { found } if found & PublicError::RESTRICTED == 0 => "attestation_key_unrestricted",
        PublicError::Attributes { .. } => "attestation_key_attributes",
        PublicError::Malformed | PublicError::Parameters | PublicError::Point => "attestation_key",
    }
}

/// One of the certificates is on this key, and a root vouches for it.
fn check_certificates(
    enrolment: &Enrolment,
    key: &EkPublic,
    roots: &Roots,
    at: Timestamp,
) -> Result<TpmClass, Finding> {
    let object = format!("endorsement key {}", key.sha256());
    if enrolment.certificates.is_empty() {
        let reason = "the TPM keeps no certificate for its key, and the site does not list the key";
        return Err(wrong("endorsement_uncertified", &object, &reason));
    }
    let authority =
        |Blob(der): &Blob| CaCertificate::from_der(der).map_err(|fault| wrong("endorsement_chain", "chain", &fault));
    let chain = enrolment.chain.iter().map(authority).collect::<Result<Vec<_>, _>>()?;
    let mut closest = wrong("endorsement_key_mismatch", &object, &PathFault::OtherKey);
    for Blob(bytes) in &enrolment.certificates {
        let fault = match EkCertificate::from_nv(bytes) {
            Err(fault) => wrong("endorsement_certificate", &object, &fault),
            Ok(certificate) => match certificate.vouched(key, &chain, roots, at) {
                Ok(class) => return Ok(class),
                // A TPM has certificates for its other keys too: of interest only if there is none for this one.
                Err(PathFault::OtherKey) => continue,
                Err(fault @ PathFault::Time { .. }) => wrong("endorsement_expired", &object, &fault),
                Err(fault @ PathFault::NoPath) => wrong("endorsement_untrusted", &object, &fault),
            },
        };
        closest = fault;
    }
    Err(closest)
}

fn wrong(code: &'static str, object: &str, reason: &dyn std::fmt::Display) -> Finding {
    Finding::new(Gate::Quote, code, object, reason.to_string())
}
