//! Runs the admitted job's steps one after another and records each, in the order in which they ran.
//!
//! A step that does not succeed ends the job: that is data, signed like any other record. [`steps`] takes an [`AdmittedJob`] and
//! is the only constructor of [`Finished`], so nothing else can be attested.

mod capture;
mod identity;
mod observe;
mod outputs;
mod trace;

use std::io;

use hyper::Method;
use kiln_formats::canonical;
use kiln_formats::certificate::CertificateError;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::event::Event;
use kiln_formats::job::{CheckedJob, Job, Step};
use kiln_formats::link::{MESSAGE_BYTES_MAX, path};
use kiln_formats::manifest::path as file;
use kiln_formats::names::Name;
use kiln_formats::statement::ResourceDescriptor;
use kiln_sandbox::{Enforced, Launcher, Outcome, Policy, SpawnError, WaitError, collect};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::Receiver;

use crate::admit::{AdmittedJob, ImageError};
use crate::attest;
use crate::boot::Certified;
use crate::bundle::Bundle;
use crate::custody::{Custodian, Label, Measurement};
use crate::fault::Fault;
use crate::link::{Link, Sent};
use crate::machine::Machine;
use capture::{CaptureError, Log, capture};
pub use observe::ObserveError;
use observe::{Observed, Place};
pub(crate) use outputs::Collected;
use trace::Occasion;
pub use trace::TraceError;

/// Why a step could not be run or observed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The sandbox did not start the step: nothing of it ran.
    #[error("step {step} was not started")]
    Spawn {
        /// Which.
        step: Name,
        /// What the sandbox said.
        source: SpawnError,
    },
    /// The step has no certificate.
    #[error("step {step} cannot be identified")]
    Unidentified {
        /// Which.
        step: Name,
        /// Why.
        source: CertificateError,
    },
    /// How the step ended is not known.
    #[error("step {step} cannot be accounted for")]
    Wait {
        /// Which.
        step: Name,
        /// What the sandbox said.
        source: WaitError,
    },
    /// The thread that waited for the step is gone.
    #[error("step {step} was waited for in vain")]
    Lost {
        /// Which.
        step: Name,
        /// Why.
        source: tokio::task::JoinError,
    },
    /// The image that the step ran on.
    #[error("the image of step {step}")]
    Image {
        /// Which step.
        step: Name,
        /// What is wrong with it.
        source: ImageError,
    },
    /// The step's pipes failed.
    #[error("the log of step {step}")]
    Pipe {
        /// Which.
        step: Name,
        /// What the kernel said.
        source: io::Error,
    },
    /// A workspace cannot be digested.
    #[error("workspace {workspace} cannot be digested")]
    Workspace {
        /// Which.
        workspace: Name,
        /// What the sandbox said.
        source: collect::Error,
    },
    /// An output could not be read or stored, for a reason that is not the step's.
    #[error("output {output} cannot be taken out")]
    Output {
        /// Which.
        output: Name,
        /// What the sandbox said.
        source: collect::Error,
    },
    /// What the step did is not known whole.
    #[error("what step {step} did cannot be told")]
    Untraced {
        /// Which.
        step: Name,
        /// Why.
        source: TraceError,
    },
    /// An observation that has no record.
    #[error("step {step} cannot be recorded")]
    Unrecorded {
        /// Which.
        step: Name,
        /// Why.
        source: ObserveError,
    },
    /// A record without a canonical form.
    #[error("the record of step {step} cannot be written")]
    Unwritten {
        /// Which.
        step: Name,
        /// What the encoder said.
        source: canonical::Error,
    },
}

impl RunError {
    /// A stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Spawn { .. } => "step_not_started",
            Self::Unidentified { .. } => "identity",
            Self::Wait { .. } | Self::Lost { .. } | Self::Pipe { .. } => "step_lost",
            Self::Image { .. } => "image",
            Self::Workspace { .. } => "workspace",
            Self::Output { .. } => "output",
            Self::Untraced { .. } => "trace",
            Self::Unrecorded { .. } | Self::Unwritten { .. } => "record",
        }
    }
}

/// What is left of a job whose steps have been run and recorded.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The job.
    pub(crate) job: CheckedJob,
    /// The document's digest.
    pub(crate) sha256: Sha256Digest,
    /// The outputs, in the job's order; `None` if a step did not succeed.
    pub(crate) outputs: Option<Vec<Collected>>,
    /// Records and traces by the digests of their payloads, logs by that of their file, each named by its path in the bundle.
    pub(crate) byproducts: Vec<ResourceDescriptor>,
}

/// Runs the steps until one does not succeed.
///
/// # Errors
/// [`RunError`], and what the link and PID 1 answer.
pub(crate) async fn steps<S: io::Read + io::Write>(
    admitted: AdmittedJob,
    certified: &Certified,
    machine: &Machine,
    link: &mut Link,
    custodian: &mut Custodian<S>,
    bundle: &mut Bundle,
) -> Result<Finished, Fault> {
    let AdmittedJob { job, sha256, decision_sha256, policies, workspaces } = admitted;
    let mut place = Place { build_id: certified.build_id.clone(), sequence: 0, previous: decision_sha256 };
    let (mut outputs, mut byproducts) = (Some(Vec::new()), Vec::new());
    for (step, policy) in job.steps().zip(&policies) {
        let unwritten = |source| RunError::Unwritten { step: step.name.clone(), source };
        let step_sha256 = step.digest().map_err(unwritten)?;
        custodian.measure(Measurement::Event { event: Event::StepBegin(step.name.clone(), step_sha256) })?;
        let before = outputs::before(step, &workspaces)?;
        let started = certified.clock.now();
        let mut identify =
            |enforced: &Enforced| identity::certificate(custodian, certified, (job.job(), sha256), step, enforced);
        let (identity, mut outcome, log, sent) = run(step, policy, &machine.launcher, link, &mut identify).await?;
        check_image(step, job.job(), machine)?;
        let after = outputs::after(step, &workspaces)?;
        let collected = match outcome.exit.is_success() && after.iter().all(Option::is_some) {
            true => outputs::written_by(step, job.job(), &workspaces)?,
            false => None,
        };
        let outputs_as_declared = collected.is_some();
        let seen = observe::workspaces(step, before, after);
        let subjects = observe::subjects(step, &seen, &log.seen);
        let (build_id, builder_id) = (&certified.build_id, certified.builder_id.as_str());
        let occasion = Occasion { build_id, builder_id, step, started, finished: certified.clock.now() };
        let traced = trace::statement(&occasion, subjects.clone(), outcome.trace.take())
            .map_err(|source| RunError::Untraced { step: step.name.clone(), source })?;
        let payload = canonical::to_vec(&traced).map_err(unwritten)?;
        let label = Label::Trace { step: step.name.clone() };
        let trace = attest::sign(custodian, label, |digest| Event::StepTrace(step.name.clone(), digest), &payload)?;
        // A server's network is up again with that event, and not before.
        sent.taken().await?;
        link.post(&format!("{}{}", path::IDENTITIES, step.name), identity.clone().into(), MESSAGE_BYTES_MAX).await?;
        link.post(&format!("{}{}", path::TRACES, step.name), trace.envelope.to_vec(), MESSAGE_BYTES_MAX).await?;
        let observed = Observed {
            step_sha256,
            workspaces: seen,
            subjects,
            outcome,
            outputs_as_declared,
            log: log.seen,
            trace: trace.payload_sha256,
        };
        let statement = observe::record(&place, job.job(), step, observed)
            .map_err(|source| RunError::Unrecorded { step: step.name.clone(), source })?;
        let payload = canonical::to_vec(&statement).map_err(unwritten)?;
        let label = Label::Record { step: step.name.clone() };
        let record = attest::sign(custodian, label, |digest| Event::StepEnd(step.name.clone(), digest), &payload)?;
        link.post(&format!("{}{}", path::RECORDS, step.name), record.envelope.to_vec(), MESSAGE_BYTES_MAX).await?;
        tracing::info!(step = %step.name, exit = ?statement.predicate.exit, "ended");
        place.previous = record.payload_sha256;
        let [record_path, trace_path, log_path] =
            [file::record, file::trace, file::log].map(|path| path(place.sequence, &step.name));
        byproducts.push(ResourceDescriptor::new(record_path.as_str(), record.payload_sha256));
        byproducts.push(ResourceDescriptor::new(trace_path.as_str(), trace.payload_sha256));
        byproducts.push(ResourceDescriptor::new(log_path.as_str(), statement.predicate.log.sha256));
        bundle.add(file::identity(place.sequence, &step.name), identity.into_bytes());
        bundle.add(record_path, record.envelope);
        bundle.add(trace_path, trace.envelope);
        bundle.add(log_path, log.frames);
        place.sequence += 1;
        outputs = outputs.zip(collected).map(|(before, now)| before.into_iter().chain(now).collect::<Vec<_>>());
        if outputs.is_none() {
            break;
        }
    }
    if let Some(outputs) = &mut outputs {
        outputs.sort_by_key(|collected| job.job().output.iter().position(|output| output.name == collected.name));
    }
    Ok(Finished { job, sha256, outputs, byproducts })
}

/// Starts one step, has it identified by what the kernel confirmed, takes in its log while it runs, and waits until nothing of it is
/// left. A step that cannot be identified is killed.
async fn run(
    step: &Step,
    policy: &Policy,
    launcher: &Launcher,
    link: &mut Link,
    identify: &mut impl FnMut(&Enforced) -> Result<String, Fault>,
) -> Result<(String, Outcome, Log, Sent), Fault> {
    let name = || step.name.clone();
    let pipe = |source: io::Error| RunError::Pipe { step: name(), source };
    let mut upload = link.upload(Method::POST, &format!("{}{}", path::LOGS, step.name), None).await?;
    let (out, out_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| pipe(errno.into()))?;
    let (err, err_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| pipe(errno.into()))?;
    let out = Receiver::from_owned_fd(out).map_err(pipe)?;
    let err = Receiver::from_owned_fd(err).map_err(pipe)?;
    let started = launcher.spawn(policy, out_writer, err_writer);
    let running = started.map_err(|source| RunError::Spawn { step: name(), source })?;
    let identity = identify(running.enforced())?;
    tracing::info!(step = %step.name, "started");
    let killer = running.killer();
    let mut ended = tokio::task::spawn_blocking(move || running.wait());
    let watched = async {
        let log = capture(&mut upload, out, err, step.limits.log_bytes).await?;
        // A step may close its streams and go on. As long as its log is open, the host knows that it does.
        tokio::select! {
            broken = upload.broken() => Err(CaptureError::Link(broken)),
            ended = &mut ended => Ok((log, ended)),
        }
    };
    match watched.await {
        Ok((log, ended)) => {
            let sent = upload.end().await;
            let ended = ended.map_err(|source| RunError::Lost { step: name(), source })?;
            Ok((identity, ended.map_err(|source| RunError::Wait { step: name(), source })?, log, sent))
        }
        Err(error) => {
            // How it ends does not matter any more, only that it does: the machine is about to power off.
            let _ = (killer.kill(), ended.await);
            Err(match error {
                CaptureError::Link(source) => source.into(),
                CaptureError::Pipe(source) => pipe(source).into(),
            })
        }
    }
}

/// A step whose image was damaged under it has not run on that image: there is no record of it.
fn check_image(step: &Step, job: &Job, machine: &Machine) -> Result<(), RunError> {
    for image in job.image.iter().filter(|image| image.name == step.image) {
        let failed = |source| RunError::Image { step: step.name.clone(), source };
        if !machine.images.is_intact(&image.root_hash).map_err(failed)? {
            return Err(failed(ImageError::Damaged { root_hash: image.root_hash }));
        }
    }
    Ok(())
}
