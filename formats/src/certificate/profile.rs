//! What a certificate of each kind must and may contain. Everything else is refused, so that nothing in a certificate goes unread.

use x509_cert::certificate::Version;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::oid::db::rfc8410::ID_ED_25519;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
    SubjectKeyIdentifier,
};

use super::{Certificate, CertificateError, EKU_STATEMENT, Role, STEP_IDENTITY, SpiffeId, StepIdentity};
use crate::names::MACHINE_BUILDERS;

/// The shapes of certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Signs authorities.
    Root,
    /// Signs leaves, and issuers, for machines of the one builder id that it is named after.
    Authority,
    /// Signs the leaves of steps.
    Issuer,
    /// Signs what the extended key usage says.
    Leaf(ObjectIdentifier),
    /// Signs what there is to say of a step, which it describes.
    Step,
}

impl Kind {
    /// What its key is for; none for those that sign certificates.
    const fn purpose(self) -> Option<ObjectIdentifier> {
        match self {
            Self::Root | Self::Authority | Self::Issuer => None,
            Self::Leaf(purpose) => Some(purpose),
            Self::Step => Some(EKU_STATEMENT),
        }
    }

    /// Whether so many certificates may be between it and a leaf.
    fn allows(self, path_len: Option<u8>) -> bool {
        match self {
            Self::Root => true,
            Self::Authority => path_len == Some(1),
            Self::Issuer => path_len == Some(0),
            Self::Leaf(_) | Self::Step => path_len.is_none(),
        }
    }
}

/// Checks everything but signature and time; a leaf yields its name.
pub(super) fn check(certificate: &Certificate, role: Role, kind: Kind) -> Result<Option<SpiffeId>, CertificateError> {
    let broken = |rule| CertificateError::Profile { role, rule };
    let tbs = certificate.as_x509().tbs_certificate();
    if tbs.version() != Version::V3 || tbs.issuer_unique_id().is_some() || tbs.subject_unique_id().is_some() {
        return Err(broken("it is not a plain X.509 v3 certificate"));
    }
    for algorithm in [tbs.signature(), certificate.as_x509().signature_algorithm()] {
        if algorithm.oid != ID_ED_25519 || algorithm.parameters.is_some() {
            return Err(broken("it is not signed with Ed25519"));
        }
    }
    check_extension_set(certificate, kind).map_err(broken)?;

    let constraints = one::<BasicConstraints>(certificate, Some(true)).map_err(broken)?;
    let (ca, path_len) = (constraints.ca, constraints.path_len_constraint);
    let usage = one::<KeyUsage>(certificate, Some(true)).map_err(broken)?;
    let Some(purpose) = kind.purpose() else {
        if !ca || !kind.allows(path_len) {
            return Err(broken("its basic constraints are not those of its place in the chain"));
        }
        if usage.0 != KeyUsages::KeyCertSign {
            return Err(broken("its key usage is not keyCertSign alone"));
        }
        return Ok(None);
    };
    if ca || !kind.allows(path_len) {
        return Err(broken("it claims to be an authority"));
    }
    if usage.0 != KeyUsages::DigitalSignature {
        return Err(broken("its key usage is not digitalSignature alone"));
    }
    if one::<ExtendedKeyUsage>(certificate, None).map_err(broken)?.0 != [purpose] {
        return Err(broken("its extended key usage is not the one of its role alone"));
    }
    let id = uri(certificate).map_err(broken)?.parse();
    id.map(Some).map_err(|_| broken("its URI is not a SPIFFE id"))
}

/// The machines that an authority may certify: those of one of the builder ids that we know.
pub(super) fn builder_id(certificate: &Certificate) -> Result<&'static str, &'static str> {
    let uri = uri(certificate)?;
    MACHINE_BUILDERS.into_iter().find(|known| *known == uri).ok_or("its URI is not the builder id of any machine")
}

/// The one name in a certificate that has names.
fn uri(certificate: &Certificate) -> Result<String, &'static str> {
    match one::<SubjectAltName>(certificate, None)?.0.as_slice() {
        [GeneralName::UniformResourceIdentifier(uri)] => Ok(uri.as_str().to_owned()),
        _ => Err("its alternative name is not exactly one URI"),
    }
}

/// Only known extensions, each at most once.
fn check_extension_set(certificate: &Certificate, kind: Kind) -> Result<(), &'static str> {
    let mut allowed =
        vec![BasicConstraints::OID, KeyUsage::OID, SubjectKeyIdentifier::OID, AuthorityKeyIdentifier::OID];
    if kind.purpose().is_some() {
        allowed.push(ExtendedKeyUsage::OID);
    }
    if kind.purpose().is_some() || kind == Kind::Authority {
        allowed.push(SubjectAltName::OID);
    }
    if kind == Kind::Step {
        allowed.push(STEP_IDENTITY);
    }
    for extension in certificate.as_x509().tbs_certificate().extensions().into_iter().flatten() {
        let Some(at) = allowed.iter().position(|oid| *oid == extension.extn_id) else {
            return Err("it has an extension that its profile does not know, or one twice");
        };
        allowed.swap_remove(at);
        let identifier = [SubjectKeyIdentifier::OID, AuthorityKeyIdentifier::OID].contains(&extension.extn_id);
        if identifier && extension.critical {
            return Err("its key identifiers are critical");
        }
    }
    Ok(())
}

/// What a step's certificate says of the step, in strict DER.
pub(super) fn step_identity(certificate: &Certificate) -> Result<StepIdentity, &'static str> {
    StepIdentity::from_der(extension(certificate, STEP_IDENTITY, Some(false))?).ok_or("its step identity is malformed")
}

/// The content of an extension that must be there, critical as `critical` demands.
fn extension(certificate: &Certificate, oid: ObjectIdentifier, critical: Option<bool>) -> Result<&[u8], &'static str> {
    let mut extensions = certificate.as_x509().tbs_certificate().extensions().into_iter().flatten();
    let extension = extensions.find(|e| e.extn_id == oid).ok_or("an extension of its profile is missing")?;
    match critical {
        Some(true) if !extension.critical => Err("an extension of its profile is not marked critical"),
        Some(false) if extension.critical => Err("its step identity is critical"),
        _ => Ok(extension.extn_value.as_bytes()),
    }
}

/// The one extension of type `T`, in strict DER, critical as `critical` demands.
fn one<T>(certificate: &Certificate, critical: Option<bool>) -> Result<T, &'static str>
where
    T: AssociatedOid + Encode + for<'a> Decode<'a>,
{
    let bytes = extension(certificate, T::OID, critical)?;
    let value = T::from_der(bytes).map_err(|_| "an extension is malformed")?;
    let encoded = value.to_der().map_err(|_| "an extension is malformed")?;
    if encoded == bytes { Ok(value) } else { Err("an extension is not in strict DER") }
}
