//! The provenance of a site's images, as files: `provenance/DIGEST.intoto.json`, each as its producer signed it.
//!
//! A file that is there proves nothing: [`crate::image::check`] finds out whose word it is, each time that an image is to be started.
//! [`producer`] is the site's own producer, who vouches for what is made here.

use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use kiln_formats::canonical;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::image_provenance::ImageProvenance;
use kiln_formats::names::PAYLOAD_STATEMENT;
use kiln_formats::statement::Statement;
use kiln_formats::trust::PublicKey;

use super::files::{FileError, make_directory, read_key, read_public_file, write_public_file};
use super::{Site, path};

/// Where they are, below the site's directory.
const DIRECTORY: &str = "provenance";
/// The largest file in bytes: some hundreds of inputs, in base64.
pub const PROVENANCE_BYTES_MAX: usize = 4 << 20;

fn file(site: &Path, image: &Sha256Digest) -> PathBuf {
    site.join(DIRECTORY).join(format!("{image}.intoto.json"))
}

/// What is kept as the provenance of this image; nothing if nothing is.
///
/// # Errors
/// [`FileError`].
pub fn read(site: &Path, image: &Sha256Digest) -> Result<Option<Vec<u8>>, FileError> {
    match read_public_file(&file(site, image), PROVENANCE_BYTES_MAX) {
        Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Keeps it, in the place of what was kept of the same image. Says where.
///
/// # Errors
/// [`FileError`].
pub fn add(site: &Path, image: &Sha256Digest, envelope: &[u8]) -> Result<PathBuf, FileError> {
    make_directory(&site.join(DIRECTORY))?;
    let file = file(site, image);
    write_public_file(&file, envelope)?;
    Ok(file)
}

/// The key of the site's own producer, if it is here and the policy names it. It may be kept elsewhere, or nowhere.
///
/// # Errors
/// [`FileError`].
pub fn producer(site: &Site) -> Result<Option<SigningKey>, FileError> {
    let file = site.directory().join(path::IMAGE_KEY);
    if !file.exists() {
        return Ok(None);
    }
    let key = read_key(&file)?;
    let named = site.trust().policy.image_producers.contains(&PublicKey(key.verifying_key()));
    Ok(named.then_some(key))
}

/// Signs a statement as producers publish it: canonical, in an envelope, on one line.
///
/// # Errors
/// Never for a statement that exists; the signature is that of [`canonical::to_vec`].
pub fn sign(statement: &Statement<ImageProvenance>, key: &SigningKey) -> Result<Vec<u8>, canonical::Error> {
    let mut line = Envelope::sign(PAYLOAD_STATEMENT, &canonical::to_vec(statement)?, key).to_vec()?;
    line.push(b'\n');
    Ok(line)
}
