//! Keys and certificates of a software TPM, then wrong in every way.
//!
//! `vectors/` was made by swtpm 0.7.1 with its `swtpm_localca`, and read with tpm2-tools 5.4.

use proptest::prelude::*;

use super::*;
use crate::timestamp::Timestamp;

const RSA: &[u8] = include_bytes!("vectors/rsa.public");
const P256: &[u8] = include_bytes!("vectors/p256.public");
const P384: &[u8] = include_bytes!("vectors/p384.public");
const RSA_CERTIFICATE: &[u8] = include_bytes!("vectors/rsa.der");
const P384_CERTIFICATE: &[u8] = include_bytes!("vectors/p384.der");
const ROOT: &[u8] = include_bytes!("vectors/root.pem");
const ISSUER: &[u8] = include_bytes!("vectors/issuer.pem");

fn key(bytes: &[u8]) -> EkPublic {
    EkPublic::parse(bytes).unwrap()
}

fn ca(pem: &[u8]) -> CaCertificate {
    CaCertificate::from_file(pem).unwrap()
}

/// A year after the vectors were made.
fn later() -> Timestamp {
    Timestamp::from_unix(1_830_000_000).unwrap()
}

const HARDWARE: TpmClass = TpmClass::Hardware;
const VIRTUAL: TpmClass = TpmClass::Virtual;

fn roots() -> Roots {
    Roots { roots: vec![(HARDWARE, ca(ROOT))], issuers: vec![ca(ISSUER)], ..Roots::default() }
}

#[test]
fn the_keys_of_a_tpm_are_what_its_certificates_carry() {
    for (public, certificate, kind) in [(RSA, RSA_CERTIFICATE, EkKind::Rsa2048), (P384, P384_CERTIFICATE, EkKind::P384)]
    {
        let certificate = EkCertificate::from_nv(certificate).unwrap();
        assert_eq!(key(public).kind(), kind);
        assert_eq!(certificate.vouched(&key(public), &[], &roots(), later()), Ok(HARDWARE));
        assert_eq!(certificate.vouched(&key(P256), &[], &roots(), later()), Err(PathFault::OtherKey));
    }
    assert_eq!(key(P256).kind(), EkKind::P256);
}

#[test]
fn a_path_leads_to_a_root_of_the_site_or_nowhere() {
    let certificate = EkCertificate::from_nv(RSA_CERTIFICATE).unwrap();
    let vouched = |roots: &Roots, chain: &[CaCertificate], at| certificate.vouched(&key(RSA), chain, roots, at);
    let root_alone = Roots { roots: vec![(HARDWARE, ca(ROOT))], ..Roots::default() };
    assert_eq!(vouched(&root_alone, &[], later()), Err(PathFault::NoPath));
    // What a machine brings may stand between, and is no root.
    assert_eq!(vouched(&root_alone, &[ca(ISSUER)], later()), Ok(HARDWARE));
    assert_eq!(vouched(&Roots::default(), &[ca(ISSUER), ca(ROOT)], later()), Err(PathFault::NoPath));
    let issuer_trusted = Roots { roots: vec![(VIRTUAL, ca(ISSUER))], ..Roots::default() };
    assert_eq!(vouched(&issuer_trusted, &[], later()), Ok(VIRTUAL));
    // Vouched for as both, it is what says less, in whatever order.
    for roots in [[(HARDWARE, ca(ROOT)), (VIRTUAL, ca(ISSUER))], [(VIRTUAL, ca(ROOT)), (HARDWARE, ca(ISSUER))]] {
        let both = Roots { roots: roots.into(), issuers: vec![ca(ISSUER)], ..Roots::default() };
        assert_eq!(vouched(&both, &[], later()), Ok(VIRTUAL));
    }
    let early = Timestamp::from_unix(1_700_000_000).unwrap();
    assert_eq!(vouched(&roots(), &[], early), Err(PathFault::Time { at: early }));
}

#[test]
fn no_certificate_passes_for_one_of_another_kind() {
    let rule = |fault| matches!(fault, Err(CertificateFault::Profile { .. }));
    assert!(rule(CaCertificate::from_der(RSA_CERTIFICATE).map(drop)));
    let der = |pem: &[u8]| {
        use x509_cert::der::DecodePem as _;
        x509_cert::Certificate::from_pem(pem).unwrap().to_der().unwrap()
    };
    assert!(rule(EkCertificate::from_nv(&der(ISSUER)).map(drop)));
    assert!(rule(EkCertificate::from_nv(&der(ROOT)).map(drop)));
}

#[test]
fn filling_behind_a_certificate_is_no_part_of_it_and_nothing_else_may_follow() {
    let certificate = EkCertificate::from_nv(RSA_CERTIFICATE).unwrap();
    for fill in [0x00, 0xff] {
        assert_eq!(EkCertificate::from_nv(&[RSA_CERTIFICATE, &[fill; 40]].concat()), Ok(certificate.clone()));
    }
    assert_eq!(EkCertificate::from_nv(&[RSA_CERTIFICATE, &[0, 1]].concat()), Err(CertificateFault::Syntax));
    assert_eq!(EkCertificate::from_nv(&RSA_CERTIFICATE[..900]), Err(CertificateFault::Syntax));
}

#[test]
fn no_bit_of_a_certificate_is_free() {
    for (public, certificate) in [(RSA, RSA_CERTIFICATE), (P384, P384_CERTIFICATE)] {
        for at in (0..certificate.len()).step_by(5) {
            let mut other = certificate.to_vec();
            other[at] ^= 1 << (at % 8);
            let vouched = EkCertificate::from_nv(&other).map(|c| c.vouched(&key(public), &[], &roots(), later()));
            assert!(!matches!(vouched, Ok(Ok(_))), "byte {at}");
        }
    }
}

#[test]
fn only_the_templates_are_read() {
    for public in [RSA, P256, P384] {
        // Every bit before the key's own number, and its length.
        let number_bytes = match key(public).number() {
            EkNumber::Rsa(_) => 256,
            EkNumber::Point(point) => point.len() + 1,
        };
        for at in 0..public.len() - number_bytes {
            for bit in 0..8 {
                let mut other = public.to_vec();
                other[at] ^= 1 << bit;
                assert!(EkPublic::parse(&other).is_err(), "byte {at} bit {bit}");
            }
        }
        assert_eq!(EkPublic::parse(&[public, &[0]].concat()), Err(EkPublicError::Malformed));
        assert_eq!(EkPublic::parse(&public[..public.len() - 1]), Err(EkPublicError::Malformed));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, cut in 0usize..300, at in 0usize..1000, byte: u8) {
        let _ = EkPublic::parse(&bytes);
        let _ = EkPublic::parse(&[&RSA[..cut.min(RSA.len())], &bytes].concat());
        let _ = EkCertificate::from_nv(&bytes);
        let _ = CaCertificate::from_file(&bytes);
        let mut der = RSA_CERTIFICATE.to_vec();
        let at = at % der.len();
        der[at] = byte;
        if let Ok(certificate) = EkCertificate::from_nv(&der) {
            let _ = certificate.vouched(&key(RSA), &[], &roots(), later());
        }
    }
}
