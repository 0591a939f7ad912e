//! What a step's certificate says of the step, and how it is made: the only certificate that a machine issues itself.
//!
//! Nothing is judged here. Who issues one holds the step begun under an ALLOW; who reads one compares each digest with what it
//! knows of the step.

use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use x509_cert::SubjectPublicKeyInfo;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder as _, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{Ia5String, ObjectIdentifier, OctetString};
use x509_cert::der::{self, Decode as _, Encode as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::ext::{Extension, ToExtension as _};
use x509_cert::name::Name as DistinguishedName;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::issue::{SERIAL_BYTES, key_identifiers, serial_number, validity};
use super::{Certificate, CertificateError, EKU_STATEMENT, SpiffeId};
use crate::canonical;
use crate::digest::Sha256Digest;
use crate::job::Step;
use crate::names::Name;
use crate::timestamp::Timestamp;
use crate::trust::PublicKey;

/// The extension that holds a [`StepIdentity`]: below the enterprise number that is reserved for examples, because the project has
/// none (docs/decisions/0013-identities-of-steps.md). Source: RFC 5612, section 2.
pub const STEP_IDENTITY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.32473.1.1");

/// What a step was, as its machine saw it. In a certificate: a SEQUENCE of five OCTET STRINGs of 32 bytes, in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepIdentity {
    /// The job document that was admitted.
    pub job_sha256: Sha256Digest,
    /// The step's canonical text in the job, as measured when it began.
    pub step_sha256: Sha256Digest,
    /// The image that it ran on, by its dm-verity root hash.
    pub image_root_hash: Sha256Digest,
    /// Its program and arguments: the digest of their canonical JSON.
    pub argv_sha256: Sha256Digest,
    /// What the kernel confirmed of its sandbox before its first instruction: the digest of the canonical JSON of a record's `enforced`.
    pub enforced_sha256: Sha256Digest,
}

impl StepIdentity {
    /// What is to be said of a step of this job that ran so.
    ///
    /// # Errors
    /// [`canonical::Error`] for numbers that JSON cannot hold.
    pub fn of(
        job_sha256: Sha256Digest,
        step: &Step,
        image_root_hash: Sha256Digest,
        enforced: &impl Serialize,
    ) -> Result<Self, canonical::Error> {
        Ok(Self {
            job_sha256,
            step_sha256: step.digest()?,
            image_root_hash,
            argv_sha256: Sha256Digest::of(&canonical::to_vec(&step.argv)?),
            enforced_sha256: Sha256Digest::of(&canonical::to_vec(enforced)?),
        })
    }

    /// The first field in which another one differs, by its name.
    #[must_use]
    pub fn differs_in(&self, other: &Self) -> Option<&'static str> {
        let names = ["job_sha256", "step_sha256", "image_root_hash", "argv_sha256", "enforced_sha256"];
        let mut pairs = self.digests().into_iter().zip(other.digests());
        pairs.position(|(one, other)| one != other).and_then(|at| names.get(at).copied())
    }

    fn digests(&self) -> [Sha256Digest; 5] {
        [self.job_sha256, self.step_sha256, self.image_root_hash, self.argv_sha256, self.enforced_sha256]
    }

    fn to_der(self) -> der::Result<Vec<u8>> {
        let digests: Result<Vec<_>, _> =
            self.digests().iter().map(|digest| OctetString::new(digest.as_bytes().as_slice())).collect();
        digests?.to_der()
    }

    /// Reads the content of the extension: nothing for anything but the one spelling in strict DER.
    #[must_use]
    pub fn from_der(bytes: &[u8]) -> Option<Self> {
        let strings = Vec::<OctetString>::from_der(bytes).ok()?;
        let digests: Option<Vec<Sha256Digest>> =
            strings.iter().map(|string| string.as_bytes().try_into().ok().map(Sha256Digest::from_bytes)).collect();
        let [job_sha256, step_sha256, image_root_hash, argv_sha256, enforced_sha256] = digests?.try_into().ok()?;
        let read = Self { job_sha256, step_sha256, image_root_hash, argv_sha256, enforced_sha256 };
        (read.to_der().ok()? == bytes).then_some(read)
    }
}

/// The name of the issuer of the certificates of one build's steps. `machine` is the digest of its endorsement key.
///
/// # Errors
/// [`CertificateError::Draft`] if the build id holds a `+`.
pub fn issuer_name(machine: &Sha256Digest, build_id: &Name) -> Result<DistinguishedName, CertificateError> {
    format!("CN={build_id},OU={machine}").parse().map_err(|_| CertificateError::Draft)
}

/// A step's certificate to be.
#[derive(Debug, Clone, Copy)]
pub struct StepDraft<'a> {
    /// The site's trust domain.
    pub trust_domain: &'a Name,
    /// The digest of the machine's endorsement key.
    pub machine: &'a Sha256Digest,
    /// The build.
    pub build_id: &'a Name,
    /// The step.
    pub step: &'a Name,
    /// What it is.
    pub identity: StepIdentity,
    /// The first second of its issuer's certificate.
    pub begin: Timestamp,
    /// The last one.
    pub end: Timestamp,
    /// Random bytes, of which the first is made positive.
    pub serial: [u8; SERIAL_BYTES],
}

impl StepDraft<'_> {
    /// Certifies `key` with the key of the build's issuer.
    ///
    /// # Errors
    /// [`CertificateError::Draft`].
    pub fn issue(&self, key: &VerifyingKey, issuer: &SigningKey) -> Result<Certificate, CertificateError> {
        self.build(key, issuer).unwrap_or(Err(CertificateError::Draft))
    }

    fn build(
        &self,
        key: &VerifyingKey,
        issuer: &SigningKey,
    ) -> x509_cert::builder::Result<Result<Certificate, CertificateError>> {
        let Self { trust_domain, machine, build_id, step, .. } = *self;
        let (Ok(issuer_name), Ok(id)) =
            (issuer_name(machine, build_id), SpiffeId::step(trust_domain, machine, build_id, step))
        else {
            return Ok(Err(CertificateError::Draft));
        };
        let spki = SubjectPublicKeyInfo::from_der(&PublicKey(*key).spki())?;
        let profile = StepProfile { issuer_name, id, identity: self.identity };
        let builder =
            CertificateBuilder::new(profile, serial_number(self.serial)?, validity(self.begin, self.end)?, spki)?;
        Ok(Certificate::from_parsed(builder.build::<_, Signature>(issuer)?))
    }
}

struct StepProfile {
    issuer_name: DistinguishedName,
    id: SpiffeId,
    identity: StepIdentity,
}

impl BuilderProfile for StepProfile {
    fn get_issuer(&self, _subject: &DistinguishedName) -> DistinguishedName {
        self.issuer_name.clone()
    }

    /// None: the name is the SPIFFE id, which is critical therefore. Source: RFC 5280, section 4.2.1.6.
    fn get_subject(&self) -> DistinguishedName {
        DistinguishedName::default()
    }

    fn build_extensions(
        &self,
        key: SubjectPublicKeyInfoRef<'_>,
        issuer: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        let subject = tbs.subject();
        let constraints = BasicConstraints { ca: false, path_len_constraint: None };
        let name = GeneralName::UniformResourceIdentifier(Ia5String::new(self.id.as_str())?);
        let identity = OctetString::new(self.identity.to_der()?)?;
        let (own, above) = key_identifiers(&key, &issuer)?;
        Ok(vec![
            (true, &constraints).to_extension(subject, &[])?,
            (&KeyUsage(KeyUsages::DigitalSignature.into())).to_extension(subject, &[])?,
            (&ExtendedKeyUsage(vec![EKU_STATEMENT])).to_extension(subject, &[])?,
            (true, &SubjectAltName(vec![name])).to_extension(subject, &[])?,
            Extension { extn_id: STEP_IDENTITY, critical: false, extn_value: identity },
            (&own).to_extension(subject, &[])?,
            (&above).to_extension(subject, &[])?,
        ])
    }
}
