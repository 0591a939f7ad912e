//! A site's chain, made here, then broken rule by rule.

mod mode;

use std::time::Duration;

use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use x509_cert::SubjectPublicKeyInfo;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder as _, CertificateBuilder, Error as BuilderError};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::Ia5String;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::ext::{Extension, ToExtension as _};
use x509_cert::name::Name as DistinguishedName;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoRef;
use x509_cert::time::{Time, Validity};

use super::*;
use crate::names::BUILDER_METAL;

const NOW: i64 = 1_790_000_000;

/// A certificate's contents, each field to be broken alone.
#[derive(Clone)]
struct Draft {
    subject: &'static str,
    issuer: &'static str,
    constraints: BasicConstraints,
    usage: KeyUsages,
    purposes: Vec<ObjectIdentifier>,
    names: Vec<&'static str>,
    extra: Option<Extension>,
    first: i64,
    last: i64,
    spki: Vec<u8>,
    signer: u8,
}

impl BuilderProfile for &Draft {
    fn get_issuer(&self, _subject: &DistinguishedName) -> DistinguishedName {
        format!("CN={}", self.issuer).parse().unwrap()
    }

    fn get_subject(&self) -> DistinguishedName {
        format!("CN={}", self.subject).parse().unwrap()
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
        if !self.purposes.is_empty() {
            extensions.push((&ExtendedKeyUsage(self.purposes.clone())).to_extension(subject, &extensions)?);
        }
        if !self.names.is_empty() {
            let uri = |name: &&str| GeneralName::UniformResourceIdentifier(Ia5String::new(*name).unwrap());
            let names = SubjectAltName(self.names.iter().map(uri).collect());
            extensions.push((&names).to_extension(subject, &extensions)?);
        }
        extensions.extend(self.extra.clone());
        Ok(extensions)
    }
}

fn ed25519(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn ed25519_spki(seed: u8) -> Vec<u8> {
    crate::trust::PublicKey(ed25519(seed).verifying_key()).spki()
}

fn p256_spki() -> Vec<u8> {
    use p256::pkcs8::EncodePublicKey as _;
    let key = p256::ecdsa::SigningKey::from_slice(&[0x42; 32]).unwrap();
    key.verifying_key().to_public_key_der().unwrap().into_vec()
}

fn issue(draft: &Draft) -> Certificate {
    let time = |at: i64| Time::try_from(std::time::UNIX_EPOCH + Duration::from_secs(at as u64)).unwrap();
    let serial = SerialNumber::new(&[0x11; 8]).unwrap();
    let spki = SubjectPublicKeyInfo::from_der(&draft.spki).unwrap();
    let validity = Validity::new(time(draft.first), time(draft.last));
    let builder = CertificateBuilder::new(draft, serial, validity, spki).unwrap();
    let built = builder.build::<_, Signature>(&ed25519(draft.signer)).unwrap();
    Certificate::from_pem(Certificate::from_parsed(built).unwrap().to_pem().unwrap().as_bytes()).unwrap()
}

fn root() -> Draft {
    Draft {
        subject: "root",
        issuer: "root",
        constraints: BasicConstraints { ca: true, path_len_constraint: None },
        usage: KeyUsages::KeyCertSign,
        purposes: vec![],
        names: vec![],
        extra: None,
        first: NOW - 1000,
        last: NOW + 1_000_000,
        spki: ed25519_spki(1),
        signer: 1,
    }
}

/// A root of its own.
pub(crate) fn another_root(seed: u8) -> Certificate {
    issue(&Draft { spki: ed25519_spki(seed), signer: seed, ..root() })
}

fn authority() -> Draft {
    let constraints = BasicConstraints { ca: true, path_len_constraint: Some(1) };
    Draft { subject: "authority", constraints, names: vec![BUILDER_METAL], spki: ed25519_spki(2), ..root() }
}

fn statement() -> Draft {
    Draft {
        subject: "statement",
        issuer: "authority",
        constraints: BasicConstraints { ca: false, path_len_constraint: None },
        usage: KeyUsages::DigitalSignature,
        purposes: vec![EKU_STATEMENT],
        names: vec!["spiffe://site.example/build/00/statement"],
        extra: None,
        first: NOW,
        last: NOW + LEAF_SECONDS_MAX,
        spki: ed25519_spki(3),
        signer: 2,
    }
}

fn attestation() -> Draft {
    let names = vec!["spiffe://site.example/build/00/attestation"];
    Draft { purposes: vec![EKU_ATTESTATION], names, spki: p256_spki(), ..statement() }
}

/// The issuer of a build that is called `00` on a machine that is called `ek`.
fn issuer() -> Draft {
    Draft {
        subject: Box::leak(format!("00,OU={}", machine()).into_boxed_str()),
        issuer: "authority",
        constraints: BasicConstraints { ca: true, path_len_constraint: Some(0) },
        spki: ed25519_spki(4),
        signer: 2,
        ..Draft { last: NOW + LEAF_SECONDS_MAX, first: NOW, ..root() }
    }
}

fn machine() -> Sha256Digest {
    Sha256Digest::of(b"ek")
}

fn identity() -> StepIdentity {
    let [job_sha256, step_sha256, image_root_hash, argv_sha256, enforced_sha256] =
        [b"j", b"s", b"i", b"a", b"e"].map(|text| Sha256Digest::of(text));
    StepIdentity { job_sha256, step_sha256, image_root_hash, argv_sha256, enforced_sha256 }
}

/// The certificate of a step of this build, as the machine with this issuer's key issues it, for these seconds.
fn step_of(machine: Sha256Digest, build_id: &str, signer: u8, life: std::ops::Range<i64>) -> Certificate {
    let name = |text: &str| text.parse::<Name>().unwrap();
    let draft = StepDraft {
        trust_domain: &name("site.example"),
        machine: &machine,
        build_id: &name(build_id),
        step: &name("make"),
        identity: identity(),
        begin: at(life.start),
        end: at(life.end),
        serial: [0xff; 16],
    };
    draft.issue(&ed25519(5).verifying_key(), &ed25519(signer)).unwrap()
}

fn step() -> Certificate {
    step_of(machine(), "00", 4, NOW..NOW + LEAF_SECONDS_MAX)
}

fn checked_issuer(draft: &Draft) -> Result<IssuerCertificate, CertificateError> {
    checked(&root(), &authority()).unwrap().issuer(&issue(draft))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(seconds).unwrap()
}

fn checked(root: &Draft, authority: &Draft) -> Result<Authority, CertificateError> {
    Authority::check(&issue(root), &issue(authority), at(NOW + 5), BUILDER_METAL)
}

fn broken_leaf(change: impl FnOnce(&mut Draft)) -> Option<CertificateError> {
    let mut draft = statement();
    change(&mut draft);
    checked(&root(), &authority()).unwrap().statement(&issue(&draft)).err()
}

#[test]
fn a_whole_chain_holds() {
    let authority = checked(&root(), &authority()).unwrap();
    let leaf = authority.statement(&issue(&statement())).unwrap();
    assert_eq!(leaf.key, ed25519(3).verifying_key());
    assert_eq!(leaf.id.as_str(), "spiffe://site.example/build/00/statement");
    let leaf = authority.attestation(&issue(&attestation())).unwrap();
    assert_eq!(leaf.key.to_spki().unwrap(), p256_spki());
    // Neither leaf passes for the other.
    assert!(authority.statement(&issue(&attestation())).is_err());
    assert!(authority.attestation(&issue(&statement())).is_err());
}

#[test]
fn a_step_s_certificate_says_what_the_step_was() {
    let issuer = checked_issuer(&issuer()).unwrap();
    let name = |text: &str| text.parse::<Name>().unwrap();
    assert!(issuer.is_of(&machine(), &name("00")));
    assert!(!issuer.is_of(&machine(), &name("01")) && !issuer.is_of(&Sha256Digest::of(b"x"), &name("00")));
    let leaf = issuer.step(&step()).unwrap();
    assert_eq!((leaf.key, leaf.identity), (ed25519(5).verifying_key(), identity()));
    assert!(leaf.id.as_str().ends_with("/job/00/step/make"));
    let mut other = identity();
    assert_eq!(identity().differs_in(&other), None);
    other.argv_sha256 = machine();
    assert_eq!(identity().differs_in(&other), Some("argv_sha256"));
}

/// No certificate passes in the place of another, and no rule of the two that belong to steps can be broken.
#[test]
fn issuers_and_steps_keep_to_their_places() {
    let chain = checked(&root(), &authority()).unwrap();
    let good = checked_issuer(&issuer()).unwrap();
    assert!(chain.issuer(&issue(&statement())).is_err() && chain.issuer(&issue(&authority())).is_err());
    assert!(chain.statement(&issue(&issuer())).is_err() && chain.statement(&step()).is_err());
    assert!(good.step(&issue(&statement())).is_err());
    assert!(Authority::check(&issue(&root()), &issue(&issuer()), at(NOW), BUILDER_METAL).is_err());
    // An issuer issues no second issuer, and no statement certificate that counts.
    let below = Draft { issuer: issuer().subject, signer: 4, ..issuer() };
    assert!(chain.issuer(&issue(&below)).is_err());
    let statement_below = issue(&Draft { issuer: issuer().subject, signer: 4, ..statement() });
    assert!(chain.statement(&statement_below).is_err());
    assert!(matches!(good.step(&statement_below), Err(CertificateError::Profile { role: Role::Step, .. })));

    let rule = |change: fn(&mut Draft)| {
        let mut draft = issuer();
        change(&mut draft);
        match checked_issuer(&draft) {
            Err(CertificateError::Profile { role: Role::Issuer, rule }) => rule,
            other => panic!("{other:?}"),
        }
    };
    assert!(rule(|d| d.constraints.path_len_constraint = None).contains("basic constraints"));
    assert!(rule(|d| d.constraints.path_len_constraint = Some(1)).contains("basic constraints"));
    assert!(
        rule(|d| d.constraints = BasicConstraints { ca: false, path_len_constraint: None }).contains("constraints")
    );
    assert!(rule(|d| d.usage = KeyUsages::DigitalSignature).contains("key usage"));
    assert!(rule(|d| d.names = vec!["spiffe://site.example/b"]).contains("extension"));
    assert!(rule(|d| d.purposes = vec![EKU_STATEMENT]).contains("extension"));
    assert!(rule(|d| d.last += 1).contains("hour"));
    assert!(rule(|d| d.spki = p256_spki()).contains("Ed25519"));
    let forged = Draft { signer: 1, ..issuer() };
    assert_eq!(checked_issuer(&forged).err(), Some(CertificateError::Signature { role: Role::Issuer }));

    let (role, life) = (Role::Step, NOW..NOW + LEAF_SECONDS_MAX);
    for (leaf, expected) in [
        (step_of(machine(), "00", 2, life.clone()), CertificateError::Signature { role }),
        (step_of(Sha256Digest::of(b"another"), "00", 4, life.clone()), CertificateError::Issuer { role }),
        (step_of(machine(), "01", 4, life), CertificateError::Issuer { role }),
    ] {
        assert_eq!(good.step(&leaf).err(), Some(expected));
    }
    for life in [NOW..NOW + 60, NOW + 1..NOW + LEAF_SECONDS_MAX] {
        let error = good.step(&step_of(machine(), "00", 4, life)).unwrap_err();
        assert!(error.to_string().contains("as long as"), "{error}");
    }
    // What describes a step is there, not critical, five digests and nothing else; and no other leaf has it.
    let described = |bytes: &[u8], critical| {
        let value = x509_cert::der::asn1::OctetString::new(bytes).unwrap();
        Some(Extension { extn_id: STEP_IDENTITY, critical, extn_value: value })
    };
    let leaf = Draft { issuer: issuer().subject, signer: 4, ..statement() };
    let one_digest = [&[0x30, 0x22][..], &[4, 32], &[7; 32]].concat();
    let good_bytes = [&[0x30, 0x81, 0xaa][..], &[&[4, 32][..], &[7; 32]].concat().repeat(5)].concat();
    let not_strict = [&[0x30, 0x82, 0, 0xaa][..], &good_bytes[3..]].concat();
    assert!(good.step(&issue(&Draft { extra: described(&good_bytes, false), ..leaf.clone() })).is_ok());
    for extra in [
        None,
        described(&good_bytes, true),
        described(&one_digest, false),
        described(&not_strict, false),
        described(&[&good_bytes[..], &[0]].concat(), false),
        described(&[], false),
    ] {
        let error = good.step(&issue(&Draft { extra, ..leaf.clone() })).unwrap_err();
        assert!(matches!(error, CertificateError::Profile { role: Role::Step, .. }), "{error}");
    }
    let described = Draft { extra: described(&good_bytes, false), ..statement() };
    assert!(chain.statement(&issue(&described)).is_err());
}

#[test]
fn each_rule_for_leaves_is_held() {
    let rule = |change: fn(&mut Draft)| match broken_leaf(change) {
        Some(CertificateError::Profile { role: Role::Statement, rule }) => rule,
        other => panic!("{other:?}"),
    };
    assert!(rule(|d| d.constraints.ca = true).contains("authority"));
    assert!(rule(|d| d.usage = KeyUsages::KeyCertSign).contains("key usage"));
    assert!(rule(|d| d.purposes.push(EKU_ATTESTATION)).contains("extended key usage"));
    assert!(rule(|d| d.purposes.clear()).contains("missing"));
    assert!(rule(|d| d.names.push("spiffe://site.example/b")).contains("one URI"));
    assert!(rule(|d| d.names = vec!["https://site.example/b"]).contains("SPIFFE"));
    assert!(rule(|d| d.names.clear()).contains("missing"));
    assert!(rule(|d| d.last += 1).contains("hour"));
    assert!(rule(|d| d.spki = p256_spki()).contains("Ed25519"));
    let critical = Extension {
        extn_id: ObjectIdentifier::new_unwrap("1.3.6.1.4.1.32473.1"),
        critical: true,
        extn_value: x509_cert::der::asn1::OctetString::new([5, 0]).unwrap(),
    };
    let mut draft = statement();
    draft.extra = Some(critical);
    let error = checked(&root(), &authority()).unwrap().statement(&issue(&draft)).unwrap_err();
    assert!(error.to_string().contains("extension"), "{error}");
}

#[test]
fn each_link_of_the_chain_is_held() {
    assert_eq!(broken_leaf(|d| d.signer = 1), Some(CertificateError::Signature { role: Role::Statement }));
    assert_eq!(broken_leaf(|d| d.issuer = "root"), Some(CertificateError::Issuer { role: Role::Statement }));
    let late = |d: &mut Draft| (d.first, d.last) = (NOW + 6, NOW + 9);
    assert_eq!(broken_leaf(late), Some(CertificateError::Time { role: Role::Statement, at: at(NOW + 5) }));
    let early = |d: &mut Draft| (d.first, d.last) = (NOW, NOW + 4);
    assert_eq!(broken_leaf(early), Some(CertificateError::Time { role: Role::Statement, at: at(NOW + 5) }));

    let other_root = Draft { spki: ed25519_spki(9), signer: 9, ..root() };
    assert_eq!(checked(&other_root, &authority()).err(), Some(CertificateError::Signature { role: Role::Authority }));
    let unsigned_root = Draft { signer: 9, ..root() };
    assert_eq!(checked(&unsigned_root, &authority()).err(), Some(CertificateError::Signature { role: Role::Root }));
    let expired_root = Draft { last: NOW, ..root() };
    assert_eq!(
        checked(&expired_root, &authority()).err(),
        Some(CertificateError::Time { role: Role::Root, at: at(NOW + 5) })
    );
    let longer = Draft { constraints: BasicConstraints { ca: true, path_len_constraint: None }, ..authority() };
    assert!(matches!(checked(&root(), &longer).err(), Some(CertificateError::Profile { role: Role::Authority, .. })));
    // A leaf is no authority.
    let leaf_as_authority = Draft { issuer: "root", signer: 1, ..statement() };
    assert!(matches!(
        checked(&root(), &leaf_as_authority).err(),
        Some(CertificateError::Profile { role: Role::Authority, .. })
    ));
}

#[test]
fn no_byte_of_a_certificate_file_is_free() {
    let authority = checked(&root(), &authority()).unwrap();
    let issuer = authority.issuer(&issue(&issuer())).unwrap();
    type Holds<'a> = &'a dyn Fn(&Certificate) -> bool;
    let kinds: [(Certificate, Holds<'_>); 4] = [
        (issue(&statement()), &|leaf| authority.statement(leaf).is_ok()),
        (issue(&attestation()), &|leaf| authority.attestation(leaf).is_ok()),
        (issue(&self::issuer()), &|leaf| authority.issuer(leaf).is_ok()),
        (step(), &|leaf| issuer.step(leaf).is_ok()),
    ];
    for (certificate, holds) in kinds {
        let pem = certificate.to_pem().unwrap().into_bytes();
        for position in 0..pem.len() {
            let mut other = pem.clone();
            other[position] ^= 1 << (position % 6);
            let Ok(leaf) = Certificate::from_pem(&other) else { continue };
            assert!(!holds(&leaf), "byte {position}");
        }
        assert_eq!(Certificate::from_pem(&[pem.clone(), pem.clone()].concat()), Err(CertificateError::Syntax));
        assert_eq!(Certificate::from_pem(&[&pem[..], b"\n"].concat()), Err(CertificateError::Syntax));
        assert_eq!(Certificate::from_pem(&[b"\n", &pem[..]].concat()), Err(CertificateError::Syntax));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, position in 0usize..600, byte: u8) {
        let _ = Certificate::from_pem(&bytes);
        let _ = Certificate::from_der(&bytes);
        let _ = StepIdentity::from_der(&bytes);
        for certificate in [issue(&statement()), step()] {
            let mut der = certificate.to_der().unwrap();
            let position = position % der.len();
            der[position] = byte;
            if let (Ok(leaf), Ok(authority)) = (Certificate::from_der(&der), checked(&root(), &authority())) {
                let _ = authority.statement(&leaf);
                let _ = authority.attestation(&leaf);
                let _ = authority.issuer(&leaf);
                let _ = checked_issuer(&issuer()).unwrap().step(&leaf);
                let _ = Authority::check(&leaf, &leaf, at(NOW), BUILDER_METAL);
            }
        }
    }
}
