//! A site's chain, made here, then broken rule by rule.

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
    let constraints = BasicConstraints { ca: true, path_len_constraint: Some(0) };
    Draft { subject: "authority", constraints, spki: ed25519_spki(2), ..root() }
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

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(seconds).unwrap()
}

fn checked(root: &Draft, authority: &Draft) -> Result<Authority, CertificateError> {
    Authority::check(&issue(root), &issue(authority), at(NOW + 5))
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
    for (draft, is_statement) in [(statement(), true), (attestation(), false)] {
        let pem = issue(&draft).to_pem().unwrap().into_bytes();
        for position in 0..pem.len() {
            let mut other = pem.clone();
            other[position] ^= 1 << (position % 6);
            let Ok(leaf) = Certificate::from_pem(&other) else { continue };
            let held =
                if is_statement { authority.statement(&leaf).is_ok() } else { authority.attestation(&leaf).is_ok() };
            assert!(!held, "byte {position}");
        }
        assert_eq!(Certificate::from_pem(&[pem.clone(), pem.clone()].concat()), Err(CertificateError::Syntax));
        assert_eq!(Certificate::from_pem(&[&pem[..], b"\n"].concat()), Err(CertificateError::Syntax));
        assert_eq!(Certificate::from_pem(&[b"\n", &pem[..]].concat()), Err(CertificateError::Syntax));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, position in 0usize..300, byte: u8) {
        let _ = Certificate::from_pem(&bytes);
        let _ = Certificate::from_der(&bytes);
        let mut der = issue(&statement()).to_der().unwrap();
        let position = position % der.len();
        der[position] = byte;
        if let (Ok(leaf), Ok(authority)) = (Certificate::from_der(&der), checked(&root(), &authority())) {
            let _ = authority.statement(&leaf);
            let _ = authority.attestation(&leaf);
            let _ = Authority::check(&leaf, &leaf, at(NOW));
        }
    }
}
