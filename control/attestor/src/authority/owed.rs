//! What a step owes when its log is closed: its certificate, then its trace, then its record, signed with the certified key.
//!
//! Each is held against what the authority knows of the build; whether it is true the verifier finds out.

use ed25519_dalek::VerifyingKey;
use kiln_formats::certificate::{Certificate, IssuerCertificate, SpiffeId};
use kiln_formats::challenge::Challenge;
use kiln_formats::link::path;
use kiln_formats::names::Name;
use kiln_verifier::attestation::AttestedMachine;

use super::{Fault, Listener, Report, checks};

/// A machine whose first quote held.
pub(super) struct Admitted {
    pub(super) challenge: Challenge,
    pub(super) machine: AttestedMachine,
    /// Whose certificates its steps have.
    pub(super) issuer: IssuerCertificate,
}

/// The next thing that a step owes.
pub(super) struct Owed {
    step: Name,
    /// The step's own key, once its certificate has come.
    key: Option<VerifyingKey>,
    traced: bool,
}

impl Owed {
    /// All of it.
    pub(super) fn by(step: Name) -> Self {
        Self { step, key: None, traced: false }
    }

    /// Where it is sent to.
    pub(super) fn path(&self) -> String {
        let prefix = match (self.key, self.traced) {
            (None, _) => path::IDENTITIES,
            (Some(_), false) => path::TRACES,
            (Some(_), true) => path::RECORDS,
        };
        format!("{prefix}{}", self.step)
    }

    /// Takes it in; what is owed after it. `known` are the keys of this build so far: none serves twice.
    pub(super) fn take(
        self,
        bytes: &[u8],
        admitted: &Admitted,
        known: &mut Vec<VerifyingKey>,
        listener: Listener<'_>,
    ) -> Result<Option<Self>, Fault> {
        let Self { step, key, traced } = self;
        let Some(key) = key else {
            let key = identity(bytes, &step, admitted)?;
            if known.contains(&key) {
                return Err(Fault::StatementMismatch { kind: "identity", step });
            }
            known.push(key);
            return Ok(Some(Self { step, key: Some(key), traced }));
        };
        if traced {
            listener(Report::StepRecorded(&checks::record(bytes, &step, &key)?));
            return Ok(None);
        }
        let trace = checks::trace(bytes, &admitted.challenge.build_id, &step, &key)?;
        listener(Report::StepTraced(&step, &trace));
        Ok(Some(Self { step, key: Some(key), traced: true }))
    }
}

/// Is it the certificate of this step of this job, by this machine?
fn identity(bytes: &[u8], step: &Name, admitted: &Admitted) -> Result<VerifyingKey, Fault> {
    let Admitted { challenge, machine, issuer } = admitted;
    let unfit = |source| Fault::StepCertificate { step: step.clone(), source };
    let leaf = Certificate::from_pem(bytes).and_then(|leaf| issuer.step(&leaf)).map_err(unfit)?;
    let domain = &machine.configuration.trust_domain;
    let name = SpiffeId::step(domain, &machine.endorsement_key_sha256, &challenge.build_id, step);
    if name.as_ref() != Ok(&leaf.id) || leaf.identity.job_sha256 != challenge.job_sha256 {
        return Err(Fault::StatementMismatch { kind: "identity", step: step.clone() });
    }
    Ok(leaf.key)
}
