//! Files by name, with errors that say which file and what was being done to it.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kiln_formats::digest::{Digester, Sha256Digest};

/// The largest file that is read into memory: a UKI is at most 8 MiB, a kernel fragment far less.
const READ_BYTES_MAX: u64 = 64 << 20;
/// The bytes that are hashed at a time.
const HASH_CHUNK_BYTES: usize = 1 << 20;

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {doing} {}", path.display())]
    System {
        /// What was being done, such as `read`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than anything that is read whole.
    #[error("{} has more than {bytes_max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        bytes_max: u64,
    },
    /// The file is not UTF-8 text.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
}

/// Names the operation and the file in an error of the system.
pub(crate) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_path_buf();
    move |source| FileError::System { doing, path, source }
}

/// The whole content of a file of at most 64 MiB.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let file = fs::File::open(path).map_err(failed("open", path))?;
    let mut bytes = Vec::new();
    file.take(READ_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() as u64 > READ_BYTES_MAX {
        return Err(FileError::TooLarge { path: path.to_path_buf(), bytes_max: READ_BYTES_MAX });
    }
    Ok(bytes)
}

/// The whole content of a text file.
pub(crate) fn read_text(path: &Path) -> Result<String, FileError> {
    String::from_utf8(read(path)?).map_err(|_| FileError::NotText { path: path.to_path_buf() })
}

/// Writes a file, replacing what was there.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    fs::write(path, bytes).map_err(failed("write", path))
}

/// Copies a file's content and sets its mode.
pub(crate) fn copy(from: &Path, to: &Path, mode: u32) -> Result<(), FileError> {
    fs::copy(from, to).map_err(failed("copy", from))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", to))
}

/// Makes a directory and those above it.
pub(crate) fn make_dir(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(failed("make the directory", path))
}

/// A directory that goes with the value.
pub(crate) fn scratch() -> Result<tempfile::TempDir, FileError> {
    tempfile::tempdir().map_err(failed("make a directory in", &std::env::temp_dir()))
}

/// Removes a file, or a directory with all that is in it; nothing to do where there is none.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let removed = if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(failed("remove", path))
}

/// The names in a directory, sorted.
pub(crate) fn list(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = fs::read_dir(path).map_err(failed("list", path))?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>().map_err(failed("list", path))?;
    paths.sort();
    Ok(paths)
}

/// The SHA-256 of a file of any size, and its size in bytes.
///
/// # Errors
/// [`FileError::System`].
pub fn digest(path: &Path) -> Result<(Sha256Digest, u64), FileError> {
    let mut digester = Digester::new();
    feed(path, &mut digester)?;
    let bytes = digester.bytes();
    Ok((digester.finish(), bytes))
}

/// Feeds a file of any size into `digester`.
pub(crate) fn feed(path: &Path, digester: &mut Digester) -> Result<(), FileError> {
    let mut file = fs::File::open(path).map_err(failed("open", path))?;
    let mut chunk = vec![0; HASH_CHUNK_BYTES];
    loop {
        let count = file.read(&mut chunk).map_err(failed("read", path))?;
        match chunk.get(..count) {
            Some(bytes) if count > 0 => digester.update(bytes),
            _ => return Ok(()),
        }
    }
}
