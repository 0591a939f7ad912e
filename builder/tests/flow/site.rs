//! A site made up for the test: its root and authority, its keys, its documents.

use std::time::{Duration, UNIX_EPOCH};

use ed25519_dalek::{Signer as _, SigningKey};
use kiln_formats::canonical;
use kiln_formats::certificate::{EKU_ATTESTATION, EKU_STATEMENT, issuer_name};
use kiln_formats::challenge::Challenge;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dispatch::{Dispatch, Dispatched, Used};
use kiln_formats::dsse::{Envelope, pae};
use kiln_formats::endorsement::TpmClass;
use kiln_formats::enrolment::{Credential, Enrolled};
use kiln_formats::job::Profile;
use kiln_formats::link::{Attestation, Blob, Certificates};
use kiln_formats::names::{BUILDER_FIRMWARE, PAYLOAD_JOB, PAYLOAD_STATEMENT};
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::{Configuration, Policy, PublicKey, TrustBundle};
use p256::pkcs8::EncodePublicKey as _;
use x509_cert::SubjectPublicKeyInfo;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder as _, CertificateBuilder, Error as BuilderError};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{Ia5String, ObjectIdentifier};
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{Decode as _, EncodePem as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::ext::{Extension, ToExtension as _};
use x509_cert::name::Name as DistinguishedName;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoRef;
use x509_cert::time::{Time, Validity};

/// The authority's clock.
pub(crate) const NOW: i64 = 1_790_000_000;
/// Seeds of keys.
pub(crate) const SIGNER: u8 = 4;
pub(crate) const STATEMENT: u8 = 3;
pub(crate) const DISPATCH: u8 = 5;
pub(crate) const PRODUCER: u8 = 6;
pub(crate) const ISSUER: u8 = 6;
/// That of the first step; the next one's is one more.
pub(crate) const STEP: u8 = 20;
const AUTHORITY: u8 = 2;
const ROOT: u8 = 1;

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn spki(seed: u8) -> Vec<u8> {
    PublicKey(key(seed).verifying_key()).spki()
}

pub(crate) fn time(after: i64) -> Timestamp {
    Timestamp::from_unix(NOW + after).unwrap()
}

/// A job document, signed by the key of this seed.
pub(crate) fn signed(job: &serde_json::Value, seed: u8) -> Vec<u8> {
    let payload = canonical::to_vec(job).unwrap();
    let signature = key(seed).sign(&pae(PAYLOAD_JOB, &payload)).to_bytes();
    Envelope::new(PAYLOAD_JOB, &payload, &signature).to_vec().unwrap()
}

pub(crate) fn configuration() -> Configuration {
    Configuration {
        version: 1,
        site: "site".parse().unwrap(),
        trust_domain: "site.example".parse().unwrap(),
        builder_id: BUILDER_FIRMWARE.into(),
    }
}

pub(crate) fn trust() -> TrustBundle {
    let builder_ids = vec![BUILDER_FIRMWARE.into()];
    let job_signers = vec![PublicKey(key(SIGNER).verifying_key())];
    let profiles = vec![Profile::Strict, Profile::Loopback];
    let root = issue(&Draft::authority("root", "root", ROOT, ROOT, None));
    TrustBundle {
        version: 1,
        root,
        policy: Policy {
            version: 1,
            number: 1,
            builder_ids,
            job_signers,
            profiles,
            image_producers: vec![PublicKey(key(PRODUCER).verifying_key())],
            machines: None,
            hosts: Vec::new(),
        },
    }
}

pub(crate) fn challenge(document: &[u8]) -> Challenge {
    Challenge {
        version: 1,
        build_id: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        nonce: Sha256Digest::of(b"nonce"),
        job_sha256: Sha256Digest::of(document),
        image_sha256: Sha256Digest::of(b"uki"),
        issued: time(0),
    }
}

/// A challenge, and a credential that the test's PID 1 opens whatever is in it.
pub(crate) fn enrolled(document: &[u8]) -> Enrolled {
    Enrolled { challenge: challenge(document), credential: Credential::of_contents(b"id", b"seed").unwrap() }
}

/// The public area of a real TPM's endorsement key.
pub(crate) fn endorsement_key() -> Vec<u8> {
    include_bytes!("../../../formats/src/endorsement/vectors/p256.public").to_vec()
}

/// The chain under this site's root, for the statement key of this seed, and the word on this answer, signed with that one.
pub(crate) fn certificates(statement: u8, dispatch: u8, answer: &Attestation) -> Certificates {
    certificates_of(BUILDER_FIRMWARE, statement, dispatch, answer)
}

/// The same by an authority that the root certified for these machines.
pub(crate) fn certificates_of(
    builder_id: &'static str,
    statement: u8,
    dispatch: u8,
    answer: &Attestation,
) -> Certificates {
    let (binding, quote, policy_sha256) = (&answer.binding, &answer.quote.0, trust().policy.sha256().unwrap());
    let said = Dispatched { binding, quote, builder_id: BUILDER_FIRMWARE, policy_sha256, hosted: None };
    let sign = |statement: Vec<u8>| {
        let signature = key(dispatch).sign(&pae(PAYLOAD_STATEMENT, &statement)).to_bytes();
        Blob(Envelope::new(PAYLOAD_STATEMENT, &statement, &signature).to_vec().unwrap())
    };
    let (reference_sha256, provenance_sha256) = (Sha256Digest::of(b"reference"), Sha256Digest::of(b"provenance"));
    let used = Used { reference_sha256, provenance_sha256, class: TpmClass::Virtual };
    let dispatch = Dispatch {
        certificate: issue(&Draft::leaf("dispatch", EKU_STATEMENT, spki(DISPATCH))),
        attestation: sign(canonical::to_vec(&said.attestation(used).unwrap()).unwrap()),
        summary: sign(canonical::to_vec(&said.summary(used).unwrap()).unwrap()),
        image: sign(canonical::to_vec(&said.image(used)).unwrap()),
    };
    let attestation = p256::ecdsa::SigningKey::from_slice(&[0x42; 32]).unwrap();
    let attestation = attestation.verifying_key().to_public_key_der().unwrap().into_vec();
    Certificates {
        authority: issue(&Draft {
            name: Some(builder_id),
            ..Draft::authority("authority", "root", AUTHORITY, ROOT, Some(1))
        }),
        statement: issue(&Draft::leaf("statement", EKU_STATEMENT, spki(statement))),
        attestation: issue(&Draft::leaf("attestation", EKU_ATTESTATION, attestation)),
        issuer: issuer(answer),
        dispatch,
        host: None,
    }
}

/// The certificate of the key that certifies the steps of the machine that answers so.
fn issuer(answer: &Attestation) -> String {
    let Attestation { binding, .. } = answer;
    let named = issuer_name(&binding.endorsement_key_sha256, &binding.challenge.build_id).unwrap();
    issue(&Draft { named: Some(named), seconds: 600, ..Draft::authority("", "authority", ISSUER, AUTHORITY, Some(0)) })
}

struct Draft {
    subject: &'static str,
    /// In place of the subject's common name.
    named: Option<DistinguishedName>,
    /// An authority's builder id.
    name: Option<&'static str>,
    issuer: &'static str,
    constraints: BasicConstraints,
    usage: KeyUsages,
    purpose: Option<ObjectIdentifier>,
    seconds: u64,
    spki: Vec<u8>,
    signer: u8,
}

impl Draft {
    fn authority(subject: &'static str, issuer: &'static str, of: u8, signer: u8, below: Option<u8>) -> Self {
        let constraints = BasicConstraints { ca: true, path_len_constraint: below };
        let usage = KeyUsages::KeyCertSign;
        let (named, name, purpose, spki) = (None, None, None, spki(of));
        Self { subject, named, name, issuer, constraints, usage, purpose, seconds: 1_000_000, spki, signer }
    }

    fn leaf(subject: &'static str, purpose: ObjectIdentifier, spki: Vec<u8>) -> Self {
        let constraints = BasicConstraints { ca: false, path_len_constraint: None };
        let usage = KeyUsages::DigitalSignature;
        let purpose = Some(purpose);
        Self {
            subject,
            named: None,
            name: None,
            issuer: "authority",
            constraints,
            usage,
            purpose,
            seconds: 600,
            spki,
            signer: AUTHORITY,
        }
    }
}

impl BuilderProfile for &Draft {
    fn get_issuer(&self, _subject: &DistinguishedName) -> DistinguishedName {
        format!("CN={}", self.issuer).parse().unwrap()
    }

    fn get_subject(&self) -> DistinguishedName {
        self.named.clone().unwrap_or_else(|| format!("CN={}", self.subject).parse().unwrap())
    }

    fn build_extensions(
        &self,
        _spk: SubjectPublicKeyInfoRef<'_>,
        _issuer_spk: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> Result<Vec<Extension>, BuilderError> {
        let subject = tbs.subject();
        let mut extensions = vec![
            (true, &self.constraints).to_extension(subject, &[])?,
            (&KeyUsage(self.usage.into())).to_extension(subject, &[])?,
        ];
        if let Some(purpose) = self.purpose {
            extensions.push((&ExtendedKeyUsage(vec![purpose])).to_extension(subject, &extensions)?);
            let id = format!("spiffe://site.example/build/0123456789abcdef0123456789abcdef/{}", self.subject);
            extensions.push((&named_by(&id)).to_extension(subject, &extensions)?);
        }
        if let Some(name) = self.name {
            extensions.push((&named_by(name)).to_extension(subject, &extensions)?);
        }
        Ok(extensions)
    }
}

fn named_by(uri: &str) -> SubjectAltName {
    SubjectAltName(vec![GeneralName::UniformResourceIdentifier(Ia5String::new(uri).unwrap())])
}

fn issue(draft: &Draft) -> String {
    let at = |seconds| Time::try_from(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    let validity = Validity::new(at(NOW as u64), at(NOW as u64 + draft.seconds));
    let spki = SubjectPublicKeyInfo::from_der(&draft.spki).unwrap();
    let builder = CertificateBuilder::new(draft, SerialNumber::new(&[0x11; 8]).unwrap(), validity, spki).unwrap();
    let built = builder.build::<_, ed25519_dalek::Signature>(&key(draft.signer)).unwrap();
    built.to_pem(LineEnding::LF).unwrap()
}
