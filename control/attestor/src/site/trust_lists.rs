//! A site's trust lists, as files: `trust-lists/NNNNNN.json`, one for each number, none ever changed.
//!
//! The newest is what counts; those before it show how it came about, to whoever trusts an older root.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use kiln_formats::certificate::Certificate;
use kiln_formats::trust_list::{self, Current, LISTS_MAX, TRUST_LIST_BYTES_MAX, TrustListError};

use super::files::{FileError, io_error, list, read_public_file, write_public_file};

/// Where the lists are, below the site's directory.
pub(super) const DIRECTORY: &str = "trust-lists";

/// Why a site's trust lists cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustListsError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The lists do not lead to the site's root.
    #[error("the trust lists in {} do not hold", path.display())]
    Lists {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: TrustListError,
    },
    /// There is a list of this number.
    #[error("{} exists; a trust list is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

/// The lists of the site in `site`, the oldest first, as they are.
///
/// # Errors
/// [`FileError`].
pub fn files(site: &Path) -> Result<Vec<Vec<u8>>, FileError> {
    let paths = list(&site.join(DIRECTORY), LISTS_MAX)?;
    let json = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    json.map(|path| read_public_file(path, TRUST_LIST_BYTES_MAX)).collect()
}

/// What counts now at the site in `site`, by somebody who trusts `root`.
///
/// # Errors
/// [`TrustListsError`].
pub fn read(site: &Path, root: &Certificate) -> Result<Current, TrustListsError> {
    let current = trust_list::current(&files(site)?, root);
    current.map_err(|source| TrustListsError::Lists { path: site.join(DIRECTORY), source })
}

/// Adds a list, which must be newer than all others.
///
/// # Errors
/// [`TrustListsError`]; then nothing was added.
pub fn add(site: &Path, root: &Certificate, number: u64, file: &[u8]) -> Result<PathBuf, TrustListsError> {
    let directory = site.join(DIRECTORY);
    let path = directory.join(format!("{number:06}.json"));
    if path.exists() {
        return Err(TrustListsError::Exists { path });
    }
    fs::DirBuilder::new().mode(0o700).recursive(true).create(&directory).map_err(io_error("write", &directory))?;
    let mut all = files(site)?;
    all.push(file.to_vec());
    trust_list::current(&all, root).map_err(|source| TrustListsError::Lists { path: directory, source })?;
    write_public_file(&path, file)?;
    Ok(path)
}
