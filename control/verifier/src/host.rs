//! Did the host of a virtual machine show, with its own TPM and for this build, that it booted as the policy says?
//!
//! The authority asks before it certifies the machine, the verifier at gate boot; both by this function, from the policy and the quote
//! alone: nothing of it is taken on the authority's word.

use kiln_formats::canonical;
use kiln_formats::challenge::Binding;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::host::{self, Hosted};
use kiln_formats::manifest::path;
use kiln_formats::trust::Policy;
use kiln_formats::trust_list::TrustList;

use crate::finding::{Finding, Gate};
use crate::standing;

/// Holds the file of a host's quote against policy and trust list, for a machine of this builder id that answers with this binding.
/// `None` where the builder id knows of no host, and there is no file.
///
/// # Errors
/// A [`Finding`] of gate boot.
pub fn check(
    builder_id: &str,
    policy: &Policy,
    list: Option<&TrustList>,
    file: Option<&[u8]>,
    binding: &Binding,
) -> Result<Option<Hosted>, Finding> {
    let wrong = |code, reason: String| Finding::new(Gate::Boot, code, path::HOST_QUOTE, reason);
    let bound = canonical::to_vec(binding).map_err(|error| wrong("binding", error.to_string()))?;
    let machine = &binding.endorsement_key_sha256;
    let hosted = host::check(builder_id, &policy.hosts, file, &Sha256Digest::of(&bound), machine)
        .map_err(|fault| wrong(fault.code(), fault.to_string()))?;
    if let (Some(hosted), Some(list)) = (&hosted, list) {
        standing::host(list, &hosted.endorsement_key_sha256)?;
    }
    Ok(hosted)
}
