//! A site's certificate authority for the TPMs of its machines: a root, an issuer under it, and `swtpm_localca`, which
//! issues endorsement key certificates with them.
//!
//! It is made once per site and is complete or absent: it is made under another name and then renamed. Machines that start
//! at the same time take turns by the lock that `swtpm_localca` holds in the directory. What it vouches for: this TPM was
//! made by this site's host. It says nothing of hardware.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::custody::{Custody, CustodyError};
use crate::tools::Tools;
use crate::tpm::{ISSUER_CERTIFICATE, NEXT_SERIAL, ROOT_CERTIFICATE, SIGNING_KEY, TpmError, manufacture};

/// What a complete authority has; the root's key is needed no more and may have been moved elsewhere.
const FILES: [&str; 4] = [SIGNING_KEY, ISSUER_CERTIFICATE, NEXT_SERIAL, ROOT_CERTIFICATE];

/// A site's certificate authority for TPMs: holding it tells you that its files were all there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmCa {
    directory: PathBuf,
}

/// Why a site has no certificate authority for TPMs.
#[derive(Debug, thiserror::Error)]
pub enum TpmCaError {
    /// The path cannot stand in `swtpm_localca`'s configuration.
    #[error("{} has characters that swtpm_localca's configuration cannot hold", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The directory exists without all that an authority has.
    #[error("{} is no complete certificate authority: {file} is missing", directory.display())]
    Incomplete {
        /// The directory.
        directory: PathBuf,
        /// The file.
        file: &'static str,
    },
    /// The directory could not be made, read or given its permissions.
    #[error("cannot make or read {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// There was no place to make it in.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// `swtpm_setup` did not make it.
    #[error("cannot make the certificate authority")]
    Make {
        /// Why not.
        #[from]
        source: TpmError,
    },
}

impl TpmCa {
    /// Takes the authority in `directory`, or makes one there, which needs about a second and the parent directory.
    ///
    /// # Errors
    /// [`TpmCaError::Incomplete`] if the directory holds something else; others if it cannot be made.
    pub async fn open_or_make(directory: &Path, tools: &Tools) -> Result<TpmCa, TpmCaError> {
        let directory = std::path::absolute(directory)
            .map_err(|source| TpmCaError::Directory { path: directory.into(), source })?;
        let plain = |text: &str| !text.chars().any(|c| c.is_control() || "$,\"'\\".contains(c));
        match (directory.to_str(), directory.parent()) {
            (Some(text), Some(parent)) if plain(text) => {
                if !directory.exists() {
                    make(&directory, parent, tools).await?;
                }
                Self::open(directory)
            }
            _ => Err(TpmCaError::Path { path: directory }),
        }
    }

    /// The root's certificate, PEM: what a verifier is given, apart from the evidence.
    #[must_use]
    pub fn root_certificate(&self) -> PathBuf {
        self.directory.join(ROOT_CERTIFICATE)
    }

    /// The issuer's certificate, PEM: signed by the root, it signed the endorsement keys' certificates.
    #[must_use]
    pub fn issuer_certificate(&self) -> PathBuf {
        self.directory.join(ISSUER_CERTIFICATE)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn open(directory: PathBuf) -> Result<TpmCa, TpmCaError> {
        match FILES.into_iter().find(|file| !directory.join(file).is_file()) {
            Some(file) => Err(TpmCaError::Incomplete { directory, file }),
            None => Ok(TpmCa { directory }),
        }
    }
}

/// `swtpm_localca` makes the authority when it issues the first certificate; so a TPM is manufactured, and thrown away.
async fn make(directory: &Path, parent: &Path, tools: &Tools) -> Result<(), TpmCaError> {
    let custody = Custody::take(parent, tools)?;
    let new = custody.path().join("tpm-ca");
    let failed = |source| TpmCaError::Directory { path: directory.to_owned(), source };
    let private = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
    std::fs::create_dir(&new).and_then(|()| private(&new, 0o700)).map_err(failed)?;
    manufacture(&new, &custody, tools).await?;
    for entry in std::fs::read_dir(&new).map_err(failed)? {
        entry.and_then(|entry| private(&entry.path(), 0o600)).map_err(failed)?;
    }
    match std::fs::rename(&new, directory) {
        // Another process made it meanwhile: then theirs it is.
        Err(_) if directory.exists() => {}
        renamed => renamed.map_err(failed)?,
    }
    Ok(custody.release()?)
}
