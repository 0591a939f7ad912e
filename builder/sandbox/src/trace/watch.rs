//! Everything that is listened to on behalf of one step, from before its set-up until after its end.
//!
//! Four sources, none in the step's reach: the listener of its filter, the questions of fanotify, the records of audit, the
//! counters of its cgroup. Before the step runs, each has been heard once ([`Sources`]).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use super::audit::{self, Audit};
use super::call::{Call, Calls};
use super::denials::Denials;
use super::executions::{Executions, Failure};
use super::hearing::Hearing;
use super::record::{Record, escape};
use super::{Trace, refusal};
use crate::filter::Listener;
use crate::layer::{Layer, Requirements};
use crate::outcome::Usage;

/// Record types. Source: include/uapi/linux/audit.h.
const USER: u16 = 1005;
const LANDLOCK_ACCESS: u16 = 1423;
const LANDLOCK_DOMAIN: u16 = 1424;
const EOE: u16 = 1320;
/// How long a record is waited for that is on its way, before a barrier shows whether it has come.
const RECORD_TIMEOUT: Duration = Duration::from_millis(20);
/// How long audit may say nothing before a barrier.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the kernel takes at most to say how much a Landlock domain denied, once its last process is gone.
const DOMAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Records taken in between two looks at the other sources.
const RECORDS_MAX: usize = 256;

/// Why a trace cannot be had, or is not whole.
#[derive(Debug, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what its fields are")]
pub enum Error {
    #[error(
        "audit is off on this machine, so nothing would be heard of the step: switch it on (kiln_sandbox::switch_audit_on, or auditctl -e 1), or give up the trace"
    )]
    AuditOff,
    #[error("cannot use audit ({operation})")]
    Audit { operation: &'static str, source: io::Error },
    #[error("cannot answer the system call filter")]
    Filter { source: io::Error },
    #[error("{operation} failed")]
    Executions { operation: &'static str, source: io::Error },
    #[error("audit records were lost ({lost} in the kernel): the step did more at one time than can be heard")]
    Lost { lost: u32 },
    #[error("questions about executions were lost")]
    Overflow,
    #[error("{path:?} was executed, and nobody was asked")]
    Unasked { path: String },
    #[error("{path:?} took too long to hash while somebody waited to write it")]
    Lease { path: String },
    #[error("audit did not answer within {} s", BARRIER_TIMEOUT.as_secs())]
    Silent,
    #[error("the step has no audit session of its own: {found:?}")]
    Session { found: String },
    #[error("more system calls are without an end than can be")]
    Open,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Io { operation, source } => Self::Executions { operation, source },
            Failure::Overflow => Self::Overflow,
            Failure::Unasked { path } => Self::Unasked { path },
            Failure::Lease { path } => Self::Lease { path },
        }
    }
}

/// One step's sources.
#[derive(Debug)]
pub(crate) struct Watch {
    hearing: Hearing,
    listener: Option<Listener>,
    audit: Audit,
    executions: Executions,
    calls: Calls,
    /// Records lost on this machine before the step.
    lost_before: u32,
    company: Company,
    /// The step's Landlock domain, once it is known.
    domain: Option<u64>,
    /// What the domain denied so far by its records, and in all by the kernel's word at its end.
    domain_heard: u64,
    domain_total: Option<u64>,
    denials: Denials,
}

/// The watches of this process at one time: a record that the kernel lost may have been another's.
#[derive(Debug)]
struct Company {
    number: u64,
}

static JOINED: AtomicU64 = AtomicU64::new(0);
static LEFT: AtomicU64 = AtomicU64::new(0);

impl Company {
    fn join() -> Self {
        // In this order: whoever leaves in between counts as company.
        let left = LEFT.load(Ordering::SeqCst);
        let joined = JOINED.fetch_add(1, Ordering::SeqCst);
        Self { number: if joined == left { joined } else { u64::MAX } }
    }

    /// Whether there was no other from beginning to end.
    fn was_alone(&self) -> bool {
        self.number.checked_add(1) == Some(JOINED.load(Ordering::SeqCst))
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        LEFT.fetch_add(1, Ordering::SeqCst);
    }
}

/// What was heard of the step before it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sources {
    /// The other end of the filter is here.
    pub(crate) filter: bool,
    /// The kernel told of the forbidden thing that the set-up tried, and to which domain it was forbidden.
    pub(crate) landlock: bool,
    /// The kernel asks about executions from every mount that allows them.
    pub(crate) executions: bool,
}

impl Watch {
    /// Begins to listen.
    pub(crate) fn start(hearing: &Hearing, requirements: &Requirements) -> Result<Self, Error> {
        let company = Company::join();
        let audit = Audit::start().map_err(audit_error("socket"))?;
        let status = audit.status().map_err(audit_error("status"))?;
        if status.enabled == 0 {
            return Err(Error::AuditOff);
        }
        hearing.make_rules()?;
        let anonymous = !requirements.require(Layer::AnonymousExec);
        let executions = Executions::start(hearing.take_group()?, anonymous);
        Ok(Self {
            hearing: hearing.clone(),
            listener: None,
            audit,
            executions,
            // Nobody's, until the step is there.
            calls: Calls::of(u32::MAX),
            lost_before: status.lost,
            company,
            domain: None,
            domain_heard: 0,
            domain_total: None,
            denials: Denials::default(),
        })
    }

    /// Takes the other end of the step's filter.
    pub(crate) fn listen(&mut self, listener: OwnedFd) {
        self.listener = Some(Listener::new(listener));
    }

    /// Tells a step, which waits before its first execution, from all others by its audit session (the text of its `sessionid`), and
    /// has the kernel ask about executions from `mounts`, those of the step from which something can be executed.
    pub(crate) fn mark<'a>(
        &mut self,
        session: &str,
        mounts: impl Iterator<Item = BorrowedFd<'a>>,
    ) -> Result<(), Error> {
        let session = session.trim_end().parse().map_err(|_| Error::Session { found: session.to_owned() })?;
        self.calls = Calls::of(session);
        let failed = |source| Error::Executions { operation: "marks of fanotify", source };
        self.executions.mark(mounts).map_err(failed)
    }

    /// Whether the kernel holds all these marks.
    pub(crate) fn is_marked(&self) -> Result<bool, Error> {
        let failed = |source| Error::Executions { operation: "marks of fanotify", source };
        self.executions.is_marked().map_err(failed)
    }

    /// Whether the kernel has told of the forbidden thing that the step `pid` has just tried, and so to which Landlock domain it
    /// was forbidden. Not, if others flood it: then it is tried again.
    pub(crate) fn has_heard(&mut self, pid: i32) -> Result<bool, Error> {
        // What the set-up tried is no denial of the step's.
        self.domain_heard += 1;
        let (mut token, mut event) = (None, None);
        let soon = Instant::now() + RECORD_TIMEOUT;
        loop {
            // Most often it is on its way.
            let left = soon.saturating_duration_since(Instant::now());
            if token.is_none() && left.is_zero() {
                self.audit.mark().map_err(audit_error("barrier"))?;
                token = Some(self.audit.token().to_owned());
            }
            let Some((kind, text)) = self.audit.next().map_err(heard_error)? else {
                match token {
                    None => drop(has_come(&self.audit, left)?),
                    Some(_) => wait_for(&self.audit, BARRIER_TIMEOUT)?,
                }
                continue;
            };
            let Some(record) = Record::parse(text) else { continue };
            match kind {
                USER if token.as_deref().is_some_and(|token| record.contains(token)) => {
                    return Ok(self.domain.is_some());
                }
                LANDLOCK_DOMAIN if record.number("pid") == Some(pid.into()) => {
                    self.domain = self.domain.or(record.hexadecimal("domain"));
                    event = Some(record.serial);
                }
                // The last record of the forbidden call: none of the rest is taken for the step's.
                EOE if token.is_none() && event == Some(record.serial) => return Ok(true),
                _ => {}
            }
        }
    }

    /// Whether the other end of the filter is here.
    pub(crate) fn is_listening(&self) -> bool {
        self.listener.is_some()
    }

    /// From here on the step runs.
    pub(crate) fn begin(&mut self) {
        self.executions.begin();
    }

    /// What to wait for.
    pub(crate) fn polled(&self) -> Vec<PollFd<'_>> {
        let asked = if self.executions.is_open() { PollFlags::IN } else { PollFlags::empty() };
        let mut polled = vec![PollFd::new(&self.audit, PollFlags::IN), PollFd::new(&self.executions, asked)];
        polled.extend(self.listener.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        polled
    }

    /// Whether there is work that need not be waited for.
    pub(crate) fn is_busy(&self) -> bool {
        self.executions.is_busy()
    }

    /// Takes in what there is; `ready` are the answers to [`Watch::polled`].
    pub(crate) fn hear(&mut self, ready: &[PollFlags]) -> Result<(), Error> {
        let at = |position: usize| ready.get(position).copied().unwrap_or(PollFlags::empty());
        if at(1).contains(PollFlags::IN) {
            self.executions.answer()?;
        }
        if let Some(listener) = &self.listener {
            if at(2).contains(PollFlags::IN) {
                if let Some(call) = listener.deny_one().map_err(|source| Error::Filter { source })? {
                    self.denials.add(Layer::Seccomp, &call.name, &call.arguments, 1);
                }
            } else if !at(2).is_empty() {
                // Nobody is left who could ask.
                self.listener = None;
            }
        }
        if !at(0).is_empty() {
            self.records(None)?;
        }
        self.executions.work()?;
        Ok(())
    }

    /// Takes in records that have come, [`RECORDS_MAX`] at most. Whether `barrier` was among them.
    fn records(&mut self, barrier: Option<&str>) -> Result<bool, Error> {
        for _ in 0..RECORDS_MAX {
            let Some((kind, text)) = self.audit.next().map_err(heard_error)? else { break };
            let Some(record) = Record::parse(text) else { continue };
            let ours = self.domain.is_some() && record.hexadecimal("domain") == self.domain;
            match kind {
                USER if barrier.is_some_and(|barrier| record.contains(barrier)) => return Ok(true),
                LANDLOCK_ACCESS | LANDLOCK_DOMAIN if !ours => continue,
                LANDLOCK_DOMAIN => {
                    let total = record.number("denials").and_then(|total| u64::try_from(total).ok());
                    self.domain_total = self.domain_total.or(total);
                    continue;
                }
                LANDLOCK_ACCESS => {
                    self.domain_heard += 1;
                    let operation = record.word("blockers").unwrap_or_default().to_owned();
                    self.denials.add(Layer::Landlock, &operation, &landlock_object(&record), 1);
                }
                _ => {}
            }
            if let Some(call) = self.calls.take(kind, &record).map_err(|_| Error::Open)? {
                self.ended(&call)?;
            }
        }
        Ok(false)
    }

    /// Takes in a call of the step's that has ended.
    fn ended(&mut self, call: &Call) -> Result<(), Error> {
        if [libc::SYS_execve, libc::SYS_execveat].contains(&call.number) {
            self.executions.ended(call)?;
        }
        if let Some((layer, operation, object)) = refusal::of(call).filter(|_| !call.landlock) {
            self.denials.add(layer, &operation, &object, 1);
        }
        Ok(())
    }

    /// The step is gone: puts the barrier that [`Watch::finish`] waits for, behind any other.
    pub(crate) fn over(&mut self) -> Result<(), Error> {
        self.audit.mark().map_err(audit_error("barrier"))
    }

    /// The whole trace of a step that is gone and over.
    pub(crate) fn finish(mut self, usage: &Usage) -> Result<Trace, Error> {
        let token = self.audit.token().to_owned();
        // What waits is bounded by the queues, and nobody adds to it: only silence has a bound of time.
        while !self.records(Some(&token))? {
            wait_for(&self.audit, BARRIER_TIMEOUT)?;
        }
        let status = self.audit.status().map_err(audit_error("status"))?;
        let lost = status.lost.wrapping_sub(self.lost_before);
        if status.enabled == 0 || self.calls.has_open() || (lost > 0 && !self.executions.all_ended()) {
            return Err(Error::Lost { lost });
        }
        let uncounted = if lost == 0 { 0 } else { self.uncounted(lost)? };
        self.denials.add(Layer::Limits, "oom_kill", "memory", usage.oom_kills);
        self.denials.add(Layer::Limits, "max", "pids", usage.pids_refused);
        let (executions, executions_unlisted, group) = self.executions.finish()?;
        self.hearing.keep_group(group);
        let (denials, denials_unlisted) = self.denials.into_list();
        Ok(Trace { executions, executions_unlisted, denials, denials_unlisted: denials_unlisted + uncounted })
    }

    /// How many denials there were beyond those that were heard. Landlock's records are made where nothing can wait, so a flood
    /// of them is cut; the kernel counts them all the same. All others wait for room, a minute if need be; if a step was alone and
    /// more was lost than Landlock's, it was one of those.
    fn uncounted(&mut self, lost: u32) -> Result<u64, Error> {
        // It was made by the step, and so keeps the step's domain.
        self.listener = None;
        let deadline = Instant::now() + DOMAIN_TIMEOUT;
        while self.domain.is_some() && self.domain_total.is_none() {
            self.records(None)?;
            if self.domain_total.is_none() {
                wait_for(&self.audit, deadline.saturating_duration_since(Instant::now()))?;
            }
        }
        let uncounted = self.domain_total.map_or(Some(0), |total| total.checked_sub(self.domain_heard));
        let uncounted = uncounted.ok_or(Error::Lost { lost })?;
        // Whoever else hears records, in another process, has steps whose records may be those that were lost.
        let alone = self.company.was_alone() && audit::hearers().map_err(audit_error("sockets"))? == 1;
        if alone && u64::from(lost) > uncounted {
            return Err(Error::Lost { lost });
        }
        Ok(uncounted)
    }
}

/// On what: a path, or else everything that the record has beside the domain.
fn landlock_object(record: &Record<'_>) -> String {
    if let Some(path) = record.bytes("path") {
        return escape(&path);
    }
    let fields = record.fields().filter(|(key, _)| !matches!(*key, b"domain" | b"blockers"));
    let texts = fields.map(|(key, value)| {
        let (super::record::Value::Quoted(value) | super::record::Value::Bare(value)) = value;
        format!("{}={}", escape(key), escape(value))
    });
    texts.collect::<Vec<_>>().join(" ")
}

/// Waits until records have come; that none comes for as long as `most` is an error.
fn wait_for(audit: &Audit, most: Duration) -> Result<(), Error> {
    if has_come(audit, most)? { Ok(()) } else { Err(Error::Silent) }
}

/// Waits until records have come, or `most` is over. Whether they have, as far as is known.
fn has_come(audit: &Audit, most: Duration) -> Result<bool, Error> {
    let timeout = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: most.subsec_nanos().into() };
    match poll(&mut [PollFd::new(audit, PollFlags::IN)], Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(source) => Err(Error::Audit { operation: "poll", source: source.into() }),
    }
}

pub(super) fn audit_error(operation: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Audit { operation, source }
}

fn heard_error(source: io::Error) -> Error {
    if source.raw_os_error() == Some(libc::ENOBUFS) {
        return Error::Lost { lost: 0 };
    }
    Error::Audit { operation: "receive", source }
}
