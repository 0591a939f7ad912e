//! An endorsement key without a TPM: it opens credentials as the specification says, by code of its own. Also who vouches for it.
//!
//! Source: TPM 2.0 Library part 1, sections 24, 11.4.10 and C.6.1; TCG EK Credential Profile, version 2.5, appendix B (L-2).

use std::time::{Duration, UNIX_EPOCH};

use aes::Aes128;
use cfb_mode::Decryptor;
use cfb_mode::cipher::KeyIvInit as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::endorsement::{EKU_ENDORSEMENT, EkPublic};
use kiln_formats::enrolment::{Credential, SECRET_BYTES};
use p256::pkcs8::EncodePublicKey as _;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder as _, CertificateBuilder, Error as BuilderError};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::ext::{Extension, ToExtension as _};
use x509_cert::name::Name as DistinguishedName;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfo, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

use super::now;

/// `PolicySecret(TPM_RH_ENDORSEMENT)`, as `tpm2_policysecret -c endorsement` prints it.
const POLICY: &str = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";

/// The private half of an endorsement key on P-256.
#[derive(Clone)]
pub(crate) struct Endorsement(p256::SecretKey);

impl Endorsement {
    pub(crate) fn of(seed: u8) -> Self {
        Self(p256::SecretKey::from_slice(&[seed; 32]).unwrap())
    }

    /// The key as `TPMT_PUBLIC`. Source: TPM 2.0 Library part 2, section 12.2.4.
    pub(crate) fn public(&self) -> Vec<u8> {
        let point = p256::Sec1Point::from(self.0.public_key());
        let head = [0, 0x23, 0, 0x0b, 0, 3, 0, 0xb2, 0, 32];
        let parameters = [0, 6, 0, 128, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10];
        let policy: Sha256Digest = POLICY.parse().unwrap();
        let coordinate = |bytes: &[u8]| [&[0, 32][..], bytes].concat();
        let (x, y) = (coordinate(point.x().unwrap()), coordinate(point.y().unwrap()));
        [&head[..], policy.as_bytes(), &parameters, &x, &y].concat()
    }

    pub(crate) fn sha256(&self) -> Sha256Digest {
        EkPublic::parse(&self.public()).unwrap().sha256()
    }

    /// `TPM2_ActivateCredential` for a loaded key of this name; `None` where a TPM says `TPM_RC_INTEGRITY`.
    pub(crate) fn open(&self, credential: &Credential, name: &[u8; 34]) -> Option<[u8; SECRET_BYTES]> {
        let ours = p256::Sec1Point::from(self.0.public_key());
        let mut theirs = vec![0x04];
        let mut rest = credential.encrypted_secret().unwrap();
        for _ in 0..2 {
            theirs.extend(sized(&mut rest));
        }
        let point = p256::PublicKey::from_sec1_bytes(&theirs).unwrap();
        let shared = p256::ecdh::diffie_hellman(self.0.to_nonzero_scalar(), point.as_affine());
        let context = [&[0, 0, 0, 1], &shared.raw_secret_bytes()[..], b"IDENTITY\0", &theirs[1..33], ours.x().unwrap()];
        let seed = Sha256Digest::of(&context.concat());
        let mut encrypted = credential.id_object().unwrap();
        let integrity = sized(&mut encrypted);
        if mac(&mac(seed.as_bytes(), &[&[0, 0, 0, 1], b"INTEGRITY\0", &[0, 0, 1, 0]]), &[encrypted, name]) != integrity
        {
            return None;
        }
        let key = mac(seed.as_bytes(), &[&[0, 0, 0, 1], b"STORAGE\0", name, &[0, 0, 0, 128]]);
        let mut opened = encrypted.to_vec();
        Decryptor::<Aes128>::new_from_slices(&key[..16], &[0; 16]).unwrap().decrypt(&mut opened);
        sized(&mut &opened[..]).try_into().ok()
    }
}

/// What is behind a length of 16 bits.
fn sized<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let (length, rest) = bytes.split_first_chunk::<2>().unwrap();
    let (value, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)));
    *bytes = rest;
    value
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

/// A manufacturer of TPMs, or somebody who would like to be one.
pub(crate) struct Maker(p256::ecdsa::SigningKey);

impl Maker {
    pub(crate) fn of(seed: u8) -> Self {
        Self(p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap())
    }

    /// Its own certificate, as DER. All of them have the same name.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        let subject = DistinguishedName::default();
        let constraints = BasicConstraints { ca: true, path_len_constraint: None };
        let extensions = vec![
            (true, &constraints).to_extension(&subject, &[]).unwrap(),
            (&KeyUsage(KeyUsages::KeyCertSign.into())).to_extension(&subject, &[]).unwrap(),
        ];
        self.issue("maker", extensions, self.0.verifying_key().to_public_key_der().unwrap().as_bytes(), 1_000_000)
    }

    /// One on an endorsement key, good for so many seconds.
    pub(crate) fn certify(&self, key: &Endorsement, seconds: i64) -> Vec<u8> {
        let subject = DistinguishedName::default();
        let names = SubjectAltName(vec![GeneralName::DirectoryName("CN=a TPM".parse().unwrap())]);
        let extensions = vec![
            (&KeyUsage(KeyUsages::KeyAgreement.into())).to_extension(&subject, &[]).unwrap(),
            (&ExtendedKeyUsage(vec![EKU_ENDORSEMENT])).to_extension(&subject, &[]).unwrap(),
            (true, &names).to_extension(&subject, &[]).unwrap(),
        ];
        self.issue("", extensions, EkPublic::parse(&key.public()).unwrap().spki(), seconds)
    }

    fn issue(&self, subject: &'static str, extensions: Vec<Extension>, spki: &[u8], seconds: i64) -> Vec<u8> {
        let time = |at: i64| Time::try_from(UNIX_EPOCH + Duration::from_secs(at.try_into().unwrap())).unwrap();
        let validity = Validity::new(time(now().unix() - 1000), time(now().unix() + seconds));
        let serial = SerialNumber::new(&[0x11; 8]).unwrap();
        let spki = SubjectPublicKeyInfo::from_der(spki).unwrap();
        let builder = CertificateBuilder::new(Profile { subject, extensions }, serial, validity, spki).unwrap();
        builder.build::<_, p256::ecdsa::DerSignature>(&self.0).unwrap().to_der().unwrap()
    }
}

struct Profile {
    subject: &'static str,
    extensions: Vec<Extension>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _subject: &DistinguishedName) -> DistinguishedName {
        "CN=maker".parse().unwrap()
    }

    fn get_subject(&self) -> DistinguishedName {
        if self.subject.is_empty() { DistinguishedName::default() } else { "CN=maker".parse().unwrap() }
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
