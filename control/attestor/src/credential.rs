//! `TPM2_MakeCredential` without a TPM: a secret that only the TPM with one endorsement key can open, and only while the
//! attestation key of one name is loaded in it.
//!
//! The seed is encrypted to the endorsement key (RSA-OAEP, or ECDH and KDFe); from the seed and the attestation key's name come
//! (KDFa) the key that encrypts the secret and the key that authenticates it.
//!
//! Source: TPM 2.0 Library part 1, sections 24 (credential protection), 11.4.10 (KDFa, KDFe), B.4 and C.6.1 (seeds).

#[cfg(test)]
pub(crate) mod tests;

use cfb_mode::Encryptor;
use cfb_mode::cipher::KeyIvInit as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use kiln_formats::endorsement::{EkKind, EkNumber, EkPublic};
use kiln_formats::enrolment::{Credential, SECRET_BYTES};
use kiln_formats::pcr::Bank;
use kiln_formats::quote::RsaKey;
use zeroize::Zeroizing;

/// What a seed is for. The zero at the end is part of it.
const IDENTITY: &[u8] = b"IDENTITY\0";
const STORAGE: &[u8] = b"STORAGE\0";
const INTEGRITY: &[u8] = b"INTEGRITY\0";
/// How often an ephemeral key is drawn: one draw in 2^32 is none.
const DRAWS_MAX: usize = 8;

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The endorsement key is no key that can be computed with: its point is not on its curve, or its modulus is not one.
    #[error("the endorsement key is not a sound public key")]
    Key,
    /// The kernel gives no randomness.
    #[error("cannot draw random bytes")]
    Random {
        /// Why.
        #[from]
        source: getrandom::Error,
    },
}

/// Where randomness comes from.
type Random = fn(&mut [u8]) -> Result<(), getrandom::Error>;

/// Makes a credential with `secret` for the key of this name in the TPM of this endorsement key.
///
/// # Errors
/// [`CredentialError`].
pub fn make(
    endorsement_key: &EkPublic,
    name: &[u8; 34],
    secret: &[u8; SECRET_BYTES],
    random: Random,
) -> Result<Credential, CredentialError> {
    let kind = endorsement_key.kind();
    let (seed, encrypted_seed) = match endorsement_key.number() {
        EkNumber::Rsa(key) => rsa_seed(kind, key, random)?,
        EkNumber::Point(point) if kind == EkKind::P256 => p256_seed(kind, point, random)?,
        EkNumber::Point(point) => p384_seed(kind, point, random)?,
    };
    let length = u16::try_from(secret.len()).map_err(|_| CredentialError::Key)?.to_be_bytes();
    let mut identity = [&length[..], secret].concat();
    let cipher_key = kdf_a(kind.name_hash(), &seed, STORAGE, name, kind.cipher_bytes()).ok_or(CredentialError::Key)?;
    encrypt(&cipher_key, &mut identity).ok_or(CredentialError::Key)?;
    let digest_bytes = kind.name_hash().digest_bytes();
    let mac_key = kdf_a(kind.name_hash(), &seed, INTEGRITY, &[], digest_bytes).ok_or(CredentialError::Key)?;
    let integrity = hmac(kind.name_hash(), &mac_key, &[&identity, name]).ok_or(CredentialError::Key)?;
    let id_object = [sized(&integrity), identity].concat();
    Credential::of_contents(&id_object, &encrypted_seed).ok_or(CredentialError::Key)
}

/// A seed, and how the TPM gets it.
type Seed = (Zeroizing<Vec<u8>>, Vec<u8>);

/// A random seed in OAEP. Source: RFC 8017, section 7.1.1, with the name algorithm as both hashes.
fn rsa_seed(kind: EkKind, key: &RsaKey, random: Random) -> Result<Seed, CredentialError> {
    let hash = kind.name_hash();
    let mut seed = Zeroizing::new(vec![0; hash.digest_bytes()]);
    random(&mut seed)?;
    let mut mask_seed = Zeroizing::new(vec![0; hash.digest_bytes()]);
    random(&mut mask_seed)?;
    let padded = oaep(hash, &seed, &mask_seed, key.modulus().len()).ok_or(CredentialError::Key)?;
    let encrypted = key.power(&padded).ok_or(CredentialError::Key)?;
    Ok((seed, encrypted))
}

fn oaep(hash: Bank, message: &[u8], mask_seed: &[u8], bytes: usize) -> Option<Zeroizing<Vec<u8>>> {
    let label = hash.hash(IDENTITY)?;
    let filling = bytes.checked_sub(message.len() + 2 * hash.digest_bytes() + 2)?;
    let mut block = Zeroizing::new([label.as_bytes(), &vec![0; filling], &[1], message].concat());
    mask(hash, mask_seed, &mut block)?;
    let mut seed = Zeroizing::new(mask_seed.to_vec());
    mask(hash, &block, &mut seed)?;
    Some(Zeroizing::new([&[0][..], &seed, &block].concat()))
}

/// MGF1 over `from`, laid over `over`. Source: RFC 8017, appendix B.2.1.
fn mask(hash: Bank, from: &[u8], over: &mut [u8]) -> Option<()> {
    for (counter, piece) in (0_u32..).zip(over.chunks_mut(hash.digest_bytes())) {
        let digest = hash.hash_parts([from, &counter.to_be_bytes()])?;
        piece.iter_mut().zip(digest.as_bytes()).for_each(|(to, mask)| *to ^= mask);
    }
    Some(())
}

fn p256_seed(kind: EkKind, point: &[u8], random: Random) -> Result<Seed, CredentialError> {
    let theirs = p256::PublicKey::from_sec1_bytes(point).map_err(|_| CredentialError::Key)?;
    let ours = draw(random, |bytes: &[u8; 32]| p256::SecretKey::from_slice(bytes).ok())?;
    let shared = p256::ecdh::diffie_hellman(ours.to_nonzero_scalar(), theirs.as_affine());
    let ephemeral = p256::Sec1Point::from(ours.public_key());
    agreed(kind, shared.raw_secret_bytes(), ephemeral.as_bytes(), point)
}

fn p384_seed(kind: EkKind, point: &[u8], random: Random) -> Result<Seed, CredentialError> {
    let theirs = p384::PublicKey::from_sec1_bytes(point).map_err(|_| CredentialError::Key)?;
    let ours = draw(random, |bytes: &[u8; 48]| p384::SecretKey::from_slice(bytes).ok())?;
    let shared = p384::ecdh::diffie_hellman(ours.to_nonzero_scalar(), theirs.as_affine());
    let ephemeral = p384::Sec1Point::from(ours.public_key());
    agreed(kind, shared.raw_secret_bytes(), ephemeral.as_bytes(), point)
}

/// A number below the curve's order, not zero.
fn draw<const N: usize, T>(random: Random, key: impl Fn(&[u8; N]) -> Option<T>) -> Result<T, CredentialError> {
    let mut bytes = Zeroizing::new([0; N]);
    for _ in 0..DRAWS_MAX {
        random(bytes.as_mut_slice())?;
        if let Some(key) = key(&bytes) {
            return Ok(key);
        }
    }
    Err(CredentialError::Key)
}

/// The seed that both sides derive, and our half of the exchange as a `TPMS_ECC_POINT`. Points are uncompressed SEC 1.
fn agreed(kind: EkKind, shared: &[u8], ours: &[u8], theirs: &[u8]) -> Result<Seed, CredentialError> {
    let halves = |point: &[u8]| -> Option<(Vec<u8>, Vec<u8>)> {
        let numbers = point.get(1..)?;
        let (x, y) = numbers.split_at_checked(numbers.len() / 2)?;
        Some((x.to_vec(), y.to_vec()))
    };
    let ((x, y), (their_x, _)) = halves(ours).zip(halves(theirs)).ok_or(CredentialError::Key)?;
    let hash = kind.name_hash();
    // KDFe; a whole digest is wanted, so there is one round.
    let seed = hash.hash_parts([&1_u32.to_be_bytes(), shared, IDENTITY, &x, &their_x]).ok_or(CredentialError::Key)?;
    Ok((Zeroizing::new(seed.as_bytes().to_vec()), [sized(&x), sized(&y)].concat()))
}

/// `KDFa` with an empty second context.
fn kdf_a(hash: Bank, key: &[u8], label: &[u8], context: &[u8], bytes: usize) -> Option<Zeroizing<Vec<u8>>> {
    let bits = u32::try_from(bytes * 8).ok()?.to_be_bytes();
    let mut derived = Zeroizing::new(Vec::new());
    for round in 1..=bytes.div_ceil(hash.digest_bytes()) {
        let counter = u32::try_from(round).ok()?.to_be_bytes();
        derived.extend(hmac(hash, key, &[&counter, label, context, &bits])?);
    }
    derived.truncate(bytes);
    Some(derived)
}

fn hmac(hash: Bank, key: &[u8], parts: &[&[u8]]) -> Option<Vec<u8>> {
    match hash {
        Bank::Sha256 => {
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).ok()?;
            parts.iter().for_each(|part| mac.update(part));
            Some(mac.finalize().into_bytes().to_vec())
        }
        Bank::Sha384 => {
            let mut mac = Hmac::<sha2::Sha384>::new_from_slice(key).ok()?;
            parts.iter().for_each(|part| mac.update(part));
            Some(mac.finalize().into_bytes().to_vec())
        }
        _ => None,
    }
}

/// AES in CFB mode with an initial value of zeros: each key is used once.
fn encrypt(key: &[u8], bytes: &mut [u8]) -> Option<()> {
    let zeros = [0; 16];
    match key.len() {
        16 => Encryptor::<aes::Aes128>::new_from_slices(key, &zeros).ok()?.encrypt(bytes),
        32 => Encryptor::<aes::Aes256>::new_from_slices(key, &zeros).ok()?.encrypt(bytes),
        _ => return None,
    }
    Some(())
}

/// Bytes behind their length. Digests and coordinates are short.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}
