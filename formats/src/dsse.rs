//! DSSE envelopes with exactly one Ed25519 signature.
//!
//! The key id is always empty: it is not covered by the signature, so it must not decide anything, and the clients of others
//! compare it in ways of their own. An envelope that was read is an allegation; only [`Envelope::verify`] hands out its payload.
//! Source: DSSE v1.0.2, `protocol.md` and `envelope.md`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::digest::Sha256Digest;

/// The largest envelope that is read, in bytes: a job of the largest size in base64, with room for its frame.
pub const ENVELOPE_BYTES_MAX: usize = 4 << 20;

/// An envelope as it was received or made. Its payload is not to be believed before [`Envelope::verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Envelope {
    payload: String,
    payload_type: String,
    signatures: [SignatureEntry; 1],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureEntry {
    #[serde(default)]
    keyid: String,
    sig: String,
}

/// Why bytes are no envelope, or an envelope does not hold.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More than [`ENVELOPE_BYTES_MAX`].
    #[error("an envelope of {bytes} bytes is larger than {ENVELOPE_BYTES_MAX}")]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// Not the JSON of an envelope with one signature.
    #[error("not a DSSE envelope with one signature: {source}")]
    Syntax {
        /// What the reader said.
        source: canonical::Error,
    },
    /// The payload or signature is not standard base64.
    #[error("the envelope's {field} is not standard base64")]
    Base64 {
        /// Which field.
        field: &'static str,
    },
    /// The envelope carries another kind of document.
    #[error("the payload type is {found:?}, not {expected:?}")]
    PayloadType {
        /// What the reader wants.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// None of the keys made the signature.
    #[error("the signature was made by none of the {keys} keys that may sign this")]
    Signature {
        /// How many keys were tried.
        keys: usize,
    },
}

/// The payload of an envelope whose signature holds under one of the keys that the caller named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    payload: Vec<u8>,
    key: VerifyingKey,
}

impl Verified {
    /// The signed bytes.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The key that signed them.
    #[must_use]
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The digest of the signed bytes.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.payload)
    }
}

/// The bytes that a signature covers: `DSSEv1 SP len(type) SP type SP len(payload) SP payload`.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

impl Envelope {
    /// Puts a payload and the signature over its [`pae`] into an envelope.
    #[must_use]
    pub fn new(payload_type: &str, payload: &[u8], signature: &[u8; 64]) -> Self {
        Self {
            payload: STANDARD.encode(payload),
            payload_type: payload_type.to_owned(),
            signatures: [SignatureEntry { keyid: String::new(), sig: STANDARD.encode(signature) }],
        }
    }

    /// Signs a payload with a key that is at hand.
    #[must_use]
    pub fn sign(payload_type: &str, payload: &[u8], key: &SigningKey) -> Self {
        Self::new(payload_type, payload, &key.sign(&pae(payload_type, payload)).to_bytes())
    }

    /// Reads an envelope in any spelling that JSON allows, as people's tools write it.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Syntax`].
    pub fn from_slice(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(Error::TooLarge { bytes: bytes.len() });
        }
        serde_json::from_slice(bytes).map_err(|source| Error::Syntax { source: canonical::Error::Decode { source } })
    }

    /// Reads an envelope whose bytes are those that [`Envelope::to_vec`] writes, so that no byte of it is free.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Syntax`].
    pub fn from_slice_exact(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > ENVELOPE_BYTES_MAX {
            return Err(Error::TooLarge { bytes: bytes.len() });
        }
        let envelope: Self = canonical::from_slice_exact(bytes).map_err(|source| Error::Syntax { source })?;
        if envelope.signatures.iter().any(|entry| !entry.keyid.is_empty()) {
            return Err(Error::Syntax { source: canonical::Error::NotCanonical });
        }
        Ok(envelope)
    }

    /// The canonical bytes of the envelope, on one line and without a line end.
    ///
    /// # Errors
    /// Never for an envelope that exists; the signature is that of [`canonical::to_vec`].
    pub fn to_vec(&self) -> Result<Vec<u8>, canonical::Error> {
        canonical::to_vec(self)
    }

    /// The payload type that the envelope claims.
    #[must_use]
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The payload, believed by nobody yet: for showing, and for the digest of what was refused.
    ///
    /// # Errors
    /// [`Error::Base64`].
    pub fn alleged_payload(&self) -> Result<Vec<u8>, Error> {
        STANDARD.decode(&self.payload).map_err(|_| Error::Base64 { field: "payload" })
    }

    /// Hands out the payload if one of `keys` signed it as a document of `payload_type`.
    ///
    /// # Errors
    /// [`Error::PayloadType`], [`Error::Base64`], and [`Error::Signature`] if no key fits (or none was given).
    pub fn verify(&self, payload_type: &'static str, keys: &[VerifyingKey]) -> Result<Verified, Error> {
        if self.payload_type != payload_type {
            let found = self.payload_type.chars().take(80).collect();
            return Err(Error::PayloadType { expected: payload_type, found });
        }
        let payload = self.alleged_payload()?;
        let [entry] = &self.signatures;
        let bytes = STANDARD.decode(&entry.sig).map_err(|_| Error::Base64 { field: "signature" })?;
        let signature = Signature::from_slice(&bytes).map_err(|_| Error::Signature { keys: keys.len() })?;
        let signed = pae(payload_type, &payload);
        // Strict: no key of small order, no second encoding of a signature.
        let key = keys.iter().find(|key| key.verify_strict(&signed, &signature).is_ok());
        match key {
            Some(key) => Ok(Verified { payload, key: *key }),
            None => Err(Error::Signature { keys: keys.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TYPE: &str = "application/vnd.kiln.job.v1+json";

    fn envelope(payload: &[u8]) -> (Envelope, VerifyingKey) {
        let key = SigningKey::from_bytes(&[7; 32]);
        (Envelope::new(TYPE, payload, &key.sign(&pae(TYPE, payload)).to_bytes()), key.verifying_key())
    }

    #[test]
    fn pae_is_that_of_the_protocol() {
        // Source: DSSE v1.0.2, protocol.md, test vectors.
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn only_a_named_key_opens_it() {
        let (envelope, key) = envelope(b"{}");
        assert_eq!(envelope.verify(TYPE, &[key]).unwrap().payload(), b"{}");
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
        assert!(matches!(envelope.verify(TYPE, &[other]), Err(Error::Signature { keys: 1 })));
        assert!(matches!(envelope.verify(TYPE, &[]), Err(Error::Signature { keys: 0 })));
        assert!(matches!(envelope.verify("text/plain", &[key]), Err(Error::PayloadType { .. })));
    }

    #[test]
    fn no_byte_of_an_exact_envelope_is_free() {
        let (envelope, key) = envelope(b"{\"a\":1}");
        let bytes = envelope.to_vec().unwrap();
        assert_eq!(Envelope::from_slice_exact(&bytes).unwrap(), envelope);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut other = bytes.clone();
                other[at] ^= 1 << bit;
                let read = Envelope::from_slice_exact(&other).and_then(|e| e.verify(TYPE, &[key]));
                assert!(read.is_err(), "byte {at} bit {bit}");
            }
        }
        let two = br#"{"payload":"e30=","payloadType":"x","signatures":[{"keyid":"","sig":""},{"keyid":"","sig":""}]}"#;
        assert!(Envelope::from_slice(two).is_err());
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(envelope) = Envelope::from_slice(&bytes) {
                let _ = envelope.verify(TYPE, &[]);
            }
        }
    }
}
