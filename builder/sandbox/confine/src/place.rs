//! Where the report goes: a directory that was opened before anything ran, and a name in it.
//!
//! Everything is done through that one descriptor. A step that may write there can rename the directory or put a link at its path;
//! the report then still comes into the directory that was opened, or there is none. It never comes anywhere else.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, open, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;

use crate::kind;

/// A directory in which a file could be made when this was opened, and a name that was free there or a regular file's.
#[derive(Debug)]
pub(crate) struct Place {
    directory: OwnedFd,
    name: OsString,
    /// As it was given, for people.
    path: PathBuf,
}

/// Why there is no report.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("cannot write the report {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the report {} would replace a {kind}", path.display())]
    Taken { path: PathBuf, kind: &'static str },
}

impl Place {
    /// Finds out, before anything runs, whether a report can be put at `path`.
    ///
    /// # Errors
    /// If no file can be made in its directory, or there is something else than a regular file at its name.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let written = |error: Errno| Error::Write { path: path.to_owned(), source: error.into() };
        let Some(name) = path.file_name() else {
            return Err(Error::Taken { path: path.to_owned(), kind: kind::name(FileType::Directory) });
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(directory_of(path), flags, Mode::empty()).map_err(written)?;
        let place = Self { directory, name: name.to_owned(), path: path.to_owned() };
        place.must_be_free()?;
        Temporary::make(&place.directory).map_err(written)?;
        Ok(place)
    }

    /// Puts a file with these bytes there, whole or not at all, in the place of what was there.
    ///
    /// # Errors
    /// If it cannot be written, or there is something else than a regular file at its name by now.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<(), Error> {
        let failed = |source: io::Error| Error::Write { path: self.path.clone(), source };
        let mut temporary = Temporary::make(&self.directory).map_err(|error| failed(error.into()))?;
        temporary.file.write_all(bytes).and_then(|()| temporary.file.sync_all()).map_err(failed)?;
        self.must_be_free()?;
        renameat(&self.directory, &temporary.name, &self.directory, &self.name).map_err(|error| failed(error.into()))
    }

    fn must_be_free(&self) -> Result<(), Error> {
        let found = match statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            found => found.map_err(|error| Error::Write { path: self.path.clone(), source: error.into() })?,
        };
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Ok(()),
            other => Err(Error::Taken { path: self.path.clone(), kind: kind::name(other) }),
        }
    }
}

/// A new file under a name that nobody guesses. Unless it was renamed, it goes when this is dropped.
#[derive(Debug)]
struct Temporary<'a> {
    directory: &'a OwnedFd,
    name: String,
    file: File,
}

impl<'a> Temporary<'a> {
    fn make(directory: &'a OwnedFd) -> Result<Self, Errno> {
        let mut random = [0; 8];
        // So few bytes come whole. Source: getrandom(2).
        getrandom(&mut random, GetRandomFlags::empty())?;
        let name = format!(".kiln-confine-{:016x}", u64::from_ne_bytes(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(directory, &name, flags, Mode::from_raw_mode(0o644))?;
        Ok(Self { directory, name, file: file.into() })
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // Fails after the renaming, when there is no such name.
        let _ = unlinkat(self.directory, &self.name, AtFlags::empty());
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != OsStr::new("")).unwrap_or(Path::new("."))
}
