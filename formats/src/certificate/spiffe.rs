//! SPIFFE ids: in whose name a leaf speaks.
//!
//! Source: SPIFFE-ID, section 2.

use std::fmt;
use std::str::FromStr;

use crate::digest::Sha256Digest;
use crate::names::Name;

const SCHEME: &str = "spiffe://";
/// Source: SPIFFE-ID, section 2.3.
const BYTES_MAX: usize = 2048;
/// Source: SPIFFE-ID, section 2.1.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// `spiffe://TRUST-DOMAIN/PATH`, well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeId(String);

/// Text that is no SPIFFE id with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SPIFFE id with a trust domain (a-z 0-9 . - _) and a path of plain segments")]
pub struct SpiffeIdError;

impl SpiffeId {
    /// The name under which the statements of a build on this machine are signed. `machine` is the digest of its endorsement key.
    ///
    /// # Errors
    /// [`SpiffeIdError`] if a name holds a `+`, which SPIFFE does not know.
    pub fn statement(trust_domain: &Name, machine: &Sha256Digest, build_id: &Name) -> Result<Self, SpiffeIdError> {
        format!("{SCHEME}{trust_domain}/build/ek/{machine}/job/{build_id}/statement").parse()
    }

    /// The name under which the TPM of a build's machine attests. `machine` is the digest of its endorsement key.
    ///
    /// # Errors
    /// [`SpiffeIdError`] if a name holds a `+`, which SPIFFE does not know.
    pub fn attestation(trust_domain: &Name, machine: &Sha256Digest, build_id: &Name) -> Result<Self, SpiffeIdError> {
        format!("{SCHEME}{trust_domain}/build/ek/{machine}/job/{build_id}/attestation").parse()
    }

    /// The name under which the authority signs the dispatch of a build to this machine.
    ///
    /// # Errors
    /// [`SpiffeIdError`] if a name holds a `+`, which SPIFFE does not know.
    pub fn dispatch(trust_domain: &Name, machine: &Sha256Digest, build_id: &Name) -> Result<Self, SpiffeIdError> {
        format!("{SCHEME}{trust_domain}/build/ek/{machine}/job/{build_id}/dispatch").parse()
    }

    /// The name under which the launcher says that a build's machine is gone.
    ///
    /// # Errors
    /// [`SpiffeIdError`] if a name holds a `+`, which SPIFFE does not know.
    pub fn teardown(trust_domain: &Name, machine: &Sha256Digest, build_id: &Name) -> Result<Self, SpiffeIdError> {
        format!("{SCHEME}{trust_domain}/build/ek/{machine}/job/{build_id}/teardown").parse()
    }

    /// The name under which one step of a build is signed for. A `+` of the step's name, which SPIFFE does not know, is a `P`: names
    /// have no capitals.
    ///
    /// # Errors
    /// [`SpiffeIdError`] if another name holds a `+`.
    pub fn step(
        trust_domain: &Name,
        machine: &Sha256Digest,
        build_id: &Name,
        step: &Name,
    ) -> Result<Self, SpiffeIdError> {
        let step = step.as_str().replace('+', "P");
        format!("{SCHEME}{trust_domain}/build/ek/{machine}/job/{build_id}/step/{step}").parse()
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let (domain, path) = text.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).ok_or(SpiffeIdError)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let domain_good = (1..=TRUST_DOMAIN_BYTES_MAX).contains(&domain.len())
            && domain.bytes().all(|b| plain(b) && !b.is_ascii_uppercase());
        let segment_good = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(plain);
        let good = text.len() <= BYTES_MAX && domain_good && path.split('/').all(segment_good);
        if good { Ok(Self(text.to_owned())) } else { Err(SpiffeIdError) }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_ids_are_ids() {
        let machine = Sha256Digest::of(b"ek");
        let id = SpiffeId::statement(&"site.example".parse().unwrap(), &machine, &"0011".parse().unwrap()).unwrap();
        assert_eq!(id.as_str(), format!("spiffe://site.example/build/ek/{machine}/job/0011/statement"));
        for bad in [
            "spiffe://site",
            "spiffe:///x",
            "spiffe://Site/x",
            "spiffe://site/",
            "spiffe://site/a//b",
            "spiffe://site/../b",
            "spiffe://user@site/b",
            "spiffe://site:1/b",
            "spiffe://site/b?c",
            "https://site/b",
        ] {
            assert_eq!(bad.parse::<SpiffeId>(), Err(SpiffeIdError), "{bad}");
        }
        let step = |step: &str| {
            SpiffeId::step(&"site.example".parse().unwrap(), &machine, &"0011".parse().unwrap(), &step.parse().unwrap())
        };
        assert!(step("c++").unwrap().as_str().ends_with("/job/0011/step/cPP"));
        assert_ne!(step("c+").unwrap(), step("cp").unwrap());
        assert!(SpiffeId::statement(&"c++".parse().unwrap(), &machine, &"0".parse().unwrap()).is_err());
    }
}
