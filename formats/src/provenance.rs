//! SLSA Provenance v1, as this machine fills it in.
//!
//! Source: <https://slsa.dev/spec/v1.2/build-provenance>. Commands live in the signed job, not in external parameters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::statement::ResourceDescriptor;
use crate::timestamp::Timestamp;

/// The predicate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Provenance {
    /// What was built from what.
    pub build_definition: BuildDefinition,
    /// By whom, when, and what else came out.
    pub run_details: RunDetails,
}

/// What was built from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BuildDefinition {
    /// Always [`crate::names::BUILD_TYPE`].
    pub build_type: String,
    /// All that the person who ordered the build could choose.
    pub external_parameters: ExternalParameters,
    /// What the machine chose.
    pub internal_parameters: InternalParameters,
    /// The job document, every input and every image, by digest.
    pub resolved_dependencies: Vec<ResourceDescriptor>,
}

/// All that the person who ordered the build could choose: the job, by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExternalParameters {
    /// The job document.
    pub job: ResourceDescriptor,
}

/// What the machine chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InternalParameters {
    /// The image that the machine booted, by the digest of its UKI, as the authority named it.
    pub image: ResourceDescriptor,
    /// `hardware` or `software`.
    pub tpm: String,
}

/// By whom, when, and what else came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RunDetails {
    /// The machine's kind.
    pub builder: Builder,
    /// When.
    pub metadata: Metadata,
    /// Step records, traces and logs, by digest.
    pub byproducts: Vec<ResourceDescriptor>,
}

/// The machine's kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Builder {
    /// The builder id: one for each set of security properties.
    pub id: String,
    /// Versions of its parts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub version: BTreeMap<String, String>,
}

/// When, and which build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    /// The build id.
    pub invocation_id: String,
    /// The authority's time at the challenge.
    pub started_on: Timestamp,
    /// The same plus the time since, by the machine's clock.
    pub finished_on: Timestamp,
}
