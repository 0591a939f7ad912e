//! The host that the test machine stands on, where it stands on one that quotes.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::host::{Host, HostQuote};
use kiln_formats::link::Blob;

use super::tpm::{QuoteDraft, public_area};
use super::{digest, json};

/// The seed of the host's attestation key.
pub(crate) const HOST_AK: u8 = 0x44;

/// The policy's entry: registers 0 and 7.
pub(crate) fn host() -> Host {
    let pcrs = ["0", "7"].map(|name| (name.to_owned(), digest(name)));
    let attestation_key = Blob(public_area(HOST_AK));
    Host { endorsement_key_sha256: digest("host"), attestation_key, pcrs: pcrs.into() }
}

/// What that host's TPM quotes for a build whose machine answers with this binding.
pub(crate) fn quote_for(binding: &[u8]) -> QuoteDraft {
    let values = [*digest("0").as_bytes(), *digest("7").as_bytes()].concat();
    QuoteDraft {
        qualifying: Sha256Digest::of(binding),
        selection: [0x81, 0, 0],
        pcr_digest: Sha256Digest::of(&values),
        key: HOST_AK,
        ..QuoteDraft::default()
    }
}

/// The file of such a quote.
pub(crate) fn file(draft: &QuoteDraft) -> Vec<u8> {
    let (quote, signature) = (Blob(draft.attest()), Blob(draft.signature()));
    json(&HostQuote { endorsement_key_sha256: host().endorsement_key_sha256, quote, signature })
}
