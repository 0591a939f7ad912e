//! The order in which a machine's one life goes, and nothing else: no TPM, no key, no bytes.
//!
//! [`Order`] is asked before each act; a yes is recorded at once, because an act that fails after it ends the machine. What
//! holds after any sequence of yeses: one job, at most one ALLOW, nothing signed but the payload that the last event names, no
//! key for a step without an ALLOW and its begin, no record of one without its key and its trace, no quote of a machine that did not enrol, nothing measured after `final`, nothing at all after the last quote.

use std::collections::BTreeSet;

use kiln_builder::custody::{Label, Refusal, WhichQuote};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::event::Event;
use kiln_formats::manifest::Outcome;
use kiln_formats::names::Name;

#[cfg(test)]
mod tests;

/// Where the machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Nothing is measured.
    Started,
    /// PID 1's program is.
    Identified,
    /// So is a server's uplink.
    Connected,
    /// So is the configuration.
    Configured,
    /// So is the trust bundle.
    Trusted,
    /// The credential of the enrolment was opened.
    Activated,
    /// The first quote was made.
    Attested,
    /// A job is there, undecided.
    Offered { job: Sha256Digest },
    /// It is admitted; the decision is not measured yet.
    Allowed { job: Sha256Digest },
    /// It is not, and never will be.
    Denied,
    /// Inputs arrive; no step has begun.
    Supplied,
    /// A step runs.
    Running { step: Name, sha256: Sha256Digest },
    /// It has a key of its own.
    Known { step: Name },
    /// It has ended, and what it did is measured.
    Traced { step: Name },
    /// A step has ended.
    Paused,
    /// At least one output is measured.
    Collected,
    /// The provenance is.
    Stated,
    /// The manifest is.
    Listed { outcome: Outcome },
    /// `final` is.
    Finished { outcome: Outcome },
    /// The last quote was made.
    Closed { outcome: Outcome },
}

impl Stage {
    /// What has become of the job, where its evidence may be closed. A provenance is the mark of a job that was built.
    fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Denied => Some(Outcome::Refused),
            Self::Paused | Self::Collected => Some(Outcome::StepFailed),
            Self::Stated => Some(Outcome::Built),
            _ => None,
        }
    }
}

/// Why an act is not the next one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// It is answered with no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something else comes first.
    #[error("{act} is out of order")]
    OutOfOrder {
        /// What was asked for.
        act: String,
    },
    /// The payload that the last event names is not signed yet.
    #[error("{act} comes before the signature of what was measured last")]
    Unsigned {
        /// What was asked for.
        act: String,
    },
    /// A payload, or a job, with another digest than what was measured.
    #[error("{act} names something else than what was measured")]
    Other {
        /// What was asked for.
        act: String,
    },
    /// A second input, step or output of a name.
    #[error("{act} is the second of its name")]
    Twice {
        /// What was asked for.
        act: String,
    },
}

/// A step that was admitted, in a decision that is measured and signed, and begun. Only [`Order::identify`] makes one, once for each
/// step; only with one can a step get a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    step: Name,
    job_sha256: Sha256Digest,
    step_sha256: Sha256Digest,
}

impl Begun {
    /// The step's name.
    pub(crate) fn step(&self) -> &Name {
        &self.step
    }

    /// The same, when nothing else is needed any more.
    pub(crate) fn into_step(self) -> Name {
        self.step
    }

    /// The admitted job, as measured.
    pub(crate) fn job_sha256(&self) -> Sha256Digest {
        self.job_sha256
    }

    /// The step's text, as measured.
    pub(crate) fn step_sha256(&self) -> Sha256Digest {
        self.step_sha256
    }
}

/// How far the machine is.
#[derive(Debug)]
pub(crate) struct Order {
    stage: Stage,
    /// The job of the decision that allows one, once it is measured.
    admitted: Option<Sha256Digest>,
    unsigned: Option<(Label, Sha256Digest)>,
    inputs: BTreeSet<Name>,
    steps: BTreeSet<Name>,
    outputs: BTreeSet<Name>,
}

impl Order {
    /// A machine that has done nothing.
    pub(crate) fn new() -> Self {
        let (inputs, steps, outputs) = Default::default();
        Self { stage: Stage::Started, admitted: None, unsigned: None, inputs, steps, outputs }
    }

    /// May this event be measured now?
    ///
    /// # Errors
    /// [`Violation`]; a second job is [`Refusal::OneShot`].
    pub(crate) fn measure(&mut self, event: &Event) -> Result<(), Violation> {
        let act = || event.to_string();
        if matches!(event, Event::Job(_)) && self.has_had_a_job() {
            return Err(Refusal::OneShot.into());
        }
        if self.unsigned.is_some() {
            return Err(Violation::Unsigned { act: act() });
        }
        let (next, unsigned) = match (&self.stage, event) {
            (Stage::Started, Event::Init(_)) => (Stage::Identified, None),
            (Stage::Identified, Event::Uplink(_)) => (Stage::Connected, None),
            (Stage::Identified | Stage::Connected, Event::Configuration(_)) => (Stage::Configured, None),
            (Stage::Configured, Event::Trust(_)) => (Stage::Trusted, None),
            (Stage::Attested, Event::Job(job)) => (Stage::Offered { job: *job }, None),
            (Stage::Offered { .. }, Event::Decision(digest)) => (Stage::Denied, Some((Label::Decision, *digest))),
            (Stage::Allowed { job }, Event::Decision(digest)) => {
                self.admitted = Some(*job);
                (Stage::Supplied, Some((Label::Decision, *digest)))
            }
            (Stage::Supplied, Event::Input(name, _)) => {
                first_of_name(&mut self.inputs, name, act)?;
                (Stage::Supplied, None)
            }
            (Stage::Supplied | Stage::Paused, Event::StepBegin(name, sha256)) => {
                first_of_name(&mut self.steps, name, act)?;
                (Stage::Running { step: name.clone(), sha256: *sha256 }, None)
            }
            (Stage::Known { step }, Event::StepTrace(name, digest)) if step == name => {
                (Stage::Traced { step: name.clone() }, Some((Label::Trace { step: name.clone() }, *digest)))
            }
            (Stage::Traced { step }, Event::StepEnd(name, digest)) if step == name => {
                (Stage::Paused, Some((Label::Record { step: name.clone() }, *digest)))
            }
            (Stage::Paused | Stage::Collected, Event::Output(name, _)) => {
                first_of_name(&mut self.outputs, name, act)?;
                (Stage::Collected, None)
            }
            (Stage::Paused | Stage::Collected, Event::Provenance(digest)) => {
                (Stage::Stated, Some((Label::Provenance, *digest)))
            }
            (stage, Event::Manifest(digest)) => match stage.outcome() {
                Some(outcome) => (Stage::Listed { outcome }, Some((Label::Manifest, *digest))),
                None => return Err(Violation::OutOfOrder { act: act() }),
            },
            (Stage::Listed { outcome }, Event::Final) => (Stage::Finished { outcome: *outcome }, None),
            _ => return Err(Violation::OutOfOrder { act: act() }),
        };
        self.stage = next;
        self.unsigned = unsigned;
        Ok(())
    }

    /// May the measured job be admitted now?
    ///
    /// # Errors
    /// [`Refusal::OneShot`] if a job was decided on before; [`Violation::Other`] for another job than the measured one.
    pub(crate) fn allow(&mut self, job: &Sha256Digest) -> Result<(), Violation> {
        let act = || format!("allow {job}");
        match &self.stage {
            Stage::Offered { job: measured } if measured == job => self.stage = Stage::Allowed { job: *job },
            Stage::Offered { .. } => return Err(Violation::Other { act: act() }),
            _ if self.has_had_a_job() => return Err(Refusal::OneShot.into()),
            _ => return Err(Violation::OutOfOrder { act: act() }),
        }
        Ok(())
    }

    /// May this step get a key now? Once, while it runs, if its job was admitted.
    ///
    /// # Errors
    /// [`Refusal::NoAdmissionLabel`].
    pub(crate) fn identify(&mut self, step: &Name) -> Result<Begun, Violation> {
        match (&self.stage, self.admitted) {
            (Stage::Running { step: running, sha256 }, Some(job_sha256)) if running == step => {
                let begun = Begun { step: step.clone(), job_sha256, step_sha256: *sha256 };
                self.stage = Stage::Known { step: step.clone() };
                Ok(begun)
            }
            _ => Err(Refusal::NoAdmissionLabel.into()),
        }
    }

    /// May a payload with this digest be signed now?
    ///
    /// # Errors
    /// [`Refusal::NoAdmissionLabel`] for the trace or record of a step that has not been admitted, begun and ended; [`Violation`].
    pub(crate) fn sign(&mut self, label: &Label, payload: &Sha256Digest) -> Result<(), Violation> {
        let act = || format!("a signature as {label:?}");
        match &self.unsigned {
            Some((awaited, digest)) if awaited == label && digest == payload => {
                self.unsigned = None;
                Ok(())
            }
            Some((awaited, _)) if awaited == label => Err(Violation::Other { act: act() }),
            _ if matches!(label, Label::Trace { .. } | Label::Record { .. }) => Err(Refusal::NoAdmissionLabel.into()),
            _ => Err(Violation::OutOfOrder { act: act() }),
        }
    }

    /// May a credential be opened now? Once, when the machine knows whom it talks to and before it vouches for anything.
    ///
    /// # Errors
    /// [`Violation::OutOfOrder`].
    pub(crate) fn activate(&mut self) -> Result<(), Violation> {
        if self.stage != Stage::Trusted {
            return Err(Violation::OutOfOrder { act: "the activation of a credential".to_owned() });
        }
        self.stage = Stage::Activated;
        Ok(())
    }

    /// May this quote be made now?
    ///
    /// # Errors
    /// [`Violation::OutOfOrder`].
    pub(crate) fn quote(&mut self, which: WhichQuote) -> Result<(), Violation> {
        self.stage = match (&self.stage, which) {
            (Stage::Activated, WhichQuote::First) => Stage::Attested,
            (Stage::Finished { outcome }, WhichQuote::Last) => Stage::Closed { outcome: *outcome },
            _ => return Err(Violation::OutOfOrder { act: format!("the {which:?} quote") }),
        };
        Ok(())
    }

    /// Did the machine's life end so?
    ///
    /// # Errors
    /// [`Violation::OutOfOrder`].
    pub(crate) fn done(&self, outcome: Outcome) -> Result<(), Violation> {
        if self.stage == (Stage::Closed { outcome }) {
            Ok(())
        } else {
            Err(Violation::OutOfOrder { act: format!("the end as {outcome:?}") })
        }
    }

    fn has_had_a_job(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Started
                | Stage::Identified
                | Stage::Connected
                | Stage::Configured
                | Stage::Trusted
                | Stage::Activated
                | Stage::Attested
        )
    }
}

fn first_of_name(names: &mut BTreeSet<Name>, name: &Name, act: impl FnOnce() -> String) -> Result<(), Violation> {
    if names.insert(name.clone()) { Ok(()) } else { Err(Violation::Twice { act: act() }) }
}
