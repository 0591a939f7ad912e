//! Hands the evidence out: every file, then the last message.

use std::fs::File;
use std::io::Read as _;

use bytes::Bytes;
use hyper::Method;
use kiln_formats::canonical;
use kiln_formats::link::{Done, MESSAGE_BYTES_MAX, path};
use kiln_formats::manifest::Outcome;

use crate::attest::{AttestError, Evidence};
use crate::bundle::{Content, Item};
use crate::fault::Fault;
use crate::link::{Link, Upload};

/// How much of a file is sent at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Sends everything. The machine has nothing more to say after it.
///
/// # Errors
/// What the link answers; [`AttestError::Output`] if a collected output cannot be read.
pub(crate) async fn evidence(evidence: Evidence, link: &mut Link) -> Result<Outcome, Fault> {
    let Evidence { items, outcome } = evidence;
    for Item { listed, content } in items {
        let mut upload =
            link.upload(Method::PUT, &format!("{}{}", path::FILES, listed.path), Some(listed.size)).await?;
        match content {
            Content::Bytes(bytes) => send_bytes(&mut upload, bytes).await?,
            Content::File(file) => send_file(&mut upload, file, listed.size).await?,
        }
        upload.finish().await?;
    }
    let done = canonical::to_vec(&Done { outcome })
        .map_err(|source| AttestError::Document { document: "last message", source })?;
    link.post(path::DONE, done, MESSAGE_BYTES_MAX).await?;
    tracing::info!(?outcome, "emitted");
    Ok(outcome)
}

async fn send_bytes(upload: &mut Upload, mut bytes: Bytes) -> Result<(), Fault> {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
        upload.send(piece).await?;
    }
    Ok(())
}

/// The file is in memory: reading it does not wait.
async fn send_file(upload: &mut Upload, mut file: File, size: u64) -> Result<(), Fault> {
    let mut left = size;
    while left > 0 {
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX))];
        file.read_exact(&mut piece).map_err(AttestError::from)?;
        left -= piece.len() as u64;
        upload.send(piece.into()).await?;
    }
    Ok(())
}
