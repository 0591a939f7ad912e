//! The bundle as the caller read it: paths below the output directory, and what lies there.

use std::collections::BTreeMap;

use kiln_formats::digest::Sha256Digest;

/// One file. Artifacts may be as large as a disk, so their digest and size stand for them; so may any other file's, but a gate
/// that needs the bytes of such a file rejects the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The file itself.
    Bytes(Vec<u8>),
    /// What the caller found when it read the file.
    Digest {
        /// The digest of its bytes.
        sha256: Sha256Digest,
        /// Their number.
        size: u64,
    },
}

impl Content {
    pub(crate) fn sha256(&self) -> Sha256Digest {
        match self {
            Self::Bytes(bytes) => Sha256Digest::of(bytes),
            Self::Digest { sha256, .. } => *sha256,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Digest { size, .. } => *size,
        }
    }
}

/// Every regular file below an output directory but `verdict.json` and `teardown.json`, by its path with `/` between names.
///
/// The caller must put in *every* file that it finds, and fail on anything that is no regular file: a file left out here is a
/// file that nobody looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bundle {
    files: BTreeMap<String, Content>,
}

impl Bundle {
    /// A bundle without a file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file, in place of one of the same path.
    pub fn insert(&mut self, path: impl Into<String>, content: Content) {
        self.files.insert(path.into(), content);
    }

    /// Takes a file out.
    pub fn remove(&mut self, path: &str) -> Option<Content> {
        self.files.remove(path)
    }

    /// The file of that path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Content> {
        self.files.get(path)
    }

    /// The bytes of the file of that path, if they are here.
    #[must_use]
    pub fn bytes(&self, path: &str) -> Option<&[u8]> {
        match self.files.get(path)? {
            Content::Bytes(bytes) => Some(bytes),
            Content::Digest { .. } => None,
        }
    }

    /// All paths, ascending.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }
}
