//! What a gate found wrong.

use std::fmt;

use kiln_formats::link::NotAttested;
use serde::Serialize;

/// The gates, in the order in which evidence passes them. Each undoes what one stage of the machine did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// Is the bundle whole and within bounds?
    Evidence,
    /// Did an enrolled TPM say so, to this challenge?
    Quote,
    /// Is it our image, booted as predicted?
    Boot,
    /// Is it the job that was signed and allowed, now, once?
    Job,
    /// Did each step run, in order, under the policy it claims?
    Step,
    /// Which outputs, signed by which key?
    Statement,
}

impl Gate {
    /// All gates in order.
    pub const ALL: [Self; 6] = [Self::Evidence, Self::Quote, Self::Boot, Self::Job, Self::Step, Self::Statement];
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Evidence => "evidence",
            Self::Quote => "quote",
            Self::Boot => "boot",
            Self::Job => "job",
            Self::Step => "step",
            Self::Statement => "statement",
        })
    }
}

/// One thing that is wrong with the evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("gate {gate}: {code}: {object}: {reason}")]
pub struct Finding {
    /// Where it was found.
    pub gate: Gate,
    /// Stable; scripts may rely on it.
    pub code: &'static str,
    /// The file, event or field that is wrong.
    pub object: String,
    /// One sentence for a person.
    pub reason: String,
}

impl Finding {
    pub(crate) fn new(gate: Gate, code: &'static str, object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { gate, code, object: object.into(), reason: reason.into() }
    }
}

impl From<Finding> for NotAttested {
    fn from(finding: Finding) -> Self {
        Self { code: finding.code.to_owned(), object: finding.object, reason: finding.reason }
    }
}

/// Everything that a gate found wrong; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings(pub Vec<Finding>);

impl From<Finding> for Findings {
    fn from(finding: Finding) -> Self {
        Self(vec![finding])
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, finding) in self.0.iter().enumerate() {
            write!(f, "{}{finding}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Findings {}
