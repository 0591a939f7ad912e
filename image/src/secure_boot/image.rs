//! A site's signature on an image.
//!
//! The image stays the same: the digest that firmware measures and that a revocation names leaves signatures out, and this is
//! checked. Deliberately absent: a second signature; sign the published image again instead.

use std::path::Path;

use kiln_formats::digest::Sha256Digest;

use super::keys::{Keys, Role};
use crate::command::{CommandError, Tool};
use crate::files::{self, FileError};
use crate::pe::{Pe, PeError};
use crate::progress::Progress;

/// No signed image was made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A file could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// The image is no PE file.
    #[error(transparent)]
    Pe(#[from] PeError),
    /// sbsign or sbverify failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The image has a signature.
    #[error("{} is signed already; sign the image as it was published", path.display())]
    Signed {
        /// The image.
        path: std::path::PathBuf,
    },
    /// The signed file is another image.
    #[error("sbsign changed the image: its digest was {before} and is {after}")]
    Changed {
        /// The Authenticode digest of the image.
        before: Sha256Digest,
        /// That of the signed file.
        after: Sha256Digest,
    },
}

/// Writes `image` with the signature of the site's db key to `signed`. Returns its Authenticode digest, which is that of both.
///
/// # Errors
/// [`SignError`] by cause. What was written is then not to be used.
pub fn sign(keys: &Keys, image: &Path, signed: &Path, progress: &dyn Progress) -> Result<Sha256Digest, SignError> {
    let bytes = files::read(image)?;
    let pe = Pe::parse(&bytes)?;
    if pe.is_signed() {
        return Err(SignError::Signed { path: image.to_owned() });
    }
    let before = Sha256Digest::of(&pe.authenticode()?);
    let certificate = keys.certificate(Role::Image);
    let with = |program: &str| Tool::new(program).arg("--cert").arg(&certificate);
    with("sbsign").arg("--key").arg(keys.key(Role::Image)).arg("--output").arg(signed).arg(image).run(progress)?;
    with("sbverify").arg(signed).run(progress)?;
    let after = Sha256Digest::of(&Pe::parse(&files::read(signed)?)?.authenticode()?);
    if before == after { Ok(after) } else { Err(SignError::Changed { before, after }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::secure_boot::keys::tests::keys;

    /// An unsigned program for firmware, of package efitools.
    const PROGRAM: &str = "/usr/lib/efitools/x86_64-linux-gnu/HelloWorld.efi";

    #[test]
    fn a_signature_leaves_the_image_as_it_is() {
        let (directory, keys) = keys();
        let at = |name: &str| directory.path().join(name);
        let unsigned = std::fs::read(PROGRAM).expect("package efitools");
        let digest = sign(&keys, Path::new(PROGRAM), &at("signed.efi"), &Silent).unwrap();
        assert_eq!(digest, Sha256Digest::of(&Pe::parse(&unsigned).unwrap().authenticode().unwrap()));
        assert!(std::fs::read(at("signed.efi")).unwrap().len() > unsigned.len());
        let again = sign(&keys, &at("signed.efi"), &at("twice.efi"), &Silent);
        assert!(matches!(again, Err(SignError::Signed { .. })), "{again:?}");
    }
}
