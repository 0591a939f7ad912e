//! A step's key: made for one step that was admitted and begun, certified as what it is, gone with the step's last signature.
//!
//! [`StepKey::issue`] is the only way to one and takes a [`Begun`], of which [`crate::order`] makes one for each step, under a recorded
//! ALLOW. What the certificate says of job and step is what PID 1 measured; the rest is the builder's observation, which a verifier
//! holds against the record. Deliberately absent: any way for a step to ask for anything. It has no socket to PID 1 and no path to one.

use ed25519_dalek::{Signature, Signer as _, SigningKey};
use kiln_builder::custody::Task;
use kiln_formats::certificate::{SERIAL_BYTES, StepDraft, StepIdentity};
use kiln_formats::names::Name;

use crate::custody::{CustodyError, seed};
use crate::order::Begun;

/// The key of one step.
pub(crate) struct StepKey {
    step: Name,
    key: SigningKey,
}

impl StepKey {
    /// Makes a key for the step and certifies it with the issuer's: the key, and its certificate in DER.
    ///
    /// # Errors
    /// [`CustodyError::Random`], [`CustodyError::Identity`].
    pub(crate) fn issue(begun: Begun, task: &Task, issuer: &SigningKey) -> Result<(Self, Vec<u8>), CustodyError> {
        let key = SigningKey::from_bytes(&*seed()?);
        let draft = StepDraft {
            trust_domain: &task.trust_domain,
            machine: &task.machine,
            build_id: &task.build_id,
            step: begun.step(),
            identity: StepIdentity {
                job_sha256: begun.job_sha256(),
                step_sha256: begun.step_sha256(),
                image_root_hash: task.image_root_hash,
                argv_sha256: task.argv_sha256,
                enforced_sha256: task.enforced_sha256,
            },
            begin: task.begin,
            end: task.end,
            serial: seed()?.first_chunk::<SERIAL_BYTES>().copied().unwrap_or_default(),
        };
        let certificate = draft.issue(&key.verifying_key(), issuer).and_then(|certificate| certificate.to_der());
        let certificate = certificate.map_err(|source| CustodyError::Identity { source })?;
        Ok((Self { step: begun.into_step(), key }, certificate))
    }

    /// Signs for its own step, and for no other.
    pub(crate) fn sign(&self, step: &Name, message: &[u8]) -> Option<Signature> {
        (self.step == *step).then(|| self.key.sign(message))
    }
}
