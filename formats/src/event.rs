//! What PID 1 extends into PCR 15: one word for each thing that happens, in a fixed order.
//!
//! The digest of an event, in every bank, is the hash of its text (UTF-8, no NUL), so that a reader can check content and not
//! only digests. PCR 15 is ours alone: no firmware, loader or kernel writes to it.

use std::fmt;
use std::str::FromStr;

use crate::digest::Sha256Digest;
use crate::names::Name;

/// The longest text of an event in bytes: the longest word, a name, an algorithm, a digest and three colons fit twice over.
pub const EVENT_BYTES_MAX: usize = 256;

/// One event of PCR 15. Text form: `kind[:name][:sha256:HEX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The digest of PID 1's program, the first thing it measures.
    Init(Sha256Digest),
    /// How a server reaches its authority, as found on its disk, before it is read. A virtual machine has no such event.
    Uplink(Sha256Digest),
    /// The site's configuration, as received, before it is read.
    Configuration(Sha256Digest),
    /// The site's trust bundle, as received, before it is read. Ends the boot part: the first quote follows.
    Trust(Sha256Digest),
    /// The job document, as received.
    Job(Sha256Digest),
    /// The decision on the job: the digest of its payload.
    Decision(Sha256Digest),
    /// An input that arrived whole, with its digest as computed here.
    Input(Name, Sha256Digest),
    /// A step is about to start: the digest of its canonical text in the job.
    StepBegin(Name, Sha256Digest),
    /// What a step did was heard to its end: the digest of its trace's payload.
    StepTrace(Name, Sha256Digest),
    /// A step has ended: the digest of its record's payload.
    StepEnd(Name, Sha256Digest),
    /// An output as it was collected.
    Output(Name, Sha256Digest),
    /// The provenance statement: the digest of its payload.
    Provenance(Sha256Digest),
    /// The manifest of the evidence: the digest of its payload.
    Manifest(Sha256Digest),
    /// Nothing comes after this. The last quote follows.
    Final,
}

/// Text that is no [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an event of this machine's vocabulary")]
pub struct ParseEventError;

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init(digest) => write!(f, "init:sha256:{digest}"),
            Self::Uplink(digest) => write!(f, "uplink:sha256:{digest}"),
            Self::Configuration(digest) => write!(f, "configuration:sha256:{digest}"),
            Self::Trust(digest) => write!(f, "trust:sha256:{digest}"),
            Self::Job(digest) => write!(f, "job:sha256:{digest}"),
            Self::Decision(digest) => write!(f, "decision:sha256:{digest}"),
            Self::Input(name, digest) => write!(f, "input:{name}:sha256:{digest}"),
            Self::StepBegin(name, digest) => write!(f, "step-begin:{name}:sha256:{digest}"),
            Self::StepTrace(name, digest) => write!(f, "step-trace:{name}:sha256:{digest}"),
            Self::StepEnd(name, digest) => write!(f, "step-end:{name}:sha256:{digest}"),
            Self::Output(name, digest) => write!(f, "output:{name}:sha256:{digest}"),
            Self::Provenance(digest) => write!(f, "provenance:sha256:{digest}"),
            Self::Manifest(digest) => write!(f, "manifest:sha256:{digest}"),
            Self::Final => f.write_str("final"),
        }
    }
}

impl FromStr for Event {
    type Err = ParseEventError;

    fn from_str(text: &str) -> Result<Self, ParseEventError> {
        let digest = |hex: &str| hex.parse::<Sha256Digest>().map_err(|_| ParseEventError);
        let name = |name: &str| name.parse::<Name>().map_err(|_| ParseEventError);
        match text.split(':').collect::<Vec<_>>().as_slice() {
            ["final"] => Ok(Self::Final),
            ["init", "sha256", hex] => Ok(Self::Init(digest(hex)?)),
            ["uplink", "sha256", hex] => Ok(Self::Uplink(digest(hex)?)),
            ["configuration", "sha256", hex] => Ok(Self::Configuration(digest(hex)?)),
            ["trust", "sha256", hex] => Ok(Self::Trust(digest(hex)?)),
            ["job", "sha256", hex] => Ok(Self::Job(digest(hex)?)),
            ["decision", "sha256", hex] => Ok(Self::Decision(digest(hex)?)),
            ["provenance", "sha256", hex] => Ok(Self::Provenance(digest(hex)?)),
            ["manifest", "sha256", hex] => Ok(Self::Manifest(digest(hex)?)),
            ["input", of, "sha256", hex] => Ok(Self::Input(name(of)?, digest(hex)?)),
            ["step-begin", of, "sha256", hex] => Ok(Self::StepBegin(name(of)?, digest(hex)?)),
            ["step-trace", of, "sha256", hex] => Ok(Self::StepTrace(name(of)?, digest(hex)?)),
            ["step-end", of, "sha256", hex] => Ok(Self::StepEnd(name(of)?, digest(hex)?)),
            ["output", of, "sha256", hex] => Ok(Self::Output(name(of)?, digest(hex)?)),
            _ => Err(ParseEventError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_reads_back() {
        let digest = Sha256Digest::of(b"x");
        let name: Name = "build".parse().unwrap();
        let events = [
            Event::Init(digest),
            Event::Uplink(digest),
            Event::Configuration(digest),
            Event::Trust(digest),
            Event::Job(digest),
            Event::Decision(digest),
            Event::Input(name.clone(), digest),
            Event::StepBegin(name.clone(), digest),
            Event::StepTrace(name.clone(), digest),
            Event::StepEnd(name.clone(), digest),
            Event::Output(name, digest),
            Event::Provenance(digest),
            Event::Manifest(digest),
            Event::Final,
        ];
        for event in events {
            let text = event.to_string();
            assert!(text.len() <= EVENT_BYTES_MAX);
            assert_eq!(text.parse(), Ok(event));
        }
        for bad in ["", "final:", "init", "init:sha256:", "input:../x:sha256:00", "step-begin:a:sha1:00"] {
            assert_eq!(bad.parse::<Event>(), Err(ParseEventError), "{bad}");
        }
    }
}
