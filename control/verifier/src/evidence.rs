//! Gate 1: is the bundle whole and within bounds?
//!
//! The statement key, which the site's authority for machines of this builder id certified at the challenge's time, signed a manifest
//! that lists every file with its digest and size, and nothing lies beside them. Whether the machine that held the key was sound is for the later gates.

use std::collections::BTreeSet;

use kiln_formats::canonical;
use kiln_formats::certificate::{Authority, Certificate, IssuerCertificate, StatementCertificate};
use kiln_formats::challenge::{self, Binding, Closing};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::manifest::{self, FILE_BYTES_MAX, FILES_MAX, Manifest, path};
use kiln_formats::names::{Name, PAYLOAD_MANIFEST};
use kiln_formats::trust::Configuration;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::finding::{Finding, Findings, Gate};
use crate::standing::{self, Standing};
use crate::{Anchors, Bundle};

const GATE: Gate = Gate::Evidence;

/// Holding one says: each file of the bundle is the one that the holder of a certified statement key listed.
#[derive(Debug)]
pub(crate) struct WholeEvidence<'a> {
    pub(crate) bundle: &'a Bundle,
    /// What the machine answered to. Believed once the first quote covers it.
    pub(crate) binding: Binding,
    pub(crate) manifest: Manifest,
    pub(crate) manifest_sha256: Sha256Digest,
    pub(crate) authority: Authority,
    pub(crate) statement: StatementCertificate,
    pub(crate) issuer: IssuerCertificate,
}

/// Reads the certificates, the manifest and the closing, and holds every file against them.
pub(crate) fn check<'a>(bundle: &'a Bundle, anchors: &Anchors) -> Result<WholeEvidence<'a>, Findings> {
    let binding: Binding = document(bundle, path::BINDING)?;
    check_binding(&binding)?;
    let at = binding.challenge.issued;
    let authority_certificate = certificate(bundle, GATE, path::AUTHORITY)?;
    // As what the machine says it was started. Believed once PCR 15 covers it, which is gate 3.
    let Configuration { builder_id, .. } = document(bundle, path::CONFIGURATION)?;
    let authority = Authority::check(&anchors.root, &authority_certificate, at, &builder_id)
        .map_err(|e| Finding::new(GATE, e.code(), path::AUTHORITY, e.to_string()))?;
    if let Some(Standing { list, judged_at }) = &anchors.standing {
        standing::list(list, *judged_at)?;
        standing::authority(list, &anchors.root, &authority_certificate, at)?;
    }
    let statement = authority
        .statement(&certificate(bundle, GATE, path::STATEMENT_KEY)?)
        .map_err(|e| Finding::new(GATE, "certificate", path::STATEMENT_KEY, e.to_string()))?;
    let issuer = authority
        .issuer(&certificate(bundle, GATE, path::ISSUER)?)
        .map_err(|e| Finding::new(GATE, "certificate", path::ISSUER, e.to_string()))?;

    let envelope_bytes = bytes(bundle, GATE, path::MANIFEST)?;
    let wrong = |e: &dyn std::fmt::Display| Finding::new(GATE, "manifest", path::MANIFEST, e.to_string());
    let envelope = Envelope::from_slice_exact(envelope_bytes).map_err(|e| wrong(&e))?;
    let verified = envelope.verify(PAYLOAD_MANIFEST, &[statement.key]).map_err(|e| wrong(&e))?;
    let manifest: Manifest = canonical::from_slice_exact(verified.payload()).map_err(|e| wrong(&e))?;
    if manifest.version != manifest::VERSION {
        return Err(wrong(&format_args!("its version is {}, not {}", manifest.version, manifest::VERSION)).into());
    }
    if manifest.build_id != binding.challenge.build_id {
        return Err(wrong(&"it is of another build than the challenge").into());
    }
    if manifest.finished < at {
        return Err(wrong(&"it was finished before the challenge was issued").into());
    }
    check_files(bundle, &manifest)?;
    check_closing(bundle, &binding, verified.digest(), envelope_bytes)?;
    Ok(WholeEvidence { bundle, binding, manifest, manifest_sha256: verified.digest(), authority, statement, issuer })
}

fn check_binding(binding: &Binding) -> Result<(), Finding> {
    let wrong = |reason: &str| Finding::new(GATE, "binding", path::BINDING, reason);
    if binding.challenge.version != challenge::VERSION {
        return Err(wrong("its version is not known"));
    }
    if !is_build_id(&binding.challenge.build_id) {
        return Err(wrong("its build id is not 32 lowercase hex digits"));
    }
    Ok(())
}

fn is_build_id(name: &Name) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    name.as_str().len() == 32 && name.as_str().bytes().all(hex)
}

/// Every listed file is there as listed, and no other file is.
fn check_files(bundle: &Bundle, manifest: &Manifest) -> Result<(), Finding> {
    let wrong = |code, object: &str, reason: &str| Finding::new(GATE, code, object, reason);
    if manifest.files.len() > FILES_MAX {
        return Err(wrong("too_many_files", path::MANIFEST, "it lists more files than a bundle may have"));
    }
    let ascending = manifest.files.windows(2).all(|pair| match pair {
        [a, b] => a.path < b.path,
        _ => true,
    });
    if !ascending {
        return Err(wrong("manifest", path::MANIFEST, "its files are not sorted by path, each once"));
    }
    let mut listed: BTreeSet<&str> = path::CLOSING_FILES.into_iter().chain([path::MANIFEST]).collect();
    for file in &manifest.files {
        if !listed.insert(&file.path) {
            return Err(wrong("manifest", &file.path, "the manifest lists a file that comes after it"));
        }
        let Some(found) = bundle.get(&file.path) else {
            return Err(wrong("file_missing", &file.path, "the manifest lists it, and it is not there"));
        };
        if found.size() != file.size || found.sha256() != file.sha256 {
            return Err(wrong("file_changed", &file.path, "it is not the file that the manifest lists"));
        }
    }
    for found in bundle.paths() {
        if !listed.contains(found) {
            return Err(wrong("file_unlisted", found, "the manifest does not list it"));
        }
        let artifact = found.starts_with("artifacts/");
        if !artifact && bundle.get(found).is_some_and(|content| content.size() > FILE_BYTES_MAX) {
            return Err(wrong("file_too_large", found, "it is larger than a file of the evidence may be"));
        }
    }
    Ok(())
}

/// The closing names this manifest and this runtime log; the last quote must name the closing.
fn check_closing(
    bundle: &Bundle,
    binding: &Binding,
    manifest_sha256: Sha256Digest,
    manifest_envelope: &[u8],
) -> Result<(), Finding> {
    let closing: Closing = document(bundle, path::CLOSING)?;
    let expected = Closing {
        version: challenge::VERSION,
        build_id: binding.challenge.build_id.clone(),
        manifest_sha256,
        manifest_envelope_sha256: Sha256Digest::of(manifest_envelope),
        runtime_log_sha256: Sha256Digest::of(bytes(bundle, GATE, path::RUNTIME_LOG)?),
    };
    for file in path::CLOSING_FILES {
        bytes(bundle, GATE, file)?;
    }
    let differing = [
        (closing.version != expected.version, "version"),
        (closing.build_id != expected.build_id, "build_id"),
        (closing.manifest_sha256 != expected.manifest_sha256, "manifest_sha256"),
        (closing.manifest_envelope_sha256 != expected.manifest_envelope_sha256, "manifest_envelope_sha256"),
        (closing.runtime_log_sha256 != expected.runtime_log_sha256, "runtime_log_sha256"),
    ];
    match differing.into_iter().find(|(differs, _)| *differs) {
        Some((_, field)) => {
            let object = format!("{}: {field}", path::CLOSING);
            Err(Finding::new(
                GATE,
                "closing",
                object,
                "the machine's last word is about something else than this bundle",
            ))
        }
        None => Ok(()),
    }
}

/// The bytes of a file that must be there.
pub(crate) fn bytes<'a>(bundle: &'a Bundle, gate: Gate, file: &str) -> Result<&'a [u8], Finding> {
    bundle
        .bytes(file)
        .ok_or_else(|| Finding::new(gate, "file_missing", file, "it is not there, or its bytes were not read"))
}

/// The certificate in a file that must be there.
pub(crate) fn certificate(bundle: &Bundle, gate: Gate, file: &str) -> Result<Certificate, Finding> {
    let pem = bytes(bundle, gate, file)?;
    Certificate::from_pem(pem).map_err(|e| Finding::new(gate, "certificate", file, e.to_string()))
}

/// The canonical document in a file that must be there.
fn document<T: Serialize + DeserializeOwned>(bundle: &Bundle, file: &str) -> Result<T, Finding> {
    canonical::from_slice_exact(bytes(bundle, GATE, file)?)
        .map_err(|e| Finding::new(GATE, "not_canonical", file, e.to_string()))
}
