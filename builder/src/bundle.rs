//! The files of the evidence as they come together, each under its path in the bundle.

use std::fs::File;
use std::io::{self, Seek as _};

use bytes::Bytes;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::manifest;

/// What a file holds.
#[derive(Debug)]
pub(crate) enum Content {
    /// Bytes in memory.
    Bytes(Bytes),
    /// An open file that nobody else can reach or change.
    File(File),
}

/// One file of the bundle: what it is called, and the size and digest of what will be sent.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) listed: manifest::File,
    pub(crate) content: Content,
}

/// Files so far, in the order in which they were added. Only [`crate::attest`] turns it into evidence.
#[derive(Debug, Default)]
pub(crate) struct Bundle(Vec<Item>);

impl Bundle {
    /// Adds a file of known bytes.
    pub(crate) fn add(&mut self, path: impl Into<String>, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let (sha256, size) = (Sha256Digest::of(&bytes), bytes.len() as u64);
        let listed = manifest::File { path: path.into(), sha256, size };
        self.0.push(Item { listed, content: Content::Bytes(bytes) });
    }

    /// Adds a file that was digested when it was collected.
    ///
    /// # Errors
    /// What the kernel says to going back to its start.
    pub(crate) fn add_file(&mut self, listed: manifest::File, mut file: File) -> io::Result<()> {
        file.rewind()?;
        self.0.push(Item { listed, content: Content::File(file) });
        Ok(())
    }

    /// What a manifest lists, sorted by path.
    pub(crate) fn listing(&self) -> Vec<manifest::File> {
        let mut files: Vec<_> = self.0.iter().map(|item| item.listed.clone()).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }

    /// The files, in the order in which they were added.
    pub(crate) fn into_items(self) -> Vec<Item> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_sorted_and_exact() {
        let mut bundle = Bundle::default();
        bundle.add("b", b"two".as_slice());
        bundle.add("a", Vec::new());
        let listing = bundle.listing();
        assert_eq!(listing.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let last = listing.last().unwrap();
        assert_eq!((last.sha256, last.size), (Sha256Digest::of(b"two"), 3));
    }
}
