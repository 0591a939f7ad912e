//! The rules by which a job is judged from its bytes alone. Pure: no disk, no clock, no link.

use kiln_formats::canonical;
use kiln_formats::decision::{Code, Refusal};
use kiln_formats::dsse::{self, Envelope};
use kiln_formats::job::{CheckedJob, Job, Violation};
use kiln_formats::names::PAYLOAD_JOB;
use serde::de::IgnoredAny;

use crate::boot::Certified;
use crate::fault::line;
use crate::fetch::ReceivedJob;

/// The longest text of a refusal's field, in bytes: a paragraph.
const TEXT_BYTES_MAX: usize = 512;

/// A refusal with its texts cut to a bounded, printable length.
pub(crate) fn refusal(code: Code, object: &str, reason: &str, remedy: &str) -> Refusal {
    let cut = |text| line(text, TEXT_BYTES_MAX);
    Refusal { code, object: cut(object), reason: cut(reason), remedy: cut(remedy) }
}

/// Judges the document: one envelope, signed by whom the policy names, over a valid job that has not expired, which is the job
/// that the challenge named, on a machine that the policy knows, in profiles that it allows.
///
/// # Errors
/// The first rule that it breaks.
pub(crate) fn check(received: &ReceivedJob, certified: &Certified) -> Result<CheckedJob, Refusal> {
    let job = valid(&signed(received.bytes(), certified)?)?;
    let (expires, issued) = (job.job().expires, certified.clock.issued());
    if expires <= issued {
        let reason = format!("it expired at {expires}; the authority's clock says {issued}");
        return Err(refusal(Code::Expired, "expires", &reason, "sign the job again with a later `expires`"));
    }
    if received.sha256() != certified.job_sha256 {
        let reason = format!("it is {}, the challenge named {}", received.sha256(), certified.job_sha256);
        return Err(refusal(Code::JobMismatch, "job", &reason, "hand over the document that was announced"));
    }
    if !certified.policy.builder_ids.contains(&certified.builder_id) {
        let reason = "the policy does not list this machine's builder id";
        let remedy = "start the machine in a way that the policy lists, or add the builder id to the policy";
        return Err(refusal(Code::Builder, &certified.builder_id, reason, remedy));
    }
    if let Some((at, step)) = certified.policy.forbidden_step(job.job()) {
        let reason = format!("the policy does not allow the profile `{}` of step {}", step.profile, step.name);
        let remedy = "run the step in a profile that the policy lists, or add this one to the policy";
        return Err(refusal(Code::Profile, &format!("step[{at}].profile"), &reason, remedy));
    }
    Ok(job)
}

/// The payload of the one envelope, if one of the policy's keys signed it.
fn signed(document: &[u8], certified: &Certified) -> Result<Vec<u8>, Refusal> {
    let mut values = serde_json::Deserializer::from_slice(document).into_iter::<IgnoredAny>();
    if matches!((values.next(), values.next()), (Some(Ok(_)), Some(Ok(_)))) {
        let remedy = "start one machine for each job";
        return Err(refusal(Code::OneShot, "job", "the document holds more than one job", remedy));
    }
    let keys: Vec<_> = certified.policy.job_signers.iter().map(|key| key.0).collect();
    let verified = Envelope::from_slice(document).and_then(|envelope| envelope.verify(PAYLOAD_JOB, &keys));
    match verified {
        Ok(verified) => Ok(verified.payload().to_vec()),
        Err(error @ dsse::Error::Signature { .. }) => {
            let remedy = "sign the job with a key that the policy lists, or add the key to the policy";
            Err(refusal(Code::UntrustedSigner, "job.signatures", &error.to_string(), remedy))
        }
        Err(error) => Err(refusal(Code::Unsigned, "job", &error.to_string(), "sign the job with `kiln sign`")),
    }
}

/// The job, if it is one and obeys every rule of the format.
fn valid(payload: &[u8]) -> Result<CheckedJob, Refusal> {
    let job: Job = canonical::from_slice_exact(payload).map_err(|error| {
        refusal(Code::Malformed, "job.payload", &error.to_string(), "write the job again with `kiln sign`")
    })?;
    CheckedJob::new(job).map_err(|violations| invalid(&violations))
}

fn invalid(violations: &[Violation]) -> Refusal {
    let field = violations.first().map_or("job", |first| first.field.as_str());
    let all: Vec<_> = violations.iter().map(ToString::to_string).collect();
    refusal(Code::InvalidJob, field, &all.join("; "), "`kiln lint` shows every rule that a job breaks")
}
