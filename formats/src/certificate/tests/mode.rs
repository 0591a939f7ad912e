//! An authority is certified for the machines of one builder id, and counts for no others, whatever else it signs.

use x509_cert::der::Encode as _;
use x509_cert::der::asn1::OctetString;
use x509_cert::der::oid::AssociatedOid as _;

use super::*;
use crate::names::{BUILDER_DIRECT, BUILDER_HOST, BUILDER_SECURE_BOOT, MACHINE_BUILDERS};

/// The certificate of the authority of these machines.
fn of(builder_id: &'static str) -> Draft {
    Draft { names: vec![builder_id], ..authority() }
}

fn counts_for(authority: &Certificate, builder_id: &str) -> Result<Authority, CertificateError> {
    Authority::check(&issue(&root()), authority, at(NOW + 5), builder_id)
}

fn alternative_name(bytes: &[u8]) -> Option<Extension> {
    let extn_value = OctetString::new(bytes).unwrap();
    Some(Extension { extn_id: SubjectAltName::OID, critical: false, extn_value })
}

#[test]
fn an_authority_counts_for_its_own_machines_alone() {
    for own in MACHINE_BUILDERS {
        let certificate = issue(&of(own));
        for asked in MACHINE_BUILDERS.into_iter().chain([BUILDER_HOST, "", "spiffe://site.example"]) {
            let refused = counts_for(&certificate, asked).err();
            let expected = (asked != own).then_some(CertificateError::OtherMode { certified_for: own });
            assert_eq!(refused, expected, "{own} for {asked}");
            assert!(refused.is_none_or(|refused| refused.code() == "signer_of_other_mode"));
        }
    }
}

/// The code is kept for what is sound but for the mode: a forged chain is no chain of another mode.
#[test]
fn everything_else_is_asked_first() {
    let role = Role::Authority;
    for (draft, expected) in [
        (Draft { signer: 9, ..of(BUILDER_DIRECT) }, CertificateError::Signature { role }),
        (Draft { issuer: "another", ..of(BUILDER_DIRECT) }, CertificateError::Issuer { role }),
        (Draft { last: NOW, ..of(BUILDER_DIRECT) }, CertificateError::Time { role, at: at(NOW + 5) }),
    ] {
        assert_eq!(counts_for(&issue(&draft), BUILDER_METAL).err(), Some(expected));
        assert_eq!(expected.code(), "certificate");
    }
}

#[test]
fn an_authority_has_one_name_which_is_a_builder_id_of_machines() {
    let rule = |names: Vec<&'static str>| match counts_for(&issue(&Draft { names, ..authority() }), BUILDER_METAL) {
        Err(CertificateError::Profile { role: Role::Authority, rule }) => rule,
        other => panic!("{other:?}"),
    };
    // As before there was a signer for each mode.
    assert!(rule(vec![]).contains("missing"));
    assert!(rule(vec![BUILDER_METAL, BUILDER_DIRECT]).contains("one URI"));
    assert!(rule(vec![BUILDER_METAL, BUILDER_METAL]).contains("one URI"));
    for name in [
        "",
        BUILDER_HOST,
        "spiffe://site.example",
        "spiffe://site.example/build/00/statement",
        "https://kiln.example/builders/metal/v2",
        "https://kiln.example/builders/metal/v1/",
        "https://kiln.example/builders/metal/v1 ",
        "https://kiln.example/builders/*",
        "HTTPS://kiln.example/builders/metal/v1",
    ] {
        assert!(rule(vec![name]).contains("builder id"), "{name}");
    }
    // The same text as a DNS name is no URI.
    let name = GeneralName::DnsName(Ia5String::new(BUILDER_METAL).unwrap());
    let extra = alternative_name(&SubjectAltName(vec![name]).to_der().unwrap());
    let refused = counts_for(&issue(&Draft { names: vec![], extra, ..authority() }), BUILDER_METAL).unwrap_err();
    assert!(refused.to_string().contains("one URI"), "{refused}");
    // Root and issuer have no name at all.
    assert!(checked(&Draft { names: vec![BUILDER_METAL], ..root() }, &authority()).is_err());
    let chain = counts_for(&issue(&authority()), BUILDER_METAL).unwrap();
    assert!(chain.issuer(&issue(&Draft { names: vec![BUILDER_METAL], ..issuer() })).is_err());
}

/// What another mode's key signed is not taken under this mode's certificate, nor the other way round.
#[test]
fn what_one_mode_signed_no_other_vouches_for() {
    let metal = counts_for(&issue(&of(BUILDER_METAL)), BUILDER_METAL).unwrap();
    let other = Draft { spki: ed25519_spki(8), ..of(BUILDER_SECURE_BOOT) };
    let secure_boot = counts_for(&issue(&other), BUILDER_SECURE_BOOT).unwrap();
    let signed_by_the_other = issue(&Draft { signer: 8, ..statement() });
    assert!(secure_boot.statement(&signed_by_the_other).is_ok());
    assert_eq!(
        metal.statement(&signed_by_the_other).err(),
        Some(CertificateError::Signature { role: Role::Statement })
    );
    assert_eq!(
        secure_boot.statement(&issue(&statement())).err(),
        Some(CertificateError::Signature { role: Role::Statement })
    );
    // Nor can an authority make itself one of another mode: it is no root, and there is one authority in a chain.
    let made_itself = issue(&Draft { issuer: "authority", signer: 8, ..of(BUILDER_METAL) });
    assert!(counts_for(&made_itself, BUILDER_METAL).is_err());
    assert!(Authority::check(&issue(&other), &made_itself, at(NOW + 5), BUILDER_METAL).is_err());
}

#[test]
fn no_byte_of_an_authority_is_free() {
    let pem = issue(&authority()).to_pem().unwrap().into_bytes();
    for position in 0..pem.len() {
        let mut other = pem.clone();
        other[position] ^= 1 << (position % 6);
        let Ok(certificate) = Certificate::from_pem(&other) else { continue };
        for builder_id in MACHINE_BUILDERS {
            assert!(counts_for(&certificate, builder_id).is_err(), "byte {position}");
        }
    }
}

proptest! {
    // Each case is a dozen signatures.
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Names that the root signed, in whatever bytes: only the one spelling of one builder id makes an authority.
    #[test]
    fn only_a_builder_id_makes_an_authority(
        bytes: Vec<u8>,
        text in "[ -~]{0,60}",
        position in 0usize..60,
        byte: u8,
        own in 0usize..4,
    ) {
        let uri = |text: &str| GeneralName::UniformResourceIdentifier(Ia5String::new(text).unwrap());
        let good = SubjectAltName(vec![uri(MACHINE_BUILDERS[own])]).to_der().unwrap();
        let mut altered = good.clone();
        let position = position % altered.len();
        altered[position] = byte;
        for bytes in [bytes, SubjectAltName(vec![uri(&text)]).to_der().unwrap(), altered] {
            let certificate = issue(&Draft { names: vec![], extra: alternative_name(&bytes), ..authority() });
            for asked in MACHINE_BUILDERS.into_iter().chain([text.as_str()]) {
                let counts = counts_for(&certificate, asked).is_ok();
                prop_assert_eq!(counts, bytes == good && asked == MACHINE_BUILDERS[own]);
            }
        }
    }
}
