//! Brings a job's inputs into the machine's memory and digests them on the way.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use hyper::StatusCode;
use kiln_formats::decision::{Code, Refusal};
use kiln_formats::digest::Digester;
use kiln_formats::job::Input;
use kiln_formats::link::path;

use super::AdmitError;
use super::rules::refusal;
use crate::fault::Fault;
use crate::link::{Download, Link, LinkError};

/// How much of an input that is larger than declared is taken off the link and thrown away, in bytes, so that the refusal can
/// still be sent over it: a gigabyte passes in seconds. More ends the machine.
const EXCESS_BYTES_MAX: u64 = 1 << 30;

/// Fetches every input into `directory`, which must not exist yet, as a file of its name.
///
/// # Errors
/// A [`Refusal`] for an input that is not there or not as declared; a [`Fault`] if the link or the storage fails.
pub(super) async fn fetch(link: &mut Link, inputs: &[Input], directory: &Path) -> Result<Result<(), Refusal>, Fault> {
    let failed = |source| AdmitError::Storage { what: "the inputs' directory".into(), source };
    // The view of a step shows the files, never this directory.
    DirBuilder::new().mode(0o700).create(directory).map_err(failed)?;
    for input in inputs {
        let file = create(&directory.join(input.name.as_str()))
            .map_err(|source| AdmitError::Storage { what: format!("input {}", input.name), source })?;
        let download = link.download(&format!("{}{}", path::INPUTS, input.sha256)).await?;
        if let Err(refusal) = take(download, input, file).await? {
            return Ok(Err(refusal));
        }
        tracing::info!(input = %input.name, bytes = input.size, "fetched");
    }
    Ok(Ok(()))
}

/// A new file that everyone may read, whatever the umask.
fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    file.set_permissions(Permissions::from_mode(0o444))?;
    Ok(file)
}

/// Takes one input: stores what was declared, digests everything.
async fn take(mut download: Download, input: &Input, mut file: File) -> Result<Result<(), Refusal>, Fault> {
    let object = format!("input {}", input.name);
    if download.status() == StatusCode::NOT_FOUND {
        let reason = format!("nobody has a file with digest {}", input.sha256);
        let remedy = format!("get it from {} and hand it over", input.uri);
        // What the other side says about it does not matter, but it must not be in the way of the next request.
        drain(&mut download, input).await?;
        return Ok(Err(refusal(Code::InputMissing, &object, &reason, &remedy)));
    }
    if !download.status().is_success() {
        let (path, status) = (format!("{}{}", path::INPUTS, input.sha256), download.status().as_u16());
        return Err(LinkError::Answer { path, status }.into());
    }
    let mut digester = Digester::new();
    while let Some(piece) = download.next().await? {
        digester.update(&piece);
        if digester.bytes() > input.size {
            drain(&mut download, input).await?;
            let reason = format!("it is larger than the {} bytes that the job names", input.size);
            return Ok(Err(refusal(Code::InputMismatch, &object, &reason, "correct the job's `size`, or the file")));
        }
        file.write_all(&piece).map_err(|source| AdmitError::Storage { what: object.clone(), source })?;
    }
    let (bytes, found) = (digester.bytes(), digester.finish());
    if bytes != input.size || found != input.sha256 {
        let reason =
            format!("it has {bytes} bytes and digest {found}; the job names {} bytes and {}", input.size, input.sha256);
        let remedy = "hand over the file that the job names, or correct the job";
        return Ok(Err(refusal(Code::InputMismatch, &object, &reason, remedy)));
    }
    Ok(Ok(()))
}

/// Throws the rest of an answer away.
async fn drain(download: &mut Download, input: &Input) -> Result<(), LinkError> {
    let mut bytes: u64 = 0;
    while let Some(piece) = download.next().await? {
        bytes = bytes.saturating_add(piece.len() as u64);
        if bytes > EXCESS_BYTES_MAX {
            let path = format!("{}{}", path::INPUTS, input.sha256);
            return Err(LinkError::TooLarge { path, bytes_max: input.size + EXCESS_BYTES_MAX });
        }
    }
    Ok(())
}
