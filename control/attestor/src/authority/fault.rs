//! Why a machine could not be served to its end.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use kiln_formats::certificate::CertificateError;
use kiln_formats::names::Name;
use kiln_formats::{canonical, dsse, log};

use crate::certify::CertifyError;
use crate::intake::IntakeError;
use crate::link::LinkError;
use crate::site::FileError;
use crate::site::enrolment::EnrolmentError;
use crate::site::trust_lists::TrustListsError;
use crate::state::{Refusal, StateError};

/// The machine, its link or this host failed, or the machine did not keep to the protocol. There is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A file was not taken in.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// The run took longer than it may.
    #[error("the machine was not done within the deadline of {} s", deadline.as_secs())]
    Deadline {
        /// The bound.
        deadline: Duration,
    },
    /// The TPM of the machine's host did not quote.
    #[error("the TPM of this host did not quote")]
    Host {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A request that has no place here.
    #[error("the machine asked for {asked:?} where the protocol has {expected}")]
    OutOfOrder {
        /// What has its place here.
        expected: &'static str,
        /// What was asked for, cut to a bounded length.
        asked: String,
    },
    /// More requests of one kind than a job can need.
    #[error("the machine asked for more than {count_max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        count_max: usize,
    },
    /// A message that cannot be read.
    #[error("the machine's message to {path} cannot be read")]
    Malformed {
        /// Where it was sent.
        path: String,
        /// What the reader says.
        source: serde_json::Error,
    },
    /// A document of ours that has no canonical form.
    #[error("cannot encode an answer")]
    Encode {
        /// What the encoder says.
        source: canonical::Error,
    },
    /// The decision is not signed by the certified key.
    #[error("the decision's signature does not hold")]
    DecisionSignature {
        /// Why.
        source: dsse::Error,
    },
    /// The decision's payload is no decision.
    #[error("the decision cannot be read")]
    DecisionSyntax {
        /// Why.
        source: canonical::Error,
    },
    /// The decision is about something else.
    #[error("the decision is about another {field}")]
    DecisionMismatch {
        /// What differs.
        field: &'static str,
    },
    /// A step's certificate that is none.
    #[error("the certificate of step {step} does not hold")]
    StepCertificate {
        /// The step.
        step: Name,
        /// Why.
        source: CertificateError,
    },
    /// A statement on a step that is not signed by the certified key.
    #[error("the signature of the {kind} of step {step} does not hold")]
    StatementSignature {
        /// `record` or `trace`.
        kind: &'static str,
        /// The step.
        step: Name,
        /// Why.
        source: dsse::Error,
    },
    /// A statement on a step whose payload is none.
    #[error("the {kind} of step {step} cannot be read")]
    StatementSyntax {
        /// `record` or `trace`.
        kind: &'static str,
        /// The step.
        step: Name,
        /// Why.
        source: canonical::Error,
    },
    /// A statement or certificate on something else, or one of a key that serves for something else.
    #[error("what came as the {kind} of step {step} is about something else")]
    StatementMismatch {
        /// `record`, `trace` or `identity`.
        kind: &'static str,
        /// The step.
        step: Name,
    },
    /// What happens could not be told where the authority was asked to tell it.
    #[error("cannot tell what happens")]
    Untold {
        /// Why.
        source: io::Error,
    },
    /// A log that no machine writes.
    #[error("the log of step {step} is cut short, or longer than {bytes_max} bytes")]
    Log {
        /// The step.
        step: Name,
        /// The bound.
        bytes_max: u64,
    },
    /// A log that is no sequence of frames.
    #[error("a log is not in frames, or they are out of order")]
    LogFrame {
        /// Why.
        #[from]
        source: log::Error,
    },
    /// The last message contradicts what came before it.
    #[error("the machine says {said} after it {did}")]
    Contradiction {
        /// What the last message says.
        said: &'static str,
        /// What came before.
        did: &'static str,
    },
    /// An input cannot be read on this host.
    #[error("cannot read the input {}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What the site has chosen as TPMs cannot be read.
    #[error("cannot read whose TPMs the site enrols")]
    Enrolment {
        /// Why.
        #[from]
        source: EnrolmentError,
    },
    /// The site's trust lists cannot be read.
    #[error("cannot read the site's trust lists")]
    TrustLists {
        /// Why.
        #[from]
        source: TrustListsError,
    },
    /// What the site keeps of its images' provenance cannot be read.
    #[error("cannot read the image's provenance")]
    ImageProvenance {
        /// Why.
        #[from]
        source: FileError,
    },
    /// A certificate could not be made.
    #[error("cannot certify the machine")]
    Certify {
        /// Why.
        #[from]
        source: CertifyError,
    },
    /// What the authority remembers cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// What the authority remembers forbids it.
    #[error("the authority's own state forbids it: {refusal}")]
    Forbidden {
        /// Which rule.
        refusal: Refusal,
    },
    /// The kernel gives no randomness.
    #[error("cannot draw random bytes")]
    Random {
        /// Why.
        #[from]
        source: getrandom::Error,
    },
    /// The wall clock is before 1970 or after 9999.
    #[error("this host's clock is out of range")]
    Clock,
    /// The site's trust domain cannot be part of a SPIFFE id.
    #[error("the trust domain or the build id has no place in a SPIFFE id")]
    BuildId,
}

impl Fault {
    /// Stable, for the ledger and for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Link(LinkError::Closed) => "link_closed",
            Self::Link(LinkError::Http { .. }) => "link_failed",
            Self::Link(LinkError::Silent { .. }) => "silent",
            Self::Link(LinkError::TooLarge { .. }) => "too_large",
            Self::Intake(_) => "file",
            Self::Deadline { .. } => "deadline",
            Self::Host { .. } => "host_tpm",
            Self::OutOfOrder { .. } => "out_of_order",
            Self::TooMany { .. } => "too_many",
            Self::Malformed { .. } => "malformed",
            Self::DecisionSignature { .. } | Self::DecisionSyntax { .. } | Self::DecisionMismatch { .. } => "decision",
            Self::StatementSignature { kind, .. }
            | Self::StatementSyntax { kind, .. }
            | Self::StatementMismatch { kind, .. } => kind,
            Self::StepCertificate { .. } => "identity",
            Self::Log { .. } | Self::LogFrame { .. } => "log",
            Self::Contradiction { .. } => "contradiction",
            Self::State(_) => "state",
            Self::Enrolment { .. } => "enrolment_roots",
            Self::TrustLists { .. } => "trust_lists",
            Self::ImageProvenance { .. } => "image_provenance",
            Self::Forbidden { refusal } => refusal.code(),
            Self::Encode { .. }
            | Self::Untold { .. }
            | Self::Input { .. }
            | Self::Certify { .. }
            | Self::Random { .. }
            | Self::Clock
            | Self::BuildId => "authority",
        }
    }
}
