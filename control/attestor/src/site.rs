//! A site: the directory that holds its root, policy, reference values and keys.
//!
//! | file | what | who needs it |
//! |-|-|-|
//! | `site.json` | name and trust domain | the authority |
//! | `root.pem`, `policy.json` | what verifiers trust | verifiers |
//! | `trust.json` | both, as machines get them | the authority |
//! | `root.key` | signs authorities | nobody day to day: keep it elsewhere |
//! | `authorities/` | certifies builds: a key and a certificate for each builder id (see [`signer`]) | the authority, its own mode's alone |
//! | `invoker.key` | signs jobs | whoever orders builds |
//! | `image.key` | signs the provenance of images that are made here | whoever makes images |
//! | `reference/*.json` | what images must yield | the authority, verifiers |
//! | `provenance/` | who made images, from what, in their producers' words (see [`provenance`]) | the authority |
//! | `trust-lists/` | what the root says of all this, for a time (see [`trust_lists`]) | the authority, verifiers |
//! | `before/` | trust bundles that were in force before | verifiers |
//! | `enrolment/` | whose TPMs are taken for TPMs (see [`enrolment`]) | the authority |
//! | `secure-boot/` | keys of Secure Boot and what enrols them (see kiln-image) | who signs images, who owns machines |
//! | `attestor.db` | what the authority remembers, and its ledger ([`crate::state`]) | the authority, in every mode |
//! | `ledger.key` | signs the ledger's heads, and nothing that a verifier of evidence takes | the authority, in every mode |
//! | `tpm-ca/` | certifies the TPMs of virtual machines | the machine's owner |
//!
//! A [`Site`] was read with every check: it is private, all parts fit each other. It holds no private key: whoever needs one asks for it,
//! and an authority for its own mode's ([`Site::signer`]), so that a site's directory serves a mode without the keys of the others.
//! [`create`] makes one whole, or nothing; [`change`] changes what it trusts.

pub mod change;
mod create;
pub mod enrolment;
mod files;
pub mod provenance;
pub mod signer;
#[cfg(test)]
mod tests;
pub mod trust_lists;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use kiln_formats::canonical;
use kiln_formats::certificate::{self, Certificate, CertificateError};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::event::Event;
use kiln_formats::job::CheckedJob;
use kiln_formats::names::{BUILDER_DIRECT, BUILDER_HOSTED, BUILDER_METAL, BUILDER_SECURE_BOOT, Name, PAYLOAD_JOB};
use kiln_formats::pcr::PcrIndex;
use kiln_formats::reference::{self, EventReference, MachineReference, PcrReference, REFERENCE_BYTES_MAX, Reference};
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::{CONFIGURATION_BYTES_MAX, Configuration, PublicKey, TRUST_BYTES_MAX, TrustBundle, VERSION};
use kiln_formats::trust_list::Current;
use serde::{Deserialize, Serialize};

pub use create::{Names, PROFILES, TRUST_LIST_SECONDS, create};
pub use files::{FileError, read_key, read_public_file, write_public_file};
pub use signer::Signer;

/// Where each thing lies in a site's directory.
pub mod path {
    /// Name and trust domain.
    pub const SITE: &str = "site.json";
    /// The root's certificate.
    pub const ROOT: &str = "root.pem";
    /// The root's key.
    pub const ROOT_KEY: &str = "root.key";
    /// The authorities' keys and certificates.
    pub const AUTHORITIES: &str = "authorities";
    /// The certificate of the one authority that a site had before each builder id had its own.
    pub(super) const ONE_AUTHORITY: &str = "authority.pem";
    /// The key that signs the ledger's heads.
    pub const LEDGER_KEY: &str = "ledger.key";
    /// The key that signs jobs.
    pub const INVOKER_KEY: &str = "invoker.key";
    /// The key that signs the provenance of images.
    pub const IMAGE_KEY: &str = "image.key";
    /// The policy.
    pub const POLICY: &str = "policy.json";
    /// The trust bundle.
    pub const TRUST: &str = "trust.json";
    /// Reference values, a file for each image.
    pub const REFERENCE: &str = "reference";
    /// What the authority remembers.
    pub const STATE: &str = "attestor.db";
    /// The certificate authority of the virtual machines' TPMs.
    pub const TPM_CA: &str = "tpm-ca";
    /// The keys of Secure Boot, and what enrols them.
    pub const SECURE_BOOT: &str = "secure-boot";
}

/// The most reference documents of a site: one for each image that is still in use.
const REFERENCES_MAX: usize = 256;

/// `site.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    version: u32,
    name: Name,
    trust_domain: Name,
}

impl Description {
    fn configuration(&self, builder_id: &str) -> Configuration {
        Configuration {
            version: VERSION,
            site: self.name.clone(),
            trust_domain: self.trust_domain.clone(),
            builder_id: builder_id.to_owned(),
        }
    }
}

/// A site, read and checked.
#[derive(Debug)]
pub struct Site {
    directory: PathBuf,
    description: Description,
    trust: TrustBundle,
    trust_bytes: Vec<u8>,
    root: Certificate,
    trust_list: Current,
}

/// Why there is no site here, or why none was made.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// There is something already; a site is never overwritten, as its keys would be lost.
    #[error("{} exists; a site is never overwritten", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// A site of a time when one authority certified the machines of every builder id.
    #[error("{} was made when one key certified machines of every mode: make the site anew (kiln keygen)", path.display())]
    OneAuthority {
        /// The site.
        path: PathBuf,
    },
    /// There is no authority for machines of this builder id.
    #[error("no site has an authority for machines of {builder_id}")]
    UnknownBuilder {
        /// The builder id.
        builder_id: String,
    },
    /// A file is missing, open to others, too large, or not what it should be.
    #[error(transparent)]
    File(#[from] FileError),
    /// A document of the site is not in its one form.
    #[error("{} cannot be read", path.display())]
    Document {
        /// The path.
        path: PathBuf,
        /// What the reader says.
        source: canonical::Error,
    },
    /// Parts of the site do not belong to each other.
    #[error("{}: {rule}", path.display())]
    Mismatch {
        /// The path.
        path: PathBuf,
        /// Which rule.
        rule: &'static str,
    },
    /// The site's certificates do not hold.
    #[error("the certificates in {} do not hold", path.display())]
    Certificate {
        /// The site.
        path: PathBuf,
        /// Why.
        source: CertificateError,
    },
    /// A certificate could not be made.
    #[error("cannot make the site's certificates")]
    Certify {
        /// Why.
        #[from]
        source: crate::certify::CertifyError,
    },
    /// The trust lists do not hold.
    #[error(transparent)]
    TrustLists(#[from] trust_lists::TrustListsError),
    /// The state could not be begun.
    #[error("cannot begin the site's state")]
    State {
        /// Why.
        #[from]
        source: crate::state::StateError,
    },
    /// The kernel gives no randomness.
    #[error("cannot draw random bytes")]
    Random {
        /// Why.
        #[from]
        source: getrandom::Error,
    },
}

impl Site {
    /// Reads a site, which must be whole, private, and valid at `now`. Whether its authorities are says [`Site::signer`].
    ///
    /// # Errors
    /// [`SiteError`] by cause.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self, SiteError> {
        files::check_private_directory(directory)?;
        let at = |name: &str| directory.join(name);
        if at(path::ONE_AUTHORITY).exists() {
            return Err(SiteError::OneAuthority { path: directory.to_owned() });
        }
        let description: Description = document(&at(path::SITE), CONFIGURATION_BYTES_MAX)?.0;
        let (trust, trust_bytes): (TrustBundle, _) = document(&at(path::TRUST), TRUST_BYTES_MAX)?;
        let mismatch = |name: &str, rule| Err(SiteError::Mismatch { path: at(name), rule });
        if description.version != VERSION || trust.version != VERSION || trust.policy.version != VERSION {
            return mismatch("", "written by another version of kiln");
        }
        if document::<kiln_formats::trust::Policy>(&at(path::POLICY), TRUST_BYTES_MAX)?.0 != trust.policy {
            return mismatch(path::POLICY, "is not the policy in trust.json");
        }
        let root = certificate(&at(path::ROOT))?;
        let holds = |source| SiteError::Certificate { path: directory.to_owned(), source };
        if trust.root != root.to_pem().map_err(holds)? {
            return mismatch(path::ROOT, "is not the root in trust.json");
        }
        root.root_key_at(now).map_err(holds)?;
        let trust_list = trust_lists::read(directory, &root)?;
        if trust_list.root != root || trust_list.list.site != description.name {
            return mismatch(trust_lists::DIRECTORY, "the newest trust list is of another root or site");
        }
        Ok(Self { directory: directory.to_owned(), description, trust, trust_bytes, root, trust_list })
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.description.name
    }

    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &Name {
        &self.description.trust_domain
    }

    /// The trust bundle.
    #[must_use]
    pub fn trust(&self) -> &TrustBundle {
        &self.trust
    }

    /// The trust bundle as machines get it.
    #[must_use]
    pub fn trust_bytes(&self) -> &[u8] {
        &self.trust_bytes
    }

    /// The root's certificate.
    #[must_use]
    pub fn root(&self) -> &Certificate {
        &self.root
    }

    /// The newest trust list, as it was when the site was read. Whether it counts now is not checked.
    #[must_use]
    pub fn trust_list(&self) -> &Current {
        &self.trust_list
    }

    /// Who certifies machines of this builder id, now. Reads that key and no other.
    ///
    /// # Errors
    /// [`SiteError`] by cause: one that is certified for other machines is one, and a key that others may read.
    pub fn signer(&self, builder_id: &str, now: Timestamp) -> Result<Signer, SiteError> {
        Signer::open(self, builder_id, now)
    }

    /// The key that the heads of its ledger are signed with.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn ledger_key(&self) -> Result<SigningKey, FileError> {
        read_key(&self.directory.join(path::LEDGER_KEY))
    }

    /// What a machine that was started in this way is told of itself.
    #[must_use]
    pub fn configuration(&self, builder_id: &str) -> Configuration {
        self.description.configuration(builder_id)
    }

    /// What one image must yield at this site: `pcrs` are those that the image itself decides, by register number; PCR 15 follows
    /// from PID 1, the configuration and the trust bundle, for each kind of start but those with Secure Boot.
    ///
    /// # Errors
    /// [`SiteError::Document`] for a configuration without canonical form.
    pub fn reference(
        &self,
        image_sha256: Sha256Digest,
        init_sha256: Sha256Digest,
        pcrs: &BTreeMap<String, PcrReference>,
    ) -> Result<Reference, SiteError> {
        let mut machines = Vec::new();
        // What firmware measures with Secure Boot on depends on the signature and the variables as well.
        let predicted_apart = [BUILDER_SECURE_BOOT, BUILDER_HOSTED, BUILDER_METAL];
        let builder_ids = self.trust.policy.builder_ids.iter();
        for builder_id in builder_ids.filter(|builder_id| !predicted_apart.contains(&builder_id.as_str())) {
            let configuration = canonical::to_vec(&self.configuration(builder_id))
                .map_err(|source| SiteError::Document { path: self.directory.join(path::SITE), source })?;
            let boot = expected_boot(init_sha256, None, &configuration, &self.trust_bytes);
            // Nothing measures the image when QEMU loads it itself.
            let mut machine = if builder_id == BUILDER_DIRECT { BTreeMap::new() } else { pcrs.clone() };
            machine.insert(PcrIndex::RUNTIME.get().to_string(), boot);
            machines.push(MachineReference { builder_id: builder_id.clone(), pcrs: machine });
        }
        Ok(Reference { version: reference::VERSION, number: 0, image_sha256, init_sha256, machines })
    }

    /// The site's reference values, one document for each image.
    ///
    /// # Errors
    /// Those of [`references`].
    pub fn references(&self) -> Result<Vec<Reference>, SiteError> {
        references(&self.directory)
    }

    /// Adds reference values, or replaces those of the same image.
    ///
    /// # Errors
    /// [`SiteError::File`].
    pub fn add_reference(&self, reference: &Reference) -> Result<PathBuf, SiteError> {
        let path = self.directory.join(path::REFERENCE).join(format!("{}.json", reference.image_sha256));
        let bytes =
            canonical::to_vec(reference).map_err(|source| SiteError::Document { path: path.clone(), source })?;
        write_public_file(&path, &bytes)?;
        Ok(path)
    }

    /// The key that signs this site's jobs.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn invoker_key(&self) -> Result<SigningKey, FileError> {
        read_key(&self.directory.join(path::INVOKER_KEY))
    }
}

/// What a server's event is called in reference values.
const UPLINK: &str = "uplink";

/// PCR 15 after the boot part: the three events that every machine begins with. A server has one more, of which `uplink` is what is
/// extended.
fn expected_boot(
    init_sha256: Sha256Digest,
    uplink: Option<Sha256Digest>,
    configuration: &[u8],
    trust: &[u8],
) -> PcrReference {
    let begin = [("init", extended(&Event::Init(init_sha256)))].into_iter().chain(uplink.map(|it| (UPLINK, it)));
    let events = begin.chain([
        ("configuration", extended(&Event::Configuration(Sha256Digest::of(configuration)))),
        ("trust bundle", extended(&Event::Trust(Sha256Digest::of(trust)))),
    ]);
    let mut value = [0; 32];
    let mut references = Vec::new();
    for (name, sha256) in events {
        // TPM2_PCR_Extend: the new value is the hash of the old one and the digest.
        value = *Sha256Digest::of(&[value, *sha256.as_bytes()].concat()).as_bytes();
        references.push(EventReference { name: name.to_owned(), sha256 });
    }
    PcrReference { value: Sha256Digest::from_bytes(value), events: references }
}

/// What PCR 15 must hold after the boot part of a machine that was started in this way at the site in `directory`, with this uplink
/// if it is a server. Reads no key.
///
/// # Errors
/// [`SiteError::File`], [`SiteError::Document`].
pub fn boot_reference(
    directory: &Path,
    builder_id: &str,
    init_sha256: Sha256Digest,
    uplink: Option<Sha256Digest>,
) -> Result<PcrReference, SiteError> {
    let description: Description = document(&directory.join(path::SITE), CONFIGURATION_BYTES_MAX)?.0;
    let (_, trust_bytes): (TrustBundle, _) = document(&directory.join(path::TRUST), TRUST_BYTES_MAX)?;
    let configuration = canonical::to_vec(&description.configuration(builder_id))
        .map_err(|source| SiteError::Document { path: directory.join(path::SITE), source })?;
    let uplink = uplink.map(|uplink| extended(&Event::Uplink(uplink)));
    Ok(expected_boot(init_sha256, uplink, &configuration, &trust_bytes))
}

/// What an event extends.
fn extended(event: &Event) -> Sha256Digest {
    Sha256Digest::of(event.to_string().as_bytes())
}

/// The name of the site in `directory`. Reads no key.
///
/// # Errors
/// [`SiteError::File`], [`SiteError::Document`].
pub fn name(directory: &Path) -> Result<Name, SiteError> {
    Ok(document::<Description>(&directory.join(path::SITE), CONFIGURATION_BYTES_MAX)?.0.name)
}

/// Sets what PCR 15 must hold after the boot part, for each machine of `reference`: by the configuration of the site in `directory`,
/// and by `trust`, which may be one that was in force before. Reads no key.
///
/// # Errors
/// [`SiteError::File`], [`SiteError::Document`].
pub fn boot_references(directory: &Path, trust: &TrustBundle, reference: &mut Reference) -> Result<(), SiteError> {
    let description: Description = document(&directory.join(path::SITE), CONFIGURATION_BYTES_MAX)?.0;
    let encode = |source| SiteError::Document { path: directory.join(path::SITE), source };
    let trust = canonical::to_vec(trust).map_err(encode)?;
    for machine in &mut reference.machines {
        let configuration = canonical::to_vec(&description.configuration(&machine.builder_id)).map_err(encode)?;
        let register = PcrIndex::RUNTIME.get().to_string();
        // A server's uplink is no part of the trust: it stays.
        let known = machine.pcrs.get(&register).and_then(|it| it.events.iter().find(|event| event.name == UPLINK));
        let boot = expected_boot(reference.init_sha256, known.map(|event| event.sha256), &configuration, &trust);
        machine.pcrs.insert(register, boot);
    }
    Ok(())
}

/// The reference values in a site's directory, one document for each image. Reads no key.
///
/// # Errors
/// [`SiteError::File`], [`SiteError::Document`] for a file that is no reference document.
pub fn references(directory: &Path) -> Result<Vec<Reference>, SiteError> {
    let paths = files::list(&directory.join(path::REFERENCE), REFERENCES_MAX)?;
    let json = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    json.map(|path| Ok(document(path, REFERENCE_BYTES_MAX)?.0)).collect()
}

/// Signs a job: its canonical text in an envelope.
///
/// # Errors
/// [`canonical::Error`] for a job with a number that JSON cannot hold; a checked one has none.
pub fn sign_job(job: &CheckedJob, key: &SigningKey) -> Result<Envelope, canonical::Error> {
    let payload = canonical::to_vec(job.job())?;
    Ok(Envelope::sign(PAYLOAD_JOB, &payload, key))
}

/// The digest of a public key, as documents name it.
#[must_use]
pub fn key_digest(key: &SigningKey) -> Sha256Digest {
    PublicKey(key.verifying_key()).sha256()
}

/// Reads a certificate.
fn certificate(path: &Path) -> Result<Certificate, SiteError> {
    let pem = read_public_file(path, certificate::PEM_BYTES_MAX)?;
    Certificate::from_pem(&pem).map_err(|source| SiteError::Certificate { path: path.to_owned(), source })
}

/// Reads a canonical document, and its bytes.
fn document<T>(path: &Path, bytes_max: usize) -> Result<(T, Vec<u8>), SiteError>
where
    T: Serialize + serde::de::DeserializeOwned,
{
    let bytes = read_public_file(path, bytes_max)?;
    let value =
        canonical::from_slice_exact(&bytes).map_err(|source| SiteError::Document { path: path.to_owned(), source })?;
    Ok((value, bytes))
}
