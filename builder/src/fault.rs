//! A fault: the machine cannot vouch for itself, so there is no evidence, only a reason on the console.
//!
//! A step that fails and a job that is refused are no faults: they are data and decisions, and end with evidence.

use std::error::Error as _;
use std::fmt::Write as _;

use crate::admit::AdmitError;
use crate::attest::AttestError;
use crate::boot::BootError;
use crate::custody::{CustodyError, FAULT_TEXT_BYTES_MAX};
use crate::link::LinkError;
use crate::run::RunError;

/// Why the builder stops without evidence.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The link to the authority.
    #[error("the link")]
    Link {
        /// What.
        #[from]
        source: LinkError,
    },
    /// PID 1.
    #[error("custody")]
    Custody {
        /// What.
        #[from]
        source: CustodyError,
    },
    /// What the machine was told before it was certified.
    #[error("the boot")]
    Boot {
        /// What.
        #[from]
        source: BootError,
    },
    /// The machine could not find out whether the job may run.
    #[error("admission")]
    Admit {
        /// What.
        #[from]
        source: AdmitError,
    },
    /// A step could not be started, confined or observed.
    #[error("the run")]
    Run {
        /// What.
        #[from]
        source: RunError,
    },
    /// What was observed could not be written down.
    #[error("the evidence")]
    Attest {
        /// What.
        #[from]
        source: AttestError,
    },
    /// The step launcher or the runtime could not be started.
    #[error("the builder could not start: {what}")]
    Start {
        /// Which part.
        what: &'static str,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Fault {
    /// A stable word for scripts: lowercase, with underscores.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Link { source } => source.code(),
            Self::Boot { source } => source.code(),
            Self::Custody { .. } => "custody",
            Self::Admit { source } => source.code(),
            Self::Run { source } => source.code(),
            Self::Attest { .. } => "attest",
            Self::Start { .. } => "start",
        }
    }

    /// The whole chain of causes on one line of at most [`FAULT_TEXT_BYTES_MAX`] bytes, control characters escaped.
    #[must_use]
    pub fn text(&self) -> String {
        let mut chain = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            // Writing to a String does not fail.
            let _ = write!(chain, ": {cause}");
            next = cause.source();
        }
        line(&chain, FAULT_TEXT_BYTES_MAX)
    }
}

/// `text` with control characters escaped and cut to `bytes_max`: safe on a terminal, and one line.
pub(crate) fn line(text: &str, bytes_max: usize) -> String {
    let mut line = String::new();
    for c in text.chars() {
        let escaped = c.is_control().then(|| c.escape_default().to_string());
        let piece = escaped.unwrap_or_else(|| c.to_string());
        if line.len() + piece.len() > bytes_max {
            break;
        }
        line.push_str(&piece);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_bounded_harmless_line() {
        let fault = Fault::from(LinkError::Answer { path: "/v1/job\n\u{1b}[2J".into(), status: 500 });
        let text = fault.text();
        assert_eq!(fault.code(), "link_answer");
        assert!(text.starts_with("the link: "), "{text}");
        assert!(text.contains("/v1/job\\n\\u{1b}[2J") && !text.contains('\n'), "{text}");
        assert_eq!(line(&"é".repeat(600), 511).len(), 510);
    }
}
