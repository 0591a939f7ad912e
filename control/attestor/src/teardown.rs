//! Signs that a machine is gone, for the launcher that saw it go.
//!
//! The key exists for this one statement: it is made, certified for a quarter of an hour in the name of this build's teardown, used and
//! forgotten. Whether it is true only the launcher knows.

use ed25519_dalek::SigningKey;
use kiln_formats::canonical;
use kiln_formats::certificate::{SERIAL_BYTES, SpiffeId};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::names::PAYLOAD_STATEMENT;
use kiln_formats::teardown::{Teardown, TornDown};
use zeroize::Zeroizing;

use crate::certify::{CertifyError, LEAF_SECONDS, Purpose, Request, spki_of};
use crate::site::{Signer, Site};

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// There is no certificate for the key.
    #[error("cannot certify the teardown's key")]
    Certify {
        /// Why.
        #[from]
        source: CertifyError,
    },
    /// The kernel gives no randomness.
    #[error("cannot draw random bytes")]
    Random {
        /// Why.
        #[from]
        source: getrandom::Error,
    },
    /// A document that has no canonical form.
    #[error("cannot encode the teardown")]
    Encode {
        /// What the encoder says.
        #[from]
        source: canonical::Error,
    },
    /// The site's trust domain or the build id has no place in a SPIFFE id.
    #[error("the trust domain or the build id has no place in a SPIFFE id")]
    Name,
}

/// Signs what was seen of the machine with this endorsement key, which `signer` certified: a file.
///
/// # Errors
/// [`TeardownError`].
pub fn sign(
    site: &Site,
    signer: &Signer,
    machine: &Sha256Digest,
    seen: &TornDown,
    random: fn(&mut [u8]) -> Result<(), getrandom::Error>,
) -> Result<Vec<u8>, TeardownError> {
    let (mut seed, mut serial) = (Zeroizing::new([0; 32]), [0; SERIAL_BYTES]);
    random(seed.as_mut_slice())?;
    random(&mut serial)?;
    let key = SigningKey::from_bytes(&seed);
    let id = SpiffeId::teardown(site.trust_domain(), machine, &seen.build_id).map_err(|_| TeardownError::Name)?;
    let request = Request {
        purpose: Purpose::Teardown(&id),
        subject: "teardown",
        spki: &spki_of(&key),
        begin: seen.ended,
        seconds: LEAF_SECONDS,
        serial,
    };
    let certificate = signer.issuer().issue(&request)?;
    let certificate = certificate.to_pem().map_err(CertifyError::from)?;
    let payload = canonical::to_vec(&seen.statement())?;
    let statement = Envelope::sign(PAYLOAD_STATEMENT, &payload, &key);
    Ok(canonical::to_vec(&Teardown { certificate, statement })?)
}

#[cfg(test)]
mod tests {
    use kiln_formats::certificate::{Authority, Certificate};
    use kiln_formats::names::BUILDER_DIRECT;
    use kiln_formats::timestamp::Timestamp;

    use super::*;
    use crate::site::{self, Names, PROFILES};

    #[test]
    fn it_is_signed_by_a_key_of_its_own_under_the_site() {
        let now = Timestamp::from_unix(1_790_000_000).unwrap();
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("site");
        let names = Names { site: "demo".parse().unwrap(), trust_domain: "demo.example".parse().unwrap() };
        site::create(&directory, &names, &PROFILES, now, getrandom::fill).unwrap();
        let site = Site::open(&directory, now).unwrap();
        let (machine, closing_sha256) = (Sha256Digest::of(b"ek"), Sha256Digest::of(b"closing"));
        let build_id: kiln_formats::names::Name = "00112233".parse().unwrap();
        let seen = TornDown {
            build_id: build_id.clone(),
            closing_sha256,
            builder_id: "b".to_owned(),
            started: now,
            ended: now.plus_seconds(60),
        };
        let by = site.signer(BUILDER_DIRECT, now).unwrap();
        let file = |random| sign(&site, &by, &machine, &seen, random);
        let Teardown { certificate, statement } = canonical::from_slice_exact(&file(getrandom::fill).unwrap()).unwrap();
        let leaf = Certificate::from_pem(certificate.as_bytes()).unwrap();
        let authority = Authority::check(site.root(), by.certificate(), seen.ended, BUILDER_DIRECT).unwrap();
        let signer = authority.teardown(&leaf).unwrap();
        assert_eq!(signer.id.as_str(), format!("spiffe://demo.example/build/ek/{machine}/job/00112233/teardown"));
        assert_eq!(TornDown::read(&statement, &signer.key, &build_id, closing_sha256, "b").unwrap(), seen);
        let again: Teardown = canonical::from_slice_exact(&file(getrandom::fill).unwrap()).unwrap();
        assert_ne!(again.certificate, certificate, "a key for each");
        assert!(matches!(file(|_| Err(getrandom::Error::UNSUPPORTED)), Err(TeardownError::Random { .. })));
    }
}
