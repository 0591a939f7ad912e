//! PCR banks, values and the extend operation.
//!
//! [`PcrValues`] is what a log *claims* once it is folded; only a quote over the same values turns the claim into evidence.
//! Deliberately absent: talking to a TPM.

mod text;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use sm3::Sm3;

pub use text::{VALUES_BYTES_MAX, ValuesError};

use crate::digest::Sha256Digest;

/// How many PCRs a PC Client TPM has.
///
/// Source: TCG PC Client Platform TPM Profile 1.05, section 4.6.
pub const PCR_COUNT: u8 = 24;

/// The longest digest of any bank, in bytes.
const DIGEST_BYTES_MAX: usize = 64;

/// One bank of PCRs: all registers that are extended with one hash algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bank {
    /// SHA-1, on older machines only.
    Sha1,
    /// SHA-256, the bank that Kiln quotes.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// SM3-256, on machines made for China. Kiln's own logs do not have it.
    Sm3,
}

impl Bank {
    /// Every bank, in the order of the algorithm identifiers.
    pub const ALL: [Self; 5] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512, Self::Sm3];

    /// The `TPM_ALG_ID`. Source: TCG Algorithm Registry 1.34, table 3.
    #[must_use]
    pub const fn algorithm(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
            Self::Sm3 => 0x0012,
        }
    }

    /// The bank of a `TPM_ALG_ID`, if it is one that we know.
    #[must_use]
    pub fn from_algorithm(algorithm: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|bank| bank.algorithm() == algorithm)
    }

    /// Bytes of one digest.
    #[must_use]
    pub const fn digest_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sm3 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The name that tpm2-tools, systemd and CEL use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Sm3 => "sm3",
        }
    }

    /// The bank of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bank| bank.name() == name)
    }

    /// The digest of `bytes` in this bank's algorithm.
    #[must_use]
    pub fn hash(self, bytes: &[u8]) -> Option<BankDigest> {
        self.hash_two(bytes, &[])
    }

    /// The digest of the two pieces one after the other.
    fn hash_two(self, first: &[u8], second: &[u8]) -> Option<BankDigest> {
        self.hash_parts([first, second])
    }

    /// The digest of the pieces one after the other, which are not copied for it.
    #[must_use]
    pub fn hash_parts<'a>(self, parts: impl IntoIterator<Item = &'a [u8]>) -> Option<BankDigest> {
        fn run<'a, D: sha2::Digest>(parts: impl IntoIterator<Item = &'a [u8]>) -> impl AsRef<[u8]> {
            parts.into_iter().fold(D::new(), |hash, part| hash.chain_update(part)).finalize()
        }
        match self {
            Self::Sha1 => BankDigest::new(self, run::<Sha1>(parts).as_ref()),
            Self::Sha256 => BankDigest::new(self, run::<Sha256>(parts).as_ref()),
            Self::Sha384 => BankDigest::new(self, run::<Sha384>(parts).as_ref()),
            Self::Sha512 => BankDigest::new(self, run::<Sha512>(parts).as_ref()),
            Self::Sm3 => BankDigest::new(self, run::<Sm3>(parts).as_ref()),
        }
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A register number, 0 to 23.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct PcrIndex(u8);

/// A register number above 23.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("PCR {index} does not exist; a TPM has PCR 0 to 23")]
pub struct PcrIndexError {
    /// The number as given.
    pub index: u32,
}

impl PcrIndex {
    /// PCR 15, the only register that Kiln's init extends.
    pub const RUNTIME: Self = Self(15);

    /// Checks a register number.
    ///
    /// # Errors
    /// [`PcrIndexError`] above 23.
    pub fn new(index: u32) -> Result<Self, PcrIndexError> {
        u8::try_from(index).ok().filter(|i| *i < PCR_COUNT).map(Self).ok_or(PcrIndexError { index })
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Every register, in ascending order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PCR_COUNT).map(Self)
    }

    /// The registers 0 to 15, the ones that Kiln quotes, in ascending order.
    pub fn quoted() -> impl Iterator<Item = Self> {
        (0..=15).map(Self)
    }

    /// Whether the register belongs to the dynamic root of trust, so that it starts with all bits set.
    ///
    /// Source: TCG PC Client Platform TPM Profile 1.05, section 4.6.2 (PCR 17 to 22).
    #[must_use]
    pub const fn is_dynamic(self) -> bool {
        self.0 >= 17 && self.0 <= 22
    }
}

impl TryFrom<u8> for PcrIndex {
    type Error = PcrIndexError;

    fn try_from(index: u8) -> Result<Self, PcrIndexError> {
        Self::new(u32::from(index))
    }
}

impl From<PcrIndex> for u8 {
    fn from(index: PcrIndex) -> Self {
        index.0
    }
}

impl fmt::Display for PcrIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCR {}", self.0)
    }
}

/// A digest, or a register's value, of one bank; exactly as long as the bank's algorithm says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BankDigest {
    bank: Bank,
    bytes: [u8; DIGEST_BYTES_MAX],
}

impl BankDigest {
    /// Takes `bytes` as a digest of `bank`; `None` if the length is not the bank's.
    #[must_use]
    pub fn new(bank: Bank, bytes: &[u8]) -> Option<Self> {
        let mut buffer = [0; DIGEST_BYTES_MAX];
        if bytes.len() != bank.digest_bytes() {
            return None;
        }
        buffer.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self { bank, bytes: buffer })
    }

    /// Reads hex digits of either case, with or without `0x` before them.
    #[must_use]
    pub fn from_hex(bank: Bank, digits: &str) -> Option<Self> {
        let digits = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")).unwrap_or(digits);
        let mut buffer = [0; DIGEST_BYTES_MAX];
        let bytes = buffer.get_mut(..bank.digest_bytes())?;
        hex::decode_to_slice(digits, bytes).ok()?;
        Some(Self { bank, bytes: buffer })
    }

    /// The value of a register before anything was extended: all zero, all ones for the dynamic root of trust.
    #[must_use]
    pub fn reset(bank: Bank, index: PcrIndex) -> Self {
        if index.is_dynamic() { Self::filled(bank, 0xff) } else { Self::zero(bank) }
    }

    /// All zero.
    #[must_use]
    pub fn zero(bank: Bank) -> Self {
        Self::filled(bank, 0)
    }

    /// PCR 0 at start-up from `locality`: zero but for the last byte.
    ///
    /// Source: TPM 2.0 Library part 1, section 17.9.2 (the locality of `TPM2_Startup`; 4 after an H-CRTM sequence).
    #[must_use]
    pub fn started_at(bank: Bank, locality: u8) -> Self {
        let mut value = Self::zero(bank);
        if let Some(last) = value.bytes.get_mut(bank.digest_bytes() - 1) {
            *last = locality;
        }
        value
    }

    fn filled(bank: Bank, byte: u8) -> Self {
        let mut bytes = [0; DIGEST_BYTES_MAX];
        bytes.iter_mut().take(bank.digest_bytes()).for_each(|b| *b = byte);
        Self { bank, bytes }
    }

    /// The bank.
    #[must_use]
    pub const fn bank(&self) -> Bank {
        self.bank
    }

    /// The bytes, as many as the bank's algorithm has.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.bank.digest_bytes()).unwrap_or_default()
    }

    /// Whether every byte is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.bytes.iter().all(|b| *b == 0)
    }

    /// This register value extended with `digest`: the hash of both. `None` if the banks differ.
    #[must_use]
    pub fn extend(&self, digest: &Self) -> Option<Self> {
        if self.bank != digest.bank {
            return None;
        }
        self.bank.hash_two(self.as_bytes(), digest.as_bytes())
    }
}

impl fmt::Display for BankDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BankDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.bank)
    }
}

/// The registers that were touched, per bank. A register that no event names is not in here: it is at its reset value, which
/// is not the same as "was measured".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PcrValues {
    values: BTreeMap<(Bank, PcrIndex), BankDigest>,
}

impl PcrValues {
    /// No register touched.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a register that was touched.
    #[must_use]
    pub fn get(&self, bank: Bank, index: PcrIndex) -> Option<&BankDigest> {
        self.values.get(&(bank, index))
    }

    /// The value of a register, its reset value if nothing touched it.
    #[must_use]
    pub fn get_or_reset(&self, bank: Bank, index: PcrIndex) -> BankDigest {
        self.get(bank, index).copied().unwrap_or_else(|| BankDigest::reset(bank, index))
    }

    /// Puts a register at a value, as a reset or a start-up locality does.
    pub fn set(&mut self, index: PcrIndex, value: BankDigest) {
        self.values.insert((value.bank(), index), value);
    }

    /// Extends one register of the digest's bank.
    pub fn extend(&mut self, index: PcrIndex, digest: &BankDigest) {
        if let Some(value) = self.get_or_reset(digest.bank(), index).extend(digest) {
            self.set(index, value);
        }
    }

    /// All touched registers, ascending by bank and number.
    pub fn iter(&self) -> impl Iterator<Item = (Bank, PcrIndex, &BankDigest)> {
        self.values.iter().map(|((bank, index), value)| (*bank, *index, value))
    }

    /// The `pcrDigest` of a quote over SHA-256 PCR 0 to 15, signed with SHA-256: the hash of the values in ascending order.
    ///
    /// Source: TPM 2.0 Library part 2, section 10.12.1 (TPMS_QUOTE_INFO).
    #[must_use]
    pub fn quote_digest(&self) -> Sha256Digest {
        let mut hash = Sha256::new();
        for index in PcrIndex::quoted() {
            hash.update(self.get_or_reset(Bank::Sha256, index).as_bytes());
        }
        Sha256Digest::from_bytes(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extending_hashes_old_and_new() {
        let event = Bank::Sha256.hash(b"os-separator").unwrap();
        // Source: the digest of this word in a systemd 262 measurement log.
        assert!(event.to_string().starts_with("ff5b9d73"));
        let mut values = PcrValues::new();
        values.extend(PcrIndex::RUNTIME, &event);
        let mut joined = vec![0; 32];
        joined.extend_from_slice(event.as_bytes());
        assert_eq!(values.get(Bank::Sha256, PcrIndex::RUNTIME), Bank::Sha256.hash(&joined).as_ref());
        assert_eq!(values.get(Bank::Sha1, PcrIndex::RUNTIME), None);
    }

    #[test]
    fn banks_never_mix() {
        assert_eq!(BankDigest::zero(Bank::Sha1).extend(&BankDigest::zero(Bank::Sha256)), None);
        // Source: GM/T 0004-2012, appendix A.1.
        let abc = "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0";
        assert_eq!(Bank::Sm3.hash(b"abc").unwrap().to_string(), abc);
        assert_eq!(BankDigest::new(Bank::Sha384, &[0; 32]), None);
        for bank in Bank::ALL {
            assert_eq!(Bank::from_algorithm(bank.algorithm()), Some(bank));
            assert_eq!(Bank::from_name(bank.name()), Some(bank));
        }
    }

    #[test]
    fn registers_have_their_reset_values() {
        let values = PcrValues::new();
        assert!(values.get_or_reset(Bank::Sha1, PcrIndex::RUNTIME).is_zero());
        let dynamic = PcrIndex::new(17).unwrap();
        assert_eq!(values.get_or_reset(Bank::Sha1, dynamic).as_bytes(), [0xff; 20]);
        assert_eq!(PcrIndex::new(24), Err(PcrIndexError { index: 24 }));
        assert_eq!(values.quote_digest(), Sha256Digest::of(&[0; 512]));
        assert_eq!(BankDigest::started_at(Bank::Sha1, 3).as_bytes()[19], 3);
    }
}
