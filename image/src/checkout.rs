//! The source tree that everything is made from.

use std::path::{Path, PathBuf};

/// The files by which a checkout is known.
const MARKS: [&str; 3] = ["Cargo.lock", "mkosi.conf", "kernel-config/source.lock"];

/// A directory that holds a checkout of Kiln: it had the files that mark one.
#[derive(Debug, Clone)]
pub struct Checkout {
    root: PathBuf,
}

/// There is no checkout there.
#[derive(Debug, thiserror::Error)]
#[error("{} is no checkout of Kiln: it has no {missing}", path.display())]
pub struct CheckoutError {
    /// The directory.
    pub path: PathBuf,
    /// The file that marks a checkout and is not there.
    pub missing: &'static str,
}

impl Checkout {
    /// The checkout in the directory `root`.
    ///
    /// # Errors
    /// [`CheckoutError`] if a file that marks a checkout is missing.
    pub fn at(root: &Path) -> Result<Self, CheckoutError> {
        match MARKS.into_iter().find(|mark| !root.join(mark).is_file()) {
            Some(missing) => Err(CheckoutError { path: root.to_path_buf(), missing }),
            None => Ok(Self { root: root.to_path_buf() }),
        }
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file or directory in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_this_checkout_and_no_other_directory() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        Checkout::at(&root).unwrap();
        let error = Checkout::at(Path::new("/")).unwrap_err();
        assert_eq!(error.missing, "Cargo.lock");
    }
}
