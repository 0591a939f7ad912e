//! What came of the check of an image's provenance, as a SLSA verification summary about the image.
//!
//! [`ImageChecked`] is all that one says. A passed one is the authority's, in the evidence, signed for one build ([`crate::dispatch`]);
//! a failed one is the launcher's, which then starts nothing. Source: <https://slsa.dev/spec/v1.2/verification_summary>;
//! `docs/predicates/dispatch/v1.md`.

use crate::digest::Sha256Digest;
use crate::image_provenance::UKI;
use crate::names::{PREDICATE_VERDICT, VERIFIER};
use crate::statement::{Statement, Subject};
use crate::timestamp::Timestamp;
use crate::verdict::{Attestation, PolicyUsed, SLSA_VERSION, Summary, Verifier};

/// What a passed summary grants: that the provenance was checked. No level of SLSA's: whoever built the image may have earned one, and
/// the check is not what earns it.
pub const LEVEL: &str = "KILN_IMAGE_PROVENANCE_VERIFIED";
/// What a failed one grants. Source: SLSA v1.2, verification summary: `FAILED` stands where nothing was earned.
const FAILED: &str = "FAILED";
/// How summaries name the site's policy and the image's provenance.
const POLICY: &str = "policy.json";
const PROVENANCE: &str = "image-provenance";

/// What was checked, against what, when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageChecked {
    /// The image, by its UKI.
    pub image_sha256: Sha256Digest,
    /// The policy whose producers count.
    pub policy_sha256: Sha256Digest,
    /// The envelope with the provenance; none where there was none.
    pub provenance_sha256: Option<Sha256Digest>,
    /// When.
    pub at: Timestamp,
}

impl ImageChecked {
    /// A producer whom the policy names made this image, and said from what.
    #[must_use]
    pub fn passed(&self) -> Statement<Summary> {
        self.summary(vec![Subject::new(UKI, self.image_sha256)], "PASSED", LEVEL)
    }

    /// Nobody whom the policy names made these files as this image; each has its name in the provenance.
    #[must_use]
    pub fn failed(&self, files: Vec<Subject>) -> Statement<Summary> {
        self.summary(files, "FAILED", FAILED)
    }

    fn summary(&self, subject: Vec<Subject>, result: &str, level: &str) -> Statement<Summary> {
        let provenance = |sha256: Sha256Digest| Attestation { uri: PROVENANCE.to_owned(), digest: sha256.into() };
        let predicate = Summary {
            verifier: Verifier { id: VERIFIER.to_owned() },
            time_verified: self.at,
            resource_uri: format!("urn:kiln:image:{}", self.image_sha256),
            policy: PolicyUsed { uri: POLICY.to_owned(), digest: self.policy_sha256.into() },
            input_attestations: self.provenance_sha256.into_iter().map(provenance).collect(),
            verification_result: result.to_owned(),
            verified_levels: vec![level.to_owned()],
            slsa_version: SLSA_VERSION.to_owned(),
        };
        Statement::new(PREDICATE_VERDICT, subject, predicate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_image_policy_provenance_and_time() {
        let digest = |text: &str| Sha256Digest::of(text.as_bytes());
        let at = Timestamp::from_unix(1_790_000_000).unwrap();
        let (image_sha256, policy_sha256) = (digest("uki"), digest("policy"));
        let checked = ImageChecked { image_sha256, policy_sha256, provenance_sha256: Some(digest("envelope")), at };
        let passed = checked.passed();
        assert!(passed.is(PREDICATE_VERDICT));
        assert_eq!(passed.subject, [Subject::new("uki", image_sha256)]);
        let said = passed.predicate;
        assert_eq!((said.verification_result.as_str(), said.verified_levels), ("PASSED", vec![LEVEL.to_owned()]));
        assert_eq!((said.policy.digest, said.time_verified), (policy_sha256.into(), at));
        assert_eq!(said.resource_uri, format!("urn:kiln:image:{image_sha256}"));
        assert_eq!(said.input_attestations.first().map(|it| it.digest.sha256), checked.provenance_sha256);

        let files = vec![Subject::new("uki", image_sha256), Subject::new("disk", digest("another"))];
        let failed = ImageChecked { provenance_sha256: None, ..checked }.failed(files.clone());
        assert_eq!(failed.subject, files);
        assert_eq!(failed.predicate.verified_levels, ["FAILED"]);
        assert!(failed.predicate.input_attestations.is_empty() && failed.predicate.verification_result == "FAILED");
    }
}
