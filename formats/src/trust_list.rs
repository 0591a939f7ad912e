//! The trust list: what a site's root says of everything that it once trusted, for a time. Canonical JSON, signed by the root.
//!
//! A list has a number that only grows and a time at which it ends. It names the root that is current, the roots before it with the
//! time until which they count, the least policy and image that count, and what is revoked. A new root is introduced by a list that
//! both roots signed, so whoever trusts any root of a [`SignedList`] sequence can follow it to the newest.
//!
//! What holding a [`TrustList`] from [`current`] tells you: a root that you trust signed it, or vouched for the one that did, and no
//! list of the sequence took anything back. What it does not: that there is no newer one. For that it ends, and whoever has a memory
//! refuses a lower number than the one before. Source of the manner: The Update Framework specification, sections 5.3 and 1.5.2.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::certificate::{Certificate, CertificateError};
use crate::digest::Sha256Digest;
use crate::dsse::{self, Envelope};
use crate::names::{Name, PAYLOAD_REFERENCE_TIME, PAYLOAD_TRUST_LIST};
use crate::timestamp::Timestamp;
use crate::trust::Policy;

/// The version of these formats.
pub const VERSION: u32 = 1;
/// The largest file in bytes: all that [`ENTRIES_MAX`] allows, in two envelopes.
pub const TRUST_LIST_BYTES_MAX: usize = 4 << 20;
/// The largest reference time in bytes; ours have about 400.
pub const REFERENCE_TIME_BYTES_MAX: usize = 4 << 10;
/// The most entries of one kind: a site that revokes more makes a new root.
pub const ENTRIES_MAX: usize = 4096;
/// The most roots that a list remembers.
pub const RETIRED_MAX: usize = 32;
/// The longest life of a list, in seconds: a year and a month, so that a yearly ceremony has time to be late.
pub const LIFE_SECONDS_MAX: u32 = 396 * 86_400;
/// The most lists of a sequence: more than one a week for ten years.
pub const LISTS_MAX: usize = 640;

/// What a site's root says. Believed only as part of what [`current`] returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustList {
    /// Always [`VERSION`].
    pub version: u32,
    /// The site's name.
    pub site: Name,
    /// Which list: the first is 1, and each has a higher number than the one before.
    pub number: u64,
    /// When it was made.
    pub issued: Timestamp,
    /// The last second at which it counts, at most [`LIFE_SECONDS_MAX`] later.
    pub expires: Timestamp,
    /// The root that is current: its certificate, PEM. It signed this list.
    pub root: String,
    /// The roots before it, in their order.
    pub retired: Vec<RetiredRoot>,
    /// The least that counts.
    pub minimum: Minimum,
    /// What does not count any more, whenever it was made.
    pub revoked: Revoked,
}

/// A root that has a successor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetiredRoot {
    /// Its certificate, PEM.
    pub root: String,
    /// Builds that were challenged until then still count under it.
    pub until: Timestamp,
}

/// The least that counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Minimum {
    /// The least number of a policy.
    pub policy: u64,
    /// The least number of an image, as its reference values have it.
    pub image: u64,
}

/// What was trusted once and is not any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// Keys of any kind by the digest of their SubjectPublicKeyInfo: roots, authorities, job signers, machines' endorsement keys.
    pub keys: BTreeSet<Sha256Digest>,
    /// Images by the digest of the UKI.
    pub images: BTreeSet<Sha256Digest>,
    /// Policies by the digest of their canonical text.
    pub policies: BTreeSet<Sha256Digest>,
}

/// A list as a file: one envelope of its own root, and one of the root before it where that is another. Canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedList {
    /// Signed by the root that it names.
    pub signed: Envelope,
    /// The same payload signed by the root of the list before, if that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_signed: Option<Envelope>,
}

/// The newest list of a sequence that leads there from a trusted root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// The list.
    pub list: TrustList,
    /// The digest of its canonical text, which names it.
    pub sha256: Sha256Digest,
    /// The root that is current.
    pub root: Certificate,
}

/// A time on the root's word, for a host that has no clock to be trusted. Canonical JSON, signed by the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceTime {
    /// Always [`VERSION`].
    pub version: u32,
    /// The site's name.
    pub site: Name,
    /// What time it is, at least.
    pub time: Timestamp,
}

/// Why a sequence of lists leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum TrustListError {
    /// None, or more than [`LISTS_MAX`].
    #[error("{lists} trust lists, where 1 to {LISTS_MAX} are read")]
    Count {
        /// How many.
        lists: usize,
    },
    /// A file larger than [`TRUST_LIST_BYTES_MAX`].
    #[error("a trust list of {bytes} bytes is larger than {TRUST_LIST_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not the canonical text of a list, or of a reference time.
    #[error("not a trust list or reference time in canonical form")]
    Syntax {
        /// What the reader says.
        #[from]
        source: canonical::Error,
    },
    /// An envelope is none, or the root that should have signed it did not.
    #[error("trust list {number}: the {which} root did not sign it")]
    Signature {
        /// Which list, by what it says itself.
        number: u64,
        /// `current` or `previous`.
        which: &'static str,
        /// Why.
        source: dsse::Error,
    },
    /// The root in a list is none.
    #[error("trust list {number}: its root is no root certificate")]
    Root {
        /// Which list.
        number: u64,
        /// Why.
        source: CertificateError,
    },
    /// A rule that every list keeps is broken.
    #[error("trust list {number}: {rule}")]
    Rule {
        /// Which list.
        number: u64,
        /// Which rule.
        rule: &'static str,
    },
    /// No list of the sequence has the root that the reader trusts.
    #[error("none of the trust lists is of the root that is trusted here")]
    UnknownRoot,
}

/// Why something does not count under a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The list is of a later time.
    #[error("trust list {number} was made at {issued}, after the time of this judgement: the clock was set back")]
    NotYet {
        /// Which list.
        number: u64,
        /// When it was made.
        issued: Timestamp,
    },
    /// The list has ended.
    #[error("trust list {number} ended at {expires}: get the newest one")]
    Expired {
        /// Which list.
        number: u64,
        /// Its last second.
        expires: Timestamp,
    },
    /// A root that the list does not know.
    #[error("the trust list does not know this root")]
    RootUnknown,
    /// A root that was replaced before.
    #[error("this root counted until {until}")]
    RootRetired {
        /// Its last second.
        until: Timestamp,
    },
    /// A key that is revoked.
    #[error("the key of the {role} is revoked")]
    KeyRevoked {
        /// Whose.
        role: &'static str,
    },
    /// An image that is revoked.
    #[error("this image is revoked")]
    ImageRevoked,
    /// Reference values of an image that is too old.
    #[error("the reference values are of image number {number}, the least that counts is {minimum}")]
    ReferenceStale {
        /// The image's number.
        number: u64,
        /// The least.
        minimum: u64,
    },
    /// A policy that is revoked.
    #[error("this policy is revoked")]
    PolicyRevoked,
    /// A policy that is too old.
    #[error("this is policy number {number}, the least that counts is {minimum}")]
    PolicyRolledBack {
        /// The policy's number.
        number: u64,
        /// The least.
        minimum: u64,
    },
}

impl Unfit {
    /// Stable; scripts may rely on it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotYet { .. } => "clock_set_back",
            Self::Expired { .. } => "trust_list_expired",
            Self::RootUnknown => "root_unknown",
            Self::RootRetired { .. } => "root_retired",
            Self::KeyRevoked { .. } => "key_revoked",
            Self::ImageRevoked => "image_revoked",
            Self::ReferenceStale { .. } => "reference_stale",
            Self::PolicyRevoked => "policy_revoked",
            Self::PolicyRolledBack { .. } => "policy_rolled_back",
        }
    }
}

impl TrustList {
    /// Signs it as a file. `previous` is the root of the list before, if that is another.
    ///
    /// # Errors
    /// [`canonical::Error`] for a number that JSON cannot hold.
    pub fn sign(&self, root: &SigningKey, previous: Option<&SigningKey>) -> Result<Vec<u8>, canonical::Error> {
        let payload = canonical::to_vec(self)?;
        let sign = |key: &SigningKey| Envelope::sign(PAYLOAD_TRUST_LIST, &payload, key);
        canonical::to_vec(&SignedList { signed: sign(root), cross_signed: previous.map(sign) })
    }

    /// Whether the list itself counts at a time.
    ///
    /// # Errors
    /// [`Unfit::NotYet`], [`Unfit::Expired`].
    pub fn counts_at(&self, at: Timestamp) -> Result<(), Unfit> {
        let Self { number, issued, expires, .. } = *self;
        if at < issued {
            return Err(Unfit::NotYet { number, issued });
        }
        if at > expires { Err(Unfit::Expired { number, expires }) } else { Ok(()) }
    }

    /// Whether a root counts for a build that was challenged at a time.
    ///
    /// # Errors
    /// [`Unfit::RootUnknown`], [`Unfit::RootRetired`].
    pub fn allows_root(&self, root_pem: &str, at: Timestamp) -> Result<(), Unfit> {
        if root_pem == self.root {
            return Ok(());
        }
        match self.retired.iter().find(|retired| retired.root == root_pem) {
            None => Err(Unfit::RootUnknown),
            Some(RetiredRoot { until, .. }) if at > *until => Err(Unfit::RootRetired { until: *until }),
            Some(_) => Ok(()),
        }
    }

    /// Whether a key still counts, in any role.
    ///
    /// # Errors
    /// [`Unfit::KeyRevoked`].
    pub fn allows_key(&self, role: &'static str, spki_sha256: &Sha256Digest) -> Result<(), Unfit> {
        if self.revoked.keys.contains(spki_sha256) { Err(Unfit::KeyRevoked { role }) } else { Ok(()) }
    }

    /// Whether an image counts, which is of this number.
    ///
    /// # Errors
    /// [`Unfit::ImageRevoked`], [`Unfit::ReferenceStale`].
    pub fn allows_image(&self, image_sha256: &Sha256Digest, number: u64) -> Result<(), Unfit> {
        let minimum = self.minimum.image;
        if self.revoked.images.contains(image_sha256) {
            return Err(Unfit::ImageRevoked);
        }
        if number < minimum { Err(Unfit::ReferenceStale { number, minimum }) } else { Ok(()) }
    }

    /// Whether a policy counts.
    ///
    /// # Errors
    /// [`Unfit::PolicyRevoked`], also for a policy without canonical form; [`Unfit::PolicyRolledBack`].
    pub fn allows_policy(&self, policy: &Policy) -> Result<(), Unfit> {
        let sha256 = policy.sha256().map_err(|_| Unfit::PolicyRevoked)?;
        if self.revoked.policies.contains(&sha256) {
            return Err(Unfit::PolicyRevoked);
        }
        let (number, minimum) = (policy.number, self.minimum.policy);
        if number < minimum { Err(Unfit::PolicyRolledBack { number, minimum }) } else { Ok(()) }
    }

    fn check(&self) -> Result<(), TrustListError> {
        let broken = |rule| Err(TrustListError::Rule { number: self.number, rule });
        if self.version != VERSION || self.number == 0 {
            return broken("its version is not known, or it has no number");
        }
        if self.expires < self.issued || self.expires > self.issued.plus_seconds(LIFE_SECONDS_MAX) {
            return broken("it ends before it begins, or lives for more than 396 days");
        }
        let Revoked { keys, images, policies } = &self.revoked;
        if [keys, images, policies].iter().any(|set| set.len() > ENTRIES_MAX) || self.retired.len() > RETIRED_MAX {
            return broken("it has more entries than a list may have");
        }
        Ok(())
    }

    /// Nothing that `before` said is taken back.
    fn check_follows(&self, before: &Self) -> Result<(), TrustListError> {
        let broken = |rule| Err(TrustListError::Rule { number: self.number, rule });
        if self.site != before.site {
            return broken("it is of another site than the one before");
        }
        if self.number <= before.number || self.issued < before.issued {
            return broken("it is not newer than the one before");
        }
        if self.minimum.policy < before.minimum.policy || self.minimum.image < before.minimum.image {
            return broken("it lowers a minimum");
        }
        let (now, then) = (&self.revoked, &before.revoked);
        let pairs = [(&then.keys, &now.keys), (&then.images, &now.images), (&then.policies, &now.policies)];
        if pairs.iter().any(|(then, now)| !then.is_subset(now)) {
            return broken("it takes a revocation back");
        }
        if !self.retired.starts_with(&before.retired) {
            return broken("it forgets a root, or changes until when one counted");
        }
        let added = self.retired.get(before.retired.len()..).unwrap_or_default();
        match added {
            [] if self.root == before.root => Ok(()),
            [retired] if self.root != before.root && retired.root == before.root => Ok(()),
            _ => broken("its roots do not follow from those before"),
        }
    }
}

/// Reads a sequence of lists, the oldest first, by somebody who trusts `known`: one of their roots.
///
/// # Errors
/// [`TrustListError`]: one list that does not hold spoils the sequence.
pub fn current(files: &[Vec<u8>], known: &Certificate) -> Result<Current, TrustListError> {
    if files.is_empty() || files.len() > LISTS_MAX {
        return Err(TrustListError::Count { lists: files.len() });
    }
    let (mut last, mut trusted): (Option<Current>, bool) = (None, false);
    for file in files {
        let next = read(file, last.as_ref())?;
        trusted |= next.root == *known;
        last = Some(next);
    }
    last.filter(|_| trusted).ok_or(TrustListError::UnknownRoot)
}

/// A list that its own root signed, and that follows the one before.
fn read(file: &[u8], before: Option<&Current>) -> Result<Current, TrustListError> {
    if file.len() > TRUST_LIST_BYTES_MAX {
        return Err(TrustListError::TooLarge { bytes: file.len() });
    }
    let SignedList { signed, cross_signed } = canonical::from_slice_exact(file)?;
    let forged = |number, which| move |source| TrustListError::Signature { number, which, source };
    // Only to find out with which key it should be signed.
    let alleged = signed.alleged_payload().map_err(forged(0, "current"))?;
    let list: TrustList = canonical::from_slice_exact(&alleged)?;
    let number = list.number;
    let rootless = |source| TrustListError::Root { number, source };
    let root = Certificate::from_pem(list.root.as_bytes()).map_err(rootless)?;
    let key = root.root_key().map_err(rootless)?;
    let verified = signed.verify(PAYLOAD_TRUST_LIST, &[key]).map_err(forged(number, "current"))?;
    list.check()?;
    match (before.filter(|before| before.root != root), cross_signed) {
        (None, None) => {}
        (Some(before), Some(crossed)) => {
            let key = before.root.root_key().map_err(rootless)?;
            let crossed = crossed.verify(PAYLOAD_TRUST_LIST, &[key]).map_err(forged(number, "previous"))?;
            if crossed.payload() != verified.payload() {
                return Err(TrustListError::Rule { number, rule: "the two roots signed two lists" });
            }
        }
        // The first of a sequence may have one of a root before it, which nobody asks for.
        (None, Some(_)) if before.is_none() => {}
        (None, Some(_)) => return Err(TrustListError::Rule { number, rule: "it is cross-signed for no reason" }),
        (Some(_), None) => {
            return Err(TrustListError::Rule { number, rule: "its root is new, and the root before did not sign it" });
        }
    }
    if let Some(before) = before {
        list.check_follows(&before.list)?;
    }
    Ok(Current { sha256: verified.digest(), list, root })
}

impl ReferenceTime {
    /// Signs it: an envelope as bytes.
    ///
    /// # Errors
    /// [`canonical::Error`] for a number that JSON cannot hold.
    pub fn sign(&self, root: &SigningKey) -> Result<Vec<u8>, canonical::Error> {
        let payload = canonical::to_vec(self)?;
        Envelope::sign(PAYLOAD_REFERENCE_TIME, &payload, root).to_vec()
    }

    /// Reads a time that `root` signed for `site`.
    ///
    /// # Errors
    /// [`TrustListError`] by cause.
    pub fn verify(file: &[u8], site: &Name, root: &Certificate) -> Result<Self, TrustListError> {
        let forged = |source| TrustListError::Signature { number: 0, which: "current", source };
        if file.len() > REFERENCE_TIME_BYTES_MAX {
            return Err(TrustListError::TooLarge { bytes: file.len() });
        }
        let key = root.root_key().map_err(|source| TrustListError::Root { number: 0, source })?;
        let envelope = Envelope::from_slice_exact(file).map_err(forged)?;
        let verified = envelope.verify(PAYLOAD_REFERENCE_TIME, &[key]).map_err(forged)?;
        let said: Self = canonical::from_slice_exact(verified.payload())?;
        if said.version == VERSION && said.site == *site {
            Ok(said)
        } else {
            Err(TrustListError::Rule { number: 0, rule: "the reference time is of another site or version" })
        }
    }
}
