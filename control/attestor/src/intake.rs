//! Takes the files of a bundle into a private directory.
//!
//! A path never comes from the machine: the caller looks up what the machine asks for in the offer's list, and passes on the
//! list's own text. Each file is written once, whole, and not above its bound.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::fs::{self, OpenOptions};
use tokio::io::AsyncWriteExt as _;

use crate::link::{Exchange, LinkError};

/// A bundle as far as it has come.
#[derive(Debug)]
pub(crate) struct Intake {
    directory: PathBuf,
    taken: BTreeSet<String>,
}

/// Why a file was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The link failed, or the file is larger than it may be.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The machine sent a file twice.
    #[error("the machine sent {path} twice")]
    Twice {
        /// Which.
        path: String,
    },
    /// This host could not write it.
    #[error("cannot write {}", path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Intake {
    /// Takes files into `directory`, which is empty and nobody else's.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), taken: BTreeSet::new() }
    }

    /// Takes the body of `exchange` as the file `path` of the bundle, and says how large it is.
    pub(crate) async fn take(
        &mut self,
        path: &str,
        bytes_max: u64,
        exchange: &mut Exchange,
        silence: Duration,
    ) -> Result<u64, IntakeError> {
        if !self.taken.insert(path.to_owned()) {
            return Err(IntakeError::Twice { path: path.to_owned() });
        }
        let target = self.directory.join(path);
        let failed = |source| IntakeError::Write { path: target.clone(), source };
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).await.map_err(failed)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(&target).await.map_err(failed)?;
        let mut bytes = 0;
        while let Some(piece) = exchange.piece(silence).await? {
            bytes += piece.len() as u64;
            if bytes > bytes_max {
                return Err(LinkError::TooLarge { path: path.to_owned(), bytes_max }.into());
            }
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        Ok(bytes)
    }
}
