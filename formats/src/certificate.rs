//! The site's certificates: a root, an authority for each builder id, four certificates of minutes for each build, and one for each of
//! its steps.
//!
//! A [`Certificate`] that was only parsed is an allegation. [`Authority::check`] takes a root that the caller trusts for reasons
//! of its own, and the builder id in question: an authority is certified for one, and counts for no other. The [`StatementCertificate`],
//! [`AttestationCertificate`] and [`DispatchCertificate`] that it then hands out tell you that the site vouched for one key, for one
//! purpose, in one name, at one time. The [`IssuerCertificate`] is of a key that one build's machine keeps to certify the keys of its
//! steps; what it hands out, a [`StepCertificate`], also says what the step was ([`StepIdentity`]).
//! Deliberately absent: revocation (leaves live for minutes), other algorithms, longer chains, and issuing, which needs a key, but for the
//! certificates of steps ([`StepDraft`]).
//!
//! What each kind of certificate must look like, for those who issue them:
//!
//! | | root | authority | statement, dispatch, teardown | attestation | issuer | step |
//! |-|-|-|-|-|-|-|
//! | signed by | itself | root | authority | authority | authority | issuer |
//! | key | Ed25519 | Ed25519 | Ed25519 | P-256 | Ed25519 | Ed25519 |
//! | basicConstraints, critical | CA | CA, path length 1 | not CA | not CA | CA, path length 0 | not CA |
//! | keyUsage, critical | keyCertSign | keyCertSign | digitalSignature | digitalSignature | keyCertSign | digitalSignature |
//! | extKeyUsage | – | – | [`EKU_STATEMENT`] | [`EKU_ATTESTATION`] | – | [`EKU_STATEMENT`] |
//! | subjectAltName | – | the builder id | [`SpiffeId::statement`], [`SpiffeId::dispatch`], [`SpiffeId::teardown`] | [`SpiffeId::attestation`] | – | [`SpiffeId::step`] |
//! | [`STEP_IDENTITY`], not critical | – | – | – | – | – | [`StepIdentity`] |
//! | subject | any | any | any | any | [`issuer_name`] | any |
//! | lifetime | any | any | at most [`LEAF_SECONDS_MAX`] | the same | the same | the issuer's |
//!
//! All are signed with Ed25519 and X.509 v3; subject and authority key identifiers may be there (not critical), no other extension.
//!
//! Source: RFC 5280; RFC 8410 (Ed25519); SPIFFE X.509-SVID, sections 2 to 4.

mod issue;
mod profile;
mod spiffe;
mod step;
#[cfg(test)]
pub(crate) mod tests;

use ed25519_dalek::{Signature, VerifyingKey};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::oid::db::rfc8410::ID_ED_25519;
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{Decode as _, DecodePem as _, Encode as _, EncodePem as _};

pub use issue::{SERIAL_BYTES, key_identifiers, serial_number, validity};
pub use spiffe::{SpiffeId, SpiffeIdError};
pub use step::{STEP_IDENTITY, StepDraft, StepIdentity, issuer_name};

use crate::digest::Sha256Digest;
use crate::names::Name;
use crate::quote::AttestationKey;
use crate::timestamp::Timestamp;
use profile::Kind;

/// The longest life of a leaf, in seconds: an hour covers the slowest boot and attestation without KVM many times over.
/// A leaf need not outlive its build: what counts is that it was valid when the challenge was issued.
pub const LEAF_SECONDS_MAX: i64 = 3600;
/// The largest certificate file, in bytes. Ours stay under 1 KiB.
pub const PEM_BYTES_MAX: usize = 8 << 10;

/// Code signing. Source: RFC 5280, section 4.2.1.12.
pub const EKU_STATEMENT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
/// `tcg-kp-AIKCertificate`. Source: TCG Credential Profile for TPM 2.0, section 3.2.16.
pub const EKU_ATTESTATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.3");

/// The rule of leaves that have no name.
const NAMELESS: &str = "it has no SPIFFE id";

/// A certificate that was parsed, and nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    parsed: x509_cert::Certificate,
    /// The DER of its signed part.
    signed: Vec<u8>,
}

/// Which certificate of a chain is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The site's root, brought by the person.
    Root,
    /// The authority's, signed by the root.
    Authority,
    /// The one of the key that signs statements.
    Statement,
    /// The one of the TPM's attestation key.
    Attestation,
    /// The one of the key with which the authority signs a build's dispatch.
    Dispatch,
    /// The one of the key with which a launcher signs that a machine is gone.
    Teardown,
    /// The one of the key with which a machine certifies its steps' keys.
    Issuer,
    /// The one of the key that signs what there is to say of one step.
    Step,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Authority => "authority",
            Self::Statement => "statement",
            Self::Attestation => "attestation",
            Self::Dispatch => "dispatch",
            Self::Teardown => "teardown",
            Self::Issuer => "issuer",
            Self::Step => "step",
        })
    }
}

/// Why a certificate or a chain does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not exactly one PEM certificate in the encoding that we write, or more than [`PEM_BYTES_MAX`].
    #[error("not exactly one PEM certificate in strict DER")]
    Syntax,
    /// A rule of the table above is broken.
    #[error("the {role} certificate breaks its profile: {rule}")]
    Profile {
        /// Which certificate.
        role: Role,
        /// Which rule.
        rule: &'static str,
    },
    /// Its issuer's name is not the name of the certificate above it.
    #[error("the {role} certificate was not issued by the certificate above it")]
    Issuer {
        /// Which certificate.
        role: Role,
    },
    /// The key above it did not sign it.
    #[error("the {role} certificate's signature does not hold")]
    Signature {
        /// Which certificate.
        role: Role,
    },
    /// Not valid at the time in question.
    #[error("the {role} certificate is not valid at {at}")]
    Time {
        /// Which certificate.
        role: Role,
        /// The time in question.
        at: Timestamp,
    },
    /// All of it holds, but the root certified this authority for other machines than those in question.
    #[error("the authority is certified for machines of {certified_for}, and for no others")]
    OtherMode {
        /// Their builder id.
        certified_for: &'static str,
    },
    /// Names or times that no certificate can hold.
    #[error("the names or times of a certificate to be do not fit one")]
    Draft,
}

impl CertificateError {
    /// Stable; scripts may rely on it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::OtherMode { .. } => "signer_of_other_mode",
            Self::Syntax
            | Self::Profile { .. }
            | Self::Issuer { .. }
            | Self::Signature { .. }
            | Self::Time { .. }
            | Self::Draft => "certificate",
        }
    }
}

impl Certificate {
    /// Reads a file that holds exactly one certificate, in the one spelling that [`Certificate::to_pem`] writes (which is that of
    /// OpenSSL).
    ///
    /// # Errors
    /// [`CertificateError::Syntax`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        if pem.len() > PEM_BYTES_MAX {
            return Err(CertificateError::Syntax);
        }
        let parsed = x509_cert::Certificate::from_pem(pem).map_err(|_| CertificateError::Syntax)?;
        let certificate = Self::from_parsed(parsed)?;
        if certificate.to_pem()?.as_bytes() == pem { Ok(certificate) } else { Err(CertificateError::Syntax) }
    }

    /// Reads one certificate in DER.
    ///
    /// # Errors
    /// [`CertificateError::Syntax`], also for BER that is not DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let parsed = x509_cert::Certificate::from_der(der).map_err(|_| CertificateError::Syntax)?;
        let certificate = Self::from_parsed(parsed)?;
        if certificate.to_der()? == der { Ok(certificate) } else { Err(CertificateError::Syntax) }
    }

    fn from_parsed(parsed: x509_cert::Certificate) -> Result<Self, CertificateError> {
        let signed = parsed.tbs_certificate().to_der().map_err(|_| CertificateError::Syntax)?;
        Ok(Self { parsed, signed })
    }

    /// The certificate as PEM, lines of 64 ending in LF.
    ///
    /// # Errors
    /// Never for a certificate that was parsed; the signature is that of the encoder.
    pub fn to_pem(&self) -> Result<String, CertificateError> {
        self.parsed.to_pem(LineEnding::LF).map_err(|_| CertificateError::Syntax)
    }

    /// The certificate as DER.
    ///
    /// # Errors
    /// Never for a certificate that was parsed; the signature is that of the encoder.
    pub fn to_der(&self) -> Result<Vec<u8>, CertificateError> {
        self.parsed.to_der().map_err(|_| CertificateError::Syntax)
    }

    /// The SubjectPublicKeyInfo (DER): what the certificate binds to a name.
    ///
    /// # Errors
    /// Never for a certificate that was parsed; the signature is that of the encoder.
    pub fn spki(&self) -> Result<Vec<u8>, CertificateError> {
        self.parsed.tbs_certificate().subject_public_key_info().to_der().map_err(|_| CertificateError::Syntax)
    }

    /// The key of a root: one that has the profile of roots and signed itself. When it is valid is not asked.
    ///
    /// # Errors
    /// [`CertificateError`] with [`Role::Root`].
    pub fn root_key(&self) -> Result<VerifyingKey, CertificateError> {
        profile::check(self, Role::Root, Kind::Root)?;
        let key = self.ed25519_key(Role::Root)?;
        self.check_issued_by(Role::Root, self, &key)?;
        Ok(key)
    }

    /// The same, for a root that is to be valid at a time.
    ///
    /// # Errors
    /// [`CertificateError`] with [`Role::Root`].
    pub fn root_key_at(&self, at: Timestamp) -> Result<VerifyingKey, CertificateError> {
        let key = self.root_key()?;
        self.check_time(Role::Root, at)?;
        Ok(key)
    }

    /// The parsed certificate, for those who issue others under it.
    #[must_use]
    pub const fn as_x509(&self) -> &x509_cert::Certificate {
        &self.parsed
    }

    fn ed25519_key(&self, role: Role) -> Result<VerifyingKey, CertificateError> {
        let broken = CertificateError::Profile { role, rule: "its key is not Ed25519" };
        let info = self.parsed.tbs_certificate().subject_public_key_info();
        let bits = info.subject_public_key.as_bytes().ok_or(broken)?;
        if info.algorithm.oid != ID_ED_25519 || info.algorithm.parameters.is_some() {
            return Err(broken);
        }
        let key = VerifyingKey::from_bytes(bits.try_into().map_err(|_| broken)?).map_err(|_| broken)?;
        if key.is_weak() { Err(broken) } else { Ok(key) }
    }

    /// The certificate was issued under `issuer`'s name and with its key.
    fn check_issued_by(&self, role: Role, issuer: &Self, issuer_key: &VerifyingKey) -> Result<(), CertificateError> {
        if self.parsed.tbs_certificate().issuer() != issuer.parsed.tbs_certificate().subject() {
            return Err(CertificateError::Issuer { role });
        }
        let error = CertificateError::Signature { role };
        let bytes = self.parsed.signature().as_bytes().ok_or(error)?;
        let signature = Signature::from_slice(bytes).map_err(|_| error)?;
        issuer_key.verify_strict(&self.signed, &signature).map_err(|_| error)
    }

    /// The first second of validity, since 1970, as the certificate says.
    #[must_use]
    pub fn begins(&self) -> i64 {
        self.validity().0
    }

    /// First and last second of validity, since 1970.
    fn validity(&self) -> (i64, i64) {
        let validity = self.parsed.tbs_certificate().validity();
        let seconds = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        (seconds(validity.not_before.to_unix_duration()), seconds(validity.not_after.to_unix_duration()))
    }

    fn check_time(&self, role: Role, at: Timestamp) -> Result<(), CertificateError> {
        let (first, last) = self.validity();
        if (first..=last).contains(&at.unix()) { Ok(()) } else { Err(CertificateError::Time { role, at }) }
    }
}

/// An authority that a trusted root vouches for, for the machines of one builder id, at one time.
#[derive(Debug, Clone)]
pub struct Authority {
    certificate: Certificate,
    key: VerifyingKey,
    at: Timestamp,
}

impl Authority {
    /// Checks that `root` is a root and that it vouches for `authority` as the one of machines of `builder_id`, both valid at `at`.
    ///
    /// # Errors
    /// [`CertificateError`] with the role of the certificate that does not hold; [`CertificateError::OtherMode`] if nothing else is
    /// wrong.
    pub fn check(
        root: &Certificate,
        authority: &Certificate,
        at: Timestamp,
        builder_id: &str,
    ) -> Result<Self, CertificateError> {
        let root_key = root.root_key_at(at)?;
        authority.check_issued_by(Role::Authority, root, &root_key)?;
        profile::check(authority, Role::Authority, Kind::Authority)?;
        let broken = |rule| CertificateError::Profile { role: Role::Authority, rule };
        let certified_for = profile::builder_id(authority).map_err(broken)?;
        authority.check_time(Role::Authority, at)?;
        let key = authority.ed25519_key(Role::Authority)?;
        if certified_for != builder_id {
            return Err(CertificateError::OtherMode { certified_for });
        }
        Ok(Self { certificate: authority.clone(), key, at })
    }

    fn check_below(&self, below: &Certificate, role: Role, kind: Kind) -> Result<Option<SpiffeId>, CertificateError> {
        below.check_issued_by(role, &self.certificate, &self.key)?;
        let id = profile::check(below, role, kind)?;
        let (first, last) = below.validity();
        if last.saturating_sub(first) > LEAF_SECONDS_MAX {
            return Err(CertificateError::Profile { role, rule: "it lives for more than an hour" });
        }
        below.check_time(role, self.at)?;
        Ok(id)
    }

    fn check_leaf(&self, leaf: &Certificate, role: Role, kind: Kind) -> Result<SpiffeId, CertificateError> {
        self.check_below(leaf, role, kind)?.ok_or(CertificateError::Profile { role, rule: NAMELESS })
    }

    /// Checks the certificate of a statement key.
    ///
    /// # Errors
    /// [`CertificateError`] with [`Role::Statement`].
    pub fn statement(&self, leaf: &Certificate) -> Result<StatementCertificate, CertificateError> {
        let id = self.check_leaf(leaf, Role::Statement, Kind::Leaf(EKU_STATEMENT))?;
        Ok(StatementCertificate { key: leaf.ed25519_key(Role::Statement)?, id })
    }

    /// Checks the certificate of a dispatch key.
    ///
    /// # Errors
    /// [`CertificateError`] with [`Role::Dispatch`].
    pub fn dispatch(&self, leaf: &Certificate) -> Result<DispatchCertificate, CertificateError> {
        let id = self.check_leaf(leaf, Role::Dispatch, Kind::Leaf(EKU_STATEMENT))?;
        Ok(DispatchCertificate { key: leaf.ed25519_key(Role::Dispatch)?, id })
    }

    /// Checks the certificate of a teardown's key.
    ///
    /// # Errors
    /// [`CertificateError`] with [`Role::Teardown`].
    pub fn teardown(&self, leaf: &Certificate) -> Result<TeardownCertificate, CertificateError> {
        let id = self.check_leaf(leaf, Role::Teardown, Kind::Leaf(EKU_STATEMENT))?;
        Ok(TeardownCertificate { key: leaf.ed25519_key(Role::Teardown)?, id })
    }

    /// Checks the certificate of the key with which a machine certifies its steps' keys.
    ///
    /// # Errors
    /// [`CertificateError`] with [`Role::Issuer`].
    pub fn issuer(&self, certificate: &Certificate) -> Result<IssuerCertificate, CertificateError> {
        self.check_below(certificate, Role::Issuer, Kind::Issuer)?;
        Ok(IssuerCertificate { key: certificate.ed25519_key(Role::Issuer)?, certificate: certificate.clone() })
    }

    /// Checks the certificate of a TPM's attestation key.
    ///
    /// # Errors
    /// [`CertificateError`] with [`Role::Attestation`].
    pub fn attestation(&self, leaf: &Certificate) -> Result<AttestationCertificate, CertificateError> {
        let role = Role::Attestation;
        let id = self.check_leaf(leaf, role, Kind::Leaf(EKU_ATTESTATION))?;
        let key = AttestationKey::from_spki(&leaf.spki()?)
            .map_err(|_| CertificateError::Profile { role, rule: "its key is not a point on P-256" })?;
        Ok(AttestationCertificate { key, id })
    }
}

/// The site vouches: this key signs the statements of the build that `id` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementCertificate {
    /// The key.
    pub key: VerifyingKey,
    /// The build.
    pub id: SpiffeId,
}

/// The site vouches: this key is the attestation key of the TPM of the machine that ran the build that `id` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationCertificate {
    /// The key.
    pub key: AttestationKey,
    /// The build.
    pub id: SpiffeId,
}

/// The site vouches: this key was the authority's own, for the dispatch of the build that `id` names. The name alone tells it from
/// the key of the build's statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DispatchCertificate {
    /// The key.
    pub key: VerifyingKey,
    /// The build.
    pub id: SpiffeId,
}

/// The site vouches: this key was a launcher's, for the teardown of the machine of the build that `id` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeardownCertificate {
    /// The key.
    pub key: VerifyingKey,
    /// The build.
    pub id: SpiffeId,
}

/// The site vouches: this key was made by one build's machine to certify the keys of its steps. Of which build it is says
/// [`IssuerCertificate::is_of`].
#[derive(Debug, Clone)]
pub struct IssuerCertificate {
    certificate: Certificate,
    /// The key.
    pub key: VerifyingKey,
}

impl IssuerCertificate {
    /// Whether it is the one of this build on this machine; `machine` is the digest of its endorsement key.
    #[must_use]
    pub fn is_of(&self, machine: &Sha256Digest, build_id: &Name) -> bool {
        issuer_name(machine, build_id).as_ref() == Ok(self.certificate.parsed.tbs_certificate().subject())
    }

    /// First and last second of its life, which are those of the certificates that it issues; none before 1970 or after 9999.
    #[must_use]
    pub fn life(&self) -> Option<(Timestamp, Timestamp)> {
        let (first, last) = self.certificate.validity();
        Timestamp::from_unix(first).ok().zip(Timestamp::from_unix(last).ok())
    }

    /// Checks the certificate of a step's key. It counts when its issuer's counts.
    ///
    /// # Errors
    /// [`CertificateError`] with [`Role::Step`].
    pub fn step(&self, leaf: &Certificate) -> Result<StepCertificate, CertificateError> {
        let role = Role::Step;
        let broken = |rule| CertificateError::Profile { role, rule };
        leaf.check_issued_by(role, &self.certificate, &self.key)?;
        let id = profile::check(leaf, role, Kind::Step)?.ok_or(broken(NAMELESS))?;
        if leaf.validity() != self.certificate.validity() {
            return Err(broken("it does not live as long as its issuer's"));
        }
        let identity = profile::step_identity(leaf).map_err(broken)?;
        Ok(StepCertificate { key: leaf.ed25519_key(role)?, id, identity })
    }
}

/// The machine of a build vouches: this key signed what there is to say of the step that `id` names and `identity` describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepCertificate {
    /// The key.
    pub key: VerifyingKey,
    /// The step.
    pub id: SpiffeId,
    /// What it was.
    pub identity: StepIdentity,
}
