//! Lock files: which packages of Debian everything is made from, by version and digest.
//!
//! One package a line: `KIND SUITE PACKAGE VERSION SHA256`, where the kind is `binary` (a package file) or `source` (the
//! upstream tarball in a source package), and the digest is of that file. `#` begins a comment. A [`Pin`] says what was used
//! when the lock was written; it does not say that the archive still has it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use kiln_formats::digest::Sha256Digest;

use crate::files::{self, FileError};

/// The longest name, version or suite: Debian's own are far shorter.
const WORD_BYTES_MAX: usize = 128;

/// A lock file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line is not a pin.
    #[error("{}:{line}: expected `binary|source SUITE PACKAGE VERSION SHA256`", path.display())]
    Malformed {
        /// The lock file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// There is no line for a package that is needed.
    #[error("{} has no line for {package}", path.display())]
    Missing {
        /// The lock file.
        path: PathBuf,
        /// The package.
        package: String,
    },
}

/// What kind of package a pin names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A binary package: the `.deb` file.
    Binary,
    /// A source package: its `.orig.tar.*` file.
    Source,
}

/// One package of Debian, by version and digest. Its words contain only characters that Debian's names have, so they are safe
/// as arguments and as file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Binary or source.
    pub kind: Kind,
    /// The suite, such as `trixie`.
    pub suite: String,
    /// The package's name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The digest of the file.
    pub sha256: Sha256Digest,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Binary => "binary",
            Kind::Source => "source",
        };
        write!(f, "{kind} {} {} {} {}", self.suite, self.package, self.version, self.sha256)
    }
}

/// Text that is no pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected `binary|source SUITE PACKAGE VERSION SHA256`")]
pub struct ParsePinError;

impl FromStr for Pin {
    type Err = ParsePinError;

    fn from_str(line: &str) -> Result<Self, ParsePinError> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [kind, suite, package, version, sha256] = words.as_slice() else { return Err(ParsePinError) };
        let kind = match *kind {
            "binary" => Kind::Binary,
            "source" => Kind::Source,
            _ => return Err(ParsePinError),
        };
        if ![suite, package, version].into_iter().all(|word| is_word(word)) {
            return Err(ParsePinError);
        }
        let sha256 = sha256.parse().map_err(|_| ParsePinError)?;
        Ok(Self { kind, suite: (*suite).into(), package: (*package).into(), version: (*version).into(), sha256 })
    }
}

/// Whether `text` is a name or a version as Debian writes them. Source: Debian Policy 4.7, sections 5.6.1 and 5.6.12.
pub(crate) fn is_word(text: &str) -> bool {
    text.len() <= WORD_BYTES_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.:~".contains(&b))
}

/// The pins of a lock file, in its order.
///
/// # Errors
/// [`LockError::File`] if it cannot be read; [`LockError::Malformed`] with the line that is wrong.
pub fn read(path: &Path) -> Result<Vec<Pin>, LockError> {
    let text = files::read_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(index, line)| {
            line.parse().map_err(|_| LockError::Malformed { path: path.to_path_buf(), line: index + 1 })
        })
        .collect()
}

/// The one pin of `package` in a lock file.
///
/// # Errors
/// As [`read`]; [`LockError::Missing`] if no line names the package.
pub fn pin_of(path: &Path, package: &str) -> Result<Pin, LockError> {
    let pins = read(path)?;
    pins.into_iter()
        .find(|pin| pin.package == package)
        .ok_or_else(|| LockError::Missing { path: path.to_path_buf(), package: package.into() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pin_that_is_read_is_written_the_same(line in "(binary|source|x) [!-~]{1,9} [!-~]{1,9} [!-~]{1,9} [0-9a-f]{64}") {
            if let Ok(pin) = line.parse::<Pin>() {
                prop_assert_eq!(pin.to_string(), line);
            }
        }
    }

    const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn reads_what_it_writes() {
        let line = format!("source trixie zlib 1:1.3.dfsg+really1.3.1-1 {DIGEST}");
        let pin: Pin = line.parse().unwrap();
        assert_eq!((pin.kind, pin.package.as_str()), (Kind::Source, "zlib"));
        assert_eq!(pin.to_string(), line);
    }

    #[test]
    fn refuses_what_could_be_an_option_or_a_path() {
        for bad in ["-o", "a/b", "a;b", "a b", ""] {
            assert_eq!(format!("binary trixie {bad} 1 {DIGEST}").parse::<Pin>(), Err(ParsePinError), "{bad}");
        }
        assert_eq!(format!("other trixie a 1 {DIGEST}").parse::<Pin>(), Err(ParsePinError));
        assert_eq!("binary trixie a 1 00".parse::<Pin>(), Err(ParsePinError));
    }

    #[test]
    fn names_the_line_and_the_package() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        files::write(&path, format!("# comment\nbinary trixie a 1 {DIGEST}\nnonsense\n").as_bytes()).unwrap();
        assert!(matches!(read(&path), Err(LockError::Malformed { line: 3, .. })));
        files::write(&path, format!("binary trixie a 1 {DIGEST}\n").as_bytes()).unwrap();
        assert_eq!(pin_of(&path, "a").unwrap().version, "1");
        assert!(matches!(pin_of(&path, "b"), Err(LockError::Missing { .. })));
    }
}
