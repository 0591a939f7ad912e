//! Reads the documents that a person names, and writes those that a person gets.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use kiln_formats::canonical;
use kiln_formats::certificate::{Certificate, PEM_BYTES_MAX};
use kiln_formats::job::CheckedJob;
use kiln_formats::job::draft::{self, DRAFT_BYTES_MAX};
use kiln_formats::timestamp::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exit::{Exit, OrExit as _, Problem, Result};

/// Reads a file that a person named, of at most `bytes_max` bytes.
pub(crate) fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
    let failed = |source| Problem::Io { action: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed).or_exit(Exit::Usage)?;
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(failed).or_exit(Exit::Usage)?;
    if bytes.len() > bytes_max {
        return Err(Problem::TooLarge { path: path.to_owned(), bytes_max: bytes_max as u64 }).or_exit(Exit::Usage);
    }
    Ok(bytes)
}

/// Reads a canonical document.
pub(crate) fn read_canonical<T: Serialize + DeserializeOwned>(path: &Path, bytes_max: usize) -> Result<T> {
    let document = canonical::from_slice_exact(&read(path, bytes_max)?);
    document.map_err(|source| Problem::Document { path: path.to_owned(), source }).or_exit(Exit::Usage)
}

/// Reads a certificate.
pub(crate) fn read_certificate(path: &Path) -> Result<Certificate> {
    let certificate = Certificate::from_pem(&read(path, PEM_BYTES_MAX)?);
    certificate.map_err(|source| Problem::Certificate { path: path.to_owned(), source }).or_exit(Exit::Usage)
}

/// Reads a draft and checks it; prints every mistake.
pub(crate) fn read_draft(path: &Path, expires: Timestamp) -> Result<CheckedJob> {
    let text = String::from_utf8(read(path, DRAFT_BYTES_MAX)?);
    let text = text.map_err(|_| Problem::NotText { path: path.to_owned() }).or_exit(Exit::Usage)?;
    draft::parse(&text, expires)
        .map_err(|findings| {
            for finding in &findings {
                let draft::Finding { code, field, line, column, problem } = finding;
                let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
                eprintln!("{}:{line}:{column}: {code}: {field}{problem}", path.display());
            }
            Problem::Draft { path: path.to_owned(), count: findings.len() }
        })
        .or_exit(Exit::Usage)
}

/// Writes a new file; one that is there is not touched.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create_new(path).and_then(|mut file| file.write_all(bytes));
    written
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => Problem::Exists { path: path.to_owned() },
            _ => Problem::Io { action: "write", path: path.to_owned(), source },
        })
        .or_exit(Exit::Usage)
}

/// Prints a result and ends the line.
pub(crate) fn print(bytes: &[u8]) -> Result<()> {
    print_exact(bytes)?;
    print_exact(b"\n")
}

/// Prints these bytes and no others.
pub(crate) fn print_exact(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).or_exit(Exit::Infrastructure)
}

/// Prints a result as JSON for scripts.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<()> {
    print(&serde_json::to_vec_pretty(value).or_exit(Exit::Infrastructure)?)
}
