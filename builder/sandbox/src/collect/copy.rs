//! Reads a file that may not be what it says: exactly the stated bytes, never more than a bound.

use std::fs::File;
use std::io::{self, Read as _};

use super::Error;

/// Bytes read at a time: few calls, and what was just read is still in the processor's cache when it is digested and written.
/// Source: GNU coreutils 9.1, src/ioblksize.h, whose authors measured it on many machines.
const CHUNK_BYTES: usize = 128 * 1024;

/// A buffer for one file after another.
#[derive(Debug)]
pub(super) struct Copier {
    chunk: Vec<u8>,
}

impl Copier {
    pub(super) fn new() -> Self {
        Self { chunk: vec![0; CHUNK_BYTES] }
    }

    /// Hands all bytes of `file` to `take`. Refuses a file that states more than `bytes_max` before it is read, and one that gives
    /// other than `stated` bytes: something still writes it.
    pub(super) fn copy(
        &mut self,
        path: &[u8],
        mut file: &File,
        stated: u64,
        bytes_max: u64,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<u64, Error> {
        if stated > bytes_max {
            return Err(Error::TooLong { path: path.to_vec(), found: stated, limit: bytes_max });
        }
        let mut found = 0_u64;
        loop {
            let read = match file.read(&mut self.chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(Error::Io { operation: "read", path: path.to_vec(), source }),
                Ok(read) => read,
            };
            let bytes = self.chunk.get(..read).unwrap_or_default();
            found = found.saturating_add(read as u64);
            // More than stated is refused as soon as it shows: a file that grows would never end.
            if found > stated || (bytes.is_empty() && found < stated) {
                return Err(Error::Changed { path: path.to_vec(), stated, found });
            }
            if bytes.is_empty() {
                return Ok(found);
            }
            take(bytes).map_err(|source| Error::Sink { path: path.to_vec(), source })?;
        }
    }
}
