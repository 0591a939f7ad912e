//! Who may be at the other end of TLS: a server that the site's authority for servers certified, under the name in the uplink.
//!
//! The chain, the name and the time are rustls' to check; here is what it does not ask: that the authority in between is certified for
//! this kind of machine. So whoever has the key of another mode is no attestor to a server. Deliberately absent: chains with more
//! certificates, TLS 1.2, resumption.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use kiln_formats::certificate::{Authority, Certificate, CertificateError};
use kiln_formats::names::BUILDER_METAL;
use kiln_formats::timestamp::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{
    CertificateError as Invalid, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use crate::fault::Fault;

/// TLS 1.3 to whoever the uplink's root, and its authority for servers, vouch for.
///
/// # Errors
/// [`Fault::Root`], [`Fault::Tls`] for a root that cannot be one.
pub(crate) fn config(root: &str) -> Result<ClientConfig, Fault> {
    let attestor = OfServers::new(Certificate::from_pem(root.as_bytes())?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(attestor))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Why TLS does not hold, in a word that is stable.
pub(crate) fn code(error: &Error) -> &'static str {
    let Error::InvalidCertificate(Invalid::Other(OtherError(why))) = error else { return "tls" };
    match why.downcast_ref::<CertificateError>() {
        Some(other_mode @ CertificateError::OtherMode { .. }) => other_mode.code(),
        _ => "tls",
    }
}

/// What rustls checks of a server, and then its authority.
#[derive(Debug)]
struct OfServers {
    chain: Arc<WebPkiServerVerifier>,
    root: Certificate,
}

impl OfServers {
    fn new(root: Certificate) -> Result<Self, Fault> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(root.to_der()?))?;
        let chain =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider())).build();
        let chain = chain.map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { chain, root })
    }

    fn check(&self, authority: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
        let at = i64::try_from(now.as_secs()).ok().and_then(|seconds| Timestamp::from_unix(seconds).ok());
        let at = at.ok_or(CertificateError::Syntax)?;
        Authority::check(&self.root, &Certificate::from_der(authority)?, at, BUILDER_METAL).map(drop)
    }
}

impl ServerCertVerifier for OfServers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        // With one there is one way to the root: the authority that is checked is the one that signed.
        let [authority] = intermediates else { return Err(Invalid::BadEncoding.into()) };
        let checked = self.check(authority, now);
        checked.map_err(|why| Invalid::Other(OtherError(Arc::new(why))))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
