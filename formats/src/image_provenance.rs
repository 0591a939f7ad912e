//! An image's own provenance: what its producer signs of how it was made, and the check that an image passes before it is started.
//!
//! Source: <https://slsa.dev/spec/v1.2/build-provenance>; `docs/buildtypes/image/v1.md`. Deliberately absent: a time, so that the same
//! commit gives the same statement; and any judgement of the inputs that it lists, which whoever builds the image again compares.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::digest::Sha256Digest;
use crate::dsse::{self, Envelope};
use crate::names::{BUILD_TYPE_IMAGE, BUILDER_HOST, PAYLOAD_STATEMENT, PREDICATE_PROVENANCE};
use crate::provenance::Builder;
use crate::statement::{ResourceDescriptor, Statement};
use crate::trust::PublicKey;

/// The file that is the image, as far as evidence goes.
pub const UKI: &str = "uki";
/// An image's files, by which the statement is about it: all of them, each once.
pub const FILES: [&str; 5] = [UKI, "disk", "kernel", "initrd", "init"];

/// The predicate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ImageProvenance {
    /// What was built from what.
    pub build_definition: BuildDefinition,
    /// By whom.
    pub run_details: RunDetails,
}

/// What was built from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BuildDefinition {
    /// Always [`BUILD_TYPE_IMAGE`].
    pub build_type: String,
    /// What whoever ran the build could choose: the checkout.
    pub external_parameters: ExternalParameters,
    /// What followed from the host.
    pub internal_parameters: InternalParameters,
    /// Packages, crates and files, by digest.
    pub resolved_dependencies: Vec<ResourceDescriptor>,
}

/// What whoever ran the build could choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExternalParameters {
    /// The commit, and whether it had changes; none if it was no git checkout.
    pub checkout: Option<String>,
}

/// What followed from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InternalParameters {
    /// What the kernel calls itself.
    pub kernel_release: String,
    /// The kernel's command line.
    pub cmdline: String,
    /// Whether every package was the one that the locks name.
    pub pinned: bool,
    /// Programs and libraries of the host, by version.
    pub programs: BTreeMap<String, String>,
}

/// By whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RunDetails {
    /// A host that nothing vouches for.
    pub builder: Builder,
}

/// Why an image is not started on this provenance.
#[derive(Debug, thiserror::Error)]
pub enum ImageProvenanceError {
    /// No envelope, or more than one.
    #[error("the image's provenance cannot be read")]
    Envelope {
        /// Why.
        source: dsse::Error,
    },
    /// Signed by somebody else.
    #[error("no producer of images whom the policy names signed the image's provenance")]
    Producer {
        /// Why.
        source: dsse::Error,
    },
    /// What is signed is no provenance of an image of ours.
    #[error("what is signed as the image's provenance cannot be read")]
    Syntax {
        /// Why.
        source: canonical::Error,
    },
    /// What is signed is something else, or built in another way, or by a builder that nobody knows.
    #[error("what is signed as the image's provenance is not one: its {field} is another")]
    Statement {
        /// What differs.
        field: &'static str,
    },
    /// It is about another image.
    #[error("the provenance is of the image {found}")]
    OtherImage {
        /// Which.
        found: Sha256Digest,
    },
}

impl ImageProvenanceError {
    /// Stable; scripts may rely on it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Envelope { .. } | Self::Syntax { .. } | Self::Statement { .. } => "image_provenance",
            Self::Producer { .. } => "image_producer",
            Self::OtherImage { .. } => "image_provenance_other",
        }
    }
}

/// Holding one says: one of the keys that may signed that its holder made this image in the one way that is known, from inputs
/// that are listed. It does not say that the list is true, nor that a file at hand is one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedProvenance {
    /// The digest of the envelope, as it was read.
    pub envelope_sha256: Sha256Digest,
    /// Whose word it is.
    pub producer: PublicKey,
    /// The image's files, by name: those of [`FILES`].
    pub files: BTreeMap<String, Sha256Digest>,
    /// The kernel's command line.
    pub cmdline: String,
}

impl VerifiedProvenance {
    /// Checks that one of `producers` signed `envelope`, and that it is the provenance of `image`.
    ///
    /// # Errors
    /// [`ImageProvenanceError`] by cause.
    pub fn check(envelope: &[u8], image: &Sha256Digest, producers: &[PublicKey]) -> Result<Self, ImageProvenanceError> {
        let read = Envelope::from_slice(envelope).map_err(|source| ImageProvenanceError::Envelope { source })?;
        let keys: Vec<_> = producers.iter().map(|key| key.0).collect();
        let verified = read.verify(PAYLOAD_STATEMENT, &keys).map_err(|source| match source {
            dsse::Error::Signature { .. } => ImageProvenanceError::Producer { source },
            source => ImageProvenanceError::Envelope { source },
        })?;
        let statement: Statement<ImageProvenance> = canonical::from_slice_exact(verified.payload())
            .map_err(|source| ImageProvenanceError::Syntax { source })?;
        let ImageProvenance { build_definition, run_details } = &statement.predicate;
        let files: BTreeMap<_, _> =
            statement.subject.iter().map(|subject| (subject.name.clone(), subject.digest.sha256)).collect();
        let all = files.len() == FILES.len() && FILES.iter().all(|name| files.contains_key(*name));
        let differing = [
            (!statement.is(PREDICATE_PROVENANCE), "predicate type"),
            (!all, "list of files"),
            (build_definition.build_type != BUILD_TYPE_IMAGE, "build type"),
            (run_details.builder.id != BUILDER_HOST, "builder"),
        ];
        if let Some((_, field)) = differing.into_iter().find(|(differs, _)| *differs) {
            return Err(ImageProvenanceError::Statement { field });
        }
        match files.get(UKI) {
            Some(found) if found != image => Err(ImageProvenanceError::OtherImage { found: *found }),
            _ => Ok(Self {
                envelope_sha256: Sha256Digest::of(envelope),
                producer: PublicKey(*verified.key()),
                files,
                cmdline: build_definition.internal_parameters.cmdline.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    use super::*;
    use crate::statement::Subject;

    fn digest(text: &str) -> Sha256Digest {
        Sha256Digest::of(text.as_bytes())
    }

    fn statement() -> Statement<ImageProvenance> {
        let predicate = ImageProvenance {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE_IMAGE.to_owned(),
                external_parameters: ExternalParameters { checkout: None },
                internal_parameters: InternalParameters {
                    kernel_release: "7.3".to_owned(),
                    cmdline: "quiet".to_owned(),
                    pinned: true,
                    programs: BTreeMap::new(),
                },
                resolved_dependencies: vec![ResourceDescriptor::new("linux-source", digest("linux"))],
            },
            run_details: RunDetails { builder: Builder { id: BUILDER_HOST.to_owned(), version: BTreeMap::new() } },
        };
        Statement::new(PREDICATE_PROVENANCE, FILES.map(|name| Subject::new(name, digest(name))).into(), predicate)
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn sign(statement: &impl Serialize, seed: u8) -> Vec<u8> {
        let payload = canonical::to_vec(statement).unwrap();
        Envelope::sign(PAYLOAD_STATEMENT, &payload, &key(seed)).to_vec().unwrap()
    }

    fn check(envelope: &[u8]) -> Result<VerifiedProvenance, ImageProvenanceError> {
        let producers = [1, 2].map(|seed| PublicKey(key(seed).verifying_key()));
        VerifiedProvenance::check(envelope, &digest(UKI), &producers)
    }

    #[test]
    fn a_producers_word_on_this_image_is_taken() {
        // As a file ends where people write it.
        let envelope = [&sign(&statement(), 2)[..], b"\n"].concat();
        let found = check(&envelope).unwrap();
        assert_eq!(found.producer, PublicKey(key(2).verifying_key()));
        assert_eq!(found.envelope_sha256, Sha256Digest::of(&envelope));
        assert_eq!((found.files["disk"], found.cmdline.as_str()), (digest("disk"), "quiet"));
    }

    #[test]
    fn every_other_word_is_refused() {
        let code = |envelope: &[u8]| check(envelope).unwrap_err().code();
        assert_eq!(code(&sign(&statement(), 3)), "image_producer");
        let nobody = VerifiedProvenance::check(&sign(&statement(), 1), &digest(UKI), &[]).unwrap_err();
        assert_eq!(nobody.code(), "image_producer");
        let other =
            VerifiedProvenance::check(&sign(&statement(), 1), &digest("x"), &[PublicKey(key(1).verifying_key())]);
        assert_eq!(other.unwrap_err().code(), "image_provenance_other");
        let payload = canonical::to_vec(&statement()).unwrap();
        let as_job = Envelope::sign(crate::names::PAYLOAD_JOB, &payload, &key(1)).to_vec().unwrap();
        assert_eq!(code(&as_job), "image_provenance");
        assert_eq!(code(&sign(&"a word", 1)), "image_provenance");
        assert_eq!(code(b"{}"), "image_provenance");
        type Edit = fn(&mut Statement<ImageProvenance>);
        let edits: [Edit; 7] = [
            |it| it.predicate_type.push('0'),
            |it| it.predicate.build_definition.build_type.push('0'),
            |it| it.predicate.run_details.builder.id.push('0'),
            |it| drop(it.subject.pop()),
            |it| it.subject.push(Subject::new("more", digest("x"))),
            |it| it.subject[1].name = "another".to_owned(),
            // Two for one name: neither is to be believed.
            |it| it.subject.push(Subject::new(UKI, digest("x"))),
        ];
        for (at, edit) in edits.into_iter().enumerate() {
            let mut changed = statement();
            edit(&mut changed);
            assert_eq!(code(&sign(&changed, 1)), "image_provenance", "edit {at}");
        }
    }

    proptest! {
        /// No byte of the envelope but the spelling around it can be another.
        #[test]
        fn no_changed_byte_is_taken_for_the_producers(at in 0usize..4096, bit in 0u32..8) {
            let good = sign(&statement(), 1);
            let mut changed = good.clone();
            let at = at % changed.len();
            changed[at] ^= 1 << bit;
            if let Ok(found) = check(&changed) {
                prop_assert_eq!(found.files, check(&good).unwrap().files);
                prop_assert_ne!(found.envelope_sha256, Sha256Digest::of(&good));
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(check(&bytes).is_err());
        }
    }
}
