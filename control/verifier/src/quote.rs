//! Gate 2: did an enrolled TPM say so, to this challenge?
//!
//! One attestation key, which the authority certified, signed both quotes within one run of its TPM: the first over the
//! challenge and the machine's keys, the last over the closing and so over every byte of the bundle.

use kiln_formats::certificate::AttestationCertificate;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::manifest::path;
use kiln_formats::quote::Quote;
use kiln_formats::trust::PublicKey;

use crate::evidence::{WholeEvidence, bytes, certificate};
use crate::finding::{Finding, Findings, Gate};

const GATE: Gate = Gate::Quote;

/// Holding one says: the TPM of an enrolled machine covered the start with the first quote and the whole bundle with the last.
#[derive(Debug)]
pub(crate) struct QuotedEvidence<'a> {
    pub(crate) whole: WholeEvidence<'a>,
    pub(crate) attestation: AttestationCertificate,
    pub(crate) first: Quote,
    pub(crate) last: Quote,
}

/// Checks the attestation key's certificate, both quotes, and what joins them.
pub(crate) fn check(whole: WholeEvidence<'_>) -> Result<QuotedEvidence<'_>, Findings> {
    let leaf = certificate(whole.bundle, GATE, path::ATTESTATION_KEY)?;
    let attestation = whole
        .authority
        .attestation(&leaf)
        .map_err(|e| Finding::new(GATE, "certificate", path::ATTESTATION_KEY, e.to_string()))?;
    let quote = |attest: &str, signature: &str| {
        Quote::verify(bytes(whole.bundle, GATE, attest)?, bytes(whole.bundle, GATE, signature)?, &attestation.key)
            .map_err(|e| Finding::new(GATE, e.code(), attest, e.to_string()))
    };
    let first = quote(path::FIRST_QUOTE, path::FIRST_SIGNATURE)?;
    let last = quote(path::LAST_QUOTE, path::LAST_SIGNATURE)?;

    let wrong = |code, object: &str, reason: &str| Findings::from(Finding::new(GATE, code, object, reason));
    if first.qualifying != Sha256Digest::of(bytes(whole.bundle, GATE, path::BINDING)?) {
        return Err(wrong("qualifying_data", path::FIRST_QUOTE, "the quote does not answer this challenge"));
    }
    if last.qualifying != Sha256Digest::of(bytes(whole.bundle, GATE, path::CLOSING)?) {
        return Err(wrong("qualifying_data", path::LAST_QUOTE, "the quote does not cover this bundle's closing"));
    }
    for (code, key, bound) in [
        ("statement_key", whole.statement.key, whole.binding.statement_key_sha256),
        ("issuer_key", whole.issuer.key, whole.binding.issuer_key_sha256),
    ] {
        if PublicKey(key).sha256() != bound {
            return Err(wrong(code, path::BINDING, "the TPM vouched for another key than the certified one"));
        }
    }
    if first.clock.reset_count != last.clock.reset_count || first.clock.restart_count != last.clock.restart_count {
        return Err(wrong("tpm_reset", path::LAST_QUOTE, "the TPM was reset or restarted between the quotes"));
    }
    if first.clock.clock_ms > last.clock.clock_ms {
        return Err(wrong("quote_order", path::LAST_QUOTE, "the last quote is older than the first"));
    }
    if first.qualified_signer != last.qualified_signer || first.firmware_version != last.firmware_version {
        return Err(wrong("tpm_changed", path::LAST_QUOTE, "the quotes are of two TPMs"));
    }
    Ok(QuotedEvidence { whole, attestation, first, last })
}
