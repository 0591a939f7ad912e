//! The server's side of TLS 1.3: a key that lives in memory, and a certificate of a day from the authority of the mode that is served.
//!
//! Machines hold the site's root and check the chain, the authority's builder id and the name. Deliberately absent: TLS 1.2, resumption, early data.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{EncodePrivateKey as _, KeypairBytes};
use kiln_formats::certificate::{CertificateError, SERIAL_BYTES};
use kiln_formats::timestamp::Timestamp;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, DnsName, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::certify::{CertifyError, Purpose, Request, spki_of};
use crate::site::{Signer, Site};

/// How long a server's certificate lives, in seconds: a day, and it is renewed after half of it.
const SERVER_SECONDS: u32 = 86_400;

/// A name under which machines reach the service: a DNS name or an IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerName {
    /// A DNS name.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

/// Text that is neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is neither a DNS name nor an IP address")]
pub struct ParseServerNameError;

impl FromStr for ServerName {
    type Err = ParseServerNameError;

    fn from_str(text: &str) -> Result<Self, ParseServerNameError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let name = DnsName::try_from(text).map_err(|_| ParseServerNameError)?;
        Ok(Self::Dns(name.as_ref().to_ascii_lowercase()))
    }
}

/// Why there is no certificate for the server.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It could not be issued.
    #[error("cannot make the server's certificate")]
    Certify {
        /// Why.
        #[from]
        source: CertifyError,
    },
    /// It has no DER form.
    #[error("cannot encode the server's certificate")]
    Encode {
        /// Why.
        #[from]
        source: CertificateError,
    },
    /// Its key has no DER form.
    #[error("cannot encode the server's key")]
    Key,
    /// TLS does not take it.
    #[error("the server's certificate cannot be used")]
    Rustls {
        /// Why.
        #[from]
        source: rustls::Error,
    },
    /// The kernel gives no randomness.
    #[error("cannot draw random bytes")]
    Random {
        /// Why.
        #[from]
        source: getrandom::Error,
    },
}

/// Who the server is, for a day.
pub(super) struct Identity {
    acceptor: TlsAcceptor,
    renew_at: Timestamp,
}

impl Identity {
    /// A new key, certified by this authority of the site for these names.
    pub(super) fn new(
        site: &Site,
        signer: &Signer,
        names: &[ServerName],
        now: Timestamp,
        random: fn(&mut [u8]) -> Result<(), getrandom::Error>,
    ) -> Result<Self, TlsError> {
        let (mut seed, mut serial) = ([0; 32], [0; SERIAL_BYTES]);
        random(&mut seed)?;
        random(&mut serial)?;
        let key = SigningKey::from_bytes(&seed);
        let id = format!("spiffe://{}/attestor", site.trust_domain());
        let certificate = signer.issuer().issue(&Request {
            purpose: Purpose::Server { id: &id, names },
            subject: "attestor",
            spki: &spki_of(&key),
            begin: now,
            seconds: SERVER_SECONDS,
            serial,
        })?;
        let pair = KeypairBytes { secret_key: key.to_bytes(), public_key: None };
        let pkcs8 = pair.to_pkcs8_der().map_err(|_| TlsError::Key)?;
        let chain = [certificate.to_der()?, signer.certificate().to_der()?].map(CertificateDer::from);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain.to_vec(), PrivatePkcs8KeyDer::from(pkcs8.as_bytes().to_vec()).into())?;
        // A machine comes once: there is nothing to resume.
        config.send_tls13_tickets = 0;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), renew_at: now.plus_seconds(SERVER_SECONDS / 2) })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Whether it is time for another one.
    pub(super) fn is_old(&self, now: Timestamp) -> bool {
        now >= self.renew_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_names_or_addresses() {
        assert_eq!("10.0.0.1".parse(), Ok(ServerName::Ip([10, 0, 0, 1].into())));
        assert_eq!("::1".parse(), Ok(ServerName::Ip(IpAddr::from_str("::1").unwrap())));
        assert_eq!("Attestor.Example".parse(), Ok(ServerName::Dns("attestor.example".to_owned())));
        for other in ["", "a b", "*.example", "http://a", "a:1", &"a".repeat(300)] {
            assert_eq!(other.parse::<ServerName>(), Err(ParseServerNameError), "{other}");
        }
    }
}
