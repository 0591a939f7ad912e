//! From a certificate on an endorsement key to a root that somebody chose.
//!
//! A path holds if each certificate is valid at the time, was signed by the one above it under its name, and every authority may
//! have as many below it as it has. The search is bounded in depth and in signatures. Deliberately absent: revocation, which TPM
//! vendors hardly publish and a machine without a network cannot ask for; a root is taken away instead.
//!
//! Source: RFC 5280, section 6.1.

use std::collections::BTreeMap;

use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::pkcs8::DecodePublicKey as _;
use x509_cert::der::Encode as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use super::certificate::{CaCertificate, EkCertificate, Parsed};
use super::{EkPublic, TpmClass};
use crate::digest::Sha256Digest;
use crate::pcr::Bank;
use crate::quote::RsaKey;
use crate::timestamp::Timestamp;

/// The most authorities between a root and an endorsement key, the root counted. Vendors have two to four.
pub const CHAIN_DEPTH_MAX: usize = 6;
/// The most signatures that are checked for one certificate and class, whatever a machine sends.
const SIGNATURES_MAX: u32 = 32;

/// Which TPMs a site takes for TPMs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// Authorities that the site trusts of itself, each for TPMs of one class.
    pub roots: Vec<(TpmClass, CaCertificate)>,
    /// Authorities that it knows and that a root must vouch for.
    pub issuers: Vec<CaCertificate>,
    /// Keys that it trusts without a certificate, by [`EkPublic::sha256`], each of a TPM of this class.
    pub keys: BTreeMap<Sha256Digest, TpmClass>,
}

/// Why nobody vouches for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// The certificate is on another key.
    #[error("the certificate is on another key than the TPM's")]
    OtherKey,
    /// Not valid now, by the authority's clock.
    #[error("the certificate is not valid at {at}")]
    Time {
        /// Now.
        at: Timestamp,
    },
    /// No path leads to a root: an unknown authority, a signature that does not hold, or one that has expired.
    #[error("no path of valid certificates leads from it to a root of the site")]
    NoPath,
}

impl EkCertificate {
    /// As what a root of `roots` vouches for `key` at the time; as the class that says less, if roots of both classes do. `chain` are
    /// authorities that the machine brought; they are believed for nothing but what a root says of them.
    ///
    /// # Errors
    /// [`PathFault`].
    pub fn vouched(
        &self,
        key: &EkPublic,
        chain: &[CaCertificate],
        roots: &Roots,
        at: Timestamp,
    ) -> Result<TpmClass, PathFault> {
        if !key.is(self.parsed.key()) {
            return Err(PathFault::OtherKey);
        }
        if !self.parsed.is_valid_at(at) {
            return Err(PathFault::Time { at });
        }
        let issuers: Vec<_> = roots.issuers.iter().chain(chain).collect();
        let vouches = |class: &TpmClass| {
            let of_class = roots.roots.iter().filter(|(of, _)| of == class).map(|(_, root)| root);
            let mut search = Search { roots: of_class.collect(), issuers: issuers.clone(), at, signatures: 0 };
            search.leads(&self.parsed, 0)
        };
        TpmClass::ALL.into_iter().find(vouches).ok_or(PathFault::NoPath)
    }
}

struct Search<'a> {
    roots: Vec<&'a CaCertificate>,
    issuers: Vec<&'a CaCertificate>,
    at: Timestamp,
    signatures: u32,
}

impl Search<'_> {
    /// Whether a path leads from `certificate`, which has `below` authorities below it, to a root.
    fn leads(&mut self, certificate: &Parsed, below: usize) -> bool {
        if below >= CHAIN_DEPTH_MAX {
            return false;
        }
        if self.roots.iter().any(|root| issued(root, certificate, below, self.at, &mut self.signatures)) {
            return true;
        }
        for issuer in self.issuers.clone() {
            let signed = issued(issuer, certificate, below, self.at, &mut self.signatures);
            if signed && self.leads(&issuer.parsed, below + 1) {
                return true;
            }
        }
        false
    }
}

/// Whether `issuer` signed `certificate` and may have done so.
fn issued(issuer: &CaCertificate, certificate: &Parsed, below: usize, at: Timestamp, signatures: &mut u32) -> bool {
    let room = issuer.below_max.is_none_or(|below_max| below <= usize::from(below_max));
    if issuer.parsed.subject() != certificate.issuer() || !room || !issuer.parsed.is_valid_at(at) {
        return false;
    }
    *signatures += 1;
    *signatures <= SIGNATURES_MAX && holds(issuer.parsed.key(), certificate).unwrap_or(false)
}

/// Whether the key made the certificate's signature. Source: RFC 8017, appendix A.2.4; RFC 5758, section 3.2.
fn holds(key: &SubjectPublicKeyInfoOwned, certificate: &Parsed) -> Option<bool> {
    const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
    const RSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
    const RSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
    const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
    const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
    const ECDSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");
    let (hash, rsa) = match certificate.certificate.signature_algorithm().oid {
        RSA_SHA256 => (Bank::Sha256, true),
        RSA_SHA384 => (Bank::Sha384, true),
        RSA_SHA512 => (Bank::Sha512, true),
        ECDSA_SHA256 => (Bank::Sha256, false),
        ECDSA_SHA384 => (Bank::Sha384, false),
        ECDSA_SHA512 => (Bank::Sha512, false),
        _ => return None,
    };
    let digest = hash.hash(&certificate.signed)?;
    let signature = certificate.certificate.signature().as_bytes()?;
    if rsa {
        return Some(RsaKey::from_spki(key)?.verify(&digest, signature));
    }
    let der = key.to_der().ok()?;
    if let Ok(key) = p256::ecdsa::VerifyingKey::from_public_key_der(&der) {
        let signature = p256::ecdsa::Signature::from_der(signature).ok()?;
        return Some(key.verify_prehash(digest.as_bytes(), &signature).is_ok());
    }
    let key = p384::ecdsa::VerifyingKey::from_public_key_der(&der).ok()?;
    let signature = p384::ecdsa::Signature::from_der(signature).ok()?;
    Some(key.verify_prehash(digest.as_bytes(), &signature).is_ok())
}
