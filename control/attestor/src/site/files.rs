//! How a site's files are read and written: bounded, never through a link, and private keys only from private files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};

/// The largest key file in bytes; ours have 119.
const KEY_BYTES_MAX: usize = 4096;
/// What others may not have: any access.
const OTHERS: u32 = 0o077;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refuses.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A private file or directory that others can get at.
    #[error("{} has mode {mode:04o}, so others can get at private keys: run chmod go= {}", path.display(), path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a plain file, or not a directory where one should be.
    #[error("{} is not a {expected}", path.display())]
    Kind {
        /// The path.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// Larger than such a file can be.
    #[error("{} is larger than {bytes_max} bytes", path.display())]
    TooLarge {
        /// The path.
        path: PathBuf,
        /// The bound.
        bytes_max: usize,
    },
    /// More files than such a directory can have.
    #[error("{} has more than {entries_max} entries", path.display())]
    TooMany {
        /// The path.
        path: PathBuf,
        /// The bound.
        entries_max: usize,
    },
    /// Not an Ed25519 key.
    #[error("{} is not an Ed25519 private key in PKCS #8 PEM", path.display())]
    Key {
        /// The path.
        path: PathBuf,
    },
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Io { action, path: path.to_owned(), source }
}

/// Reads a plain file of at most `bytes_max` bytes.
///
/// # Errors
/// [`FileError`] by cause.
pub fn read_public_file(path: &Path, bytes_max: usize) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    if !file.metadata().map_err(io_error("read", path))?.is_file() {
        return Err(FileError::Kind { path: path.to_owned(), expected: "plain file" });
    }
    read_bounded(file, path, bytes_max)
}

fn read_bounded(file: File, path: &Path, bytes_max: usize) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() > bytes_max {
        return Err(FileError::TooLarge { path: path.to_owned(), bytes_max });
    }
    Ok(bytes)
}

/// Writes a file whole or not at all, replacing what is there.
///
/// # Errors
/// [`FileError::Io`].
pub fn write_public_file(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || io_error("write", path);
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed())?;
    file.write_all(bytes).map_err(failed())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed())?;
    file.persist(path).map_err(|error| failed()(error.error))?;
    Ok(())
}

/// Reads a private key, from a plain file that nobody else can read.
///
/// # Errors
/// [`FileError`] by cause.
pub fn read_key(path: &Path) -> Result<SigningKey, FileError> {
    let no_link = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(no_link).open(path).map_err(io_error("read", path))?;
    let metadata = file.metadata().map_err(io_error("read", path))?;
    if !metadata.is_file() {
        return Err(FileError::Kind { path: path.to_owned(), expected: "plain file" });
    }
    if metadata.mode() & OTHERS != 0 {
        return Err(FileError::Open { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    let bytes = read_bounded(file, path, KEY_BYTES_MAX)?;
    let pem = std::str::from_utf8(&bytes).ok();
    let key = pem.and_then(|pem| SigningKey::from_pkcs8_pem(pem).ok());
    key.ok_or_else(|| FileError::Key { path: path.to_owned() })
}

/// Writes a private key to a new file of mode 0600.
pub(super) fn write_key(path: &Path, key: &SigningKey) -> Result<(), FileError> {
    // Without the public half, which OpenSSL before 3.5 does not read. Source: RFC 5958 (version 2) against RFC 5208.
    let pair = KeypairBytes { secret_key: key.to_bytes(), public_key: None };
    let pem = pair.to_pkcs8_pem(LineEnding::LF).map_err(|_| FileError::Key { path: path.to_owned() })?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(io_error("write", path))?;
    file.write_all(pem.as_bytes()).map_err(io_error("write", path))?;
    file.sync_all().map_err(io_error("write", path))
}

/// Checks that a directory is one, and nobody else's business.
pub(super) fn check_private_directory(path: &Path) -> Result<(), FileError> {
    let metadata = fs::metadata(path).map_err(io_error("read", path))?;
    if !metadata.is_dir() {
        return Err(FileError::Kind { path: path.to_owned(), expected: "directory" });
    }
    if metadata.mode() & OTHERS != 0 {
        return Err(FileError::Open { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    Ok(())
}

/// Makes a private directory, and those above it, if it is not there.
pub(super) fn make_directory(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(io_error("write", path))
}

/// What is in a directory, sorted.
pub(super) fn list(path: &Path, entries_max: usize) -> Result<Vec<PathBuf>, FileError> {
    let entries = fs::read_dir(path).map_err(io_error("read", path))?.take(entries_max + 1);
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(io_error("read", path))?;
    if paths.len() > entries_max {
        return Err(FileError::TooMany { path: path.to_owned(), entries_max });
    }
    paths.sort();
    Ok(paths)
}
