//! Decides, before any step is started, whether the job may run; signs the decision either way.
//!
//! [`decide`] is the only constructor of an [`AdmittedJob`], and an admitted job is all that can be run. Holding one tells you:
//! the document was signed by a key of the policy, is the one that the challenge named, is valid and in time; every image is
//! verified and every input is here, whole; every step can be told to the sandbox; the allowing decision is measured, signed and
//! sent. What a refusal needs is said in the decision; a machine that cannot find out is a fault.

mod images;
mod inputs;
mod plan;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;

use kiln_formats::canonical;
use kiln_formats::decision::{self, Code, Decision, Refusal, Ruling};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::event::Event;
use kiln_formats::job::{CheckedJob, Job};
use kiln_formats::link::{MESSAGE_BYTES_MAX, path};
use kiln_formats::log;
use kiln_formats::manifest::path as file;
use kiln_formats::names::Name;
use kiln_sandbox::{DetachedTree, Policy};

use crate::attest::{self, SignedStatement};
use crate::boot::Certified;
use crate::bundle::Bundle;
use crate::custody::{Custodian, Label, Measurement};
use crate::fault::Fault;
use crate::fetch::ReceivedJob;
use crate::link::Link;
use crate::machine::Machine;
pub(crate) use images::Disks;
pub use images::{ImageError, Images};
use plan::Parts;
use rules::refusal;

/// Why the machine cannot find out whether a job may run.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// Memory-backed storage could not be had.
    #[error("cannot store {what}")]
    Storage {
        /// For what.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The decision has no canonical form.
    #[error("the decision cannot be written")]
    Decision {
        /// What the encoder said.
        source: canonical::Error,
    },
    /// An image could not be opened, for a reason that is not the job's.
    #[error("the image {name}")]
    Image {
        /// What the job calls it.
        name: Name,
        /// Why.
        source: ImageError,
    },
}

impl AdmitError {
    /// A stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Storage { .. } => "storage",
            Self::Decision { .. } => "decision",
            Self::Image { .. } => "image",
        }
    }
}

/// A job that may run, once, here.
#[derive(Debug)]
pub(crate) struct AdmittedJob {
    /// The job.
    pub(crate) job: CheckedJob,
    /// The document's digest.
    pub(crate) sha256: Sha256Digest,
    /// The payload digest of the decision, which the first record names.
    pub(crate) decision_sha256: Sha256Digest,
    /// What the sandbox is told about each step, in the order of [`CheckedJob::steps`].
    pub(crate) policies: Vec<Policy>,
    /// The workspaces, empty.
    pub(crate) workspaces: BTreeMap<Name, DetachedTree>,
}

/// What all checks together yield; not admitted yet.
struct Prepared {
    job: CheckedJob,
    policies: Vec<Policy>,
    parts: Parts,
}

/// Judges the job, signs and sends the decision, and has the inputs measured. `None`: the job was refused.
///
/// # Errors
/// [`Fault`] if the machine cannot find out, or cannot say.
pub(crate) async fn decide<S: io::Read + io::Write>(
    received: ReceivedJob,
    certified: &Certified,
    machine: &mut Machine,
    link: &mut Link,
    custodian: &mut Custodian<S>,
    bundle: &mut Bundle,
) -> Result<Option<AdmittedJob>, Fault> {
    let judged = judge(&received, certified, machine, link).await?;
    let verdict = match &judged {
        Ok(_) => {
            custodian.allow(received.sha256())?;
            Ruling::Allow
        }
        Err(refusal) => Ruling::Deny(refusal.clone()),
    };
    tracing::info!(?verdict, "decided");
    let decision = Decision {
        version: decision::VERSION,
        build_id: certified.build_id.clone(),
        job_sha256: received.sha256(),
        trust_sha256: certified.trust_sha256,
        time: certified.clock.issued(),
        verdict,
    };
    let payload = canonical::to_vec(&decision).map_err(|source| AdmitError::Decision { source })?;
    let SignedStatement { envelope, payload_sha256 } =
        attest::sign(custodian, Label::Decision, Event::Decision, &payload)?;
    bundle.add(file::DECISION, envelope.clone());
    link.post(path::DECISION, envelope.to_vec(), MESSAGE_BYTES_MAX).await?;
    let Ok(Prepared { job, policies, parts }) = judged else { return Ok(None) };
    for input in &job.job().input {
        custodian.measure(Measurement::Event { event: Event::Input(input.name.clone(), input.sha256) })?;
    }
    let workspaces = parts.workspaces.into_iter().map(|(name, (tree, _))| (name, tree)).collect();
    let (sha256, decision_sha256) = (received.sha256(), payload_sha256);
    Ok(Some(AdmittedJob { job, sha256, decision_sha256, policies, workspaces }))
}

/// Every check, in the order in which a refusal is most useful.
async fn judge(
    received: &ReceivedJob,
    certified: &Certified,
    machine: &mut Machine,
    link: &mut Link,
) -> Result<Result<Prepared, Refusal>, Fault> {
    let checked = rules::check(received, certified);
    let checked = checked.and_then(|job| fits(job.job(), machine.memory_bytes).map(|()| job));
    let job = match checked {
        Ok(job) => job,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let parts = match parts(job.job(), machine)? {
        Ok(parts) => parts,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let directory = machine.scratch.join("inputs");
    let policies = match policies(&job, &parts, &directory) {
        Ok(policies) => policies,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let fetched = inputs::fetch(link, &job.job().input, &directory).await?;
    Ok(fetched.map(|()| Prepared { job, policies, parts }))
}

/// All that the machine will hold at once must fit into memory, because there is nothing else to put it in: inputs, workspaces,
/// copies of outputs, logs, and the largest step.
fn fits(job: &Job, memory_bytes: u64) -> Result<(), Refusal> {
    let inputs = job.input.iter().map(|input| input.size);
    let workspaces = job.workspace.iter().map(|workspace| workspace.size_bytes_max);
    let outputs = job.output.iter().map(|output| output.size_bytes_max);
    let logs = job.step.iter().map(|step| log::bytes_max(step.limits.log_bytes));
    let step = job.step.iter().map(|step| step.limits.memory_bytes).max();
    let needed = inputs.chain(workspaces).chain(outputs).chain(logs).chain(step).fold(0, u64::saturating_add);
    if needed <= memory_bytes {
        return Ok(());
    }
    let reason = format!("the job may need {needed} bytes of memory at once; {memory_bytes} are free");
    let remedy = "lower the job's `size_bytes_max` and `limits`, or start a machine with more memory";
    Err(refusal(Code::Resources, "memory", &reason, remedy))
}

/// Verifies the images and makes the workspaces.
fn parts(job: &Job, machine: &mut Machine) -> Result<Result<Parts, Refusal>, Fault> {
    let mut parts = Parts::default();
    for image in &job.image {
        let object = format!("image {}", image.name);
        match machine.images.open(&image.root_hash) {
            Ok(tree) => parts.images.insert(image.name.clone(), tree),
            Err(error @ ImageError::Missing { .. }) => {
                let remedy = "bring along the image that the job names";
                return Ok(Err(refusal(Code::ImageMissing, &object, &error.to_string(), remedy)));
            }
            Err(error @ ImageError::RootHash { .. }) => {
                let remedy = "correct the job's `root_hash`, or bring along an image that is whole";
                return Ok(Err(refusal(Code::ImageRootHash, &object, &error.to_string(), remedy)));
            }
            Err(source) => return Err(AdmitError::Image { name: image.name.clone(), source }.into()),
        };
    }
    for workspace in &job.workspace {
        let bytes = workspace.size_bytes_max;
        let tree = DetachedTree::workspace(workspace.name.as_str(), bytes, plan::files_max(bytes))
            .map_err(|source| AdmitError::Storage { what: format!("workspace {}", workspace.name), source })?;
        parts.workspaces.insert(workspace.name.clone(), (tree, bytes));
    }
    Ok(Ok(parts))
}

fn policies(job: &CheckedJob, parts: &Parts, inputs: &std::path::Path) -> Result<Vec<Policy>, Refusal> {
    let planned = job.steps().enumerate().map(|(at, step)| {
        let policy = plan::policy(step, parts, inputs).map_err(|error| {
            let object = format!("step {}", step.name);
            refusal(Code::InvalidJob, &object, &error.to_string(), "stay within the bounds of the step sandbox")
        })?;
        kiln_sandbox::check_profile(policy.profile).map_err(|error| {
            let remedy = "run the step in the profile strict or loopback; this machine has no other";
            refusal(Code::Profile, &format!("step[{at}].profile"), &error.to_string(), remedy)
        })?;
        Ok(policy)
    });
    planned.collect()
}
