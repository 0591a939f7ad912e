//! Notices: what happens, as it happens, as lines of JSON for terminals, scripts and whoever watches many machines.
//!
//! Each line is canonical JSON and names the SHA-256 of the line before it, so that one that was taken out or changed on the way
//! shows. What a machine has signed is told with the digest of the signed payload, by which the evidence names it: a line is
//! believed once that evidence was verified. The rest is what the authority saw. `docs/notices.md` has each kind.
//!
//! Lines only leave. Nothing is read back, and nothing is decided by them; but an authority that was asked to tell and cannot is at
//! fault. Deliberately absent: the logs of steps, which are large and anyone's bytes.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use kiln_formats::canonical;
use kiln_formats::decision::{Code, Ruling};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::names::Name;
use kiln_formats::record::Exit;
use kiln_formats::timestamp::Timestamp;
use serde::Serialize;

use crate::authority::{Fault, Outcome, Report, word};

/// The version of this format.
const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    version: u32,
    sequence: u64,
    /// Zeros in the first.
    previous_sha256: Sha256Digest,
    /// The authority's clock.
    time: Option<Timestamp>,
    /// None before the machine has a challenge.
    build_id: Option<&'a Name>,
    notice: &'a Notice<'a>,
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Notice<'a> {
    /// The machine's quote held.
    Attested,
    /// A reason why a machine was refused.
    NotAttested { code: &'a str, object: &'a str },
    /// The job was handed over.
    JobTaken,
    /// An input was asked for.
    InputTaken { sha256: Sha256Digest },
    /// The machine decided on the job; `code` says why it refused it.
    Decided { allowed: bool, code: Option<Code>, payload_sha256: Sha256Digest },
    /// A step was started.
    StepBegun { step: &'a Name },
    /// A step tried something that its sandbox denied.
    Denied {
        step: &'a Name,
        layer: &'a Name,
        operation: &'a str,
        object: &'a str,
        count: u64,
        payload_sha256: Sha256Digest,
    },
    /// All that was seen of a step has come; so much of it is not listed.
    StepTraced {
        step: &'a Name,
        executions: usize,
        executions_unlisted: u64,
        denials_unlisted: u64,
        payload_sha256: Sha256Digest,
    },
    /// A step has ended.
    StepRecorded { step: &'a Name, exit: &'a Exit, wall_ms: u64, payload_sha256: Sha256Digest },
    /// The machine is gone: `built`, `step_failed`, `refused`, `not_attested`, or a fault's code.
    Ended { outcome: &'static str },
}

/// The notices that a report makes: none, one, or one for each denial.
pub(crate) fn of(report: &Report<'_>, tell: impl Fn(Notice<'_>)) {
    match report {
        Report::Attested { .. } => tell(Notice::Attested),
        Report::JobTaken => tell(Notice::JobTaken),
        Report::InputTaken { sha256 } => tell(Notice::InputTaken { sha256: *sha256 }),
        Report::Decided(decision) => {
            let code = match &decision.content.verdict {
                Ruling::Allow => None,
                Ruling::Deny(refusal) => Some(refusal.code),
            };
            tell(Notice::Decided { allowed: code.is_none(), code, payload_sha256: decision.payload_sha256 });
        }
        Report::StepBegun(step) => tell(Notice::StepBegun { step }),
        Report::StepTraced(step, trace) => {
            let (payload_sha256, log) = (trace.payload_sha256, &trace.content.monitor_log);
            for denial in &log.kiln_denials {
                let (layer, operation, object) = (&denial.layer, &denial.operation, &denial.object);
                tell(Notice::Denied { step, layer, operation, object, count: denial.count, payload_sha256 });
            }
            tell(Notice::StepTraced {
                step,
                executions: log.process.len(),
                executions_unlisted: log.kiln_unlisted.executions,
                denials_unlisted: log.kiln_unlisted.denials,
                payload_sha256,
            });
        }
        Report::StepRecorded(record) => {
            let (step, exit, wall_ms) = (&record.content.step, &record.content.exit, record.content.usage.wall_ms);
            tell(Notice::StepRecorded { step, exit, wall_ms, payload_sha256: record.payload_sha256 });
        }
        Report::Connected | Report::StepWrote(..) | Report::StepEnded(_) | Report::FileTaken { .. } => {}
    }
}

/// The last notices of a machine.
pub(crate) fn end(served: &Result<Outcome, Fault>, tell: impl Fn(Notice<'_>)) {
    if let Ok(Outcome::NotAttested(findings)) = served {
        findings.iter().for_each(|finding| tell(Notice::NotAttested { code: finding.code, object: &finding.object }));
    }
    tell(Notice::Ended { outcome: word(served) });
}

/// Where notices go: one chain of lines, of one machine or of many at once.
pub struct Notices(Mutex<Chain>);

struct Chain {
    sink: Box<dyn Write + Send>,
    sequence: u64,
    previous: Sha256Digest,
    failure: Option<io::Error>,
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notices")
    }
}

impl Notices {
    /// Begins a chain. Each line is handed to `sink` in one piece, which should not wait for long: machines wait for it.
    pub fn new(sink: impl Write + Send + 'static) -> Self {
        let previous = Sha256Digest::from_bytes([0; 32]);
        Self(Mutex::new(Chain { sink: Box::new(sink), sequence: 0, previous, failure: None }))
    }

    /// Why a line was not told, if one was not. Then none was after it.
    #[must_use]
    pub fn failure(&self) -> Option<io::Error> {
        let chain = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        chain.failure.as_ref().map(|error| io::Error::new(error.kind(), error.to_string()))
    }

    pub(crate) fn tell(&self, build_id: Option<&Name>, time: Option<Timestamp>, notice: &Notice<'_>) {
        let mut chain = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if chain.failure.is_none() {
            chain.failure = chain.write(build_id, time, notice).err();
        }
    }
}

impl Chain {
    fn write(&mut self, build_id: Option<&Name>, time: Option<Timestamp>, notice: &Notice<'_>) -> io::Result<()> {
        let (sequence, previous_sha256) = (self.sequence, self.previous);
        let line = Line { version: VERSION, sequence, previous_sha256, time, build_id, notice };
        let mut line = canonical::to_vec(&line).map_err(io::Error::other)?;
        self.previous = Sha256Digest::of(&line);
        self.sequence += 1;
        line.push(b'\n');
        self.sink.write_all(&line)?;
        self.sink.flush()
    }
}
