//! Which TPMs a site takes for TPMs: a directory of certificates, and a list of keys.
//!
//! | below `enrolment/` | what |
//! |-|-|
//! | `roots/*.pem` | authorities that the site trusts of itself; the directory is the decision |
//! | `issuers/*.pem` | authorities between a root and endorsement keys; they count for what a root says of them |
//! | `keys` | digests of endorsement keys that need no certificate, one a line; `#` begins a remark |
//!
//! One certificate a file, PEM or DER. None ships with Kiln: whose TPMs are good is the site's to say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kiln_formats::digest::Sha256Digest;
use kiln_formats::endorsement::{CERTIFICATE_BYTES_MAX, CaCertificate, CertificateFault, Roots};

use super::files::{FileError, list, make_directory, read_public_file, write_public_file};

/// Where trusted authorities are, below the site's directory.
const ROOTS: &str = "enrolment/roots";
/// Where their issuers are.
const ISSUERS: &str = "enrolment/issuers";
/// Where the list of keys is.
const KEYS: &str = "enrolment/keys";
/// The most certificates in either directory: all TPM vendors together have some hundred.
const CERTIFICATES_MAX: usize = 512;
/// The largest list of keys in bytes: ten thousand machines.
const KEYS_BYTES_MAX: usize = 1 << 20;

/// Why a site's choice of TPMs cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is no certificate of an authority that can vouch for endorsement keys.
    #[error("{} cannot be used", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CertificateFault,
    },
    /// Another certificate has the name already.
    #[error("{} is there already, with another certificate", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// A line of the list is no digest.
    #[error("{}, line {line}: not a SHA-256 digest in lowercase hexadecimal", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from one.
        line: usize,
    },
}

/// What a certificate is to the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Trusted of itself.
    Root,
    /// To be vouched for by a root.
    Issuer,
}

impl Role {
    const fn directory(self) -> &'static str {
        match self {
            Self::Root => ROOTS,
            Self::Issuer => ISSUERS,
        }
    }
}

/// Reads what a site has chosen; nothing chosen is an empty choice, with which no machine enrols.
///
/// # Errors
/// [`EnrolmentError`] by cause: one file that cannot be used is not passed over.
pub fn read(site: &Path) -> Result<Roots, EnrolmentError> {
    let certificates = |role: Role| -> Result<Vec<CaCertificate>, EnrolmentError> {
        let directory = site.join(role.directory());
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let paths = list(&directory, CERTIFICATES_MAX)?;
        paths.into_iter().map(|path| read_certificate(&path).map(|(certificate, _)| certificate)).collect()
    };
    Ok(Roots { roots: certificates(Role::Root)?, issuers: certificates(Role::Issuer)?, keys: read_keys(site)? })
}

/// Adds the certificate in `file` under a name. The same certificate under the same name is no change.
///
/// # Errors
/// [`EnrolmentError`].
pub fn add_certificate(site: &Path, role: Role, name: &str, file: &Path) -> Result<CaCertificate, EnrolmentError> {
    let (certificate, bytes) = read_certificate(file)?;
    let directory = site.join(role.directory());
    make_directory(&directory)?;
    let path = directory.join(format!("{name}.pem"));
    if path.exists() {
        return if read_certificate(&path)?.0 == certificate {
            Ok(certificate)
        } else {
            Err(EnrolmentError::Taken { path })
        };
    }
    write_public_file(&path, &bytes)?;
    Ok(certificate)
}

/// Adds a key to the list.
///
/// # Errors
/// [`EnrolmentError`].
pub fn add_key(site: &Path, key: Sha256Digest) -> Result<(), EnrolmentError> {
    if read_keys(site)?.contains(&key) {
        return Ok(());
    }
    let path = site.join(KEYS);
    let mut text = if path.exists() { read_public_file(&path, KEYS_BYTES_MAX)? } else { Vec::new() };
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend(format!("{key}\n").into_bytes());
    make_directory(&site.join(ROOTS))?;
    Ok(write_public_file(&path, &text)?)
}

fn read_certificate(path: &Path) -> Result<(CaCertificate, Vec<u8>), EnrolmentError> {
    let bytes = read_public_file(path, CERTIFICATE_BYTES_MAX)?;
    let certificate = CaCertificate::from_file(&bytes);
    let certificate = certificate.map_err(|source| EnrolmentError::Certificate { path: path.to_owned(), source })?;
    Ok((certificate, bytes))
}

fn read_keys(site: &Path) -> Result<BTreeSet<Sha256Digest>, EnrolmentError> {
    let path = site.join(KEYS);
    if !path.exists() {
        return Ok(BTreeSet::new());
    }
    let bytes = read_public_file(&path, KEYS_BYTES_MAX)?;
    let text = String::from_utf8_lossy(&bytes);
    let words = (1..).zip(text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()));
    let digest =
        |(line, word): (usize, &str)| word.parse().map_err(|_| EnrolmentError::Line { path: path.clone(), line });
    words.filter(|(_, word)| !word.is_empty()).map(digest).collect()
}
