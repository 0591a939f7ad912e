//! Fetches the one job of this machine's life and measures it, before anything in it is read.

use bytes::Bytes;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::event::Event;
use kiln_formats::link::{JOB_BYTES_MAX, path};
use kiln_formats::manifest::path as file;

use crate::boot::Certified;
use crate::bundle::Bundle;
use crate::custody::{Custodian, Measurement};
use crate::fault::Fault;
use crate::link::Link;

/// A job document as it was received: an allegation. PCR 15 names its bytes; nobody has read them.
#[derive(Debug)]
pub(crate) struct ReceivedJob {
    bytes: Bytes,
    sha256: Sha256Digest,
}

impl ReceivedJob {
    /// The document, believed by nobody yet.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its digest, as measured.
    pub(crate) fn sha256(&self) -> Sha256Digest {
        self.sha256
    }
}

/// Asks for the job. Only a certified machine does.
///
/// # Errors
/// What the link and PID 1 answer.
pub(crate) async fn job<S: std::io::Read + std::io::Write>(
    link: &mut Link,
    custodian: &mut Custodian<S>,
    _: &Certified,
    bundle: &mut Bundle,
) -> Result<ReceivedJob, Fault> {
    let bytes = link.get(path::JOB, JOB_BYTES_MAX).await?;
    let sha256 = Sha256Digest::of(&bytes);
    custodian.measure(Measurement::Event { event: Event::Job(sha256) })?;
    bundle.add(file::JOB, bytes.clone());
    tracing::info!(job = %sha256, "received");
    Ok(ReceivedJob { bytes, sha256 })
}

#[cfg(test)]
impl ReceivedJob {
    /// A document for the tests of the rules, which measure nothing.
    pub(crate) fn for_test(bytes: Vec<u8>) -> Self {
        let sha256 = Sha256Digest::of(&bytes);
        Self { bytes: bytes.into(), sha256 }
    }
}
