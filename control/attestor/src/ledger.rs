//! The ledger: what an authority did, in order, each entry bound to the one before it.
//!
//! An [`Entry`] is canonical JSON; it names its place and the SHA-256 of the entry before it. The [`Head`] names the last entry and
//! is signed by the site's ledger key, which certifies nothing and which every mode's authority has: there is one ledger. [`Chain`] is the fold that finds out whether entries and head belong together; a [`Break`]
//! says where they do not. No I/O: [`crate::state`] stores it.
//!
//! What holding a whole chain tells you: nobody without the ledger's key changed, dropped, added or moved an entry under that
//! head. What it does not: that the head is the newest one. Whoever puts an older ledger back, with its older head, is found out by
//! a head or a certificate that somebody kept. Whoever holds the key can write another ledger, which differs from the kept head too.

#[cfg(test)]
mod tests;

use ed25519_dalek::{SigningKey, VerifyingKey};
use kiln_formats::canonical;
use kiln_formats::certificate::{Certificate, CertificateError};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::{self, Envelope};
use kiln_formats::names::Name;
use kiln_formats::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of these formats.
pub const VERSION: u32 = 1;
/// The largest entry in bytes; ours have about 600.
pub const ENTRY_BYTES_MAX: usize = 4 << 10;
/// The largest signed head in bytes; ours have about 500.
pub const HEAD_BYTES_MAX: usize = 4 << 10;
/// The DSSE payload type of a head.
pub const PAYLOAD_HEAD: &str = "application/vnd.kiln.ledger-head.v1+json";
/// How much of a foreign word an entry keeps, in characters: enough to find it again.
const OBJECT_CHARS_MAX: usize = 120;

/// One entry. Canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Always [`VERSION`].
    pub version: u32,
    /// Its place; the first is 0.
    pub sequence: u64,
    /// When it was written, by the authority's clock. A clock can go back, so this proves no order; the sequence does.
    pub time: Timestamp,
    /// The digest of the entry before it; zeros in the first.
    pub previous_sha256: Sha256Digest,
    /// What was done.
    pub act: Act,
}

/// What an authority did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Act {
    /// It began this ledger: always the first entry, and no other.
    Begun {
        /// The site's name.
        site: Name,
        /// Its trust domain.
        trust_domain: Name,
        /// The digest of the key that signs the heads.
        ledger_key_sha256: Sha256Digest,
    },
    /// It took a trust list as the newest, or served by a reference time.
    Trusted {
        /// The list's number.
        number: u64,
        /// The digest of its canonical text.
        list_sha256: Sha256Digest,
        /// The time on the root's word that it began to count from, where it did not go by its own clock.
        reference_time: Option<Timestamp>,
    },
    /// It challenged a machine.
    Challenged {
        /// The build.
        build_id: Name,
        /// 32 random bytes, used once.
        nonce: Sha256Digest,
        /// The job that the machine would get.
        job_sha256: Sha256Digest,
        /// The image that it should have started.
        image_sha256: Sha256Digest,
        /// How it was started, as the authority believes.
        builder_id: String,
        /// The machine's endorsement key.
        ek_sha256: Sha256Digest,
    },
    /// It refused a machine.
    Refused {
        /// The build; none if the machine was refused before it had a challenge.
        build_id: Option<Name>,
        /// Stable; scripts may rely on it.
        code: String,
        /// What it was about: a field, an event, a register.
        object: String,
    },
    /// It certified a machine's keys. The nonce is spent.
    Certified {
        /// The build.
        build_id: Name,
        /// The machine's endorsement key.
        ek_sha256: Sha256Digest,
        /// How often the machine's TPM was reset in its life. With the endorsement key it names a boot, which counts once.
        reset_count: u32,
        /// The certificate of the key that signs quotes.
        attestation: Issued,
        /// The certificate of the key that signs statements.
        statement: Issued,
        /// The certificate of the key that signed the dispatch.
        dispatch: Issued,
        /// That of the key that certifies the keys of the steps; none where machines had no such key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        issuer: Option<Issued>,
    },
    /// It handed a job over.
    HandedOver {
        /// The build.
        build_id: Name,
        /// The job.
        job_sha256: Sha256Digest,
    },
    /// A build came to its end, as far as the authority saw.
    Ended {
        /// The build.
        build_id: Name,
        /// How: `built`, `step_failed`, `refused`, or a fault's code. What the machine says; the verifier judges it.
        outcome: String,
    },
}

/// A certificate, by what names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// Its serial number in lowercase hex, as `openssl x509 -serial` has it in uppercase.
    pub serial: String,
    /// The digest of the key that it certifies (SubjectPublicKeyInfo).
    pub key_sha256: Sha256Digest,
}

/// The last entry of a ledger. Canonical JSON, signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Always [`VERSION`].
    pub version: u32,
    /// Whose ledger.
    pub site: Name,
    /// The place of the last entry.
    pub sequence: u64,
    /// Its digest.
    pub entry_sha256: Sha256Digest,
}

/// Where a ledger is broken. Entries are named by their place; the first is 0.
#[derive(Debug, thiserror::Error)]
pub enum Break {
    /// There is no entry where one belongs.
    #[error("entry {sequence} is missing: the next one found is {found}")]
    Missing {
        /// Where.
        sequence: u64,
        /// The place of the next entry.
        found: u64,
    },
    /// What stands there is no entry of ours.
    #[error("entry {sequence} was changed: it is not in the form of an entry")]
    Form {
        /// Where.
        sequence: u64,
        /// What the reader says.
        source: canonical::Error,
    },
    /// An entry above its bound.
    #[error("entry {sequence} was changed: it is larger than {ENTRY_BYTES_MAX} bytes")]
    TooLarge {
        /// Where.
        sequence: u64,
    },
    /// An entry that was written by another version.
    #[error("entry {sequence} has version {version}, which this program does not know")]
    Version {
        /// Where.
        sequence: u64,
        /// Which.
        version: u32,
    },
    /// An entry at another place than its own.
    #[error("entry {sequence} was moved or replaced: what stands there says that it is entry {says}")]
    Place {
        /// Where.
        sequence: u64,
        /// What it says of itself.
        says: u64,
    },
    /// An entry that the next one does not follow.
    #[error("entry {sequence} was changed or replaced: it is not the one that entry {} follows", sequence + 1)]
    Link {
        /// Which.
        sequence: u64,
    },
    /// The first entry is not that of this site and this key, or a later one claims to be the first.
    #[error("entry {sequence} was replaced: {rule}")]
    Beginning {
        /// Where.
        sequence: u64,
        /// Which rule.
        rule: &'static str,
    },
    /// There is nothing at all.
    #[error("entry 0 is missing: the ledger is empty")]
    Empty,
    /// There is no signed head.
    #[error("the signed head is missing")]
    NoHead,
    /// A head that cannot be read, or that another key signed.
    #[error("the head does not hold: this site's authority did not sign it")]
    HeadSignature {
        /// Why.
        source: dsse::Error,
    },
    /// A head of another site or version, or one that is no head.
    #[error("the head is not that of this site's ledger")]
    HeadForm,
    /// The ledger ends before its head.
    #[error("entries {} to {head} are gone: the {which} head names entry {head}", last + 1)]
    Truncated {
        /// `signed` or `kept`.
        which: &'static str,
        /// The last entry that is there.
        last: u64,
        /// The entry that the head names.
        head: u64,
    },
    /// The ledger goes on behind its head.
    #[error("entry {} was added: the signed head names entry {head} as the last", head + 1)]
    Beyond {
        /// The entry that the head names.
        head: u64,
    },
    /// The entry that a head names is another one.
    #[error("entry {sequence} was changed or replaced: it is not the one that the {which} head names")]
    HeadEntry {
        /// `signed` or `kept`.
        which: &'static str,
        /// Which.
        sequence: u64,
    },
}

/// Entries, one after the other, as far as they were taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    site: Name,
    ledger_key_sha256: Sha256Digest,
    last: Option<(u64, Sha256Digest)>,
}

impl Entry {
    /// The bytes that are stored and digested.
    ///
    /// # Errors
    /// [`canonical::Error`] for a number that JSON cannot hold.
    pub fn to_vec(&self) -> Result<Vec<u8>, canonical::Error> {
        canonical::to_vec(self)
    }
}

impl Act {
    /// A refusal; `object` may be anyone's words and is cut to a bounded, printable text.
    #[must_use]
    pub fn refused(build_id: Option<Name>, code: &str, object: &str) -> Self {
        let object = object.chars().filter(|c| !c.is_control()).take(OBJECT_CHARS_MAX).collect();
        Self::Refused { build_id, code: code.to_owned(), object }
    }

    /// The build that it is about.
    #[must_use]
    pub fn build_id(&self) -> Option<&Name> {
        match self {
            Self::Begun { .. } | Self::Trusted { .. } => None,
            Self::Refused { build_id, .. } => build_id.as_ref(),
            Self::Challenged { build_id, .. }
            | Self::Certified { build_id, .. }
            | Self::HandedOver { build_id, .. }
            | Self::Ended { build_id, .. } => Some(build_id),
        }
    }
}

impl Issued {
    /// Names a certificate.
    ///
    /// # Errors
    /// Those of [`Certificate::spki`].
    pub fn of(certificate: &Certificate) -> Result<Self, CertificateError> {
        let serial = certificate.as_x509().tbs_certificate().serial_number().as_bytes();
        let serial = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { serial, key_sha256: Sha256Digest::of(&certificate.spki()?) })
    }
}

impl Head {
    /// Signs it: an envelope as bytes.
    ///
    /// # Errors
    /// [`canonical::Error`] for a number that JSON cannot hold.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, canonical::Error> {
        let payload = canonical::to_vec(self)?;
        Envelope::sign(PAYLOAD_HEAD, &payload, key).to_vec()
    }

    /// Reads a head that `key` signed for the ledger of `site`.
    ///
    /// # Errors
    /// [`Break::HeadSignature`], [`Break::HeadForm`].
    pub fn verify(envelope: &[u8], site: &Name, key: &VerifyingKey) -> Result<Self, Break> {
        if envelope.len() > HEAD_BYTES_MAX {
            return Err(Break::HeadForm);
        }
        let signed = |source| Break::HeadSignature { source };
        let envelope = Envelope::from_slice_exact(envelope).map_err(signed)?;
        let verified = envelope.verify(PAYLOAD_HEAD, &[*key]).map_err(signed)?;
        let head: Self = canonical::from_slice_exact(verified.payload()).map_err(|_| Break::HeadForm)?;
        if head.version == VERSION && head.site == *site { Ok(head) } else { Err(Break::HeadForm) }
    }
}

impl Chain {
    /// A chain of which nothing was taken yet: that of `site`, whose heads this key signs.
    #[must_use]
    pub fn new(site: Name, ledger_key_sha256: Sha256Digest) -> Self {
        Self { site, ledger_key_sha256, last: None }
    }

    /// Goes on from an entry that was taken before.
    pub(crate) fn resume(&mut self, sequence: u64, entry: &[u8]) {
        self.last = Some((sequence, Sha256Digest::of(entry)));
    }

    /// The last entry that was taken: its place and its digest.
    #[must_use]
    pub const fn last(&self) -> Option<(u64, Sha256Digest)> {
        self.last
    }

    /// What the next entry must say of its place and of the one before it.
    pub(crate) fn next(&self) -> (u64, Sha256Digest) {
        self.last.map_or((0, Sha256Digest::from_bytes([0; 32])), |(sequence, sha256)| (sequence + 1, sha256))
    }

    /// Takes what stands at the place `sequence`, which must be the next entry.
    ///
    /// # Errors
    /// [`Break`] by cause: all but those of a head.
    pub fn take(&mut self, sequence: u64, bytes: &[u8]) -> Result<Entry, Break> {
        let (expected, previous) = self.next();
        if sequence != expected {
            return Err(Break::Missing { sequence: expected, found: sequence });
        }
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(Break::TooLarge { sequence });
        }
        let entry: Entry = canonical::from_slice_exact(bytes).map_err(|source| Break::Form { sequence, source })?;
        if entry.version != VERSION {
            return Err(Break::Version { sequence, version: entry.version });
        }
        if entry.sequence != sequence {
            return Err(Break::Place { sequence, says: entry.sequence });
        }
        if entry.previous_sha256 != previous {
            return Err(Break::Link { sequence: sequence.saturating_sub(1) });
        }
        self.check_beginning(&entry)?;
        self.last = Some((sequence, Sha256Digest::of(bytes)));
        Ok(entry)
    }

    /// The first entry names the site and the key, and only the first does.
    fn check_beginning(&self, entry: &Entry) -> Result<(), Break> {
        let broken = |rule| Err(Break::Beginning { sequence: entry.sequence, rule });
        match (&entry.act, self.last) {
            (Act::Begun { site, ledger_key_sha256, .. }, None) => {
                if *site != self.site {
                    return broken("it begins the ledger of another site");
                }
                if *ledger_key_sha256 != self.ledger_key_sha256 {
                    return broken("it begins a ledger under another key");
                }
                Ok(())
            }
            (Act::Begun { .. }, Some(_)) => broken("it says that the ledger begins here"),
            (_, None) => broken("it does not say whose ledger begins"),
            (_, Some(_)) => Ok(()),
        }
    }

    /// Whether the entries that were taken are all those under the signed head.
    ///
    /// # Errors
    /// [`Break::Empty`], [`Break::Truncated`], [`Break::Beyond`], [`Break::HeadEntry`].
    pub fn ends_with(&self, head: &Head) -> Result<(), Break> {
        let (last, sha256) = self.last.ok_or(Break::Empty)?;
        if last < head.sequence {
            return Err(Break::Truncated { which: "signed", last, head: head.sequence });
        }
        if last > head.sequence {
            return Err(Break::Beyond { head: head.sequence });
        }
        if sha256 == head.entry_sha256 { Ok(()) } else { Err(Break::HeadEntry { which: "signed", sequence: last }) }
    }
}
