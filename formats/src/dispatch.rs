//! The authority's word, before it hands out a job: this machine, started from this image, was checked for this build of this job.
//!
//! Three statements, signed with a key that is certified for one build and never kept: the dispatch attestation (SCAI) binds the
//! machine's first quote to the build, the job, the image and the statement key; a summary (SLSA) says that the quote was held
//! against reference values, and that it passed; another ([`crate::image_summary`]) that the image's provenance was checked before.
//! [`Dispatched`] is all that they say, and makes them, so that a reader checks them by making them again: nothing in them is free but
//! [`Used`], and of that the class must be the builder id's.
//!
//! Source: in-toto attestation framework, `spec/predicates/scai.md` (v0.3); SLSA, `spec/build-env-track-basics.md` (draft), level 2.

use std::collections::BTreeMap;

use ed25519_dalek::VerifyingKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::challenge::{Binding, Challenge};
use crate::digest::Sha256Digest;
use crate::dsse::{self, Envelope};
use crate::endorsement::{OtherClass, TpmClass};
use crate::host::Hosted;
use crate::image_summary::ImageChecked;
use crate::link::Blob;
use crate::manifest::path;
use crate::names::{PAYLOAD_STATEMENT, PREDICATE_SCAI, PREDICATE_VERDICT, VERIFIER};
use crate::statement::{DigestSet, ResourceDescriptor, Statement, Subject};
use crate::verdict::{Attestation, PolicyUsed, SLSA_VERSION, Summary, Verifier};

/// What the summary grants: the check of the quote, and no level of SLSA's, whose draft track has no words for this yet.
pub const LEVEL: &str = "KILN_BOOT_QUOTE_VERIFIED";
/// Where the subjects and targets stand that every reader looks for.
const JOB: &str = "job";
const IMAGE: &str = "image";
const MACHINE: &str = "endorsement-key";
const HOST: &str = "host-endorsement-key";
const STATEMENT_KEY: &str = "statement-key";
const ISSUER_KEY: &str = "issuer-key";
const REFERENCE: &str = "reference-values";
const PROVENANCE: &str = "image-provenance";
/// The attribute, and in it the condition, that says how the site enrols the TPM.
const ENROLLED: &str = "MACHINE_ENROLLED";
const CLASS: &str = "class";

/// A SCAI attribute report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeReport {
    /// What is said of the subject.
    pub attributes: Vec<Attribute>,
}

/// One thing that is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    /// What: one of the words of `docs/predicates/dispatch/v1.md`.
    pub attribute: String,
    /// Of what, if not of the subject as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ResourceDescriptor>,
    /// Under which conditions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, String>,
    /// What shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<ResourceDescriptor>,
}

/// The three statements, each in its envelope, and the certificate of the key that signed them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dispatch {
    /// The certificate, PEM.
    pub certificate: String,
    /// The dispatch attestation's envelope.
    pub attestation: Blob,
    /// The summary's envelope.
    pub summary: Blob,
    /// That of the summary about the image.
    pub image: Blob,
}

/// What is said of a machine whose first quote held. Everything in it is in the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dispatched<'a> {
    /// The challenge, and which keys answered it.
    pub binding: &'a Binding,
    /// The first quote (TPMS_ATTEST).
    pub quote: &'a [u8],
    /// In which way the machine was started.
    pub builder_id: &'a str,
    /// What the site allows, images among it: the digest of its policy.
    pub policy_sha256: Sha256Digest,
    /// What the machine's host quoted for this build, if the builder id knows of one.
    pub hosted: Option<Hosted>,
}

/// What the authority judged the machine by, on its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The digest of its reference values.
    pub reference_sha256: Sha256Digest,
    /// The digest of the envelope with the image's provenance.
    pub provenance_sha256: Sha256Digest,
    /// As what its site enrols the machine's TPM.
    pub class: TpmClass,
}

/// Why a dispatch is not the authority's word on this build.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// An envelope is none, or the certified key did not sign it.
    #[error("the {statement} is not signed by the certified key")]
    Signature {
        /// Which statement.
        statement: &'static str,
        /// Why.
        source: dsse::Error,
    },
    /// A statement is not in its one form.
    #[error("the {statement} cannot be read")]
    Syntax {
        /// Which statement.
        statement: &'static str,
        /// Why.
        source: canonical::Error,
    },
    /// The authority says itself that it certified a machine of another class than the builder id stands for.
    #[error("the {statement} contradicts the builder id: {source}")]
    Class {
        /// Which statement.
        statement: &'static str,
        /// What it says.
        source: OtherClass,
    },
    /// A statement is about something else.
    #[error("the {statement} does not say what follows from this evidence")]
    Other {
        /// Which statement.
        statement: &'static str,
    },
}

/// The three envelopes, as they were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelopes<'a> {
    /// That of the dispatch attestation.
    pub attestation: &'a [u8],
    /// That of the summary of the quote's check.
    pub summary: &'a [u8],
    /// That of the summary about the image.
    pub image: &'a [u8],
}

impl DispatchError {
    /// Which statement it is about.
    #[must_use]
    pub fn statement(&self) -> &'static str {
        match self {
            Self::Signature { statement, .. }
            | Self::Syntax { statement, .. }
            | Self::Class { statement, .. }
            | Self::Other { statement } => statement,
        }
    }
}

impl Dispatched<'_> {
    fn subject(&self) -> Vec<Subject> {
        let challenge = &self.binding.challenge;
        vec![
            Subject::new(challenge.build_id.as_str(), Sha256Digest::of(self.quote)),
            Subject::new(JOB, challenge.job_sha256),
        ]
    }

    fn binding_sha256(&self) -> Result<Sha256Digest, canonical::Error> {
        Ok(Sha256Digest::of(&canonical::to_vec(self.binding)?))
    }

    /// The dispatch attestation of an authority that judged the machine so.
    ///
    /// # Errors
    /// Never for a binding that exists; the signature is that of [`canonical::to_vec`].
    pub fn attestation(&self, used: Used) -> Result<Statement<AttributeReport>, canonical::Error> {
        let Binding { challenge, statement_key_sha256, issuer_key_sha256, endorsement_key_sha256 } = self.binding;
        let binding = || Ok(ResourceDescriptor::new(path::BINDING, self.binding_sha256()?));
        let says = |attribute: &str, target: (&str, Sha256Digest), evidence| Attribute {
            attribute: attribute.to_owned(),
            target: Some(ResourceDescriptor::new(target.0, target.1)),
            conditions: BTreeMap::new(),
            evidence: Some(evidence),
        };
        let quote = Attribute {
            attribute: "BOOT_QUOTE".to_owned(),
            target: None,
            conditions: BTreeMap::from(
                [("pcrs", "sha256:0-15"), ("qualifyingData", "SHA-256 of the binding"), ("builder", self.builder_id)]
                    .map(|(name, value)| (name.to_owned(), value.to_owned())),
            ),
            evidence: Some(ResourceDescriptor::new(path::FIRST_QUOTE, Sha256Digest::of(self.quote))),
        };
        let reference = ResourceDescriptor::new(REFERENCE, used.reference_sha256);
        let class = BTreeMap::from([(CLASS.to_owned(), used.class.to_string())]);
        let enrolled = says(ENROLLED, (MACHINE, *endorsement_key_sha256), binding()?);
        let provenance = ResourceDescriptor::new(PROVENANCE, used.provenance_sha256);
        let hosted = self.hosted.map(|Hosted { endorsement_key_sha256, file_sha256, .. }| {
            let evidence = ResourceDescriptor::new(path::HOST_QUOTE, file_sha256);
            says("HOST_BOOT_QUOTE", (HOST, endorsement_key_sha256), evidence)
        });
        let attributes = [
            quote,
            says("IMAGE_PROVENANCE_VERIFIED", (IMAGE, challenge.image_sha256), provenance),
            says("REFERENCE_VALUES_MATCH", (IMAGE, challenge.image_sha256), reference),
            says("JOB_BOUND", (JOB, challenge.job_sha256), binding()?),
            Attribute { conditions: class, ..enrolled },
            says("SIGNING_KEY_BOUND", (STATEMENT_KEY, *statement_key_sha256), binding()?),
            says("SIGNING_KEY_BOUND", (ISSUER_KEY, *issuer_key_sha256), binding()?),
        ];
        let attributes = attributes.into_iter().chain(hosted).collect();
        Ok(Statement::new(PREDICATE_SCAI, self.subject(), AttributeReport { attributes }))
    }

    /// The summary of an authority that judged the machine so.
    ///
    /// # Errors
    /// As [`Dispatched::attestation`].
    pub fn summary(&self, used: Used) -> Result<Statement<Summary>, canonical::Error> {
        let challenge = &self.binding.challenge;
        let input = |uri: &str, sha256| Attestation { uri: uri.to_owned(), digest: DigestSet { sha256 } };
        let summary = Summary {
            verifier: Verifier { id: VERIFIER.to_owned() },
            time_verified: challenge.issued,
            resource_uri: self.builder_id.to_owned(),
            policy: PolicyUsed { uri: REFERENCE.to_owned(), digest: DigestSet { sha256: used.reference_sha256 } },
            input_attestations: vec![
                input(path::BINDING, self.binding_sha256()?),
                input(path::FIRST_QUOTE, Sha256Digest::of(self.quote)),
            ],
            verification_result: "PASSED".to_owned(),
            verified_levels: vec![LEVEL.to_owned()],
            slsa_version: SLSA_VERSION.to_owned(),
        };
        Ok(Statement::new(PREDICATE_VERDICT, self.subject(), summary))
    }

    /// The summary about the image of an authority that judged the machine so.
    #[must_use]
    pub fn image(&self, used: Used) -> Statement<Summary> {
        let Challenge { image_sha256, issued, .. } = self.binding.challenge;
        let provenance_sha256 = Some(used.provenance_sha256);
        ImageChecked { image_sha256, policy_sha256: self.policy_sha256, provenance_sha256, at: issued }.passed()
    }

    /// Checks that all three statements are signed with `key` and say this, and nothing else, and that the class fits the builder id.
    /// Returns what the authority says that it used.
    ///
    /// # Errors
    /// [`DispatchError`].
    pub fn check(&self, said: Envelopes<'_>, key: &VerifyingKey) -> Result<Used, DispatchError> {
        let Envelopes { attestation, summary, image } = said;
        let statement = "dispatch attestation";
        let found: Statement<AttributeReport> = open(statement, attestation, key)?;
        let used = used(&found.predicate).ok_or(DispatchError::Other { statement })?;
        same(statement, &found, self.attestation(used))?;
        used.class.check(self.builder_id).map_err(|source| DispatchError::Class { statement, source })?;
        let statement = "summary of the quote's check";
        same(statement, &open(statement, summary, key)?, self.summary(used))?;
        let statement = "summary of the check of the image's provenance";
        same(statement, &open(statement, image, key)?, Ok(self.image(used)))?;
        Ok(used)
    }
}

/// What is free in a report, wherever it stands: the report is made again with it and compared as a whole.
fn used(report: &AttributeReport) -> Option<Used> {
    let evidence = report.attributes.iter().filter_map(|attribute| attribute.evidence.as_ref());
    let digest = |name: &str| Some(evidence.clone().find(|evidence| evidence.name == name)?.digest.sha256);
    let enrolled = report.attributes.iter().find(|attribute| attribute.attribute == ENROLLED)?;
    Some(Used {
        reference_sha256: digest(REFERENCE)?,
        provenance_sha256: digest(PROVENANCE)?,
        class: enrolled.conditions.get(CLASS)?.parse().ok()?,
    })
}

fn open<T: Serialize + DeserializeOwned>(
    statement: &'static str,
    envelope: &[u8],
    key: &VerifyingKey,
) -> Result<T, DispatchError> {
    let signed = |source| DispatchError::Signature { statement, source };
    let envelope = Envelope::from_slice_exact(envelope).map_err(signed)?;
    let verified = envelope.verify(PAYLOAD_STATEMENT, &[*key]).map_err(signed)?;
    canonical::from_slice_exact(verified.payload()).map_err(|source| DispatchError::Syntax { statement, source })
}

fn same<T: PartialEq>(
    statement: &'static str,
    found: &T,
    made: Result<T, canonical::Error>,
) -> Result<(), DispatchError> {
    let made = made.map_err(|source| DispatchError::Syntax { statement, source })?;
    if *found == made { Ok(()) } else { Err(DispatchError::Other { statement }) }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;
    use crate::challenge::Challenge;
    use crate::names::{BUILDER_DIRECT, BUILDER_FIRMWARE, BUILDER_METAL, BUILDER_SECURE_BOOT};
    use crate::timestamp::Timestamp;

    fn digest(text: &str) -> Sha256Digest {
        Sha256Digest::of(text.as_bytes())
    }

    fn binding() -> Binding {
        let challenge = Challenge {
            version: 1,
            build_id: "00112233445566778899aabbccddeeff".parse().unwrap(),
            nonce: digest("nonce"),
            job_sha256: digest("job"),
            image_sha256: digest("image"),
            issued: Timestamp::from_unix(1_790_000_000).unwrap(),
        };
        Binding {
            challenge,
            statement_key_sha256: digest("key"),
            issuer_key_sha256: digest("issuer"),
            endorsement_key_sha256: digest("ek"),
        }
    }

    fn sign(key: &SigningKey, statement: &impl Serialize) -> Vec<u8> {
        let payload = canonical::to_vec(statement).unwrap();
        let signature = key.sign(&dsse::pae(PAYLOAD_STATEMENT, &payload)).to_bytes();
        Envelope::new(PAYLOAD_STATEMENT, &payload, &signature).to_vec().unwrap()
    }

    /// What is said of a build on a server, and by whom.
    fn said(binding: &Binding) -> Dispatched<'_> {
        Dispatched {
            binding,
            quote: b"quote",
            builder_id: BUILDER_METAL,
            policy_sha256: digest("policy"),
            hosted: None,
        }
    }

    fn used_by(class: TpmClass) -> Used {
        Used { reference_sha256: digest("reference"), provenance_sha256: digest("provenance"), class }
    }

    #[test]
    fn it_says_this_and_nothing_else() {
        let (key, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let binding = binding();
        let (said, used) = (said(&binding), used_by(TpmClass::Hardware));
        let attestation = sign(&key, &said.attestation(used).unwrap());
        let summary = sign(&key, &said.summary(used).unwrap());
        let image = sign(&key, &said.image(used));
        let good = Envelopes { attestation: &attestation, summary: &summary, image: &image };
        let check = |said: &Dispatched<'_>, found: Envelopes<'_>, key: &SigningKey| {
            said.check(found, &key.verifying_key()).map_err(|error| error.statement())
        };
        assert_eq!(check(&said, good, &key), Ok(used));
        let names =
            ["dispatch attestation", "summary of the quote's check", "summary of the check of the image's provenance"];
        let [first, second, third] = names;
        assert_eq!(check(&said, good, &other), Err(first));
        let by_other = sign(&other, &said.summary(used).unwrap());
        assert_eq!(check(&said, Envelopes { summary: &by_other, ..good }, &key), Err(second));
        let by_other = sign(&other, &said.image(used));
        assert_eq!(check(&said, Envelopes { image: &by_other, ..good }, &key), Err(third));
        // Each for another.
        assert_eq!(check(&said, Envelopes { attestation: &summary, ..good }, &key), Err(first));
        assert_eq!(check(&said, Envelopes { summary: &image, ..good }, &key), Err(second));
        assert_eq!(check(&said, Envelopes { image: &summary, ..good }, &key), Err(third));
        // Of an authority that used other reference values for the second, or another provenance for the third.
        let elsewhere = sign(&key, &said.summary(Used { reference_sha256: digest("x"), ..used }).unwrap());
        assert_eq!(check(&said, Envelopes { summary: &elsewhere, ..good }, &key), Err(second));
        let elsewhere = sign(&key, &said.image(Used { provenance_sha256: digest("x"), ..used }));
        assert_eq!(check(&said, Envelopes { image: &elsewhere, ..good }, &key), Err(third));
        // Whose images count is the policy's, which the reader has; and no failed check is a passed one.
        let by_policy = Dispatched { policy_sha256: digest("x"), ..said };
        assert_eq!(check(&by_policy, good, &key), Err(third));
        let mut failed = said.image(used);
        failed.predicate.verification_result = "FAILED".to_owned();
        assert_eq!(check(&said, Envelopes { image: &sign(&key, &failed), ..good }, &key), Err(third));
        // Of another quote, way to start, build, job, image, statement key, machine or time.
        let elsewhere = [Dispatched { quote: b"another", ..said }, Dispatched { builder_id: BUILDER_FIRMWARE, ..said }];
        for other in &elsewhere {
            assert_eq!(check(other, good, &key), Err(first));
        }
        let edits: [fn(&mut Binding); 8] = [
            |binding| binding.challenge.build_id = "ff".parse().unwrap(),
            |binding| binding.challenge.nonce = digest("x"),
            |binding| binding.challenge.job_sha256 = digest("x"),
            |binding| binding.challenge.image_sha256 = digest("x"),
            |binding| binding.challenge.issued = Timestamp::from_unix(0).unwrap(),
            |binding| binding.statement_key_sha256 = digest("x"),
            |binding| binding.issuer_key_sha256 = digest("x"),
            |binding| binding.endorsement_key_sha256 = digest("x"),
        ];
        for edit in edits {
            let mut other = binding.clone();
            edit(&mut other);
            assert_eq!(check(&Dispatched { binding: &other, ..said }, good, &key), Err(first));
        }
        // One word more, or another for the class, or none.
        type Edit = fn(&mut Vec<Attribute>);
        let edits: [Edit; 5] = [
            |all| all.push(all[0].clone()),
            |all| drop(all.remove(1)),
            |all| drop(all[4].conditions.insert(CLASS.to_owned(), "hardware, or so".to_owned())),
            |all| drop(all[4].conditions.insert("more".to_owned(), "hardware".to_owned())),
            |all| all[4].conditions.clear(),
        ];
        for edit in edits {
            let mut more = said.attestation(used).unwrap();
            edit(&mut more.predicate.attributes);
            assert_eq!(check(&said, Envelopes { attestation: &sign(&key, &more), ..good }, &key), Err(first));
        }
    }

    /// Every signature holds, and the authority says itself what it should not have certified.
    #[test]
    fn no_class_but_the_builder_ids_passes() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let binding = binding();
        for builder_id in
            [BUILDER_METAL, BUILDER_FIRMWARE, BUILDER_SECURE_BOOT, BUILDER_DIRECT, "https://kiln.example/b"]
        {
            for class in TpmClass::ALL {
                let (said, used) = (Dispatched { builder_id, ..said(&binding) }, used_by(class));
                let attestation = sign(&key, &said.attestation(used).unwrap());
                let summary = sign(&key, &said.summary(used).unwrap());
                let image = sign(&key, &said.image(used));
                let found = Envelopes { attestation: &attestation, summary: &summary, image: &image };
                let checked = said.check(found, &key.verifying_key());
                let refused = matches!(checked, Err(DispatchError::Class { .. }));
                assert_eq!(refused, class.check(builder_id).is_err(), "{class} as {builder_id}");
            }
        }
    }
}
