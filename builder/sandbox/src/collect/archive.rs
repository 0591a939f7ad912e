//! A tar archive with nothing in it that depends on when, where or by whom it was made.
//!
//! POSIX ustar headers: owner and group 0 without names, time 1, modes 0644 and 0755. What a ustar header has no room for (a path or
//! target of more than 100 bytes, a size of 8 GiB or more) stands in a pax extended header before it. Two empty blocks end it.
//! Written here rather than by a crate: the bytes are what is signed, and must not change with somebody else's release.
//! Source: POSIX.1-2024, pax, "ustar Interchange Format" and "pax Extended Header".

use std::io::{self, Write};

use sha2::{Digest, Sha256};

/// The size of a block.
const BLOCK: usize = 512;
/// The bytes of a name or a target in a ustar header.
const NAME_BYTES: usize = 100;
/// What is too large for eleven octal digits.
const SIZE_MAX: u64 = 1 << 33;
/// Everything was last changed one second after the epoch. Zero is taken for "no time" by some readers.
const MTIME: u64 = 1;
/// What the extended headers themselves are called.
const EXTENDED: &[u8] = b"pax";

/// Why an archive cannot go on.
#[derive(Debug)]
pub(super) enum Full {
    /// It would be larger than it may be.
    TooLong {
        /// How large at least.
        found: u64,
    },
    /// Its sink failed.
    Sink(io::Error),
}

/// An archive that is being written.
pub(super) struct Archive<'a> {
    sink: &'a mut dyn Write,
    hasher: Sha256,
    bytes: u64,
    bytes_max: u64,
}

/// What an entry is.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    Directory,
    Link { target: &'a [u8] },
    File { executable: bool, size: u64 },
}

impl<'a> Archive<'a> {
    pub(super) fn new(sink: &'a mut dyn Write, bytes_max: u64) -> Self {
        Self { sink, hasher: Sha256::new(), bytes: 0, bytes_max }
    }

    /// Begins an entry. The content of a file must follow, `size` bytes of it, and then [`Self::pad`].
    pub(super) fn entry(&mut self, path: &[u8], kind: Kind<'_>) -> Result<(), Full> {
        let mut path = path.to_vec();
        let (flag, mode, size, target) = match kind {
            Kind::Directory => {
                path.push(b'/');
                (b'5', 0o755, 0, [].as_slice())
            }
            Kind::Link { target } => (b'2', 0o777, 0, target),
            Kind::File { executable, size } => (b'0', if executable { 0o755 } else { 0o644 }, size, [].as_slice()),
        };
        let mut extended = Vec::new();
        if path.len() > NAME_BYTES {
            record(&mut extended, "path", &path);
        }
        if target.len() > NAME_BYTES {
            record(&mut extended, "linkpath", target);
        }
        if size >= SIZE_MAX {
            record(&mut extended, "size", size.to_string().as_bytes());
        }
        let padded = size.checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX);
        let extension = if extended.is_empty() { 0 } else { BLOCK + extended.len().next_multiple_of(BLOCK) };
        // Two blocks end the archive; what cannot be ended is not begun.
        let found = [padded, extension as u64, 3 * BLOCK as u64].into_iter().fold(self.bytes, u64::saturating_add);
        if found > self.bytes_max {
            return Err(Full::TooLong { found });
        }
        if !extended.is_empty() {
            let length = extended.len() as u64;
            self.write(&header(EXTENDED, b'x', 0o644, length, &[])).map_err(Full::Sink)?;
            self.write(&extended).and_then(|()| self.pad(length)).map_err(Full::Sink)?;
        }
        self.write(&header(&path, flag, mode, if size >= SIZE_MAX { 0 } else { size }, target)).map_err(Full::Sink)
    }

    /// Bytes of the entry's content.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        self.sink.write_all(bytes)
    }

    /// Fills up the last block of a content of `size` bytes.
    pub(super) fn pad(&mut self, size: u64) -> io::Result<()> {
        let used = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if used == 0 { Ok(()) } else { self.write([0; BLOCK].get(used..).unwrap_or_default()) }
    }

    /// Ends the archive. Returns how large it is, and its digest.
    pub(super) fn finish(mut self) -> io::Result<(u64, [u8; 32])> {
        self.write(&[0; 2 * BLOCK])?;
        Ok((self.bytes, self.hasher.finalize().into()))
    }
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts its own digits.
fn record(to: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    to.extend_from_slice(format!("{length} {key}=").as_bytes());
    to.extend_from_slice(value);
    to.push(b'\n');
}

/// A ustar header. What is too long for a field is cut; an extended header has it whole.
fn header(name: &[u8], flag: u8, mode: u64, size: u64, target: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(BLOCK);
    field(&mut header, name, NAME_BYTES);
    for (number, digits) in [(mode, 7), (0, 7), (0, 7), (size, 11), (MTIME, 11)] {
        header.extend_from_slice(format!("{number:0digits$o}\0").as_bytes());
    }
    let checksum_at = header.len();
    header.extend_from_slice(b"        ");
    header.push(flag);
    field(&mut header, target, NAME_BYTES);
    header.extend_from_slice(b"ustar\x0000");
    // No names of owner and group, devices 0, no prefix.
    header.resize(BLOCK, 0);
    let sum: u64 = header.iter().copied().map(u64::from).sum();
    let checksum = format!("{sum:06o}\0 ");
    for (to, byte) in header.iter_mut().skip(checksum_at).zip(checksum.bytes()) {
        *to = byte;
    }
    header
}

fn field(header: &mut Vec<u8>, bytes: &[u8], length: usize) {
    let end = header.len() + length;
    header.extend(bytes.iter().take(length));
    header.resize(end, 0);
}
