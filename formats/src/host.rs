//! How the host of a virtual machine shows, with a TPM of its own, what it booted itself, for one build.
//!
//! The site's policy names its hosts: for each, its TPM's endorsement key, one attestation key in that TPM, and the values that the
//! host's registers must have. When a machine has answered its challenge, the launcher has the host's TPM quote those registers over
//! what the machine's own first quote commits to. So the two quotes belong together, and a reader of the evidence needs nobody's word
//! for it: policy and quote are enough.
//!
//! Holding a [`Hosted`] tells you that a program on that host, booted as the policy says, asked for this quote for this build. It does
//! not tell you that the machine ran there: who is root on such a host can quote for a machine elsewhere.
//!
//! Source: SLSA, `spec/build-env-track-basics.md` (draft), level 3: the quote of the host interface's boot.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::digest::Sha256Digest;
use crate::link::Blob;
use crate::names::BUILDER_HOSTED;
use crate::pcr::{Bank, PcrIndex};
use crate::quote::{AkPublic, Clock, ForeignQuote, ForeignQuoteError, QuoteKey};

/// The largest file of a host's quote, in bytes: quotes have about 150 bytes, their signatures 70.
pub const HOST_QUOTE_BYTES_MAX: usize = 8 << 10;

/// A host whose machines count, as the policy has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Which host: the digest of its endorsement key's SubjectPublicKeyInfo.
    pub endorsement_key_sha256: Sha256Digest,
    /// The key in that TPM that quotes (`TPMT_PUBLIC`). That it is in that TPM was shown when the host was enrolled.
    pub attestation_key: Blob,
    /// What each register must hold, SHA-256, by its number. Exactly these are quoted.
    pub pcrs: BTreeMap<String, Sha256Digest>,
}

/// What a host's TPM said for one build. Canonical JSON; a file of the evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostQuote {
    /// Which host says that it is its TPM.
    pub endorsement_key_sha256: Sha256Digest,
    /// The quote (TPMS_ATTEST).
    pub quote: Blob,
    /// Its signature (TPMT_SIGNATURE).
    pub signature: Blob,
}

/// What a host's quote shows that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hosted {
    /// Which host: the digest of its endorsement key.
    pub endorsement_key_sha256: Sha256Digest,
    /// The digest of the quote's file.
    pub file_sha256: Sha256Digest,
    /// The clock and counters of the host's TPM.
    pub clock: Clock,
}

/// Why a host's quote does not count for a build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// Machines of this builder id stand on a host that quotes, and there is no quote.
    #[error("no host quoted for this build, and its builder id says that one did")]
    Missing,
    /// A quote where the builder id knows of no host.
    #[error("a host quoted for a build whose builder id knows of no host")]
    Unexpected,
    /// Not the file.
    #[error("it is no host's quote in canonical form: {reason}")]
    Syntax {
        /// What the reader says.
        reason: String,
    },
    /// A host that the policy does not name.
    #[error("the policy does not name the host {endorsement_key_sha256}")]
    Unknown {
        /// Which host it says it is.
        endorsement_key_sha256: Sha256Digest,
    },
    /// What the policy says of the host is nothing that a quote can be held against.
    #[error("the policy's entry for the host cannot be used: {rule}")]
    Entry {
        /// What is wrong with it.
        rule: &'static str,
    },
    /// The machine that is to be vouched for has the host's own TPM.
    #[error("the machine's TPM is the host's: nobody vouches for itself")]
    Itself,
    /// Not a quote of that host's attestation key.
    #[error("the host's quote does not hold: {source}")]
    Quote {
        /// Why.
        #[from]
        source: ForeignQuoteError,
    },
    /// A quote for something else.
    #[error("the host's quote is not for this build")]
    OtherBuild,
    /// Other registers than the policy names, or another bank.
    #[error("the host's quote does not cover exactly the registers that the policy names, SHA-256")]
    Selection,
    /// The host is not as it was enrolled.
    #[error("the host's registers do not hold what the policy says: it did not boot as it was enrolled")]
    Registers,
}

impl HostFault {
    /// Stable; scripts may rely on it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing => "host_missing",
            Self::Unexpected => "host_unexpected",
            Self::Unknown { .. } => "host_unknown",
            Self::Entry { .. } => "host_entry",
            Self::Itself => "host_itself",
            Self::Syntax { .. } | Self::Quote { .. } => "host_quote",
            Self::OtherBuild => "host_other_build",
            Self::Selection | Self::Registers => "host_registers",
        }
    }
}

const KEY: HostFault = HostFault::Entry { rule: "its attestation key is not one that signs only what its TPM made" };

impl Host {
    /// What each register must hold, ascending.
    ///
    /// # Errors
    /// [`HostFault::Entry`] for none, or for a name that is no register's number.
    pub fn registers(&self) -> Result<BTreeMap<PcrIndex, Sha256Digest>, HostFault> {
        const NUMBER: HostFault =
            HostFault::Entry { rule: "a register has a number from 0 to 23, without leading zeros" };
        if self.pcrs.is_empty() {
            return Err(HostFault::Entry { rule: "it names no register" });
        }
        let read = |(name, value): (&String, &Sha256Digest)| {
            let index = name.parse().ok().and_then(|number: u32| PcrIndex::new(number).ok()).ok_or(NUMBER)?;
            if index.get().to_string() == *name { Ok((index, *value)) } else { Err(NUMBER) }
        };
        self.pcrs.iter().map(read).collect()
    }

    /// The SubjectPublicKeyInfo (DER) of the key that quotes.
    ///
    /// # Errors
    /// [`HostFault::Entry`] for a key that may sign other things than what its TPM made.
    pub fn spki(&self) -> Result<Vec<u8>, HostFault> {
        let public = AkPublic::parse(&self.attestation_key.0).map_err(|_| KEY)?;
        public.key().to_spki().map_err(|_| KEY)
    }

    fn quote_key(&self) -> Result<QuoteKey, HostFault> {
        self.spki()?;
        QuoteKey::read(&self.attestation_key.0).map_err(|_| KEY)
    }
}

/// Holds what a host said against the policy's hosts, for a machine of this builder id that answers with this binding, of this
/// endorsement key. `None` where the builder id knows of no host, and there is no quote.
///
/// # Errors
/// [`HostFault`].
pub fn check(
    builder_id: &str,
    hosts: &[Host],
    file: Option<&[u8]>,
    binding_sha256: &Sha256Digest,
    machine: &Sha256Digest,
) -> Result<Option<Hosted>, HostFault> {
    let file = match (builder_id == BUILDER_HOSTED, file) {
        (false, None) => return Ok(None),
        (false, Some(_)) => return Err(HostFault::Unexpected),
        (true, None) => return Err(HostFault::Missing),
        (true, Some(file)) => file,
    };
    if file.len() > HOST_QUOTE_BYTES_MAX {
        return Err(HostFault::Syntax { reason: format!("it is larger than {HOST_QUOTE_BYTES_MAX} bytes") });
    }
    let said: HostQuote =
        canonical::from_slice_exact(file).map_err(|error| HostFault::Syntax { reason: error.to_string() })?;
    let endorsement_key_sha256 = said.endorsement_key_sha256;
    let host = hosts.iter().find(|host| host.endorsement_key_sha256 == endorsement_key_sha256);
    let host = host.ok_or(HostFault::Unknown { endorsement_key_sha256 })?;
    if endorsement_key_sha256 == *machine {
        return Err(HostFault::Itself);
    }
    let (registers, key) = (host.registers()?, host.quote_key()?);
    let quote = ForeignQuote::verify(&said.quote.0, &said.signature.0, &key)?;
    if quote.qualifying != binding_sha256.as_bytes() {
        return Err(HostFault::OtherBuild);
    }
    let covered = registers.keys().copied().collect();
    if quote.quoted.selections() != [(Bank::Sha256, covered)] {
        return Err(HostFault::Selection);
    }
    let values: Vec<u8> = registers.values().flat_map(|value| *value.as_bytes()).collect();
    if Bank::Sha256.hash(&values) != Some(quote.quoted.digest()) {
        return Err(HostFault::Registers);
    }
    Ok(Some(Hosted { endorsement_key_sha256, file_sha256: Sha256Digest::of(file), clock: quote.clock }))
}
