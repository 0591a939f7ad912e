//! Reads a state and verifies it: every entry, every link, the head, and that the index says what the ledger says.

use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::names::Name;
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::PublicKey;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde::Serialize;

use super::{StateError, rules, schema};
use crate::ledger::{Act, Break, Chain, Entry, Head};
use crate::site::{Site, path};

/// A state, open for reading. Whoever writes meanwhile does not change what one call sees.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    connection: Connection,
    site: Name,
    key: VerifyingKey,
}

/// Why a state does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The ledger is broken.
    #[error(transparent)]
    Ledger(#[from] Break),
    /// SQLite finds the file damaged.
    #[error("{} is damaged: {says}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says first.
        says: String,
    },
    /// The index was changed: it does not say of a build what the ledger says.
    #[error("the index was changed: its {table} does not say what entry {sequence} says")]
    Index {
        /// Which table.
        table: &'static str,
        /// The entry.
        sequence: u64,
    },
    /// The index has another trust list as the newest than the ledger.
    #[error("the index was changed: it has another trust list as the newest one than the ledger")]
    IndexTrusted,
    /// The index has rows that no entry speaks of.
    #[error("the index was changed: its {table} has {rows} rows, and the ledger speaks of {entries}")]
    IndexRows {
        /// Which table.
        table: &'static str,
        /// How many rows.
        rows: u64,
        /// How many entries.
        entries: u64,
    },
}

/// A ledger that holds, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many entries.
    pub entries: u64,
    /// The digest of the last one: keep it with its number, and what comes off the end later will show.
    pub head_sha256: Sha256Digest,
    /// When the last one was written.
    pub last: Timestamp,
    /// Machines that were challenged.
    pub challenged: u64,
    /// Machines that were certified.
    pub certified: u64,
    /// Machines that were refused.
    pub refused: u64,
    /// Jobs that were handed over.
    pub handed_over: u64,
    /// Builds that came to an end.
    pub ended: u64,
    /// Boots that cannot be certified again.
    pub boots: u64,
}

impl Archive {
    /// Opens the state of a site.
    ///
    /// # Errors
    /// [`StateError`] by cause.
    pub fn open(site: &Site) -> Result<Self, StateError> {
        let key = site.ledger_key()?.verifying_key();
        Self::of(&site.directory().join(path::STATE), site.name().clone(), key)
    }

    pub(crate) fn of(path: &Path, site: Name, key: VerifyingKey) -> Result<Self, StateError> {
        Ok(Self { path: path.to_owned(), connection: schema::open(path)?, site, key })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The signed head, as bytes that anyone can keep.
    ///
    /// # Errors
    /// [`ArchiveError`] if there is none, or if it does not hold.
    pub fn head(&mut self) -> Result<(Head, Vec<u8>), ArchiveError> {
        let read = self.connection.transaction().map_err(StateError::store("read"))?;
        head(&read, &self.site, &self.key)
    }

    /// Reads an entry's bytes after the other, from the place `first` on, as they are: nothing is verified. `each` says whether
    /// to go on.
    ///
    /// # Errors
    /// [`StateError`] if they cannot be read.
    pub fn entries(&mut self, first: u64, mut each: impl FnMut(u64, &[u8]) -> bool) -> Result<(), StateError> {
        let read = self.connection.transaction().map_err(StateError::store("read"))?;
        walk::<StateError>(&read, first, |sequence, bytes| Ok(each(sequence, bytes)))
    }

    /// Verifies everything, and the ledger against a head that somebody `kept` besides the one in the file. `each` sees every
    /// entry as soon as it is bound to those before it; only when this returns it is bound to the head.
    ///
    /// # Errors
    /// [`ArchiveError`]: the first place where it does not hold.
    pub fn verify(&mut self, kept: Option<&Head>, mut each: impl FnMut(&Entry)) -> Result<Summary, ArchiveError> {
        let failed = StateError::store("read");
        let read = self.connection.transaction().map_err(&failed)?;
        let says: String = read.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(&failed)?;
        if says != "ok" {
            return Err(ArchiveError::Damaged { path: self.path.clone(), says });
        }
        let mut chain = Chain::new(self.site.clone(), PublicKey(self.key).sha256());
        let mut counted = Counted::default();
        let (mut last, mut differs) = (None, None);
        walk::<ArchiveError>(&read, 0, |sequence, bytes| {
            let entry = chain.take(sequence, bytes)?;
            if let Some(kept) = kept.filter(|kept| kept.sequence == sequence)
                && kept.entry_sha256 != Sha256Digest::of(bytes)
            {
                return Err(Break::HeadEntry { which: "kept", sequence }.into());
            }
            // Whether the entry or the index was changed only the rest of the chain can tell.
            if differs.is_none() {
                differs = counted.take(&read, &entry)?;
            }
            each(&entry);
            last = Some(entry.time);
            Ok(true)
        })?;
        let ((sequence, sha256), last) = chain.last().zip(last).ok_or(Break::Empty)?;
        chain.ends_with(&head(&read, &self.site, &self.key)?.0)?;
        if let Some(kept) = kept.filter(|kept| kept.sequence > sequence) {
            return Err(Break::Truncated { which: "kept", last: sequence, head: kept.sequence }.into());
        }
        differs.map_or(Ok(()), Err)?;
        counted.check(&read)?;
        Ok(Summary {
            entries: sequence + 1,
            head_sha256: sha256,
            last,
            challenged: counted.challenged,
            certified: counted.certified,
            refused: counted.refused,
            handed_over: counted.handed_over,
            ended: counted.ended,
            boots: counted.boots,
        })
    }
}

fn head(read: &Transaction<'_>, site: &Name, key: &VerifyingKey) -> Result<(Head, Vec<u8>), ArchiveError> {
    let envelope = read.query_row("SELECT envelope FROM head", [], |row| row.get::<_, Vec<u8>>(0));
    let envelope = envelope.optional().map_err(StateError::store("read"))?.ok_or(Break::NoHead)?;
    Ok((Head::verify(&envelope, site, key)?, envelope))
}

/// Every entry from `first` on, in order, until `each` has seen enough.
fn walk<E: From<StateError>>(
    read: &Transaction<'_>,
    first: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<bool, E>,
) -> Result<(), E> {
    let failed = StateError::store("read");
    let first = i64::try_from(first).unwrap_or(i64::MAX);
    let sql = "SELECT sequence, entry FROM ledger WHERE sequence >= ?1 ORDER BY sequence";
    let mut query = read.prepare(sql).map_err(&failed)?;
    let mut rows = query.query(params![first]).map_err(&failed)?;
    while let Some(row) = rows.next().map_err(&failed)? {
        let sequence: i64 = row.get(0).map_err(&failed)?;
        let bytes = row.get_ref(1).and_then(|value| Ok(value.as_blob()?)).map_err(&failed)?;
        if !each(u64::try_from(sequence).unwrap_or(u64::MAX), bytes)? {
            break;
        }
    }
    Ok(())
}

/// What the entries say, in numbers, to be compared with the index.
#[derive(Debug, Default)]
struct Counted {
    challenged: u64,
    certified: u64,
    refused: u64,
    handed_over: u64,
    ended: u64,
    boots: u64,
    trusted: Option<(u64, Sha256Digest)>,
}

impl Counted {
    /// Counts an entry, and finds what it says in the index; what it does not find there is how the index differs.
    fn take(&mut self, read: &Transaction<'_>, entry: &Entry) -> Result<Option<ArchiveError>, StateError> {
        let (table, found) = match &entry.act {
            Act::Begun { .. } => return Ok(None),
            Act::Trusted { number, list_sha256, .. } => {
                self.trusted = Some((*number, *list_sha256));
                return Ok(None);
            }
            Act::Refused { .. } => {
                self.refused += 1;
                return Ok(None);
            }
            Act::Challenged { build_id, nonce, job_sha256, ek_sha256, .. } => {
                self.challenged += 1;
                let sql =
                    "SELECT 1 FROM challenge WHERE build_id = ?1 AND nonce = ?2 AND job_sha256 = ?3 AND ek_sha256 = ?4";
                let ek_sha256 = ek_sha256.as_bytes();
                let values = params![build_id.as_str(), nonce.as_bytes(), job_sha256.as_bytes(), ek_sha256];
                ("challenges", exists(read, sql, values)?)
            }
            Act::Certified { build_id, ek_sha256, reset_count, .. } => {
                self.certified += 1;
                let sql = "SELECT 1 FROM challenge WHERE build_id = ?1 AND fate = 1";
                let answered = exists(read, sql, params![build_id.as_str()])?;
                self.boots += 1;
                let sql = "SELECT 1 FROM boot WHERE ek_sha256 = ?1 AND reset_count = ?2";
                ("boots", answered && exists(read, sql, params![ek_sha256.as_bytes(), reset_count])?)
            }
            Act::HandedOver { build_id, .. } => {
                self.handed_over += 1;
                let sql = "SELECT 1 FROM job WHERE build_id = ?1";
                ("jobs", exists(read, sql, params![build_id.as_str()])?)
            }
            Act::Ended { build_id, outcome } => {
                self.ended += 1;
                let sql = "SELECT 1 FROM ended WHERE build_id = ?1 AND outcome = ?2";
                ("ends", exists(read, sql, params![build_id.as_str(), outcome])?)
            }
        };
        Ok((!found).then_some(ArchiveError::Index { table, sequence: entry.sequence }))
    }

    /// Whether the index has nothing more.
    fn check(&self, read: &Transaction<'_>) -> Result<(), ArchiveError> {
        if rules::trusted(read).map_err(StateError::store("read"))? != self.trusted {
            return Err(ArchiveError::IndexTrusted);
        }
        let tables = [
            ("challenges", "SELECT count(*) FROM challenge", self.challenged),
            ("certified challenges", "SELECT count(*) FROM challenge WHERE fate = 1", self.certified),
            ("boots", "SELECT count(*) FROM boot", self.boots),
            ("jobs", "SELECT count(*) FROM job", self.handed_over),
            ("ends", "SELECT count(*) FROM ended", self.ended),
        ];
        for (table, sql, entries) in tables {
            let rows: i64 = read.query_row(sql, [], |row| row.get(0)).map_err(StateError::store("read"))?;
            let rows = u64::try_from(rows).unwrap_or(0);
            if rows != entries {
                return Err(ArchiveError::IndexRows { table, rows, entries });
            }
        }
        Ok(())
    }
}

fn exists(read: &Transaction<'_>, sql: &str, values: impl rusqlite::Params) -> Result<bool, StateError> {
    read.query_row(sql, values, |_| Ok(())).optional().map(|row| row.is_some()).map_err(StateError::store("read"))
}
