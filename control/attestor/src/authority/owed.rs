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
    due: Due,
}

/// What comes when; what is signed, by the step's own key.
enum Due {
    Identity,
    Trace(VerifyingKey),
    Record(VerifyingKey),
}

impl Owed {
    /// All of it.
    pub(super) fn by(step: Name) -> Self {
        Self { step, due: Due::Identity }
    }

    /// Where it is sent to.
    pub(super) fn path(&self) -> String {
        let prefix = match self.due {
            Due::Identity => path::IDENTITIES,
            Due::Trace(_) => path::TRACES,
            Due::Record(_) => path::RECORDS,
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
        let Self { step, due } = self;
        Ok(match due {
            Due::Identity => {
                let key = identity(bytes, &step, admitted)?;
                if known.contains(&key) {
                    return Err(Fault::StatementMismatch { kind: "identity", step });
                }
                known.push(key);
                Some(Self { step, due: Due::Trace(key) })
            }
            Due::Trace(key) => {
                let trace = checks::trace(bytes, &admitted.challenge.build_id, &step, &key)?;
                listener(Report::StepTraced(&step, &trace));
                Some(Self { step, due: Due::Record(key) })
            }
            Due::Record(key) => {
                listener(Report::StepRecorded(&checks::record(bytes, &step, &key)?));
                None
            }
        })
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
