//! One digest of a whole tree: the same for the same names, types, modes and contents, whatever the order on disk, the times,
//! owners and inode numbers.
//!
//! SHA-256 over one line for each entry, a directory before what is in it, names of one directory in byte order:
//! `KIND MODE LENGTH-OF-PATH PATH LENGTH-OF-CONTENT SHA-256-OF-CONTENT\n`, where KIND is `d`, `f` or `l` (its content is the
//! target), MODE is `x` if anyone may execute a file and `-` otherwise, and a directory's content is empty. The root is not listed.

use std::ffi::{CStr, OsString};
use std::fs::File;
use std::os::fd::BorrowedFd;

use rustix::fs::Stat;
use sha2::{Digest, Sha256};

use super::copy::Copier;
use super::walk::{Visitor, walk};
use super::{Bounds, Error};

/// The digest of a tree and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeDigest {
    /// Over the listing.
    pub sha256: [u8; 32],
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

struct Listing {
    hasher: Sha256,
    copier: Copier,
    bytes: u64,
    bytes_max: u64,
}

pub(super) fn digest(root: BorrowedFd<'_>, bounds: &Bounds) -> Result<TreeDigest, Error> {
    let mut listing = Listing { hasher: Sha256::new(), copier: Copier::new(), bytes: 0, bytes_max: bounds.bytes_max };
    let entries = walk(root, bounds, &mut listing)?;
    Ok(TreeDigest { sha256: listing.hasher.finalize().into(), entries, bytes: listing.bytes })
}

impl Listing {
    fn line(&mut self, kind: char, mode: char, path: &[u8], bytes: u64, sha256: &[u8; 32]) {
        self.hasher.update(format!("{kind} {mode} {} ", path.len()));
        self.hasher.update(path);
        self.hasher.update(format!(" {bytes} {}\n", hex::encode(sha256)));
    }
}

impl Visitor for Listing {
    /// Set-user-id and set-group-id. A sticky directory is taken for a directory.
    const REFUSED_MODE: u32 = 0o6000;

    fn names(&mut self, _: &[u8], _: &[OsString]) -> Result<(), Error> {
        Ok(())
    }

    fn directory(&mut self, path: &[u8], _: BorrowedFd<'_>) -> Result<(), Error> {
        self.line('d', '-', path, 0, &Sha256::digest([]).into());
        Ok(())
    }

    fn file(&mut self, path: &[u8], file: File, stat: &Stat) -> Result<(), Error> {
        let mut content = Sha256::new();
        let left = self.bytes_max - self.bytes;
        let bytes = self.copier.copy(path, &file, stat.st_size as u64, left, &mut |bytes| {
            content.update(bytes);
            Ok(())
        })?;
        self.bytes += bytes;
        let mode = if stat.st_mode & 0o111 == 0 { '-' } else { 'x' };
        self.line('f', mode, path, bytes, &content.finalize().into());
        Ok(())
    }

    fn link(&mut self, path: &[u8], _: usize, target: &CStr) -> Result<(), Error> {
        let target = target.to_bytes();
        self.line('l', '-', path, target.len() as u64, &Sha256::digest(target).into());
        Ok(())
    }
}
