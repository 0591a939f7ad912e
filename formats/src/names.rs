//! Names that people give to things, and the names of the formats themselves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What every type URI and builder id of ours starts with. The path behind it is the path of a document under `docs/`.
/// The project has no public home yet; the reserved domain says so (docs/decisions/0002-type-uris.md).
pub const BASE: &str = "https://kiln.example/";

/// The SLSA build type: what a job is and how a machine runs it. Document: `docs/buildtypes/job/v1.md`.
pub const BUILD_TYPE: &str = "https://kiln.example/buildtypes/job/v1";
/// A software TPM and firmware that measures: the default. Document: `docs/builders/vm-swtpm-firmware/v1.md`.
pub const BUILDER_FIRMWARE: &str = "https://kiln.example/builders/vm-swtpm-firmware/v1";
/// The same with Secure Boot enforced. Document: `docs/builders/vm-swtpm-secureboot/v1.md`.
pub const BUILDER_SECURE_BOOT: &str = "https://kiln.example/builders/vm-swtpm-secureboot/v1";
/// The same on a host that quotes its own boot with a hardware TPM. Document: `docs/builders/vm-hosted/v1.md`.
pub const BUILDER_HOSTED: &str = "https://kiln.example/builders/vm-hosted/v1";
/// A server with a TPM of its own and Secure Boot enforced, started from its own disk. Document: `docs/builders/metal/v1.md`.
pub const BUILDER_METAL: &str = "https://kiln.example/builders/metal/v1";
/// A software TPM and a kernel that QEMU loads itself: fast, and the boot is not measured before PID 1.
pub const BUILDER_DIRECT: &str = "https://kiln.example/builders/vm-swtpm-direct/v1";
/// All that machines build under. A site has an authority for each, which certifies no other machines
/// (docs/decisions/0014-a-signer-for-each-mode.md).
pub const MACHINE_BUILDERS: [&str; 5] =
    [BUILDER_FIRMWARE, BUILDER_SECURE_BOOT, BUILDER_HOSTED, BUILDER_METAL, BUILDER_DIRECT];
/// The predicate of a step's record. Document: `docs/predicates/record/v1.md`.
pub const PREDICATE_RECORD: &str = "https://kiln.example/predicates/record/v1";
/// The predicate of an image's predictions. Document: `docs/predicates/reference/v1.md`.
pub const PREDICATE_REFERENCE: &str = "https://kiln.example/predicates/reference/v1";
/// The SLSA build type of the image itself. Document: `docs/buildtypes/image/v1.md`.
pub const BUILD_TYPE_IMAGE: &str = "https://kiln.example/buildtypes/image/v1";
/// A host that somebody built the image on. Document: `docs/builders/host/v1.md`.
pub const BUILDER_HOST: &str = "https://kiln.example/builders/host/v1";
/// The sandbox as it watches a step. Document: `docs/monitors/sandbox/v1.md`.
pub const MONITOR: &str = "https://kiln.example/monitors/sandbox/v1";
/// Our verifier, in the summaries that it writes. Document: `docs/verifier/v1.md`.
pub const VERIFIER: &str = "https://kiln.example/verifier/v1";
/// Source: <https://slsa.dev/spec/v1.2/build-provenance>.
pub const PREDICATE_PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// Source: <https://slsa.dev/spec/v1.2/verification_summary>.
pub const PREDICATE_VERDICT: &str = "https://slsa.dev/verification_summary/v1";
/// Source: in-toto attestation framework, `spec/predicates/runtime-trace.md`, version 0.1.0. Ours: `docs/predicates/runtime-trace/v0.1.md`.
pub const PREDICATE_RUNTIME_TRACE: &str = "https://in-toto.io/attestation/runtime-trace/v0.1";
/// Source: in-toto attestation framework, `spec/predicates/scai.md`, version 0.3. Ours: `docs/predicates/dispatch/v1.md`.
pub const PREDICATE_SCAI: &str = "https://in-toto.io/attestation/scai/v0.3";
/// Source: in-toto attestation framework, `spec/v1/statement.md`.
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// The DSSE payload type of in-toto statements. Source: in-toto attestation framework, `spec/v1/envelope.md`.
pub const PAYLOAD_STATEMENT: &str = "application/vnd.in-toto+json";
/// The DSSE payload type of a job.
pub const PAYLOAD_JOB: &str = "application/vnd.kiln.job.v1+json";
/// The DSSE payload type of a decision.
pub const PAYLOAD_DECISION: &str = "application/vnd.kiln.decision.v1+json";
/// The DSSE payload type of a manifest.
pub const PAYLOAD_MANIFEST: &str = "application/vnd.kiln.manifest.v1+json";

/// The DSSE payload type of a trust list.
pub const PAYLOAD_TRUST_LIST: &str = "application/vnd.kiln.trust-list.v1+json";
/// The DSSE payload type of a reference time.
pub const PAYLOAD_REFERENCE_TIME: &str = "application/vnd.kiln.reference-time.v1+json";

/// A short name: a lowercase letter or digit, then up to 63 of those, `.`, `_`, `-` and `+`.
///
/// Holding one says that it is safe as a path component, in an event's text and on a terminal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Text that is no [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no name: use 1 to 64 of a-z 0-9 . _ - +, beginning with a letter or digit")]
pub struct ParseNameError {
    /// The text, cut to a bounded length.
    pub text: String,
}

impl Name {
    /// The longest name, in bytes.
    pub const BYTES_MAX: usize = 64;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = text.len() <= Self::BYTES_MAX
            && text.bytes().next().is_some_and(letter)
            && text.bytes().all(|b| letter(b) || b"._-+".contains(&b));
        if good { Ok(Self(text.to_owned())) } else { Err(ParseNameError { text: text.chars().take(80).collect() }) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_everywhere() {
        for good in ["a", "zlib-1.3.1.tar.gz", "libstdc++", "0"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "A", "a:b", "a b", "é", "a\n", &"a".repeat(65)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_uri_of_ours_has_a_document() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/");
        for uri in [
            BUILD_TYPE,
            BUILDER_FIRMWARE,
            BUILDER_SECURE_BOOT,
            BUILDER_HOSTED,
            BUILDER_DIRECT,
            BUILDER_METAL,
            PREDICATE_RECORD,
            PREDICATE_REFERENCE,
            BUILD_TYPE_IMAGE,
            BUILDER_HOST,
            MONITOR,
            VERIFIER,
        ] {
            let path = format!("{docs}{}.md", uri.strip_prefix(BASE).unwrap());
            assert!(
                std::fs::read_to_string(&path).is_ok_and(|text| text.contains(uri)),
                "{path} does not describe {uri}"
            );
        }
    }
}
