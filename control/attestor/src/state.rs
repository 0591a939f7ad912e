//! What an authority remembers: challenges, boots and jobs, each used once, and the ledger of all that it did.
//!
//! In reading order: [`schema`](self) is the file; `rules` decides whether an act may be done; `writer` is the one thread that
//! writes; [`Archive`] reads and verifies.
//!
//! A [`State`] promises: what [`State::record`] said yes to was checked, written together with its ledger entry and a newly signed
//! head, and is on the disk. Two processes can have the same state open. Everything that cannot be written is a [`StateError`],
//! never a yes. Deliberately absent: forgetting. A state only grows, by about 2 KiB a build.
//!
//! The file is SQLite's, in the site's directory, mode 0600. Its journal is a write-ahead log with `synchronous=FULL`: a commit is
//! one append and one fsync of the log, so that it is there after kill -9 and after a power cut, and readers never wait for the
//! writer. A rollback journal takes four fsyncs for the same, and with FULL a power cut can still take the last commit back.
//! Source: <https://sqlite.org/pragma.html#pragma_synchronous>, <https://sqlite.org/wal.html>.

mod archive;
mod rules;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use ed25519_dalek::SigningKey;
use kiln_formats::canonical;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::names::Name;
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::PublicKey;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

pub use archive::{Archive, ArchiveError, Summary};
pub use rules::{CHALLENGE_SECONDS_MAX, Refusal};

use crate::ledger::{Act, Break, Entry};
use crate::site::{FileError, Site, path};

/// How many acts may wait for the writer; who comes later waits for a place.
const WAITING_MAX: usize = 256;

/// Whose ledger it is, and who signs its heads.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) site: Name,
    pub(crate) trust_domain: Name,
    pub(crate) key: SigningKey,
}

/// What an authority remembers, open for writing.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    reader: Mutex<Connection>,
    waiting: Option<mpsc::Sender<Work>>,
    writer: Option<JoinHandle<()>>,
}

/// One act, and who waits for the answer to it.
#[derive(Debug)]
struct Work {
    act: Act,
    now: Timestamp,
    answer: oneshot::Sender<Result<Result<(), Refusal>, StateError>>,
}

/// Why the state cannot be used. Nothing was granted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StateError {
    /// The file is missing, open to others, or no plain file.
    #[error(transparent)]
    File {
        /// Which rule.
        #[from]
        source: Arc<FileError>,
    },
    /// The site has none.
    #[error("{} is missing: the site was made before there was one, or somebody removed it; `kiln attestor ledger begin` makes a new one, which knows nothing of what was", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is one already.
    #[error("{} exists; a ledger is never begun twice", path.display())]
    Exists {
        /// Where it is.
        path: PathBuf,
    },
    /// The file is not one of ours, or of another version.
    #[error("{} is not an attestor's state: its {what} differs", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is different.
        what: &'static str,
    },
    /// SQLite or the disk says no.
    #[error("cannot {action} the state")]
    Store {
        /// What was tried.
        action: &'static str,
        /// What SQLite says.
        source: Arc<rusqlite::Error>,
    },
    /// The end of the ledger does not hold.
    #[error("the ledger does not hold")]
    Ledger {
        /// Where it is broken.
        #[from]
        source: Arc<Break>,
    },
    /// An entry that has no canonical form, or is too large.
    #[error("cannot encode a ledger entry")]
    Encode {
        /// What the encoder says.
        source: Arc<canonical::Error>,
    },
    /// An entry above its bound.
    #[error("a ledger entry of {bytes} bytes is too large")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The writer's thread could not be started, or it is gone.
    #[error("the state's writer is gone")]
    Gone,
}

impl StateError {
    fn store(action: &'static str) -> impl Fn(rusqlite::Error) -> Self {
        move |source| Self::Store { action, source: Arc::new(source) }
    }
}

impl From<Break> for StateError {
    fn from(source: Break) -> Self {
        Arc::new(source).into()
    }
}

impl From<FileError> for StateError {
    fn from(source: FileError) -> Self {
        Arc::new(source).into()
    }
}

impl Owner {
    fn of(site: &Site) -> Result<Self, FileError> {
        let (name, trust_domain) = (site.name().clone(), site.trust_domain().clone());
        Ok(Self { site: name, trust_domain, key: site.ledger_key()? })
    }

    fn key_sha256(&self) -> Sha256Digest {
        PublicKey(self.key.verifying_key()).sha256()
    }
}

impl State {
    /// Begins the state of a site that has none.
    ///
    /// # Errors
    /// [`StateError::Exists`]; the others if it cannot be written.
    pub fn begin(site: &Site, now: Timestamp) -> Result<(), StateError> {
        begin(site.directory(), &Owner::of(site)?, now)
    }

    /// Opens the state of a site. Its file and the end of its ledger are checked; [`Archive::verify`] checks the whole.
    ///
    /// # Errors
    /// [`StateError`] by cause; a state that is missing is one.
    pub fn open(site: &Site) -> Result<Self, StateError> {
        let path = site.directory().join(path::STATE);
        let owner = Owner::of(site)?;
        let mut connection = schema::open(&path)?;
        writer::check_end(&mut connection, &owner)?;
        let reader = Mutex::new(schema::open(&path)?);
        let (send, waiting) = mpsc::channel(WAITING_MAX);
        let writer = std::thread::Builder::new().name("state".to_owned());
        let writer = writer.spawn(move || writer::write(connection, &owner, waiting)).map_err(|_| StateError::Gone)?;
        Ok(Self { path, reader, waiting: Some(send), writer: Some(writer) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does an act, if it may be done: at `now`, once, and for good. The answer comes when it is on the disk.
    ///
    /// The inner error is a refusal, which is in the ledger in the act's place.
    ///
    /// # Errors
    /// [`StateError`]: nothing was granted, and whether there is an entry of it is not known.
    pub async fn record(&self, act: Act, now: Timestamp) -> Result<Result<(), Refusal>, StateError> {
        let (answer, answered) = oneshot::channel();
        let waiting = self.waiting.as_ref().ok_or(StateError::Gone)?;
        waiting.send(Work { act, now, answer }).await.map_err(|_| StateError::Gone)?;
        answered.await.map_err(|_| StateError::Gone)?
    }
}

impl State {
    /// Whether somebody was challenged with this nonce before. What was recorded is seen.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub fn knows(&self, nonce: &Sha256Digest) -> Result<bool, StateError> {
        let reader = self.reader.lock().map_err(|_| StateError::Gone)?;
        let sql = "SELECT EXISTS (SELECT 1 FROM challenge WHERE nonce = ?1)";
        reader.query_row(sql, [nonce.as_bytes()], |row| row.get(0)).map_err(StateError::store("read"))
    }
}

impl State {
    /// The newest trust list that was taken: its number and its digest.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub fn trusted(&self) -> Result<Option<(u64, Sha256Digest)>, StateError> {
        let reader = self.reader.lock().map_err(|_| StateError::Gone)?;
        rules::trusted(&reader).map_err(StateError::store("read"))
    }

    /// When the last thing was done, as its entry says.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub fn last(&self) -> Result<Timestamp, StateError> {
        let reader = self.reader.lock().map_err(|_| StateError::Gone)?;
        let sql = "SELECT entry FROM ledger ORDER BY sequence DESC LIMIT 1";
        let entry: Vec<u8> = reader.query_row(sql, [], |row| row.get(0)).map_err(StateError::store("read"))?;
        let entry: Entry =
            canonical::from_slice_exact(&entry).map_err(|source| StateError::Encode { source: Arc::new(source) })?;
        Ok(entry.time)
    }
}

impl Drop for State {
    /// Lets the writer finish what waits, and close the file.
    fn drop(&mut self) {
        drop(self.waiting.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the state's writer panicked");
        }
    }
}

/// Begins the state of the site in `directory`, which has none: a ledger with one entry, and its head.
pub(crate) fn begin(directory: &Path, owner: &Owner, now: Timestamp) -> Result<(), StateError> {
    let path = directory.join(path::STATE);
    let mut connection = schema::create(&path)?;
    let begun = writer::begin(&mut connection, owner, now);
    let closed = close(connection);
    begun.and(closed)
}

fn close(connection: Connection) -> Result<(), StateError> {
    connection.close().map_err(|(_, source)| StateError::store("close")(source))
}
