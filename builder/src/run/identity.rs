//! Has a key made for a step that has just been let go: of the kernel's own word on its sandbox, and of the job.

use std::io;

use kiln_formats::certificate::{Certificate, StepIdentity};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::job::{Job, Step};
use kiln_sandbox::Enforced;

use super::{ObserveError, RunError};
use crate::boot::Certified;
use crate::custody::{Custodian, Task};
use crate::fault::Fault;

/// The step's certificate, PEM. `enforced` is what the sandbox read back before the step's first instruction.
///
/// # Errors
/// What PID 1 answers; [`RunError::Unidentified`] for what no certificate can say, which no step of a checked job is.
pub(super) fn certificate<S: io::Read + io::Write>(
    custodian: &mut Custodian<S>,
    certified: &Certified,
    (job, job_sha256): (&Job, Sha256Digest),
    step: &Step,
    enforced: &Enforced,
) -> Result<String, Fault> {
    let name = || step.name.clone();
    let unrecorded = |source| RunError::Unrecorded { step: name(), source };
    let image = job.image.iter().find(|image| image.name == step.image);
    let image = image.ok_or(ObserveError::Undeclared { what: "image" }).map_err(unrecorded)?;
    let identity = StepIdentity::of(job_sha256, step, image.root_hash, enforced);
    let identity = identity.map_err(|source| RunError::Unwritten { step: name(), source })?;
    let (begin, end) = certified.issuer_life;
    let task = Task {
        trust_domain: certified.trust_domain.clone(),
        machine: certified.machine,
        build_id: certified.build_id.clone(),
        begin,
        end,
        image_root_hash: identity.image_root_hash,
        argv_sha256: identity.argv_sha256,
        enforced_sha256: identity.enforced_sha256,
    };
    let der = custodian.identify(name(), task)?;
    let pem = Certificate::from_der(&der).and_then(|certificate| certificate.to_pem());
    Ok(pem.map_err(|source| RunError::Unidentified { step: name(), source })?)
}
