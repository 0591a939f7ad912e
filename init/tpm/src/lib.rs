//! Typed TPM 2.0 commands on one device: the few that the appliance's PID 1 needs.
//!
//! In reading order: [`Tpm::open`], [`Tpm::pcr`] and [`Tpm::extend`] on the registers, [`Tpm::endorsement_key`],
//! [`Tpm::create_attestation_key`], [`Tpm::activate`] to show that both are in one TPM, [`Tpm::quote`]. The platform hierarchies have empty authorizations on a machine that exists for one build, so password
//! sessions carry them. Deliberately absent: any command that resets a register, writes NV storage, signs what the TPM did not
//! make itself, or exports a private key.

#![forbid(unsafe_code)]

use std::path::Path;
use std::str::FromStr as _;

use kiln_formats::digest::Sha256Digest;
use kiln_formats::enrolment::CredentialError;
use kiln_formats::pcr::{Bank, BankDigest, PcrIndex};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::{KeyHandle, PcrHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    CapabilityData, Data, Digest, DigestValues, EccParameter, EccPoint, EccScheme, EccSignature, HashScheme,
    KeyDerivationFunctionScheme, PcrSelectSize, PcrSelectionList, PcrSlot, Public, PublicBuilder,
    PublicEccParametersBuilder, Signature, SignatureScheme, SymmetricDefinitionObject,
};
use tss_esapi::tcti_ldr::{DeviceConfig, TctiNameConf};
use tss_esapi::traits::Marshall as _;
use tss_esapi::{Context, Error as TssError};

mod endorsement;
#[cfg(test)]
mod tests;

pub use endorsement::EndorsementKey;

/// The largest number of banks that a TPM reports. Source: TPM 2.0 Library part 2, `TPML_PCR_SELECTION` (implementations have
/// at most 16 hash algorithms).
const BANKS_MAX: u32 = 16;

/// One TPM, with the banks that were active when it was opened.
#[derive(Debug)]
pub struct Tpm {
    context: Context,
    banks: Vec<Bank>,
}

/// A key of this TPM that signs quotes and nothing else. Lives in the TPM until power-off.
#[derive(Debug)]
pub struct AttestationKey {
    handle: KeyHandle,
    public: Vec<u8>,
}

impl AttestationKey {
    /// The public area: `TPMT_PUBLIC`.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }
}

/// What the TPM said about sha256:0-15.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedQuote {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`: ECDSA, SHA-256, of low s.
    pub signature: Vec<u8>,
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The device is not there, or what is behind it is no TPM 2.0.
    #[error("cannot open the TPM: {source}")]
    Open {
        /// What the TSS said.
        source: TssError,
    },
    /// The TPM or the way to it failed during a command.
    #[error("{command} failed: {source}")]
    Command {
        /// The command's name in the TPM 2.0 Library.
        command: &'static str,
        /// What the TSS said.
        source: TssError,
    },
    /// A bank is active whose algorithm we do not compute, so that it cannot be kept in step with the others.
    #[error("the TPM has an active PCR bank of algorithm {algorithm:#06x}, which cannot be extended")]
    UnknownBank {
        /// The `TPM_ALG_ID`.
        algorithm: u16,
    },
    /// Digests for other banks than the active ones.
    #[error("the digests to extend are not one for each active bank, in order")]
    Banks,
    /// What should be a credential is none.
    #[error("the credential cannot be read")]
    Credential {
        /// What is wrong.
        #[from]
        source: CredentialError,
    },
    /// The bank that we quote is not active.
    #[error("the TPM has no active SHA-256 PCR bank")]
    NoSha256Bank,
    /// The TPM answered with something else than was asked for.
    #[error("the TPM answered {command} with something else")]
    Answer {
        /// The command's name in the TPM 2.0 Library.
        command: &'static str,
    },
}

/// Names the command that failed.
fn failed(command: &'static str) -> impl FnOnce(TssError) -> TpmError {
    move |source| TpmError::Command { command, source }
}

impl Tpm {
    /// Opens the device and asks which banks are active.
    ///
    /// # Errors
    /// [`TpmError::Open`], [`TpmError::UnknownBank`], [`TpmError::NoSha256Bank`], [`TpmError::Command`].
    pub fn open(device: &Path) -> Result<Self, TpmError> {
        let device = DeviceConfig::from_str(&device.to_string_lossy()).map_err(|source| TpmError::Open { source })?;
        Self::connect(TctiNameConf::Device(device))
    }

    fn connect(way: TctiNameConf) -> Result<Self, TpmError> {
        let mut context = Context::new(way).map_err(|source| TpmError::Open { source })?;
        let mut banks = active_banks(&mut context)?;
        banks.sort_unstable();
        if !banks.contains(&Bank::Sha256) {
            return Err(TpmError::NoSha256Bank);
        }
        Ok(Self { context, banks })
    }

    /// The active banks, ascending.
    #[must_use]
    pub fn banks(&self) -> &[Bank] {
        &self.banks
    }

    /// The value of one register in the SHA-256 bank.
    ///
    /// # Errors
    /// [`TpmError::Command`], [`TpmError::Answer`].
    pub fn pcr(&mut self, index: PcrIndex) -> Result<Sha256Digest, TpmError> {
        const COMMAND: &str = "TPM2_PCR_Read";
        let selection = selection(&[slot(index).map_err(failed(COMMAND))?]).map_err(failed(COMMAND))?;
        let (_, _, values) = self.context.pcr_read(selection).map_err(failed(COMMAND))?;
        match values.value() {
            [value] => <[u8; 32]>::try_from(value.value())
                .map(Sha256Digest::from_bytes)
                .map_err(|_| TpmError::Answer { command: COMMAND }),
            _ => Err(TpmError::Answer { command: COMMAND }),
        }
    }

    /// Extends PCR 15 with one digest in each active bank.
    ///
    /// # Errors
    /// [`TpmError::Banks`] if a bank would be left behind or is not active; [`TpmError::Command`], after which the register is
    /// in a state that no log describes.
    pub fn extend(&mut self, digests: &[BankDigest]) -> Result<(), TpmError> {
        const COMMAND: &str = "TPM2_PCR_Extend";
        if digests.iter().map(BankDigest::bank).ne(self.banks.iter().copied()) {
            return Err(TpmError::Banks);
        }
        let mut values = DigestValues::new();
        for digest in digests {
            let value = Digest::try_from(digest.as_bytes()).map_err(failed(COMMAND))?;
            values.set(algorithm(digest.bank()).map_err(failed(COMMAND))?, value);
        }
        self.context
            .execute_with_session(Some(AuthSession::Password), |context| context.pcr_extend(PcrHandle::Pcr15, values))
            .map_err(failed(COMMAND))
    }

    /// Makes the attestation key: ECC P-256, restricted to signing what the TPM itself made, under the endorsement hierarchy.
    /// `unique` is fresh randomness: the key is derived from it and the TPM's seed, so no two boots share a key.
    ///
    /// # Errors
    /// [`TpmError::Command`].
    pub fn create_attestation_key(&mut self, unique: &[u8; 32]) -> Result<AttestationKey, TpmError> {
        const COMMAND: &str = "TPM2_CreatePrimary";
        let template = attestation_template(unique).map_err(failed(COMMAND))?;
        let key = self
            .context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
            })
            .map_err(failed(COMMAND))?;
        let public = key.out_public.marshall().map_err(failed(COMMAND))?;
        Ok(AttestationKey { handle: key.key_handle, public })
    }

    /// Quotes sha256:0-15 over `qualifying`.
    ///
    /// # Errors
    /// [`TpmError::Command`], [`TpmError::Answer`] if the signature is not one of P-256.
    pub fn quote(&mut self, key: &AttestationKey, qualifying: &Sha256Digest) -> Result<SignedQuote, TpmError> {
        const COMMAND: &str = "TPM2_Quote";
        let slots = PcrIndex::quoted().map(slot).collect::<Result<Vec<_>, _>>().map_err(failed(COMMAND))?;
        let selection = selection(&slots).map_err(failed(COMMAND))?;
        let data = Data::try_from(qualifying.as_bytes().as_slice()).map_err(failed(COMMAND))?;
        let (attest, signature) = self
            .context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.quote(key.handle, data, SignatureScheme::Null, selection)
            })
            .map_err(failed(COMMAND))?;
        let signature = low_s(&signature)?.marshall().map_err(failed(COMMAND))?;
        Ok(SignedQuote { attest: attest.marshall().map_err(failed(COMMAND))?, signature })
    }
}

/// The banks that hold at least one register.
fn active_banks(context: &mut Context) -> Result<Vec<Bank>, TpmError> {
    const COMMAND: &str = "TPM2_GetCapability";
    let (data, _) = context.get_capability(CapabilityType::AssignedPcr, 0, BANKS_MAX).map_err(failed(COMMAND))?;
    let CapabilityData::AssignedPcr(assigned) = data else {
        return Err(TpmError::Answer { command: COMMAND });
    };
    let bank = |algorithm: HashingAlgorithm| {
        let algorithm = u16::from(algorithm);
        let bank = Bank::from_algorithm(algorithm).filter(|bank| bank.hash(&[]).is_some());
        bank.ok_or(TpmError::UnknownBank { algorithm })
    };
    assigned.get_selections().iter().filter(|bank| !bank.is_empty()).map(|b| bank(b.hashing_algorithm())).collect()
}

fn algorithm(bank: Bank) -> Result<HashingAlgorithm, TssError> {
    HashingAlgorithm::try_from(bank.algorithm())
}

fn slot(index: PcrIndex) -> Result<PcrSlot, TssError> {
    PcrSlot::try_from(1_u32 << index.get())
}

/// Registers of the SHA-256 bank, with the three octets of mask that a PC's TPM has.
fn selection(slots: &[PcrSlot]) -> Result<PcrSelectionList, TssError> {
    PcrSelectionList::builder()
        .with_size_of_select(PcrSelectSize::ThreeOctets)
        .with_selection(HashingAlgorithm::Sha256, slots)
        .build()
}

/// Source: TPM 2.0 Library part 1, section "Attestation Identity Keys": restricted, signing, fixed to its TPM and parent.
fn attestation_template(unique: &[u8; 32]) -> Result<Public, TssError> {
    let attributes = ObjectAttributesBuilder::new()
        .with_restricted(true)
        .with_sign_encrypt(true)
        .with_decrypt(false)
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(true)
        .with_is_decryption_key(false)
        .with_restricted(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::new(EccParameter::try_from(unique.as_slice())?, EccParameter::default()))
        .build()
}

/// The same signature with the smaller of its two values of s: a verifier that insists on it leaves no bit free.
fn low_s(signature: &Signature) -> Result<Signature, TpmError> {
    const OTHER: TpmError = TpmError::Answer { command: "TPM2_Quote" };
    let Signature::EcDsa(signature) = signature else {
        return Err(OTHER);
    };
    let r = scalar(signature.signature_r()).ok_or(OTHER)?;
    let s = scalar(signature.signature_s()).ok_or(OTHER)?;
    let low = p256::ecdsa::Signature::from_scalars(r, s).map_err(|_| OTHER)?.normalize_s();
    let (r, s) = low.split_bytes();
    let parameter = |bytes: &[u8]| EccParameter::try_from(bytes).map_err(failed("TPM2_Quote"));
    let low = EccSignature::create(signature.hashing_algorithm(), parameter(&r)?, parameter(&s)?);
    Ok(Signature::EcDsa(low.map_err(failed("TPM2_Quote"))?))
}

/// A number as 32 bytes, whether or not the TPM left out leading zeros.
fn scalar(number: &EccParameter) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let start = bytes.len().checked_sub(number.value().len())?;
    bytes.get_mut(start..)?.copy_from_slice(number.value());
    Some(bytes)
}
