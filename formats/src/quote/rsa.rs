//! RSA signatures of foreign TPMs: RSASSA with the padding of PKCS #1 v1.5, checked and never made.
//!
//! A signature holds if the number that it is leads to exactly the bytes that an honest signer would have encoded: they are made
//! anew and compared as a whole, so that there is no padding to read and nothing in it to be lenient about.
//!
//! Source: RFC 8017, sections 5.2.2, 8.2.2 and 9.2.

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Reader as _, SliceReader};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use crate::pcr::{Bank, BankDigest};

/// Bytes of a modulus: 2048 to 4096 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;
/// `rsaEncryption`. Source: RFC 8017, appendix A.1.
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// A public key of 2048 to 4096 bits with an odd exponent above 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsaKey {
    modulus: Vec<u8>,
    exponent: u32,
}

impl RsaKey {
    /// Takes a modulus without leading zeros, and an exponent.
    pub(crate) fn new(modulus: &[u8], exponent: u32) -> Option<Self> {
        let sound = MODULUS_BYTES.contains(&modulus.len()) && modulus.first() != Some(&0);
        let odd = modulus.last().is_some_and(|last| last & 1 == 1) && exponent > 1 && exponent & 1 == 1;
        (sound && odd).then(|| Self { modulus: modulus.to_vec(), exponent })
    }

    /// Takes the `RSAPublicKey` of a `SubjectPublicKeyInfo`.
    pub(crate) fn from_spki(info: &SubjectPublicKeyInfoOwned) -> Option<Self> {
        if info.algorithm.oid != RSA_ENCRYPTION {
            return None;
        }
        let bytes = info.subject_public_key.as_bytes()?;
        let mut reader = SliceReader::new(bytes).ok()?;
        let read = |pair: &mut SliceReader<'_>| -> x509_cert::der::Result<(Vec<u8>, Vec<u8>)> {
            let (modulus, exponent): (UintRef<'_>, UintRef<'_>) = (pair.decode()?, pair.decode()?);
            Ok((modulus.as_bytes().to_vec(), exponent.as_bytes().to_vec()))
        };
        let (modulus, exponent) = reader.sequence(read).ok()?;
        let exponent =
            exponent.iter().try_fold(0_u32, |number, byte| Some(number.checked_mul(256)? | u32::from(*byte)));
        Self::new(&modulus, exponent?).filter(|_| reader.is_finished())
    }

    /// Whether the key made the signature over `digest`.
    pub(crate) fn verify(&self, digest: &BankDigest, signature: &[u8]) -> bool {
        let encoded = encoded(digest, self.modulus.len());
        signature.len() == self.modulus.len() && encoded.is_some() && self.power(signature) == encoded
    }

    /// The modulus, without leading zeros.
    #[must_use]
    pub fn modulus(&self) -> &[u8] {
        &self.modulus
    }

    /// `RSAEP`: the number raised to the exponent, by the modulus; `None` for one that is not below the modulus. Without a padding
    /// it hides nothing.
    #[must_use]
    pub fn power(&self, number: &[u8]) -> Option<Vec<u8>> {
        let bits = u32::try_from(self.modulus.len()).ok()?.checked_mul(8)?;
        let modulus = BoxedUint::from_be_slice(&self.modulus, bits).ok()?;
        let number = BoxedUint::from_be_slice(number, bits).ok().filter(|number| *number < modulus)?;
        let modulus = Option::<Odd<BoxedUint>>::from(Odd::new(modulus))?;
        let number = BoxedMontyForm::new(number, &BoxedMontyParams::new_vartime(modulus));
        let power = number.pow_bounded_exp(&BoxedUint::from(self.exponent), u32::BITS).retrieve().to_be_bytes();
        // Whole limbs come out; what is before the modulus' length is zero.
        power.get(power.len().checked_sub(self.modulus.len())?..).map(<[u8]>::to_vec)
    }
}

/// `0x00 0x01`, `0xff` as often as it takes, `0x00`, the hash's identifier, the hash.
fn encoded(digest: &BankDigest, bytes: usize) -> Option<Vec<u8>> {
    /// `DigestInfo` up to the digest. Source: RFC 8017, section 9.2, note 1.
    const SHA1: &str = "3021300906052b0e03021a05000414";
    const SHA256: &str = "3031300d060960864801650304020105000420";
    const SHA384: &str = "3041300d060960864801650304020205000430";
    const SHA512: &str = "3051300d060960864801650304020305000440";
    let prefix = match digest.bank() {
        Bank::Sha1 => SHA1,
        Bank::Sha256 => SHA256,
        Bank::Sha384 => SHA384,
        Bank::Sha512 => SHA512,
        Bank::Sm3 => return None,
    };
    let info = [hex::decode(prefix).ok()?, digest.as_bytes().to_vec()].concat();
    let padding = bytes.checked_sub(info.len())?.checked_sub(3).filter(|padding| *padding >= 8)?;
    Some([&[0, 1][..], &vec![0xff; padding], &[0], &info].concat())
}
