//! What is going on, as it happens: for whoever watches. Nothing is decided by it.

use kiln_formats::decision::Decision;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::log::Frame;
use kiln_formats::names::Name;
use kiln_formats::record::StepRecord;
use kiln_formats::runtime_trace::RuntimeTrace;

/// What a certified key of the machine has signed. Whether it is true the verifier finds out.
#[derive(Debug)]
pub struct Signed<T> {
    /// What it says.
    pub content: T,
    /// The digest of the signed payload, by which the evidence names it.
    pub payload_sha256: Sha256Digest,
}

/// What is going on, as it happens.
#[derive(Debug)]
pub enum Report<'a> {
    /// The machine's first request has come.
    Connected,
    /// The quote held; times are those of the machine's boot clock, believed for nothing.
    Attested {
        /// The build.
        build_id: &'a Name,
        /// When PID 1 started, in microseconds since the kernel did.
        init_uptime_us: u64,
        /// When the attestation was sent, on the same clock.
        sent_uptime_us: u64,
    },
    /// The job was asked for.
    JobTaken,
    /// An input was asked for.
    InputTaken {
        /// Which.
        sha256: Sha256Digest,
    },
    /// The machine decided.
    Decided(&'a Signed<Decision>),
    /// A step's log was opened.
    StepBegun(&'a Name),
    /// A step wrote something.
    StepWrote(&'a Name, Frame<'a>),
    /// A step's log was closed.
    StepEnded(&'a Name),
    /// What a step did has come.
    StepTraced(&'a Name, &'a Signed<RuntimeTrace>),
    /// A step's record has come.
    StepRecorded(&'a Signed<StepRecord>),
    /// A file of the bundle has come whole.
    FileTaken {
        /// Its path in the bundle.
        path: &'a str,
        /// Its size.
        bytes: u64,
    },
}

/// A listener for [`Report`]s.
pub type Listener<'a> = &'a mut (dyn FnMut(Report<'_>) + Send);
