//! Which TPMs a site takes for TPMs, and for TPMs of which class: directories of certificates, and lists of keys.
//!
//! | below `enrolment/` | what |
//! |-|-|
//! | `CLASS/roots/*.pem` | authorities that the site trusts of itself, for TPMs of this class; the directory is the decision |
//! | `CLASS/keys` | digests of endorsement keys that need no certificate, one a line; `#` begins a remark |
//! | `issuers/*.pem` | authorities between a root and endorsement keys; they count for what a root says of them |
//!
//! CLASS is `hardware` or `virtual` ([`TpmClass`]). Nothing is of both.
//!
//! One certificate a file, PEM or DER. None ships with Kiln: whose TPMs are good is the site's to say.

use std::path::{Path, PathBuf};

use kiln_formats::digest::Sha256Digest;
use kiln_formats::endorsement::{CERTIFICATE_BYTES_MAX, CaCertificate, CertificateFault, Roots, TpmClass};

use super::files::{FileError, list, make_directory, read_public_file, write_public_file};

/// Where the choice is, below the site's directory; in it is a directory for each class.
const ENROLMENT: &str = "enrolment";
/// Where trusted authorities are, below a class's directory.
const ROOTS: &str = "roots";
/// Where the list of keys is, below a class's directory.
const KEYS: &str = "keys";
/// Where issuers are, below the site's directory.
const ISSUERS: &str = "enrolment/issuers";
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
    /// What the site chose before there were classes.
    #[error(
        "{} does not say whether its TPMs are hardware or virtual: move it below enrolment/hardware or enrolment/virtual",
        path.display()
    )]
    Unclassified {
        /// The file or directory.
        path: PathBuf,
    },
    /// One certificate or key of two classes.
    #[error("{} has what the site enrols as the other class already", path.display())]
    TwoClasses {
        /// The file or directory that was looked at second.
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
    /// Trusted of itself, for TPMs of this class.
    Root(TpmClass),
    /// To be vouched for by a root.
    Issuer,
}

impl Role {
    fn directory(self, site: &Path) -> PathBuf {
        match self {
            Self::Root(class) => of_class(site, class).join(ROOTS),
            Self::Issuer => site.join(ISSUERS),
        }
    }
}

fn of_class(site: &Path, class: TpmClass) -> PathBuf {
    site.join(ENROLMENT).join(class.as_str())
}

/// Reads what a site has chosen; nothing chosen is an empty choice, with which no machine enrols.
///
/// # Errors
/// [`EnrolmentError`] by cause: one file that cannot be used is not passed over, and nothing is of two classes.
pub fn read(site: &Path) -> Result<Roots, EnrolmentError> {
    check_classified(site)?;
    let mut chosen = Roots { issuers: read_certificates(&Role::Issuer.directory(site))?, ..Roots::default() };
    for class in TpmClass::ALL {
        let directory = Role::Root(class).directory(site);
        for root in read_certificates(&directory)? {
            if chosen.roots.iter().any(|(of, other)| *of != class && *other == root) {
                return Err(EnrolmentError::TwoClasses { path: directory });
            }
            chosen.roots.push((class, root));
        }
        let file = of_class(site, class).join(KEYS);
        for key in read_keys(&file)? {
            if chosen.keys.insert(key, class).is_some_and(|of| of != class) {
                return Err(EnrolmentError::TwoClasses { path: file });
            }
        }
    }
    Ok(chosen)
}

/// Adds the certificate in `file` under a name. The same certificate under the same name is no change.
///
/// # Errors
/// [`EnrolmentError`].
pub fn add_certificate(site: &Path, role: Role, name: &str, file: &Path) -> Result<CaCertificate, EnrolmentError> {
    let (certificate, bytes) = read_certificate(file)?;
    let chosen = read(site)?;
    if let Role::Root(class) = role
        && chosen.roots.iter().any(|(of, root)| *of != class && *root == certificate)
    {
        return Err(EnrolmentError::TwoClasses { path: file.to_owned() });
    }
    let directory = role.directory(site);
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

/// Adds a key to the list of a class.
///
/// # Errors
/// [`EnrolmentError`].
pub fn add_key(site: &Path, class: TpmClass, key: Sha256Digest) -> Result<(), EnrolmentError> {
    let path = of_class(site, class).join(KEYS);
    match read(site)?.keys.get(&key) {
        Some(of) if *of == class => return Ok(()),
        Some(_) => return Err(EnrolmentError::TwoClasses { path }),
        None => {}
    }
    let mut text = if path.exists() { read_public_file(&path, KEYS_BYTES_MAX)? } else { Vec::new() };
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend(format!("{key}\n").into_bytes());
    make_directory(&of_class(site, class))?;
    Ok(write_public_file(&path, &text)?)
}

/// Before there were classes, roots and keys lay in one place.
fn check_classified(site: &Path) -> Result<(), EnrolmentError> {
    let before = [ROOTS, KEYS].map(|name| site.join(ENROLMENT).join(name));
    before.into_iter().find(|path| path.exists()).map_or(Ok(()), |path| Err(EnrolmentError::Unclassified { path }))
}

fn read_certificates(directory: &Path) -> Result<Vec<CaCertificate>, EnrolmentError> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let paths = list(directory, CERTIFICATES_MAX)?;
    paths.into_iter().map(|path| read_certificate(&path).map(|(certificate, _)| certificate)).collect()
}

fn read_certificate(path: &Path) -> Result<(CaCertificate, Vec<u8>), EnrolmentError> {
    let bytes = read_public_file(path, CERTIFICATE_BYTES_MAX)?;
    let certificate = CaCertificate::from_file(&bytes);
    let certificate = certificate.map_err(|source| EnrolmentError::Certificate { path: path.to_owned(), source })?;
    Ok((certificate, bytes))
}

fn read_keys(path: &Path) -> Result<Vec<Sha256Digest>, EnrolmentError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = read_public_file(path, KEYS_BYTES_MAX)?;
    let text = String::from_utf8_lossy(&bytes);
    let words = (1..).zip(text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()));
    let digest =
        |(line, word): (usize, &str)| word.parse().map_err(|_| EnrolmentError::Line { path: path.to_owned(), line });
    words.filter(|(_, word)| !word.is_empty()).map(digest).collect()
}
