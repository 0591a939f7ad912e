//! The answer.

use kiln_formats::decision::Refusal;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::endorsement::TpmClass;
use kiln_formats::manifest::Outcome;
use kiln_formats::names::Name;
use kiln_formats::quote::Quote;
use serde::Serialize;

use crate::finding::{Finding, Findings, Gate};
use crate::statement::Artifact;
use crate::step::StepReport;

/// What became of one gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GateState {
    /// Everything that the gate asks for holds.
    Passed,
    /// Something does not.
    Failed,
    /// An earlier gate ended the judgement, or the job was refused and there is nothing for this gate to judge.
    NotReached,
}

/// One gate and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GateReport {
    /// Which.
    pub gate: Gate,
    /// What became of it.
    pub state: GateState,
}

/// What the quotes say of the TPM's clock: recorded for whoever compares builds, judged only between the two quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TpmReport {
    /// How often the TPM was reset in its life; a value that comes twice for one TPM means that one boot served two builds.
    pub reset_count: u32,
    /// How often it was restarted since the reset.
    pub restart_count: u32,
    /// Whether the TPM's clock was known never to have run backwards, at both quotes.
    pub clock_safe: bool,
    /// Milliseconds between the quotes, by the TPM's clock.
    pub elapsed_ms: u64,
}

impl TpmReport {
    pub(crate) fn new(first: &Quote, last: &Quote) -> Self {
        Self {
            reset_count: last.clock.reset_count,
            restart_count: last.clock.restart_count,
            clock_safe: first.clock.safe && last.clock.safe,
            elapsed_ms: last.clock.clock_ms.saturating_sub(first.clock.clock_ms),
        }
    }
}

/// What the evidence shows. Fields that a gate proves are there once that gate is passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What became of the job; `None` if a gate before the steps failed.
    pub outcome: Option<Outcome>,
    /// Why the machine refused the job, if it did.
    pub refusal: Option<Refusal>,
    /// The build (gate quote).
    pub build_id: Option<Name>,
    /// The machine: the digest of its endorsement key, on the authority's word (gate quote).
    pub machine: Option<Sha256Digest>,
    /// As what the site enrols the machine's TPM, on the authority's word (gate boot).
    pub machine_class: Option<TpmClass>,
    /// The host that the machine stands on, if its TPM quoted for this build: the digest of its endorsement key (gate boot).
    pub host: Option<Sha256Digest>,
    /// The kind of machine (gate boot).
    pub builder_id: Option<String>,
    /// The image that ran (gate boot).
    pub image_sha256: Option<Sha256Digest>,
    /// The job document (gate job).
    pub job_sha256: Option<Sha256Digest>,
    /// The number of the trust list that the evidence was held against; `None` if the person brought none, so that nothing was held
    /// against revocations.
    pub trust_list: Option<u64>,
    /// The TPM's clock (gate quote).
    pub tpm: Option<TpmReport>,
    /// What the steps did, in their order (gate step).
    pub steps: Vec<StepReport>,
    /// What was built; empty unless [`Verdict::passed`].
    pub artifacts: Vec<Artifact>,
    /// Every gate, in order.
    pub gates: Vec<GateReport>,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// The evidence is sound and the job was built: the artifacts are what it says.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.holds() && self.outcome == Some(Outcome::Built)
    }

    /// The evidence is sound, whatever it shows.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.findings.is_empty() && self.outcome.is_some()
    }

    pub(crate) fn not_reached() -> Self {
        Self {
            outcome: None,
            refusal: None,
            build_id: None,
            machine: None,
            machine_class: None,
            host: None,
            builder_id: None,
            image_sha256: None,
            job_sha256: None,
            trust_list: None,
            tpm: None,
            steps: Vec::new(),
            artifacts: Vec::new(),
            gates: Gate::ALL.map(|gate| GateReport { gate, state: GateState::NotReached }).to_vec(),
            findings: Vec::new(),
        }
    }

    fn set(&mut self, gate: Gate, state: GateState) {
        self.gates.iter_mut().filter(|report| report.gate == gate).for_each(|report| report.state = state);
    }

    pub(crate) fn pass(&mut self, gate: Gate) {
        self.set(gate, GateState::Passed);
    }

    /// Takes in all that a collecting gate found.
    pub(crate) fn report(&mut self, gate: Gate, findings: Vec<Finding>) {
        self.set(gate, if findings.is_empty() { GateState::Passed } else { GateState::Failed });
        self.findings.extend(findings);
    }

    /// Takes in why the judgement ended.
    pub(crate) fn stop(&mut self, findings: Findings) {
        for finding in &findings.0 {
            self.set(finding.gate, GateState::Failed);
        }
        self.findings.extend(findings.0);
    }
}
