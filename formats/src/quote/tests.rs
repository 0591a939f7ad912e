//! Quotes made with a known key, then with every bit of them wrong.

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use proptest::prelude::*;

use super::*;
use crate::pcr::{Bank, PcrIndex, PcrValues};

fn signing_key() -> SigningKey {
    SigningKey::from_slice(&[0x42; 32]).unwrap()
}

fn key() -> AttestationKey {
    AkPublic::parse(&public()).unwrap().key().to_owned()
}

/// The `TPMT_PUBLIC` of the key above, as a TPM writes it.
fn public() -> Vec<u8> {
    public_of(&signing_key(), [0, 5, 0, 0x72])
}

/// The same of another key with these attributes.
pub(crate) fn public_of(key: &SigningKey, attributes: [u8; 4]) -> Vec<u8> {
    let point = key.verifying_key().to_sec1_point(false);
    let head = [&[0, 0x23, 0, 0x0b][..], &attributes, &[0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10]].concat();
    [&head[..], &[0, 32], point.x().unwrap(), &[0, 32], point.y().unwrap()].concat()
}

fn attest() -> Vec<u8> {
    let mut bytes = hex::decode("ff5443478018").unwrap();
    bytes.extend([&[0, 34, 0, 0x0b][..], &[0xaa; 32]].concat());
    bytes.extend([&[0, 32][..], &[0x11; 32]].concat());
    bytes.extend(hex::decode("0000000000001388000000020000000101").unwrap());
    bytes.extend(hex::decode("2019102300163636").unwrap());
    bytes.extend(hex::decode("00000001000b03ffff00").unwrap());
    bytes.extend([&[0, 32][..], &[0x22; 32]].concat());
    bytes
}

fn tpmt(signature: &Signature) -> Vec<u8> {
    let (r, s) = signature.split_bytes();
    [&hex::decode("0018000b").unwrap()[..], &[0, 32], &r, &[0, 32], &s].concat()
}

fn sign(bytes: &[u8]) -> Vec<u8> {
    sign_with(&signing_key(), bytes)
}

pub(crate) fn sign_with(key: &SigningKey, bytes: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(bytes);
    QuoteSignature::normalise(&tpmt(&signature)).unwrap().to_bytes()
}

fn other_s(signature: &Signature) -> Signature {
    let (r, s) = signature.split_scalars();
    Signature::from_scalars(r, -s).unwrap()
}

#[test]
fn a_quote_reads_as_it_was_made() {
    let quote = Quote::verify(&attest(), &sign(&attest()), &key()).unwrap();
    assert_eq!(quote.qualifying, Sha256Digest::from_bytes([0x11; 32]));
    assert_eq!(quote.pcr_digest, Sha256Digest::from_bytes([0x22; 32]));
    assert_eq!(quote.clock, Clock { clock_ms: 5000, reset_count: 2, restart_count: 1, safe: true });
    assert_eq!(quote.firmware_version, 0x2019_1023_0016_3636);
}

/// Made by swtpm 0.7.1 and tpm2-tools 5.4 (`tpm2_create -G ecc256:ecdsa-sha256:null`, `tpm2_pcrextend` of `final` into PCR 15,
/// `tpm2_quote -l sha256:0,…,15 -q 11…11`): key, its name, quote, signature.
pub(super) const REAL_PUBLIC: &str = concat!(
    "0023000b00050072000000100018000b000300100020106aaba28d043983820dd96127c985dbaee0bc7b67543c921a62b7a7",
    "324af2ae0020ea86b600e25d4bbeca34458e5bab754d1a9f0c4e7edcb8c18c5aa76d3c38d891"
);
const REAL_NAME: &str = "000bc47d7da96d4f7544b4e2917ad5a8bb5afade256116307f6a6238936b33c2e18d";
pub(super) const REAL_ATTEST: &str = concat!(
    "ff54434780180022000b214a95511f4830e4b343baa9acebc4e94362cbf2ccc7d6e352838f7a8138a54e0020111111111111",
    "111111111111111111111111111111111111111111111111111100000000000001eb00000001000000000120191023001636",
    "3600000001000b03ffff0000206799a3662e6a95af06129482967edd06746302cf0fd839a183ea09672ff6f5d0"
);
pub(super) const REAL_SIGNATURE: &str = concat!(
    "0018000b0020c6ccc302d10fd5f2b6c9c526c6c29e238327d719d17d6e6a17d5354da08a27150020540cb5ba65c34676d11a",
    "20f9e21d04964b740b08393d03bb763fab150242fbc6"
);

#[test]
fn the_quote_of_a_tpm_holds_over_the_replayed_values() {
    let bytes = |text| hex::decode(text).unwrap();
    let public = AkPublic::parse(&bytes(REAL_PUBLIC)).unwrap();
    assert_eq!(hex::encode(public.name()), REAL_NAME);
    let quote = Quote::verify(&bytes(REAL_ATTEST), &bytes(REAL_SIGNATURE), public.key()).unwrap();
    assert_eq!(quote.qualifying, Sha256Digest::from_bytes([0x11; 32]));
    assert_eq!((quote.clock.reset_count, quote.clock.safe), (1, true));
    let mut values = PcrValues::new();
    values.extend(PcrIndex::RUNTIME, &Bank::Sha256.hash(b"final").unwrap());
    assert_eq!(quote.pcr_digest, values.quote_digest());
}

#[test]
fn no_bit_of_quote_or_signature_is_free() {
    let (attest, signature) = (attest(), sign(&attest()));
    for (part, bytes) in [&attest, &signature].into_iter().enumerate() {
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1 << (at % 8);
            let (a, s) = if part == 0 { (&other, &signature) } else { (&attest, &other) };
            assert!(Quote::verify(a, s, &key()).is_err(), "part {part} byte {at}");
        }
        assert!(Quote::verify(&[&attest[..], &[0]].concat(), &signature, &key()).is_err());
        assert!(Quote::verify(&attest, &[&signature[..], &[0]].concat(), &key()).is_err());
    }
}

#[test]
fn the_second_signature_is_refused_and_normalised() {
    let signature: Signature = signing_key().sign(&attest());
    let small = signature.normalize_s();
    let large = other_s(&small);
    let error = Quote::verify(&attest(), &tpmt(&large), &key()).unwrap_err();
    assert_eq!(error, QuoteError::SignatureFormat { source: SignatureError::NotNormal });
    assert_eq!(QuoteSignature::normalise(&tpmt(&large)).unwrap().to_bytes(), tpmt(&small));
    // A TPM may leave leading zeros out; the evidence never does.
    let short = [&hex::decode("0018000b").unwrap()[..], &[0, 1, 7], &[0, 1, 9]].concat();
    assert_eq!(QuoteSignature::parse(&short), Err(SignatureError::NotNormal));
    assert_eq!(QuoteSignature::normalise(&short).unwrap().to_bytes().len(), 72);
    let zero = [&hex::decode("0018000b").unwrap()[..], &[0, 1, 0], &[0, 1, 9]].concat();
    assert_eq!(QuoteSignature::normalise(&zero), Err(SignatureError::Malformed));
}

#[test]
fn what_the_key_signs_must_be_a_quote_of_ours() {
    let signed = |from: &str, to: &str| {
        let bytes = hex::decode(hex::encode(attest()).replacen(from, to, 1)).unwrap();
        Quote::verify(&bytes, &sign(&bytes), &key())
    };
    assert_eq!(signed("ff544347", "ff544348"), Err(QuoteError::Magic { found: 0xff54_4348 }));
    assert_eq!(signed("8018", "8017"), Err(QuoteError::Type { found: 0x8017 }));
    assert_eq!(signed("03ffff00", "03ffff01"), Err(QuoteError::Selection));
    assert_eq!(signed("000b03ffff00", "000c03ffff00"), Err(QuoteError::Selection));
    assert_eq!(signed("00000001000b03", "00000002000b03"), Err(QuoteError::Selection));
    assert_eq!(signed("0000000101", "0000000102"), Err(QuoteError::Malformed));
    let longer = [attest(), vec![0]].concat();
    assert_eq!(Quote::verify(&longer, &sign(&longer), &key()), Err(QuoteError::Malformed));
    let another = SigningKey::from_slice(&[0x43; 32]).unwrap();
    let signature: Signature = another.sign(&attest());
    assert_eq!(Quote::verify(&attest(), &tpmt(&signature.normalize_s()), &key()), Err(QuoteError::Signature));
}

#[test]
fn only_an_attestation_key_is_one() {
    let changed =
        |from: &str, to: &str| AkPublic::parse(&hex::decode(hex::encode(public()).replacen(from, to, 1)).unwrap());
    // Each attribute alone: noDA, decrypt, adminWithPolicy set; restricted, fixedTPM, sensitiveDataOrigin clear.
    for attributes in [0x0005_0472, 0x0007_0072, 0x0005_00f2, 0x0004_0072, 0x0005_0070, 0x0005_0052_u32] {
        let error = changed("00050072", &format!("{attributes:08x}")).unwrap_err();
        assert_eq!(error, PublicError::Attributes { found: attributes });
    }
    assert_eq!(changed("0018000b0003", "0018000b0004"), Err(PublicError::Parameters));
    assert_eq!(changed("0018000b0003", "0018000c0003"), Err(PublicError::Parameters));
    assert_eq!(changed("0023000b", "0001000b"), Err(PublicError::Malformed));
    assert_eq!(AkPublic::parse(&[public(), vec![0]].concat()), Err(PublicError::Malformed));
    let mut off_curve = public();
    *off_curve.last_mut().unwrap() ^= 1;
    assert_eq!(AkPublic::parse(&off_curve), Err(PublicError::Point));
    let name = AkPublic::parse(&public()).unwrap().name();
    assert_eq!(name[..2], [0, 0x0b]);
    assert_eq!(name[2..], Sha256Digest::of(&public()).as_bytes()[..]);
}

#[test]
fn a_key_goes_into_certificates_and_back() {
    let spki = key().to_spki().unwrap();
    assert_eq!(AttestationKey::from_spki(&spki), Ok(key()));
    assert_eq!(AttestationKey::from_spki(&spki[1..]), Err(PublicError::Point));
    assert_eq!(AttestationKey::from_spki(&[spki, vec![0]].concat()), Err(PublicError::Point));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, cut in 0usize..145) {
        let _ = decode(&bytes);
        let _ = decode(&[&attest()[..cut], &bytes].concat());
        let _ = QuoteSignature::normalise(&bytes);
        let _ = AkPublic::parse(&bytes);
        let _ = AttestationKey::from_spki(&bytes);
        prop_assert!(Quote::verify(&bytes, &bytes, &key()).is_err());
    }
}
