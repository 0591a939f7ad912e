//! The boot part: measure what the machine is told, then read it; show which TPM this is; answer the challenge with a quote; take
//! the certificates.
//!
//! [`certify`] is the only way to a [`Certified`] machine, and only a certified machine asks for a job. Holding one tells you
//! that PCR 15 names the configuration and the trust bundle, and that an authority which the bundle's root certified for machines of
//! the configuration's builder id vouched for this boot's statement key. It does not tell you that the root is the right one: the
//! verifier brings its own.

use std::io;
use std::time::Instant;

use kiln_formats::canonical;
use kiln_formats::certificate::{Authority, Certificate, CertificateError};
use kiln_formats::challenge::{self, Binding, Challenge};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dispatch::{Dispatch, DispatchError, Dispatched, Envelopes};
use kiln_formats::endorsement::{EkPublic, EkPublicError};
use kiln_formats::enrolment::Enrolled;
use kiln_formats::host::{self, HostFault, Hosted};
use kiln_formats::link::{
    Attestation, Blob, Certificates, FIRMWARE_LOG_BYTES_MAX, MESSAGE_BYTES_MAX, NotAttested, RUNTIME_LOG_BYTES_MAX,
    path,
};
use kiln_formats::manifest::path as file;
use kiln_formats::names::Name;
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::{self, CONFIGURATION_BYTES_MAX, Configuration, Policy, TRUST_BYTES_MAX, TrustBundle};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bundle::Bundle;
use crate::custody::{Custodian, CustodyError, Identity, Measurement, WhichQuote};
use crate::fault::Fault;
use crate::link::Link;

/// Why the machine is not certified.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A document that the machine cannot use.
    #[error("the {document} is not a document of version 1")]
    Document {
        /// Which.
        document: &'static str,
        /// What the reader said; nothing if it is only the version.
        source: Option<canonical::Error>,
    },
    /// The TPM's endorsement key is of no kind that can be enrolled.
    #[error("the TPM's endorsement key cannot be enrolled")]
    EndorsementKey {
        /// Why.
        #[from]
        source: EkPublicError,
    },
    /// The authority says no.
    #[error("the authority does not certify this machine")]
    NotAttested {
        /// Why.
        source: NotAttested,
    },
    /// The certificates do not lead from the statement key to the trust bundle's root.
    #[error("the certificates do not hold")]
    Certificate {
        /// Which and why.
        source: CertificateError,
    },
    /// A certificate of another key.
    #[error("a certificate is for another key or build than this machine's")]
    OtherKey,
    /// What the authority says of this machine is not what follows from its own answer.
    #[error("the authority's dispatch is not about this machine and build")]
    Dispatch {
        /// Why.
        #[from]
        source: DispatchError,
    },
    /// What the machine's host quoted is not what the trust bundle asks of it.
    #[error("the machine's host does not show what it booted")]
    Host {
        /// Why.
        #[from]
        source: HostFault,
    },
    /// A log that the other side would not take.
    #[error("the {log} log is larger than {bytes_max} bytes")]
    LogTooLarge {
        /// Which.
        log: &'static str,
        /// The bound.
        bytes_max: usize,
    },
}

impl BootError {
    /// A stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Document { .. } => "document",
            Self::EndorsementKey { .. } => "endorsement_key",
            Self::NotAttested { .. } => "not_attested",
            Self::Certificate { source } => source.code(),
            Self::OtherKey => "certificate",
            Self::Dispatch { .. } => "dispatch",
            Self::Host { source } => source.code(),
            Self::LogTooLarge { .. } => "log_too_large",
        }
    }
}

/// The authority's time at the challenge, and the machine's clock since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    issued: Timestamp,
    since: Instant,
}

impl Clock {
    /// The authority's time at the challenge.
    pub(crate) fn issued(&self) -> Timestamp {
        self.issued
    }

    /// A clock for the tests of the rules.
    #[cfg(test)]
    pub(crate) fn for_test(issued: Timestamp) -> Self {
        Self { issued, since: Instant::now() }
    }

    /// The same plus the time since.
    pub(crate) fn now(&self) -> Timestamp {
        self.issued.plus_seconds(u32::try_from(self.since.elapsed().as_secs()).unwrap_or(u32::MAX))
    }
}

/// A machine that the authority has certified for one build.
#[derive(Debug)]
pub(crate) struct Certified {
    /// The build.
    pub(crate) build_id: Name,
    /// The job that the challenge named.
    pub(crate) job_sha256: Sha256Digest,
    /// The image that the authority believes to have started.
    pub(crate) image_sha256: Sha256Digest,
    /// In whose name certificates are.
    pub(crate) trust_domain: Name,
    /// The digest of the machine's endorsement key.
    pub(crate) machine: Sha256Digest,
    /// From when to when the certificate of the issuer of steps is valid.
    pub(crate) issuer_life: (Timestamp, Timestamp),
    /// In which way the machine was started, as it was told and measured.
    pub(crate) builder_id: String,
    /// What the site allows.
    pub(crate) policy: Policy,
    /// The trust bundle that the policy is from.
    pub(crate) trust_sha256: Sha256Digest,
    /// What time it is.
    pub(crate) clock: Clock,
}

/// Goes through the boot part.
///
/// # Errors
/// [`BootError`], and what the link and PID 1 answer.
pub(crate) async fn certify<S: io::Read + io::Write>(
    link: &mut Link,
    custodian: &mut Custodian<S>,
    bundle: &mut Bundle,
) -> Result<Certified, Fault> {
    let identity = custodian.hello()?;
    let configuration = link.get(path::CONFIGURATION, CONFIGURATION_BYTES_MAX).await?;
    custodian.measure(Measurement::Configuration { bytes: Blob(configuration.to_vec()) })?;
    let trust = link.get(path::TRUST, TRUST_BYTES_MAX).await?;
    custodian.measure(Measurement::Trust { bytes: Blob(trust.to_vec()) })?;
    bundle.add(file::CONFIGURATION, configuration.clone());
    let trust_sha256 = Sha256Digest::of(&trust);
    let configuration: Configuration = read("configuration", &configuration)?;
    let trust: TrustBundle = read("trust bundle", &trust)?;
    let enrolment = &identity.enrolment;
    let Enrolled { challenge, credential }: Enrolled = offer(link, path::ENROLMENT, "enrolment", enrolment).await?;
    let clock = Clock { issued: challenge.issued, since: Instant::now() };
    check_versions(&configuration, &trust, &challenge)?;
    tracing::info!(build = %challenge.build_id, "challenged");

    custodian.activate(credential)?;
    let attestation = attest(custodian, &identity, challenge.clone(), bundle)?;
    let certificates: Certificates = offer(link, path::ATTESTATION, "attestation", &attestation).await?;
    let host = certificates.host.as_ref().map(|host| written("host's quote", host)).transpose()?;
    let said = Dispatched {
        binding: &attestation.binding,
        quote: &attestation.quote.0,
        builder_id: &configuration.builder_id,
        policy_sha256: policy_digest(&trust.policy)?,
        hosted: hosted(&configuration, &trust.policy, host.as_deref(), &attestation.binding)?,
    };
    let issuer_life = check(&certificates, &trust.root, &identity, &said)?;
    bundle.add(file::AUTHORITY, certificates.authority.into_bytes());
    bundle.add(file::STATEMENT_KEY, certificates.statement.into_bytes());
    bundle.add(file::ATTESTATION_KEY, certificates.attestation.into_bytes());
    bundle.add(file::ISSUER, certificates.issuer.into_bytes());
    bundle.add(file::DISPATCH_KEY, certificates.dispatch.certificate.into_bytes());
    bundle.add(file::DISPATCH, certificates.dispatch.attestation.0);
    bundle.add(file::DISPATCH_SUMMARY, certificates.dispatch.summary.0);
    bundle.add(file::DISPATCH_IMAGE, certificates.dispatch.image.0);
    if let Some(host) = host {
        bundle.add(file::HOST_QUOTE, host);
    }
    tracing::info!("attested");
    let Challenge { build_id, job_sha256, image_sha256, .. } = challenge;
    Ok(Certified {
        build_id,
        job_sha256,
        image_sha256,
        trust_domain: configuration.trust_domain,
        machine: attestation.binding.endorsement_key_sha256,
        issuer_life,
        builder_id: configuration.builder_id,
        policy: trust.policy,
        trust_sha256,
        clock,
    })
}

fn read<T: Serialize + DeserializeOwned>(document: &'static str, bytes: &[u8]) -> Result<T, BootError> {
    canonical::from_slice_exact(bytes).map_err(|source| BootError::Document { document, source: Some(source) })
}

fn written<T: Serialize>(document: &'static str, value: &T) -> Result<Vec<u8>, BootError> {
    canonical::to_vec(value).map_err(|source| BootError::Document { document, source: Some(source) })
}

/// What the host quoted for this build, if the machine was told that it stands on a host that does.
fn hosted(
    configuration: &Configuration,
    policy: &Policy,
    host: Option<&[u8]>,
    binding: &Binding,
) -> Result<Option<Hosted>, BootError> {
    let binding_sha256 = Sha256Digest::of(&written("binding", binding)?);
    Ok(host::check(&configuration.builder_id, &policy.hosts, host, &binding_sha256, &binding.endorsement_key_sha256)?)
}

fn check_versions(configuration: &Configuration, trust: &TrustBundle, challenge: &Challenge) -> Result<(), BootError> {
    let versions = [
        ("configuration", configuration.version, trust::VERSION),
        ("trust bundle", trust.version, trust::VERSION),
        ("policy", trust.policy.version, trust::VERSION),
        ("challenge", challenge.version, challenge::VERSION),
    ];
    match versions.into_iter().find(|(_, found, expected)| found != expected) {
        Some((document, ..)) => Err(BootError::Document { document, source: None }),
        None => Ok(()),
    }
}

fn policy_digest(policy: &Policy) -> Result<Sha256Digest, BootError> {
    policy.sha256().map_err(|source| BootError::Document { document: "policy", source: Some(source) })
}

/// The first quote, over the challenge and this boot's keys, and the logs that explain it.
fn attest<S: io::Read + io::Write>(
    custodian: &mut Custodian<S>,
    identity: &Identity,
    challenge: Challenge,
    bundle: &mut Bundle,
) -> Result<Attestation, Fault> {
    let binding = Binding {
        challenge,
        statement_key_sha256: Sha256Digest::of(&identity.statement_key.0),
        issuer_key_sha256: Sha256Digest::of(&identity.issuer_key.0),
        endorsement_key_sha256: EkPublic::parse(&identity.enrolment.endorsement_key.0)
            .map_err(BootError::from)?
            .sha256(),
    };
    let bytes = written("binding", &binding)?;
    let quote = custodian.quote(WhichQuote::First, Sha256Digest::of(&bytes))?;
    let proof = quote.proof.ok_or(CustodyError::Unexpected)?;
    bounded("firmware", &identity.firmware_log, FIRMWARE_LOG_BYTES_MAX)?;
    bounded("runtime", &quote.runtime_log, RUNTIME_LOG_BYTES_MAX)?;
    if !identity.firmware_log.0.is_empty() {
        bundle.add(file::FIRMWARE_LOG, identity.firmware_log.0.clone());
    }
    bundle.add(file::BINDING, bytes);
    bundle.add(file::FIRST_QUOTE, quote.attest.0.clone());
    bundle.add(file::FIRST_SIGNATURE, quote.signature.0.clone());
    Ok(Attestation {
        binding,
        statement_key: identity.statement_key.clone(),
        issuer_key: identity.issuer_key.clone(),
        proof,
        quote: quote.attest,
        signature: quote.signature,
        firmware_log: identity.firmware_log.clone(),
        runtime_log: quote.runtime_log,
        init_uptime_us: identity.init_uptime_us,
        sent_uptime_us: uptime_us(),
    })
}

fn bounded(log: &'static str, bytes: &Blob, bytes_max: usize) -> Result<(), BootError> {
    if bytes.0.len() > bytes_max { Err(BootError::LogTooLarge { log, bytes_max }) } else { Ok(()) }
}

/// The machine's boot clock.
fn uptime_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// Sends a document that the authority may say no to.
async fn offer<T: DeserializeOwned>(
    link: &mut Link,
    path: &str,
    document: &'static str,
    value: &impl Serialize,
) -> Result<T, Fault> {
    let bytes = canonical::to_vec(value).map_err(|source| BootError::Document { document, source: Some(source) })?;
    let answer = link.ask(path, bytes, MESSAGE_BYTES_MAX).await?;
    // What is not understood is named after what it answers.
    let unread = |source| BootError::Document { document, source: Some(canonical::Error::Decode { source }) };
    if answer.status.is_success() {
        return Ok(serde_json::from_slice(&answer.body).map_err(unread)?);
    }
    let source: NotAttested = serde_json::from_slice(&answer.body).map_err(unread)?;
    Err(BootError::NotAttested { source }.into())
}

/// The chain leads from this machine's keys to the root of the measured trust bundle, at the time of the challenge, through the
/// authority of the builder id that the machine has measured, and that authority's word is about this machine and this build. Yields when the issuer's certificate is valid.
fn check(
    certificates: &Certificates,
    root: &str,
    identity: &Identity,
    said: &Dispatched<'_>,
) -> Result<(Timestamp, Timestamp), BootError> {
    let Challenge { issued: at, build_id, .. } = &said.binding.challenge;
    let broken = |source| BootError::Certificate { source };
    let pem = |text: &str| Certificate::from_pem(text.as_bytes()).map_err(broken);
    let authority = Authority::check(&pem(root)?, &pem(&certificates.authority)?, *at, said.builder_id);
    let authority = authority.map_err(broken)?;
    let statement = pem(&certificates.statement)?;
    authority.statement(&statement).map_err(broken)?;
    if statement.spki().map_err(broken)? != identity.statement_key.0 {
        return Err(BootError::OtherKey);
    }
    let certificate = pem(&certificates.issuer)?;
    let issuer = authority.issuer(&certificate).map_err(broken)?;
    let is_ours = issuer.is_of(&said.binding.endorsement_key_sha256, build_id);
    if !is_ours || certificate.spki().map_err(broken)? != identity.issuer_key.0 {
        return Err(BootError::OtherKey);
    }
    // That its key is the one that made the quote is for the authority and the verifier to see: only they read quotes.
    authority.attestation(&pem(&certificates.attestation)?).map_err(broken)?;
    let Dispatch { certificate, attestation, summary, image } = &certificates.dispatch;
    let key = authority.dispatch(&pem(certificate)?).map_err(broken)?.key;
    said.check(Envelopes { attestation: &attestation.0, summary: &summary.0, image: &image.0 }, &key)?;
    issuer.life().ok_or(BootError::OtherKey)
}
