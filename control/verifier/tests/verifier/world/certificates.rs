//! The test site's certificates, and those that its machine issues.

use std::time::Duration;

use kiln_formats::certificate::{Certificate, EKU_ATTESTATION, EKU_STATEMENT, StepDraft, StepIdentity, issuer_name};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::names::{BUILDER_FIRMWARE, Name};
use kiln_formats::trust::PublicKey;
use x509_cert::SubjectPublicKeyInfo;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder as _, CertificateBuilder, Error as BuilderError};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{Ia5String, ObjectIdentifier};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::ext::{Extension, ToExtension as _};
use x509_cert::name::Name as DistinguishedName;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoRef;
use x509_cert::time::{Time, Validity};

use super::{DISPATCH_KEY, ISSUED, ISSUER_KEY, STATEMENT_KEY, at, key, name, tpm};

const ROOT_KEY: u8 = 1;
pub(crate) const AUTHORITY_KEY: u8 = 2;

/// How long the certificates of a build live, in seconds.
const LIFE: i64 = 900;

/// A leaf to be issued; by default as the authority would.
pub(crate) struct Leaf {
    pub(crate) spki: Vec<u8>,
    pub(crate) purpose: ObjectIdentifier,
    pub(crate) id: String,
    pub(crate) first: i64,
    pub(crate) issuer_key: u8,
}

pub(crate) fn ed25519_spki(seed: u8) -> Vec<u8> {
    PublicKey(key(seed).verifying_key()).spki()
}

pub(crate) fn statement_leaf() -> Leaf {
    Leaf {
        spki: ed25519_spki(STATEMENT_KEY),
        purpose: EKU_STATEMENT,
        id: format!("spiffe://test.example/build/ek/{}/job/00112233445566778899aabbccddeeff/statement", tpm::machine()),
        first: ISSUED,
        issuer_key: AUTHORITY_KEY,
    }
}

pub(crate) fn attestation_leaf() -> Leaf {
    Leaf {
        spki: tpm::ak_spki(),
        purpose: EKU_ATTESTATION,
        id: statement_leaf().id.replace("/statement", "/attestation"),
        ..statement_leaf()
    }
}

pub(crate) fn dispatch_leaf() -> Leaf {
    let id = statement_leaf().id.replace("/statement", "/dispatch");
    Leaf { spki: ed25519_spki(DISPATCH_KEY), id, ..statement_leaf() }
}

pub(crate) fn root() -> Certificate {
    ca("root", None, ROOT_KEY, None)
}

pub(crate) fn authority() -> Certificate {
    authority_of(BUILDER_FIRMWARE, AUTHORITY_KEY)
}

/// The certificate of whoever has this key, as the authority of these machines.
pub(crate) fn authority_of(builder_id: &str, key: u8) -> Certificate {
    ca("authority", Some(1), key, Some(builder_id))
}

/// The certificate of the key that certifies steps: whose build it names, and with which key.
pub(crate) struct Issuer {
    pub(crate) build_id: &'static str,
    pub(crate) key: u8,
    pub(crate) issuer_key: u8,
}

pub(crate) fn issuer() -> Issuer {
    Issuer { build_id: "00112233445566778899aabbccddeeff", key: ISSUER_KEY, issuer_key: AUTHORITY_KEY }
}

impl Issuer {
    pub(crate) fn issue(&self) -> Certificate {
        let constraints = BasicConstraints { ca: true, path_len_constraint: Some(0) };
        let subject = issuer_name(&tpm::machine(), &name(self.build_id)).unwrap();
        let profile =
            Profile { subject, issuer: "authority", extensions: basics(&constraints, KeyUsages::KeyCertSign) };
        issue(profile, ed25519_spki(self.key), ISSUED, ISSUED + LIFE, self.issuer_key)
    }
}

/// A step's certificate to be; by default as the machine would.
pub(crate) struct StepPlan {
    pub(crate) trust_domain: Name,
    pub(crate) machine: Sha256Digest,
    pub(crate) build_id: Name,
    pub(crate) step: Name,
    pub(crate) identity: StepIdentity,
    pub(crate) seconds: i64,
    /// Whose certificate it is, who signs it, and who signs the step's record and trace.
    pub(crate) key: u8,
    pub(crate) issuer_key: u8,
    pub(crate) signer: u8,
}

impl StepPlan {
    pub(crate) fn new(sequence: usize, step: Name, identity: StepIdentity) -> Self {
        let key = 10 + sequence as u8;
        Self {
            trust_domain: name("test.example"),
            machine: tpm::machine(),
            build_id: name(issuer().build_id),
            step,
            identity,
            seconds: LIFE,
            key,
            issuer_key: ISSUER_KEY,
            signer: key,
        }
    }

    pub(crate) fn issue(&self) -> Vec<u8> {
        let Self { trust_domain, machine, build_id, step, identity, .. } = self;
        let (begin, end, serial) = (at(0), at(self.seconds), [7; 16]);
        let draft = StepDraft { trust_domain, machine, build_id, step, identity: *identity, begin, end, serial };
        let issued = draft.issue(&key(self.key).verifying_key(), &key(self.issuer_key)).unwrap();
        issued.to_pem().unwrap().into_bytes()
    }
}

struct Profile {
    subject: DistinguishedName,
    issuer: &'static str,
    extensions: Vec<Extension>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _subject: &DistinguishedName) -> DistinguishedName {
        format!("CN={}", self.issuer).parse().unwrap()
    }

    fn get_subject(&self) -> DistinguishedName {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _spk: SubjectPublicKeyInfoRef<'_>,
        _issuer_spk: SubjectPublicKeyInfoRef<'_>,
        _tbs: &TbsCertificate,
    ) -> Result<Vec<Extension>, BuilderError> {
        Ok(self.extensions.clone())
    }
}

fn basics(constraints: &BasicConstraints, usage: KeyUsages) -> Vec<Extension> {
    let subject = DistinguishedName::default();
    vec![
        (true, constraints).to_extension(&subject, &[]).unwrap(),
        (&KeyUsage(usage.into())).to_extension(&subject, &[]).unwrap(),
    ]
}

fn name_extension(uri: &str) -> Extension {
    let uri = GeneralName::UniformResourceIdentifier(Ia5String::new(uri).unwrap());
    (false, &SubjectAltName(vec![uri])).to_extension(&DistinguishedName::default(), &[]).unwrap()
}

fn ca(subject: &'static str, path_len_constraint: Option<u8>, seed: u8, builder_id: Option<&str>) -> Certificate {
    let constraints = BasicConstraints { ca: true, path_len_constraint };
    let subject = format!("CN={subject}").parse().unwrap();
    let mut extensions = basics(&constraints, KeyUsages::KeyCertSign);
    extensions.extend(builder_id.map(name_extension));
    let profile = Profile { subject, issuer: "root", extensions };
    issue(profile, ed25519_spki(seed), ISSUED - 1000, ISSUED + 1_000_000, ROOT_KEY)
}

impl Leaf {
    pub(crate) fn issue(&self) -> Certificate {
        let subject = DistinguishedName::default();
        let mut extensions =
            basics(&BasicConstraints { ca: false, path_len_constraint: None }, KeyUsages::DigitalSignature);
        extensions.push((&ExtendedKeyUsage(vec![self.purpose])).to_extension(&subject, &[]).unwrap());
        extensions.push(name_extension(&self.id));
        let profile = Profile { subject: "CN=leaf".parse().unwrap(), issuer: "authority", extensions };
        issue(profile, self.spki.clone(), self.first, self.first + LIFE, self.issuer_key)
    }
}

fn issue(profile: Profile, spki: Vec<u8>, first: i64, last: i64, issuer_key: u8) -> Certificate {
    let time = |at: i64| Time::try_from(std::time::UNIX_EPOCH + Duration::from_secs(at as u64)).unwrap();
    let serial = SerialNumber::new(&[0x11; 8]).unwrap();
    let spki = SubjectPublicKeyInfo::from_der(&spki).unwrap();
    let builder = CertificateBuilder::new(profile, serial, Validity::new(time(first), time(last)), spki).unwrap();
    let built = builder.build::<_, ed25519_dalek::Signature>(&key(issuer_key)).unwrap();
    Certificate::from_der(&built.to_der().unwrap()).unwrap()
}
