//! Takes in what a step writes: both streams at once, as frames, sent on while the step runs and kept for the evidence.
//!
//! What is sent is what is kept, byte for byte: the beginning as it comes, the end when both streams are closed (`keep`). The step
//! waits for the host to take the beginning; what comes behind it is read as fast as it can be digested, so that a flood stops
//! neither the step nor the machine, and costs no memory.

mod keep;

use std::io;
use std::time::Instant;

use kiln_formats::log::Stream;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::link::{LinkError, Upload};
use keep::Keeper;
pub(super) use keep::Log;

/// Why a step's log could not be taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum CaptureError {
    /// The host does not take it.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A pipe failed.
    #[error("cannot read what the step writes")]
    Pipe(#[from] io::Error),
}

/// Reads both streams to their ends. The log is still open then.
///
/// # Errors
/// [`CaptureError`]; the step must then be killed by the caller.
pub(super) async fn capture(
    upload: &mut Upload,
    mut out: impl AsyncRead + Unpin,
    mut err: impl AsyncRead + Unpin,
    log_bytes: u64,
) -> Result<Log, CaptureError> {
    let started = Instant::now();
    let mut keeper = Keeper::new(log_bytes);
    let (mut of_out, mut of_err) = (vec![0; keeper.frame_bytes()], vec![0; keeper.frame_bytes()]);
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        let (stream, bytes, open) = tokio::select! {
            broken = upload.broken() => return Err(broken.into()),
            read = out.read(&mut of_out), if out_open => (Stream::Out, of_out.get(..read?), &mut out_open),
            read = err.read(&mut of_err), if err_open => (Stream::Err, of_err.get(..read?), &mut err_open),
        };
        let bytes = bytes.unwrap_or_default();
        *open = !bytes.is_empty();
        let time_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        send(upload, keeper.take(stream, time_us, bytes)).await?;
    }
    let (log, end) = keeper.finish();
    send(upload, end).await?;
    Ok(log)
}

async fn send(upload: &mut Upload, frames: Vec<u8>) -> Result<(), LinkError> {
    if frames.is_empty() { Ok(()) } else { upload.send(frames.into()).await }
}
