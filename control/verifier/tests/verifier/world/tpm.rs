//! The test machine's TPM: an attestation key and what it signs.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::endorsement::EkPublic;
use kiln_formats::quote::QuoteSignature;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::EncodePublicKey as _;

/// The seed of the certified attestation key.
pub(crate) const AK: u8 = 0x42;

/// A quote to be signed; by default what the TPM would say, but for the fields that the caller knows.
#[derive(Clone)]
pub(crate) struct QuoteDraft {
    pub(crate) magic: u32,
    pub(crate) kind: u16,
    pub(crate) qualifying: Sha256Digest,
    pub(crate) clock_ms: u64,
    pub(crate) reset_count: u32,
    pub(crate) restart_count: u32,
    pub(crate) safe: bool,
    pub(crate) firmware_version: u64,
    pub(crate) selection: [u8; 3],
    pub(crate) pcr_digest: Sha256Digest,
    pub(crate) key: u8,
}

impl Default for QuoteDraft {
    fn default() -> Self {
        Self {
            magic: 0xff54_4347,
            kind: 0x8018,
            qualifying: Sha256Digest::from_bytes([0; 32]),
            clock_ms: 0,
            reset_count: 7,
            restart_count: 0,
            safe: true,
            firmware_version: 0x2019_1023_0016_3636,
            selection: [0xff, 0xff, 0],
            pcr_digest: Sha256Digest::from_bytes([0; 32]),
            key: AK,
        }
    }
}

impl QuoteDraft {
    /// The `TPMS_ATTEST`.
    pub(crate) fn attest(&self) -> Vec<u8> {
        let mut bytes = [&self.magic.to_be_bytes()[..], &self.kind.to_be_bytes()].concat();
        bytes.extend([&[0, 34, 0, 0x0b][..], &[0xaa; 32]].concat());
        bytes.extend([&[0, 32][..], self.qualifying.as_bytes()].concat());
        bytes.extend(self.clock_ms.to_be_bytes());
        bytes.extend(self.reset_count.to_be_bytes());
        bytes.extend(self.restart_count.to_be_bytes());
        bytes.push(u8::from(self.safe));
        bytes.extend(self.firmware_version.to_be_bytes());
        bytes.extend([0, 0, 0, 1, 0, 0x0b, 3]);
        bytes.extend(self.selection);
        bytes.extend([&[0, 32][..], self.pcr_digest.as_bytes()].concat());
        bytes
    }

    /// The `TPMT_SIGNATURE` over it.
    pub(crate) fn signature(&self) -> Vec<u8> {
        let signature: Signature = signing_key(self.key).sign(&self.attest());
        let (r, s) = signature.split_bytes();
        let raw = [&[0, 0x18, 0, 0x0b, 0, 32][..], &r, &[0, 32], &s].concat();
        QuoteSignature::normalise(&raw).unwrap().to_bytes()
    }
}

fn signing_key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).unwrap()
}

/// The `TPMT_PUBLIC` of a key that signs only what its TPM made.
pub(crate) fn public_area(seed: u8) -> Vec<u8> {
    let point = signing_key(seed).verifying_key().to_sec1_point(false);
    let head = [0, 0x23, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10];
    [&head[..], &[0, 32], point.x().unwrap(), &[0, 32], point.y().unwrap()].concat()
}

/// The certified key's SubjectPublicKeyInfo.
pub(crate) fn ak_spki() -> Vec<u8> {
    signing_key(AK).verifying_key().to_public_key_der().unwrap().into_vec()
}

/// The public area of a real TPM's endorsement key.
pub(crate) fn ek_public() -> Vec<u8> {
    include_bytes!("../../../../../formats/src/endorsement/vectors/p256.public").to_vec()
}

/// Which machine it is.
pub(crate) fn machine() -> Sha256Digest {
    EkPublic::parse(&ek_public()).unwrap().sha256()
}
