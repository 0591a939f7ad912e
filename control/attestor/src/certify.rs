//! Issues the site's certificates, each in the profile that [`kiln_formats::certificate`] draws up and checks.
//!
//! Whoever calls this has decided already: nothing is judged here but that the certificate made is one that a verifier takes.

use std::net::IpAddr;

use ed25519_dalek::SigningKey;
use kiln_formats::certificate::{
    Certificate, CertificateError, EKU_ATTESTATION, EKU_STATEMENT, LEAF_SECONDS_MAX, SERIAL_BYTES, SpiffeId,
    key_identifiers, serial_number, validity,
};
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::PublicKey;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder as _, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{Ia5String, ObjectIdentifier, OctetString};
use x509_cert::der::oid::db::rfc5280::ID_KP_SERVER_AUTH;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::ext::{Extension, ToExtension as _};
use x509_cert::name::Name as DistinguishedName;
use x509_cert::spki::{SubjectPublicKeyInfo, SubjectPublicKeyInfoRef};

use crate::service::ServerName;

/// How long a site's root lives: ten years, so that evidence stays checkable; a site makes a new one long before.
pub(crate) const ROOT_SECONDS: u32 = 10 * 365 * 86_400;
/// How long an authority lives: a year, after which a site is renewed.
pub(crate) const AUTHORITY_SECONDS: u32 = 365 * 86_400;
/// How long a build's certificates live: a quarter of an hour. They count at the time of the challenge, and are asked for within
/// the minutes that a machine takes from there to its quote.
pub(crate) const LEAF_SECONDS: u32 = 900;
const _: () = assert!(LEAF_SECONDS as i64 <= LEAF_SECONDS_MAX);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// The names, times or keys do not fit a certificate.
    #[error("cannot make a certificate")]
    Build {
        /// What the builder says.
        #[from]
        source: x509_cert::builder::Error,
    },
    /// A key or name has no DER form.
    #[error("cannot encode a certificate")]
    Der {
        /// What the encoder says.
        #[from]
        source: x509_cert::der::Error,
    },
    /// What was made is not of the profile.
    #[error("made a certificate that no verifier would take")]
    Profile {
        /// Why.
        #[from]
        source: CertificateError,
    },
}

/// What a certificate says, beside whose key it is.
pub(crate) enum Purpose<'a> {
    /// The site's own word.
    Root,
    /// Issues leaves, and the issuers of steps' certificates, for machines of this builder id.
    Authority(&'a str),
    /// Signs a build's statements, in this name.
    Statement(&'a SpiffeId),
    /// Signs the quotes of a build's machine, in this name.
    Attestation(&'a SpiffeId),
    /// Serves machines over a network, under these names. No verifier of evidence takes it.
    Server {
        /// Its SPIFFE id.
        id: &'a str,
        /// Its DNS names and addresses.
        names: &'a [ServerName],
    },
    /// Signs a build's dispatch, in this name.
    Dispatch(&'a SpiffeId),
    /// Signs that a build's machine is gone, in this name.
    Teardown(&'a SpiffeId),
    /// Certifies the keys of a build's steps, under this name in place of the subject's.
    Issuer(&'a DistinguishedName),
}

/// A certificate to be.
pub(crate) struct Request<'a> {
    /// What for.
    pub(crate) purpose: Purpose<'a>,
    /// The common name of whom it is for.
    pub(crate) subject: &'a str,
    /// The key that it certifies: SubjectPublicKeyInfo (DER).
    pub(crate) spki: &'a [u8],
    /// From when.
    pub(crate) begin: Timestamp,
    /// For how long, in seconds.
    pub(crate) seconds: u32,
    /// A random serial number.
    pub(crate) serial: [u8; SERIAL_BYTES],
}

/// Who issues: a key, and the certificate that it is known by.
pub(crate) struct Issuer<'a> {
    /// Its name.
    pub(crate) name: DistinguishedName,
    /// Its key.
    pub(crate) key: &'a SigningKey,
}

impl<'a> Issuer<'a> {
    /// The holder of a certificate.
    pub(crate) fn of(certificate: &Certificate, key: &'a SigningKey) -> Self {
        Self { name: certificate.as_x509().tbs_certificate().subject().clone(), key }
    }

    /// One who has no certificate yet.
    pub(crate) fn named(name: &str, key: &'a SigningKey) -> Result<Self, CertifyError> {
        Ok(Self { name: common_name(name)?, key })
    }

    /// Signs a certificate.
    pub(crate) fn issue(&self, request: &Request<'_>) -> Result<Certificate, CertifyError> {
        let profile = Profile {
            issuer: self.name.clone(),
            subject: match request.purpose {
                Purpose::Issuer(name) => name.clone(),
                _ => common_name(request.subject)?,
            },
            constraints: request.purpose.constraints(),
            usage: request.purpose.usage(),
            use_of_leaf: request.purpose.use_of_leaf(),
            names: request.purpose.names()?,
        };
        let life = validity(request.begin, request.begin.plus_seconds(request.seconds))?;
        let spki = SubjectPublicKeyInfo::from_der(request.spki)?;
        let builder = CertificateBuilder::new(profile, serial_number(request.serial)?, life, spki)?;
        let built = builder.build::<_, ed25519_dalek::Signature>(self.key)?;
        Ok(Certificate::from_der(&built.to_der()?)?)
    }
}

/// The SubjectPublicKeyInfo of a key of ours.
pub(crate) fn spki_of(key: &SigningKey) -> Vec<u8> {
    PublicKey(key.verifying_key()).spki()
}

impl Purpose<'_> {
    fn constraints(&self) -> BasicConstraints {
        match self {
            Self::Root => BasicConstraints { ca: true, path_len_constraint: None },
            Self::Authority(_) => BasicConstraints { ca: true, path_len_constraint: Some(1) },
            Self::Issuer(_) => BasicConstraints { ca: true, path_len_constraint: Some(0) },
            Self::Statement(_) | Self::Attestation(_) | Self::Dispatch(_) | Self::Teardown(_) | Self::Server { .. } => {
                BasicConstraints { ca: false, path_len_constraint: None }
            }
        }
    }

    fn usage(&self) -> KeyUsages {
        match self {
            Self::Root | Self::Authority(_) | Self::Issuer(_) => KeyUsages::KeyCertSign,
            Self::Statement(_) | Self::Attestation(_) | Self::Dispatch(_) | Self::Teardown(_) | Self::Server { .. } => {
                KeyUsages::DigitalSignature
            }
        }
    }

    /// What a leaf is for.
    fn use_of_leaf(&self) -> Option<ObjectIdentifier> {
        match self {
            Self::Root | Self::Authority(_) | Self::Issuer(_) => None,
            Self::Statement(_) | Self::Dispatch(_) | Self::Teardown(_) => Some(EKU_STATEMENT),
            Self::Attestation(_) => Some(EKU_ATTESTATION),
            Self::Server { .. } => Some(ID_KP_SERVER_AUTH),
        }
    }

    /// Whose it is, or for what machines.
    fn names(&self) -> Result<Vec<GeneralName>, CertifyError> {
        let uri = |id: &str| Ok::<_, CertifyError>(GeneralName::UniformResourceIdentifier(Ia5String::new(id)?));
        match self {
            Self::Root | Self::Issuer(_) => Ok(Vec::new()),
            Self::Authority(builder_id) => Ok(vec![uri(builder_id)?]),
            Self::Statement(id) | Self::Dispatch(id) | Self::Teardown(id) | Self::Attestation(id) => {
                Ok(vec![uri(id.as_str())?])
            }
            Self::Server { id, names } => {
                let names = names.iter().map(|name| match name {
                    ServerName::Dns(name) => Ok(GeneralName::DnsName(Ia5String::new(name)?)),
                    ServerName::Ip(IpAddr::V4(address)) => Ok(octets(&address.octets())?),
                    ServerName::Ip(IpAddr::V6(address)) => Ok(octets(&address.octets())?),
                });
                names.chain([uri(id)]).collect()
            }
        }
    }
}

struct Profile {
    issuer: DistinguishedName,
    subject: DistinguishedName,
    constraints: BasicConstraints,
    usage: KeyUsages,
    use_of_leaf: Option<ObjectIdentifier>,
    names: Vec<GeneralName>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _subject: &DistinguishedName) -> DistinguishedName {
        self.issuer.clone()
    }

    fn get_subject(&self) -> DistinguishedName {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        spk: SubjectPublicKeyInfoRef<'_>,
        issuer_spk: SubjectPublicKeyInfoRef<'_>,
        _tbs: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        let subject = &self.subject;
        let mut extensions = vec![
            (true, &self.constraints).to_extension(subject, &[])?,
            (&KeyUsage(self.usage.into())).to_extension(subject, &[])?,
        ];
        if let Some(purpose) = self.use_of_leaf {
            extensions.push((&ExtendedKeyUsage(vec![purpose])).to_extension(subject, &[])?);
        }
        if !self.names.is_empty() {
            extensions.push((&SubjectAltName(self.names.clone())).to_extension(subject, &[])?);
        }
        let (own, above) = key_identifiers(&spk, &issuer_spk)?;
        extensions.push((&own).to_extension(subject, &[])?);
        extensions.push((&above).to_extension(subject, &[])?);
        Ok(extensions)
    }
}

/// Source: RFC 5280, section 4.2.1.6: an address is its octets.
fn octets(address: &[u8]) -> Result<GeneralName, CertifyError> {
    Ok(GeneralName::IpAddress(OctetString::new(address)?))
}

fn common_name(name: &str) -> Result<DistinguishedName, CertifyError> {
    Ok(format!("CN={name}").parse::<DistinguishedName>()?)
}
