//! What a site trusts: its root, its policy, and the configuration of its machines.
//!
//! The machine receives these from outside and measures their bytes before it reads them; the verifier gets them by a separate
//! path. Either side may therefore believe them only as far as PCR 15, or the person who brought them, goes.

use std::collections::BTreeSet;

use ed25519_dalek::VerifyingKey;
use ed25519_dalek::pkcs8::{DecodePublicKey as _, EncodePublicKey as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::canonical;
use crate::digest::Sha256Digest;
use crate::host::Host;
use crate::job::{Job, Profile, Step};
use crate::names::Name;

/// The version of these formats.
pub const VERSION: u32 = 1;
/// The largest configuration in bytes.
pub const CONFIGURATION_BYTES_MAX: usize = 16 << 10;
/// The largest trust bundle in bytes: a root, a policy and some hundred keys.
pub const TRUST_BYTES_MAX: usize = 128 << 10;

/// An Ed25519 public key. Text form: PEM of its SubjectPublicKeyInfo, as `openssl pkey -pubout` writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub VerifyingKey);

impl PublicKey {
    /// The key's SubjectPublicKeyInfo (DER), which its digest is taken over.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        self.0.to_public_key_der().map(|der| der.as_bytes().to_vec()).unwrap_or_default()
    }

    /// The digest of [`PublicKey::spki`]: how documents name a key.
    #[must_use]
    pub fn sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&self.spki())
    }

    /// Reads a SubjectPublicKeyInfo (DER).
    #[must_use]
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        VerifyingKey::from_public_key_der(der).ok().map(Self)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pem = self.0.to_public_key_pem(ed25519_dalek::pkcs8::spki::der::pem::LineEnding::LF);
        pem.map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pem = String::deserialize(deserializer)?;
        VerifyingKey::from_public_key_pem(&pem).map(Self).map_err(serde::de::Error::custom)
    }
}

/// What the site allows. The verifier gets it by a path of its own and compares it with the one that the machine measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Always [`VERSION`].
    pub version: u32,
    /// Which policy of the site: the first is 1, a later one has a higher number. A trust list says which is the least that counts.
    pub number: u64,
    /// The builder ids whose evidence counts; each stands for one set of security properties.
    pub builder_ids: Vec<String>,
    /// Whose jobs may run.
    pub job_signers: Vec<PublicKey>,
    /// What steps may do beyond their own files: a job with a step of another profile is refused. A site that builds what others use
    /// does not list [`Profile::Debug`].
    pub profiles: Vec<Profile>,
    /// Whose images may start: the keys that sign the provenance of images. Where there is none, no image may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_producers: Vec<PublicKey>,
    /// Which machines may build, each by the digest of its endorsement key; without a list, every machine that the site enrols.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machines: Option<BTreeSet<Sha256Digest>>,
    /// On which hosts machines count whose hosts quote their own boot, and what those must have booted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Host>,
}

impl Policy {
    /// The digest of its canonical text: how documents name a policy.
    ///
    /// # Errors
    /// Never for a policy that exists; the signature is that of [`canonical::to_vec`].
    pub fn sha256(&self) -> Result<Sha256Digest, canonical::Error> {
        Ok(Sha256Digest::of(&canonical::to_vec(self)?))
    }

    /// Whether the machine with this endorsement key may build.
    #[must_use]
    pub fn allows_machine(&self, endorsement_key_sha256: &Sha256Digest) -> bool {
        self.machines.as_ref().is_none_or(|machines| machines.contains(endorsement_key_sha256))
    }

    /// The first step of `job` whose profile this policy does not allow.
    #[must_use]
    pub fn forbidden_step<'a>(&self, job: &'a Job) -> Option<(usize, &'a Step)> {
        job.step.iter().enumerate().find(|(_, step)| !self.profiles.contains(&step.profile))
    }
}

/// What a machine of the site is given to trust. Canonical JSON; PCR 15 holds its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustBundle {
    /// Always [`VERSION`].
    pub version: u32,
    /// The site's root certificate, PEM.
    pub root: String,
    /// What the site allows.
    pub policy: Policy,
}

impl TrustBundle {
    /// The bundle of a site: what a verifier expects a machine to have measured, made from what the verifier itself brought. No
    /// root travels with the evidence.
    #[must_use]
    pub fn new(root: String, policy: Policy) -> Self {
        Self { version: VERSION, root, policy }
    }
}

/// What a machine is told of itself. Canonical JSON; PCR 15 holds its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// Always [`VERSION`].
    pub version: u32,
    /// The site's name.
    pub site: Name,
    /// The SPIFFE trust domain of the site's certificates.
    pub trust_domain: Name,
    /// In which way the machine was started, and so how far it may be trusted: one of the policy's builder ids.
    pub builder_id: String,
}
