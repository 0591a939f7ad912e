//! The image's own provenance: what it was made from, as a SLSA statement about its files.
//!
//! Pure. Source: <https://slsa.dev/spec/v1.2/build-provenance>; `docs/buildtypes/image/v1.md`. Deliberately absent: a time, so that
//! the same commit gives the same statement; and a signature, which is the producer's.

use std::collections::BTreeMap;

use kiln_formats::names::{BUILD_TYPE_IMAGE, BUILDER_HOST, PREDICATE_PROVENANCE};
use kiln_formats::provenance::Builder;
use kiln_formats::statement::{ResourceDescriptor, Statement, Subject};
use serde::Serialize;

use crate::build::Published;
use crate::inputs::{Input, InputKind};

/// The predicate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageProvenance {
    /// What was built from what.
    pub build_definition: BuildDefinition,
    /// By whom.
    pub run_details: RunDetails,
}

/// What was built from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildDefinition {
    /// Always [`BUILD_TYPE_IMAGE`].
    pub build_type: &'static str,
    /// What whoever ran the build could choose: the checkout.
    pub external_parameters: ExternalParameters,
    /// What followed from the host.
    pub internal_parameters: InternalParameters,
    /// Packages, crates and files, by digest.
    pub resolved_dependencies: Vec<ResourceDescriptor>,
}

/// What whoever ran the build could choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalParameters {
    /// The commit, and whether it had changes; none if it was no git checkout.
    pub checkout: Option<String>,
}

/// What followed from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunDetails {
    /// A host that nothing vouches for.
    pub builder: Builder,
}

/// What is to be signed about an image.
#[must_use]
pub fn statement(image: &Published) -> Statement<ImageProvenance> {
    let subjects = image.files().map(|(name, file)| Subject::new(name, file.sha256));
    let of_kind = |kind: InputKind| image.inputs.iter().filter(move |input| input.kind == kind);
    let versions = of_kind(InputKind::Program).filter_map(|input| Some((input.name.clone(), input.version.clone()?)));
    let predicate = ImageProvenance {
        build_definition: BuildDefinition {
            build_type: BUILD_TYPE_IMAGE,
            external_parameters: ExternalParameters {
                checkout: of_kind(InputKind::Checkout).find_map(|input| input.version.clone()),
            },
            internal_parameters: InternalParameters {
                kernel_release: image.kernel_release.clone(),
                cmdline: image.cmdline.clone(),
                pinned: image.pinned,
                programs: versions.collect(),
            },
            resolved_dependencies: image.inputs.iter().filter_map(descriptor).collect(),
        },
        run_details: RunDetails { builder: Builder { id: BUILDER_HOST.to_owned(), version: BTreeMap::new() } },
    };
    Statement::new(PREDICATE_PROVENANCE, subjects.into(), predicate)
}

fn descriptor(input: &Input) -> Option<ResourceDescriptor> {
    let kind = match input.kind {
        InputKind::Package => "package",
        InputKind::Crate => "crate",
        InputKind::File => "file",
        InputKind::Program | InputKind::Checkout => return None,
    };
    let mut descriptor = ResourceDescriptor::new(input.name.clone(), input.sha256?);
    descriptor.annotations.insert("kind".to_owned(), kind.to_owned());
    let version = input.version.iter().map(|version| ("version".to_owned(), version.clone()));
    descriptor.annotations.extend(version);
    Some(descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Artifact;
    use crate::inventory::Inventory;
    use kiln_formats::digest::Sha256Digest;

    #[test]
    fn every_input_with_a_digest_is_a_dependency() {
        let file = |text: &str| Artifact { path: text.into(), bytes: 1, sha256: Sha256Digest::of(text.as_bytes()) };
        let input =
            |kind, name: &str, sha256| Input { kind, name: name.to_owned(), version: Some("1".to_owned()), sha256 };
        let digest = Some(Sha256Digest::of(b"x"));
        let image = Published {
            uki: file("uki"),
            disk: file("disk"),
            kernel: file("kernel"),
            initrd: file("initrd"),
            init: file("init"),
            cmdline: "quiet".to_owned(),
            kernel_release: "7.3".to_owned(),
            pinned: true,
            parts: Inventory::default(),
            inputs: vec![
                input(InputKind::Package, "linux-source", digest),
                input(InputKind::Crate, "sha2", digest),
                input(InputKind::File, "Cargo.lock", digest),
                input(InputKind::Program, "gcc", None),
                input(InputKind::Checkout, "kiln", None),
            ],
        };
        let statement = statement(&image);
        assert!(statement.is(PREDICATE_PROVENANCE));
        assert_eq!(statement.subject.len(), 5);
        let definition = statement.predicate.build_definition;
        let names: Vec<&str> = definition.resolved_dependencies.iter().map(|thing| thing.name.as_str()).collect();
        assert_eq!(names, ["linux-source", "sha2", "Cargo.lock"]);
        assert_eq!(definition.resolved_dependencies[0].annotations["kind"], "package");
        assert_eq!(definition.internal_parameters.programs["gcc"], "1");
        assert_eq!(definition.external_parameters.checkout.as_deref(), Some("1"));
    }
}
