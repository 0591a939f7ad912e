//! The key that the TPM was born with: its certificates, its public area, and what only it can do.
//!
//! The key is made anew from the TPM's seed and a template of the TCG, which gives the same key for as long as the TPM exists; it
//! goes when the credential is opened. Deliberately absent: keys of the high range but P-384, templates and nonces in NV memory.
//!
//! Source: TCG EK Credential Profile for TPM Family 2.0, version 2.5, sections 2.2.1 and B; TPM 2.0 Library part 1, section 24.

use kiln_formats::endorsement::{CERTIFICATE_BYTES_MAX, EkKind};
use kiln_formats::enrolment::{CHAIN_MAX, Credential, SECRET_BYTES};
use tss_esapi::abstraction::{AsymmetricAlgorithmSelection, ek};
use tss_esapi::constants::{CapabilityType, SessionType};
use tss_esapi::handles::{AuthHandle, KeyHandle, NvIndexHandle, NvIndexTpmHandle, SessionHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth};
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    CapabilityData, Digest, DigestList, EncryptedSecret, IdObject, Nonce, SymmetricDefinition,
};
use tss_esapi::traits::Marshall as _;
use tss_esapi::{Context, Error as TssError};
use zeroize::Zeroizing;

use crate::{AttestationKey, Tpm, TpmError, failed};

/// Where certificates of endorsement keys begin; where those of their issuers begin and end.
/// Source: TCG EK Credential Profile, sections 2.2.1.4 to 2.2.1.6.
const EK_FIRST: u32 = 0x01c0_0002;
const CHAIN_FIRST: u32 = 0x01c0_0100;
const CHAIN_LAST: u32 = 0x01c0_01ff;
/// The most NV indexes that are looked at in each of the two ranges.
const INDEXES_MAX: u32 = 64;
/// The most bytes of NV memory that are read at once. Source: the smallest `TPM_PT_NV_BUFFER_MAX` in the PC Client profile.
const PIECE_BYTES: u16 = 512;

/// Either branch of the policy of a key of the high range, in SHA-384. Source: the profile, section B.6 (PolicyA, PolicyC).
const POLICY_A: [u8; 48] = [
    0x8b, 0xbf, 0x22, 0x66, 0x53, 0x7c, 0x17, 0x1c, 0xb5, 0x6e, 0x40, 0x3c, 0x4d, 0xc1, 0xd4, 0xb6, 0x4f, 0x43, 0x26,
    0x11, 0xdc, 0x38, 0x6e, 0x6f, 0x53, 0x20, 0x50, 0xc3, 0x27, 0x8c, 0x93, 0x0e, 0x14, 0x3e, 0x8b, 0xb1, 0x13, 0x38,
    0x24, 0xcc, 0xb4, 0x31, 0x05, 0x38, 0x71, 0xc6, 0xdb, 0x53,
];
const POLICY_C: [u8; 48] = [
    0xd6, 0x03, 0x2c, 0xe6, 0x1f, 0x2f, 0xb3, 0xc2, 0x40, 0xeb, 0x3c, 0xf6, 0xa3, 0x32, 0x37, 0xef, 0x2b, 0x6a, 0x16,
    0xf4, 0x29, 0x3c, 0x22, 0xb4, 0x55, 0xe2, 0x61, 0xcf, 0xfd, 0x21, 0x7a, 0xd5, 0xb4, 0x94, 0x7c, 0x2d, 0x73, 0xe6,
    0x30, 0x05, 0xee, 0xd2, 0xdc, 0x2b, 0x35, 0x93, 0xd1, 0x65,
];

/// The endorsement key, loaded, and what the TPM keeps about it.
#[derive(Debug)]
pub struct EndorsementKey {
    handle: KeyHandle,
    kind: EkKind,
    public: Vec<u8>,
    certificates: Vec<Vec<u8>>,
    chain: Vec<Vec<u8>>,
}

impl EndorsementKey {
    /// The public area: `TPMT_PUBLIC`.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The certificates of all endorsement keys that we know, as NV memory has them; none if the TPM keeps none.
    #[must_use]
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    /// The certificates of their issuers, as NV memory has them.
    #[must_use]
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }
}

impl Tpm {
    /// Reads the certificates of the endorsement keys and loads one of the keys: the first of [`EkKind::ALL`] with a certificate,
    /// that of RSA if there is none.
    ///
    /// # Errors
    /// [`TpmError::Command`], [`TpmError::Answer`].
    pub fn endorsement_key(&mut self) -> Result<EndorsementKey, TpmError> {
        let present = self.indexes(EK_FIRST)?;
        let kinds: Vec<_> = EkKind::ALL.into_iter().filter(|kind| present.contains(&kind.nv_index())).collect();
        let certificates = kinds.iter().map(|kind| self.nv(kind.nv_index())).collect::<Result<Vec<_>, _>>()?;
        let kept: Vec<_> = self.indexes(CHAIN_FIRST)?.into_iter().filter(|index| *index <= CHAIN_LAST).collect();
        let chain = kept.into_iter().take(CHAIN_MAX).map(|index| self.nv(index)).collect::<Result<Vec<_>, _>>()?;
        let kind = kinds.first().copied().unwrap_or(EkKind::Rsa2048);
        self.load_endorsement_key(kind, certificates, chain)
    }

    pub(crate) fn load_endorsement_key(
        &mut self,
        kind: EkKind,
        certificates: Vec<Vec<u8>>,
        chain: Vec<Vec<u8>>,
    ) -> Result<EndorsementKey, TpmError> {
        const COMMAND: &str = "TPM2_CreatePrimary";
        let template = ek::create_ek_public_from_default_template_2(algorithm(kind), None).map_err(failed(COMMAND))?;
        let created = self
            .context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
            })
            .map_err(failed(COMMAND))?;
        let public = created.out_public.marshall().map_err(failed(COMMAND))?;
        Ok(EndorsementKey { handle: created.key_handle, kind, public, certificates, chain })
    }

    /// Opens a credential that was made for `key` in the TPM with `endorsement`; the endorsement key is unloaded, whether it opens
    /// or not.
    ///
    /// # Errors
    /// [`TpmError::Credential`] if it is none, [`TpmError::Command`] if it was made for another TPM or key, [`TpmError::Answer`].
    pub fn activate(
        &mut self,
        key: &AttestationKey,
        endorsement: &EndorsementKey,
        credential: &Credential,
    ) -> Result<Zeroizing<[u8; SECRET_BYTES]>, TpmError> {
        const COMMAND: &str = "TPM2_ActivateCredential";
        let id_object = IdObject::try_from(credential.id_object()?.to_vec()).map_err(failed(COMMAND))?;
        let secret = EncryptedSecret::try_from(credential.encrypted_secret()?.to_vec()).map_err(failed(COMMAND))?;
        let session = self.endorsement_session(endorsement.kind)?;
        let sessions = (Some(AuthSession::Password), Some(session), None);
        let opened = self.context.execute_with_sessions(sessions, |context| {
            context.activate_credential(key.handle, endorsement.handle, id_object, secret)
        });
        const FLUSH: &str = "TPM2_FlushContext";
        self.context.flush_context(SessionHandle::from(session).into()).map_err(failed(FLUSH))?;
        self.context.flush_context(endorsement.handle.into()).map_err(failed(FLUSH))?;
        let opened = opened.map_err(failed(COMMAND))?;
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        if opened.value().len() != SECRET_BYTES {
            return Err(TpmError::Answer { command: COMMAND });
        }
        bytes.iter_mut().zip(opened.value()).for_each(|(to, from)| *to = *from);
        Ok(bytes)
    }

    /// A policy session in which the endorsement key may be used.
    fn endorsement_session(&mut self, kind: EkKind) -> Result<AuthSession, TpmError> {
        const START: &str = "TPM2_StartAuthSession";
        let hash = HashingAlgorithm::try_from(kind.name_hash().algorithm()).map_err(failed(START))?;
        let session = self
            .context
            .start_auth_session(None, None, None, SessionType::Policy, SymmetricDefinition::AES_128_CFB, hash)
            .map_err(failed(START))?
            .ok_or(TpmError::Answer { command: START })?;
        let policy = PolicySession::try_from(session).map_err(failed(START))?;
        self.context
            .execute_with_session(Some(AuthSession::Password), |context| {
                let (nonce, digest, reference) = (Nonce::default(), Digest::default(), Nonce::default());
                context.policy_secret(policy, AuthHandle::Endorsement, nonce, digest, reference, None)
            })
            .map_err(failed("TPM2_PolicySecret"))?;
        if kind == EkKind::P384 {
            self.context
                .policy_or(policy, branches().map_err(failed("TPM2_PolicyOR"))?)
                .map_err(failed("TPM2_PolicyOR"))?;
        }
        Ok(session)
    }

    /// Which NV indexes there are from one number on.
    fn indexes(&mut self, first: u32) -> Result<Vec<u32>, TpmError> {
        const COMMAND: &str = "TPM2_GetCapability";
        let asked = self.context.get_capability(CapabilityType::Handles, first, INDEXES_MAX);
        let CapabilityData::Handles(handles) = asked.map_err(failed(COMMAND))?.0 else {
            return Err(TpmError::Answer { command: COMMAND });
        };
        Ok(handles.iter().map(|handle| u32::from(*handle)).collect())
    }

    /// What an NV index holds.
    fn nv(&mut self, index: u32) -> Result<Vec<u8>, TpmError> {
        const COMMAND: &str = "TPM2_NV_Read";
        const OTHER: TpmError = TpmError::Answer { command: COMMAND };
        let handle = NvIndexTpmHandle::new(index).map_err(failed(COMMAND))?;
        let handle = self.context.tr_from_tpm_public(TpmHandle::NvIndex(handle)).map_err(failed(COMMAND))?;
        let handle = NvIndexHandle::from(handle);
        let (public, _) = self.context.nv_read_public(handle).map_err(failed("TPM2_NV_ReadPublic"))?;
        let size = u16::try_from(public.data_size()).ok().filter(|size| usize::from(*size) <= CERTIFICATE_BYTES_MAX);
        let size = size.ok_or(OTHER)?;
        let mut bytes = Vec::new();
        while let Some(left) =
            u16::try_from(bytes.len()).ok().and_then(|read| size.checked_sub(read)).filter(|n| *n > 0)
        {
            let piece = self.piece(handle, left.min(PIECE_BYTES), size - left).map_err(failed(COMMAND))?;
            if piece.is_empty() {
                return Err(OTHER);
            }
            bytes.extend(piece);
        }
        Ok(bytes)
    }

    fn piece(&mut self, index: NvIndexHandle, bytes: u16, offset: u16) -> Result<Vec<u8>, TssError> {
        let read = |context: &mut Context| context.nv_read(NvAuth::NvIndex(index), index, bytes, offset);
        Ok(self.context.execute_with_session(Some(AuthSession::Password), read)?.value().to_vec())
    }
}

fn algorithm(kind: EkKind) -> AsymmetricAlgorithmSelection {
    match kind {
        EkKind::Rsa2048 => AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048),
        EkKind::P256 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256),
        EkKind::P384 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP384),
    }
}

fn branches() -> Result<DigestList, TssError> {
    let mut branches = DigestList::new();
    branches.add(Digest::try_from(POLICY_A.as_slice())?)?;
    branches.add(Digest::try_from(POLICY_C.as_slice())?)?;
    Ok(branches)
}
