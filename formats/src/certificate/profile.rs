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

use super::{Certificate, CertificateError, Role, SpiffeId};

/// The three shapes of certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Signs authorities.
    Root,
    /// Signs leaves.
    Authority,
    /// Signs what the extended key usage says.
    Leaf(ObjectIdentifier),
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
    let Kind::Leaf(purpose) = kind else {
        if !ca || (kind == Kind::Authority && path_len != Some(0)) {
            return Err(broken("its basic constraints are not those of its place in the chain"));
        }
        if usage.0 != KeyUsages::KeyCertSign {
            return Err(broken("its key usage is not keyCertSign alone"));
        }
        return Ok(None);
    };
    if ca || path_len.is_some() {
        return Err(broken("it claims to be an authority"));
    }
    if usage.0 != KeyUsages::DigitalSignature {
        return Err(broken("its key usage is not digitalSignature alone"));
    }
    if one::<ExtendedKeyUsage>(certificate, None).map_err(broken)?.0 != [purpose] {
        return Err(broken("its extended key usage is not the one of its role alone"));
    }
    match one::<SubjectAltName>(certificate, None).map_err(broken)?.0.as_slice() {
        [GeneralName::UniformResourceIdentifier(uri)] => {
            uri.as_str().parse().map(Some).map_err(|_| broken("its URI is not a SPIFFE id"))
        }
        _ => Err(broken("its alternative name is not exactly one URI")),
    }
}

/// Only known extensions, each at most once.
fn check_extension_set(certificate: &Certificate, kind: Kind) -> Result<(), &'static str> {
    let mut allowed =
        vec![BasicConstraints::OID, KeyUsage::OID, SubjectKeyIdentifier::OID, AuthorityKeyIdentifier::OID];
    if let Kind::Leaf(_) = kind {
        allowed.extend([ExtendedKeyUsage::OID, SubjectAltName::OID]);
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

/// The one extension of type `T`, in strict DER, critical as `critical` demands.
fn one<T>(certificate: &Certificate, critical: Option<bool>) -> Result<T, &'static str>
where
    T: AssociatedOid + Encode + for<'a> Decode<'a>,
{
    let mut extensions = certificate.as_x509().tbs_certificate().extensions().into_iter().flatten();
    let extension = extensions.find(|e| e.extn_id == T::OID).ok_or("an extension of its profile is missing")?;
    if critical.is_some_and(|critical| critical != extension.critical) {
        return Err("an extension of its profile is not marked critical");
    }
    let bytes = extension.extn_value.as_bytes();
    let value = T::from_der(bytes).map_err(|_| "an extension is malformed")?;
    let encoded = value.to_der().map_err(|_| "an extension is malformed")?;
    if encoded == bytes { Ok(value) } else { Err("an extension is not in strict DER") }
}
