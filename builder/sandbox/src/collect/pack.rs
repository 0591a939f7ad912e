//! A whole directory as one archive, if everything in it may leave (`rules`).

use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::BorrowedFd;

use rustix::fs::Stat;

use super::archive::{Archive, Full, Kind};
use super::copy::Copier;
use super::walk::{Visitor, walk};
use super::{Bounds, Collected, Error, rules};

struct Packing<'a> {
    archive: Archive<'a>,
    copier: Copier,
    bytes_max: u64,
}

pub(super) fn pack(root: BorrowedFd<'_>, bounds: &Bounds, sink: &mut dyn Write) -> Result<Collected, Error> {
    rules::no_attributes(b".", root)?;
    let bytes_max = bounds.bytes_max;
    let mut packing = Packing { archive: Archive::new(sink, bytes_max), copier: Copier::new(), bytes_max };
    walk(root, bounds, &mut packing)?;
    let finished = packing.archive.finish();
    let (size_bytes, sha256) = finished.map_err(|source| Error::Sink { path: b".".to_vec(), source })?;
    Ok(Collected { size_bytes, sha256, executable: false })
}

impl Packing<'_> {
    fn entry(&mut self, path: &[u8], kind: Kind<'_>) -> Result<(), Error> {
        let path = || path.to_vec();
        self.archive.entry(&path(), kind).map_err(|full| match full {
            Full::TooLong { found } => Error::TooLong { path: path(), found, limit: self.bytes_max },
            Full::Sink(source) => Error::Sink { path: path(), source },
        })
    }
}

impl Visitor for Packing<'_> {
    /// Set-user-id, set-group-id, sticky.
    const REFUSED_MODE: u32 = 0o7000;

    fn names(&mut self, directory: &[u8], names: &[OsString]) -> Result<(), Error> {
        rules::names(directory, names)
    }

    fn directory(&mut self, path: &[u8], directory: BorrowedFd<'_>) -> Result<(), Error> {
        rules::no_attributes(path, directory)?;
        self.entry(path, Kind::Directory)
    }

    fn file(&mut self, path: &[u8], file: File, stat: &Stat) -> Result<(), Error> {
        rules::one_name(path, stat.st_nlink)?;
        rules::no_attributes(path, &file)?;
        let size = stat.st_size as u64;
        self.entry(path, Kind::File { executable: stat.st_mode & 0o111 != 0, size })?;
        let Self { archive, copier, .. } = self;
        copier.copy(path, &file, size, size, &mut |bytes| archive.write(bytes))?;
        archive.pad(size).map_err(|source| Error::Sink { path: path.to_vec(), source })
    }

    fn link(&mut self, path: &[u8], depth: usize, target: &CStr) -> Result<(), Error> {
        rules::target(path, depth, target.to_bytes())?;
        self.entry(path, Kind::Link { target: target.to_bytes() })
    }
}
