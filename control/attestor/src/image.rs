//! Did a producer whom the site trusts make this image? Asked before anything of it is started, and before each challenge.
//!
//! The one check is [`check`]; the launcher and the authority both ask it. What the authority found goes into the dispatch; what the
//! launcher refused it says in [`refusal`].

use kiln_formats::canonical;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::image_provenance::VerifiedProvenance;
use kiln_formats::image_summary::ImageChecked;
use kiln_formats::names::PAYLOAD_STATEMENT;
use kiln_formats::statement::Subject;
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust_list::TrustList;
use kiln_verifier::{Finding, Gate, standing};

use crate::site::{FileError, Signer, Site, provenance};

/// Why there is none, and what helps.
const MISSING: &str = "the site has no provenance of it; `kiln reference --save` adds one";

/// Is there a provenance of this image, signed by a producer whom the policy names and the list has not revoked?
///
/// # Errors
/// [`FileError`] if what the site keeps cannot be read. The inner error is why there is none: `image_provenance_missing`, one of
/// [`kiln_formats::image_provenance::ImageProvenanceError::code`], or `key_revoked`.
pub fn check(
    site: &Site,
    list: &TrustList,
    image: &Sha256Digest,
) -> Result<Result<VerifiedProvenance, Finding>, FileError> {
    let refused = |code, reason: String| Finding { gate: Gate::Boot, code, object: format!("image {image}"), reason };
    let Some(envelope) = provenance::read(site.directory(), image)? else {
        return Ok(Err(refused("image_provenance_missing", MISSING.to_owned())));
    };
    let producers = &site.trust().policy.image_producers;
    let checked = VerifiedProvenance::check(&envelope, image, producers);
    let checked = checked.map_err(|error| refused(error.code(), error.to_string()));
    Ok(checked.and_then(|found| standing::image_producer(list, &found.producer).map(|()| found)))
}

/// What a launcher says of an image that it does not start, on the site's word: a failed summary about these `files`, in an envelope that
/// the authority of the machine that was to be started signed. There is no build yet, and so no key of one.
///
/// # Errors
/// Never for a site that was opened, but [`FileError`] if what it keeps cannot be read.
pub fn refusal(
    site: &Site,
    signer: &Signer,
    image: &Sha256Digest,
    files: Vec<Subject>,
    at: Timestamp,
) -> Result<Vec<u8>, RefusalError> {
    let envelope = provenance::read(site.directory(), image)?;
    let checked = ImageChecked {
        image_sha256: *image,
        policy_sha256: site.trust().policy.sha256()?,
        provenance_sha256: envelope.as_deref().map(Sha256Digest::of),
        at,
    };
    let payload = canonical::to_vec(&checked.failed(files))?;
    Ok(signer.sign(PAYLOAD_STATEMENT, &payload).to_vec()?)
}

/// Why a refusal could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum RefusalError {
    /// What the site keeps cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A document has no canonical form.
    #[error("cannot encode the summary")]
    Encode {
        /// Why.
        #[from]
        source: canonical::Error,
    },
}
