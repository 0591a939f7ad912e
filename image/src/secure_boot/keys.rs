//! A site's three keys for Secure Boot, and the files that enrol them.
//!
//! | file | what | who needs it |
//! |-|-|-|
//! | `PK.key` | owns the machines: signs changes of PK and KEK | nobody day to day: keep it elsewhere |
//! | `KEK.key` | signs changes of db and dbx | who revokes: keep it elsewhere |
//! | `db.key` | signs images | who signs images |
//! | `*.pem` | the keys' certificates | everyone |
//! | `PK.esl`, `KEK.esl`, `db.esl`, `dbx.esl` | what firmware keeps, and measures into PCR 7 | virtual machines, verifiers |
//! | `PK.auth`, `KEK.auth`, `db.auth`, `dbx.auth` | the same as signed updates | bare metal |
//!
//! `dbx` comes with the first revocation; `db-DIGEST.key` and `db-DIGEST.pem` are what [`Keys::rotate`] replaced. Deliberately absent:
//! removing an entry of `db` or `dbx`. What is in both does not start.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kiln_formats::digest::Sha256Digest;
use kiln_formats::timestamp::Timestamp;
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, DecodePem as _, Encode as _};

use super::Variable;
use super::database::{Database, DatabaseError};
use super::update::{UpdateError, update};
use crate::command::{CommandError, Tool};
use crate::files::{self, FileError, failed};
use crate::progress::Progress;

/// Firmware takes RSA, and this length everywhere. Source: UEFI 2.10, section 32.5.3.1, RSA-2048 with SHA-256 is what must be
/// supported.
const KEY: &str = "rsa:2048";
/// Twenty years: firmware does not look, and a machine outlives most certificates.
const DAYS: &str = "7300";
/// The longest name of a site in a certificate. Source: X.520, ub-common-name is 64; " Secure Boot KEK" is 16 of them.
const NAME_CHARS_MAX: usize = 48;
/// How much of a replaced certificate's digest its files are called after.
const KEPT_DIGITS: usize = 16;
/// What others may not have: any access.
const OTHERS: u32 = 0o077;

/// What a key is for. No key has two roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// PK: owns the machine.
    Platform,
    /// KEK: says what starts and what does not.
    Exchange,
    /// db: signs images.
    Image,
}

/// A site's keys, read and checked: the directory and the keys are nobody else's business, and there are three of them.
#[derive(Debug)]
pub struct Keys {
    directory: PathBuf,
    /// In the order of [`Role::ALL`], in DER.
    certificates: [Vec<u8>; 3],
}

/// There are no keys, or they cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// openssl failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// There is something already; keys are never overwritten.
    #[error("{} exists; keys are never overwritten", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// A private file or directory that others can get at.
    #[error("{} has mode {mode:04o}, so others can get at private keys: run chmod go= {}", path.display(), path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a certificate.
    #[error("{} is no certificate in PEM", path.display())]
    Certificate {
        /// The path.
        path: PathBuf,
    },
    /// One key has two roles.
    #[error("{} and {} in {} hold the same key; each role has its own", .roles.0.name(), .roles.1.name(), directory.display())]
    Shared {
        /// Where.
        directory: PathBuf,
        /// Which.
        roles: (Role, Role),
    },
    /// The site's name does not fit into a certificate.
    #[error("the site's name has more than {NAME_CHARS_MAX} characters, too many for a certificate")]
    Name,
    /// A database is not ours or has no room.
    #[error("{} cannot be used", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DatabaseError,
    },
    /// An update was not signed.
    #[error("cannot sign the update of {variable}")]
    Update {
        /// The variable.
        variable: &'static str,
        /// Why not.
        source: UpdateError,
    },
}

impl Role {
    /// All of them, the most powerful first.
    pub const ALL: [Role; 3] = [Self::Platform, Self::Exchange, Self::Image];

    /// What its files are called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Platform => Variable::PlatformKey.name(),
            Self::Exchange => Variable::KeyExchangeKeys.name(),
            Self::Image => Variable::Allowed.name(),
        }
    }
}

/// Makes the keys of the site `name` in `directory`, which must not exist yet, and the files that enrol them. If it fails the
/// caller removes the directory.
///
/// # Errors
/// [`KeysError`] by cause.
pub fn create(directory: &Path, name: &str, now: Timestamp, progress: &dyn Progress) -> Result<Keys, KeysError> {
    if name.chars().count() > NAME_CHARS_MAX {
        return Err(KeysError::Name);
    }
    fs::DirBuilder::new().mode(0o700).create(directory).map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => KeysError::Exists { path: directory.to_owned() },
        _ => failed("make the directory", directory)(source).into(),
    })?;
    for role in Role::ALL {
        pair(directory, role, name, progress)?;
    }
    let keys = Keys::open(directory)?;
    for (variable, database) in keys.databases()? {
        if !database.is_empty() {
            keys.write(variable, &database, now, progress)?;
        }
    }
    Ok(keys)
}

/// Makes one key, readable by nobody else, and its certificate.
fn pair(directory: &Path, role: Role, name: &str, progress: &dyn Progress) -> Result<(), KeysError> {
    let file = |extension: &str| directory.join(role.name()).with_extension(extension);
    // A key that signs, not one that certifies others.
    let extensions = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"];
    Tool::new("openssl")
        .args(["req", "-x509", "-newkey", KEY, "-noenc", "-sha256", "-days", DAYS, "-utf8", "-subj"])
        .arg(format!("/CN={name} Secure Boot {}", role.name()))
        .args(extensions.iter().flat_map(|extension| ["-addext", extension]))
        .arg("-keyout")
        .arg(file("key"))
        .arg("-out")
        .arg(file("pem"))
        .run(progress)?;
    let private = file("key");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).map_err(failed("set the mode of", &private))?;
    Ok(())
}

impl Keys {
    /// Reads the certificates and checks that the keys, as far as they are here, are private.
    ///
    /// # Errors
    /// [`KeysError`] by cause.
    pub fn open(directory: &Path) -> Result<Self, KeysError> {
        private(directory)?;
        let mut keys = Self { directory: directory.to_owned(), certificates: Default::default() };
        let mut publics: Vec<(Role, Vec<u8>)> = Vec::new();
        for (role, der) in Role::ALL.into_iter().zip(&mut keys.certificates) {
            let file = directory.join(role.name());
            let (certificate, public) = read_certificate(&file.with_extension("pem"))?;
            if let Some((other, _)) = publics.iter().find(|(_, known)| *known == public) {
                return Err(KeysError::Shared { directory: directory.to_owned(), roles: (*other, role) });
            }
            publics.push((role, public));
            *der = certificate;
            let key = file.with_extension("key");
            // PK and KEK should be kept elsewhere.
            if key.exists() {
                private(&key)?;
            }
        }
        Ok(keys)
    }

    /// The file of a role's private key.
    #[must_use]
    pub fn key(&self, role: Role) -> PathBuf {
        self.directory.join(role.name()).with_extension("key")
    }

    /// The file of a role's certificate.
    #[must_use]
    pub fn certificate(&self, role: Role) -> PathBuf {
        self.directory.join(role.name()).with_extension("pem")
    }

    /// What machines have enrolled: each variable's content, in the order of [`Variable::ALL`]. That of `dbx` is empty as long as
    /// nothing is revoked.
    ///
    /// # Errors
    /// [`KeysError::Database`], [`KeysError::File`].
    pub fn databases(&self) -> Result<Vec<(Variable, Database)>, KeysError> {
        let [platform, exchange, image] = &self.certificates;
        let certificates = [Some(platform), Some(exchange), Some(image), None];
        let of = |(variable, certificate): (Variable, Option<&Vec<u8>>)| {
            Ok((variable, self.database(variable, certificate.map(Vec::as_slice))?))
        };
        Variable::ALL.into_iter().zip(certificates).map(of).collect()
    }

    /// A variable's content: as its file has it, or else the role's certificate alone.
    fn database(&self, variable: Variable, certificate: Option<&[u8]>) -> Result<Database, KeysError> {
        let path = self.file(variable, "esl");
        let known = if path.exists() {
            Database::parse(&files::read(&path)?)
        } else {
            certificate.map_or(Ok(Database::default()), Database::of_certificate)
        };
        known.map_err(|source| KeysError::Database { path, source })
    }

    /// Revokes an image by its Authenticode digest, whoever signed it. Needs the key of KEK.
    ///
    /// # Errors
    /// [`KeysError`] by cause; nothing has changed.
    pub fn revoke_image(
        &self,
        authenticode: Sha256Digest,
        now: Timestamp,
        progress: &dyn Progress,
    ) -> Result<(), KeysError> {
        let mut forbidden = self.database(Variable::Forbidden, None)?;
        let added = forbidden.add_image(authenticode);
        added.map_err(|source| KeysError::Database { path: self.file(Variable::Forbidden, "esl"), source })?;
        self.write(Variable::Forbidden, &forbidden, now, progress)
    }

    /// Revokes everything that the key of a certificate (a PEM file) signed. Needs the key of KEK.
    ///
    /// # Errors
    /// [`KeysError`] by cause; nothing has changed.
    pub fn revoke_certificate(
        &self,
        certificate: &Path,
        now: Timestamp,
        progress: &dyn Progress,
    ) -> Result<(), KeysError> {
        let (der, _) = read_certificate(certificate)?;
        let mut forbidden = self.database(Variable::Forbidden, None)?;
        let added = forbidden.add_certificate(&der);
        added.map_err(|source| KeysError::Database { path: self.file(Variable::Forbidden, "esl"), source })?;
        self.write(Variable::Forbidden, &forbidden, now, progress)
    }

    /// Replaces the key that signs images. Both certificates are then in `db`: what the old key signed goes on starting until its
    /// certificate is revoked. Returns the file of that certificate. Needs the key of KEK.
    ///
    /// # Errors
    /// [`KeysError`] by cause.
    pub fn rotate(&self, now: Timestamp, progress: &dyn Progress) -> Result<PathBuf, KeysError> {
        let [_, _, old] = &self.certificates;
        let name = site_name(old).ok_or_else(|| KeysError::Certificate { path: self.certificate(Role::Image) })?;
        let digest = Sha256Digest::of(old).to_string();
        let kept = self.directory.join(format!("db-{}", digest.get(..KEPT_DIGITS).unwrap_or_default()));
        let making = tempfile::tempdir_in(&self.directory).map_err(failed("write", &self.directory))?;
        pair(making.path(), Role::Image, &name, progress)?;

        let fresh = making.path().join(Role::Image.name());
        let (new, _) = read_certificate(&fresh.with_extension("pem"))?;
        let mut allowed = self.database(Variable::Allowed, Some(old))?;
        let added = allowed.add_certificate(&new);
        added.map_err(|source| KeysError::Database { path: self.file(Variable::Allowed, "esl"), source })?;
        self.write(Variable::Allowed, &allowed, now, progress)?;
        for extension in ["key", "pem"] {
            let current = self.directory.join(Role::Image.name()).with_extension(extension);
            rename(&current, &kept.with_extension(extension))?;
            rename(&fresh.with_extension(extension), &current)?;
        }
        Ok(kept.with_extension("pem"))
    }

    fn file(&self, variable: Variable, extension: &str) -> PathBuf {
        self.directory.join(variable.name()).with_extension(extension)
    }

    /// Writes a variable's two files. The update is signed by the level above, and PK by itself. Source: UEFI 2.10, section 32.3.
    fn write(
        &self,
        variable: Variable,
        database: &Database,
        now: Timestamp,
        progress: &dyn Progress,
    ) -> Result<(), KeysError> {
        let signer = match variable {
            Variable::PlatformKey | Variable::KeyExchangeKeys => Role::Platform,
            Variable::Allowed | Variable::Forbidden => Role::Exchange,
        };
        let pair = (self.key(signer), self.certificate(signer));
        let signed = update(variable, database, now, (&pair.0, &pair.1), progress)
            .map_err(|source| KeysError::Update { variable: variable.name(), source })?;
        files::write(&self.file(variable, "auth"), &signed)?;
        Ok(files::write(&self.file(variable, "esl"), &database.to_bytes())?)
    }
}

/// A certificate in DER, and its public key.
fn read_certificate(path: &Path) -> Result<(Vec<u8>, Vec<u8>), KeysError> {
    let wrong = || KeysError::Certificate { path: path.to_owned() };
    let certificate = Certificate::from_pem(files::read(path)?).map_err(|_| wrong())?;
    let public = certificate.tbs_certificate().subject_public_key_info().to_der().map_err(|_| wrong())?;
    Ok((certificate.to_der().map_err(|_| wrong())?, public))
}

/// The site's name in a certificate that [`pair`] made.
fn site_name(der: &[u8]) -> Option<String> {
    let certificate = Certificate::from_der(der).ok()?;
    let subject = certificate.tbs_certificate().subject().to_string();
    subject.strip_prefix("CN=")?.split_once(" Secure Boot ").map(|(name, _)| name.to_owned())
}

fn rename(from: &Path, to: &Path) -> Result<(), KeysError> {
    Ok(fs::rename(from, to).map_err(failed("rename", from))?)
}

/// Checks that nobody else has access.
fn private(path: &Path) -> Result<(), KeysError> {
    let mode = fs::metadata(path).map_err(failed("read", path))?.mode();
    if mode & OTHERS == 0 { Ok(()) } else { Err(KeysError::Open { path: path.to_owned(), mode: mode & 0o7777 }) }
}

#[cfg(test)]
pub(super) mod tests;
