//! The file: what SQLite is told, which tables there are, and that a file is one of ours.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::StateError;
use crate::site::FileError;

/// "kiln", in the file's header, for `file(1)` and for us. Source: <https://sqlite.org/fileformat2.html#application_id>.
const APPLICATION_ID: i32 = 0x6b69_6c6e;
/// The version of the tables.
const SCHEMA_VERSION: i32 = 2;
/// How long another process may hold the file: a transaction takes milliseconds, and a disk may stall.
const BUSY: Duration = Duration::from_secs(10);
/// What others may not have: any access.
const OTHERS: u32 = 0o077;

/// A challenge's fate.
pub(super) mod fate {
    /// It waits for its answer.
    pub(in crate::state) const OPEN: i64 = 0;
    /// It was answered, and the machine is certified.
    pub(in crate::state) const REDEEMED: i64 = 1;
    /// It was answered wrongly, too late or not at all.
    pub(in crate::state) const VOID: i64 = 2;
}

/// The tables. All but `ledger` and `head` are an index of the ledger, so that a question takes no walk through it.
pub(super) const SCHEMA: &str = "
CREATE TABLE ledger (sequence INTEGER PRIMARY KEY, entry BLOB NOT NULL) STRICT;
CREATE TRIGGER ledger_is_not_changed BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER ledger_is_not_cut BEFORE DELETE ON ledger BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 0), envelope BLOB NOT NULL) STRICT;
CREATE TABLE challenge (
    nonce BLOB PRIMARY KEY CHECK (length(nonce) = 32),
    build_id TEXT NOT NULL UNIQUE,
    job_sha256 BLOB NOT NULL CHECK (length(job_sha256) = 32),
    ek_sha256 BLOB NOT NULL CHECK (length(ek_sha256) = 32),
    issued INTEGER NOT NULL,
    fate INTEGER NOT NULL CHECK (fate IN (0, 1, 2))
) STRICT, WITHOUT ROWID;
CREATE TABLE boot (
    ek_sha256 BLOB NOT NULL CHECK (length(ek_sha256) = 32),
    reset_count INTEGER NOT NULL,
    PRIMARY KEY (ek_sha256, reset_count)
) STRICT, WITHOUT ROWID;
CREATE TABLE trusted (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    number INTEGER NOT NULL,
    list_sha256 BLOB NOT NULL CHECK (length(list_sha256) = 32)
) STRICT;
CREATE TABLE job (build_id TEXT PRIMARY KEY REFERENCES challenge (build_id)) STRICT, WITHOUT ROWID;
CREATE TABLE ended (build_id TEXT PRIMARY KEY REFERENCES challenge (build_id), outcome TEXT NOT NULL) STRICT, WITHOUT ROWID;
";

/// Makes the file, with its tables and nothing in them.
pub(super) fn create(path: &Path) -> Result<Connection, StateError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => StateError::Exists { path: path.to_owned() },
        _ => FileError::Io { action: "write", path: path.to_owned(), source }.into(),
    })?;
    let connection = connect(path)?;
    let failed = StateError::store("make");
    connection.execute_batch(SCHEMA).map_err(&failed)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(&failed)?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(&failed)?;
    Ok(connection)
}

/// Opens the file, which must be ours alone and have our tables and no others.
pub(super) fn open(path: &Path) -> Result<Connection, StateError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => StateError::Missing { path: path.to_owned() },
        _ => FileError::Io { action: "read", path: path.to_owned(), source }.into(),
    };
    let metadata = path.symlink_metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FileError::Kind { path: path.to_owned(), expected: "plain file" }.into());
    }
    if metadata.mode() & OTHERS != 0 {
        return Err(FileError::Open { path: path.to_owned(), mode: metadata.mode() & 0o7777 }.into());
    }
    let connection = connect(path)?;
    let foreign = |what| Err(StateError::Foreign { path: path.to_owned(), what });
    if number(&connection, "application_id")? != APPLICATION_ID {
        return foreign("kind");
    }
    if number(&connection, "user_version")? != SCHEMA_VERSION {
        return foreign("version");
    }
    let pristine = Connection::open_in_memory().map_err(StateError::store("open"))?;
    pristine.execute_batch(SCHEMA).map_err(StateError::store("open"))?;
    // A table without its constraints, or a trigger more, would make the rules others than ours.
    if tables(&connection)? != tables(&pristine)? { foreign("schema") } else { Ok(connection) }
}

fn connect(path: &Path) -> Result<Connection, StateError> {
    let failed = StateError::store("open");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags).map_err(&failed)?;
    connection.busy_timeout(BUSY).map_err(&failed)?;
    let journal = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
    if journal.map_err(&failed)? != "wal" {
        return Err(StateError::Foreign { path: path.to_owned(), what: "journal" });
    }
    for (setting, value) in [("synchronous", "FULL"), ("foreign_keys", "ON"), ("trusted_schema", "OFF")] {
        connection.pragma_update(None, setting, value).map_err(&failed)?;
    }
    Ok(connection)
}

fn number(connection: &Connection, pragma: &str) -> Result<i32, StateError> {
    connection.pragma_query_value(None, pragma, |row| row.get(0)).map_err(StateError::store("read"))
}

/// Every table, index and trigger, as text.
fn tables(connection: &Connection) -> Result<Vec<(String, Option<String>)>, StateError> {
    let failed = StateError::store("read");
    let mut query = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").map_err(&failed)?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(&failed)?;
    rows.collect::<Result<_, _>>().map_err(&failed)
}
