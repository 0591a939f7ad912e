//! What the launcher of a disposable machine says when it is gone: that it switched itself off, and that nothing of it is left.
//!
//! It comes after the machine's last word, so it lies beside the evidence and not in it: whoever leaves it out takes a statement away and
//! makes no evidence worse. Its subject is the build by the digest of that last word (the closing), so it fits no other output.
//! It is the host's word, signed with a key that the authority certifies for it and forgets; no more than that.
//!
//! Source of the form: in-toto attestation framework, `spec/predicates/scai.md` (v0.3). Ours: `docs/predicates/teardown/v1.md`.

use std::collections::BTreeMap;

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::digest::Sha256Digest;
use crate::dispatch::{Attribute, AttributeReport};
use crate::dsse::{self, Envelope};
use crate::names::{Name, PAYLOAD_STATEMENT, PREDICATE_SCAI};
use crate::statement::{Statement, Subject};
use crate::timestamp::Timestamp;

/// The largest file in bytes; ours have about 3000.
pub const TEARDOWN_BYTES_MAX: usize = 64 << 10;
/// What is said, always these and in this order.
const ATTRIBUTES: [&str; 4] = ["MACHINE_POWERED_OFF", "PROCESSES_ENDED", "TPM_STATE_REMOVED", "FILES_REMOVED"];
const STARTED: &str = "startedOn";
const ENDED: &str = "endedOn";
const BUILDER: &str = "builder";

/// The file: the statement, and the certificate of the key that signed it. Canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teardown {
    /// The certificate, PEM; the authority above it is in the evidence.
    pub certificate: String,
    /// The statement's envelope.
    pub statement: Envelope,
}

/// A machine that is gone, of which nothing is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TornDown {
    /// The build that it existed for.
    pub build_id: Name,
    /// The digest of its last word, `evidence/closing.json`.
    pub closing_sha256: Sha256Digest,
    /// In which way it was started.
    pub builder_id: String,
    /// When it was powered on, by the launcher's clock.
    pub started: Timestamp,
    /// When nothing of it was left, by the same clock.
    pub ended: Timestamp,
}

/// Why a file is not the launcher's word on this build.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// The certified key did not sign it.
    #[error("the certified key did not sign it")]
    Signature {
        /// Why.
        #[from]
        source: dsse::Error,
    },
    /// It is not in its one form.
    #[error("it cannot be read")]
    Syntax {
        /// Why.
        #[from]
        source: canonical::Error,
    },
    /// It is about something else, or says something else.
    #[error("it does not say that this build's machine is gone")]
    Other,
}

impl TornDown {
    /// What the launcher signs.
    #[must_use]
    pub fn statement(&self) -> Statement<AttributeReport> {
        let conditions =
            [(STARTED, self.started.to_string()), (ENDED, self.ended.to_string()), (BUILDER, self.builder_id.clone())];
        let conditions: BTreeMap<_, _> = conditions.map(|(name, value)| (name.to_owned(), value)).into();
        let says = |attribute: &str| Attribute {
            attribute: attribute.to_owned(),
            target: None,
            conditions: conditions.clone(),
            evidence: None,
        };
        let attributes = ATTRIBUTES.map(says).to_vec();
        let subject = vec![Subject::new(self.build_id.as_str(), self.closing_sha256)];
        Statement::new(PREDICATE_SCAI, subject, AttributeReport { attributes })
    }

    /// Reads what `key` signed of the machine of this build; free in it are only the two times.
    ///
    /// # Errors
    /// [`TeardownError`].
    pub fn read(
        envelope: &Envelope,
        key: &VerifyingKey,
        build_id: &Name,
        closing_sha256: Sha256Digest,
        builder_id: &str,
    ) -> Result<Self, TeardownError> {
        let verified = envelope.verify(PAYLOAD_STATEMENT, &[*key])?;
        let found: Statement<AttributeReport> = canonical::from_slice_exact(verified.payload())?;
        let conditions =
            found.predicate.attributes.first().map(|first| &first.conditions).ok_or(TeardownError::Other)?;
        let time = |name| conditions.get(name).and_then(|text| text.parse().ok()).ok_or(TeardownError::Other);
        let said = Self {
            build_id: build_id.clone(),
            closing_sha256,
            builder_id: builder_id.to_owned(),
            started: time(STARTED)?,
            ended: time(ENDED)?,
        };
        if said.statement() == found && said.started <= said.ended { Ok(said) } else { Err(TeardownError::Other) }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use proptest::prelude::*;

    use super::*;

    fn said() -> TornDown {
        TornDown {
            build_id: "00112233445566778899aabbccddeeff".parse().unwrap(),
            closing_sha256: Sha256Digest::of(b"closing"),
            builder_id: "https://kiln.example/b".to_owned(),
            started: Timestamp::from_unix(1_790_000_000).unwrap(),
            ended: Timestamp::from_unix(1_790_000_060).unwrap(),
        }
    }

    fn sign(statement: &impl Serialize, seed: u8) -> Envelope {
        let payload = canonical::to_vec(statement).unwrap();
        let signature = SigningKey::from_bytes(&[seed; 32]).sign(&dsse::pae(PAYLOAD_STATEMENT, &payload)).to_bytes();
        Envelope::new(PAYLOAD_STATEMENT, &payload, &signature)
    }

    fn read(envelope: &Envelope, of: &TornDown) -> Result<TornDown, TeardownError> {
        let key = SigningKey::from_bytes(&[1; 32]).verifying_key();
        TornDown::read(envelope, &key, &of.build_id, of.closing_sha256, &of.builder_id)
    }

    #[test]
    fn it_is_of_one_build_and_says_all_or_nothing() {
        let good = sign(&said().statement(), 1);
        assert_eq!(read(&good, &said()).unwrap(), said());
        assert!(matches!(read(&sign(&said().statement(), 2), &said()), Err(TeardownError::Signature { .. })));
        for other in [
            TornDown { build_id: "ff".parse().unwrap(), ..said() },
            TornDown { closing_sha256: Sha256Digest::of(b"x"), ..said() },
            TornDown { builder_id: "https://kiln.example/c".to_owned(), ..said() },
        ] {
            assert!(matches!(read(&good, &other), Err(TeardownError::Other)));
        }
        type Change = fn(&mut Statement<AttributeReport>);
        let changes: [Change; 5] = [
            |statement| drop(statement.predicate.attributes.pop()),
            |statement| statement.predicate.attributes.swap(0, 1),
            |statement| statement.predicate.attributes.clear(),
            |statement| drop(statement.predicate.attributes[0].conditions.remove(ENDED)),
            |statement| statement.subject.push(Subject::new("another", Sha256Digest::of(b"x"))),
        ];
        for change in changes {
            let mut statement = said().statement();
            change(&mut statement);
            assert!(matches!(read(&sign(&statement, 1), &said()), Err(TeardownError::Other)));
        }
        let backwards = TornDown { ended: Timestamp::from_unix(0).unwrap(), ..said() };
        assert!(matches!(read(&sign(&backwards.statement(), 1), &said()), Err(TeardownError::Other)));
    }

    proptest! {
        /// One bit of the file changed: it cannot be read, or does not hold. The certificate is its issuer's to check.
        #[test]
        fn no_bit_can_be_changed(at: prop::sample::Index, bit in 0..8, lived in 0..100_000u32) {
            let said = TornDown { ended: said().started.plus_seconds(lived), ..said() };
            let statement = sign(&said.statement(), 1);
            prop_assert_eq!(read(&statement, &said).unwrap(), said.clone());
            let file = Teardown { certificate: String::new(), statement };
            let mut bytes = canonical::to_vec(&file).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            if let Ok(changed) = canonical::from_slice_exact::<Teardown>(&bytes) {
                prop_assert!(changed.certificate != file.certificate || read(&changed.statement, &said).is_err());
            }
        }

        #[test]
        fn foreign_bytes_are_none(bytes: Vec<u8>) {
            prop_assert!(canonical::from_slice_exact::<Teardown>(&bytes).is_err());
        }
    }
}
