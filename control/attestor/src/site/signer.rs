//! A mode's signer: the authority that certifies machines of one builder id, and no others. `authorities/NAME.key` and
//! `authorities/NAME.pem`, where NAME is the end of the builder id's path, as in `metal-v1`.
//!
//! The root wrote the builder id into the certificate; the machine, this program and every verifier refuse the chain for any other.
//! So a key that was stolen from a host of one mode certifies machines of that mode, and nothing can make them look like others.

use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use kiln_formats::certificate::{Authority, Certificate, SERIAL_BYTES};
use kiln_formats::dsse::Envelope;
use kiln_formats::names::{BASE, MACHINE_BUILDERS, Name};
use kiln_formats::timestamp::Timestamp;

use super::{Site, SiteError, certificate, path, read_key};
use crate::certify::{AUTHORITY_SECONDS, Issuer, Purpose, Request, spki_of};

/// Holding one says: the site's root vouches for this key as the one that certifies machines of this builder id.
#[derive(Debug)]
pub struct Signer {
    builder_id: &'static str,
    certificate: Certificate,
    key: SigningKey,
}

impl Signer {
    pub(super) fn open(site: &Site, builder_id: &str, now: Timestamp) -> Result<Self, SiteError> {
        let builder_id = known(builder_id)?;
        let [file, key_file] = paths(site.directory(), builder_id)?;
        let certificate = certificate(&file)?;
        let holds = |source| SiteError::Certificate { path: file.clone(), source };
        Authority::check(site.root(), &certificate, now, builder_id).map_err(holds)?;
        let key = read_key(&key_file)?;
        if certificate.spki().map_err(holds)? != spki_of(&key) {
            return Err(SiteError::Mismatch { path: key_file, rule: "is not the key of the certificate beside it" });
        }
        Ok(Self { builder_id, certificate, key })
    }

    /// The builder id of the machines that it certifies.
    #[must_use]
    pub fn builder_id(&self) -> &str {
        self.builder_id
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The name and the key that it signs with.
    pub(crate) fn issuer(&self) -> Issuer<'_> {
        Issuer::of(&self.certificate, &self.key)
    }

    /// Signs what there is no key of a build for.
    pub(crate) fn sign(&self, payload_type: &str, payload: &[u8]) -> Envelope {
        Envelope::sign(payload_type, payload, &self.key)
    }

    /// The same key and certificate, said to be the ones of other machines.
    #[cfg(test)]
    pub(crate) fn passed_off_as(self, builder_id: &'static str) -> Self {
        Self { builder_id, ..self }
    }
}

fn known(builder_id: &str) -> Result<&'static str, SiteError> {
    let found = MACHINE_BUILDERS.into_iter().find(|known| *known == builder_id);
    found.ok_or_else(|| SiteError::UnknownBuilder { builder_id: builder_id.to_owned() })
}

/// Where the certificate of a builder id's authority is, and its key.
///
/// # Errors
/// [`SiteError::UnknownBuilder`].
pub fn paths(site: &Path, builder_id: &str) -> Result<[PathBuf; 2], SiteError> {
    let rest = known(builder_id)?.strip_prefix(BASE).and_then(|rest| rest.strip_prefix("builders/"));
    let name = rest.ok_or_else(|| SiteError::UnknownBuilder { builder_id: builder_id.to_owned() })?.replace('/', "-");
    Ok(["pem", "key"].map(|kind| site.join(path::AUTHORITIES).join(format!("{name}.{kind}"))))
}

/// Certifies a key as the one that certifies machines of this builder id.
///
/// # Errors
/// [`SiteError::Certify`].
pub(super) fn certify(
    site: &Name,
    builder_id: &str,
    spki: &[u8],
    (root, root_key): (&Certificate, &SigningKey),
    begin: Timestamp,
    serial: [u8; SERIAL_BYTES],
) -> Result<Certificate, SiteError> {
    let mode = builder_id.strip_prefix(BASE).unwrap_or(builder_id);
    let request = Request {
        purpose: Purpose::Authority(builder_id),
        subject: &format!("{site} authority {mode}"),
        spki,
        begin,
        seconds: AUTHORITY_SECONDS,
        serial,
    };
    Ok(Issuer::of(root, root_key).issue(&request)?)
}
