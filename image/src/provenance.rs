//! The image's own provenance: what it was made from, as a SLSA statement about its files.
//!
//! Pure. The form, and the check that it passes before the image is started, are [`kiln_formats::image_provenance`]'s; the signature is
//! the producer's.

use std::collections::BTreeMap;

use kiln_formats::image_provenance::{
    BuildDefinition, ExternalParameters, ImageProvenance, InternalParameters, RunDetails,
};
use kiln_formats::names::{BUILD_TYPE_IMAGE, BUILDER_HOST, PREDICATE_PROVENANCE};
use kiln_formats::provenance::Builder;
use kiln_formats::statement::{ResourceDescriptor, Statement, Subject};

use crate::build::Published;
use crate::inputs::{Input, InputKind};

/// What is to be signed about an image.
#[must_use]
pub fn statement(image: &Published) -> Statement<ImageProvenance> {
    let subjects = image.files().map(|(name, file)| Subject::new(name, file.sha256));
    let of_kind = |kind: InputKind| image.inputs.iter().filter(move |input| input.kind == kind);
    let versions = of_kind(InputKind::Program).filter_map(|input| Some((input.name.clone(), input.version.clone()?)));
    let predicate = ImageProvenance {
        build_definition: BuildDefinition {
            build_type: BUILD_TYPE_IMAGE.to_owned(),
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
    use kiln_formats::image_provenance::FILES;

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
        let names: Vec<&str> = statement.subject.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, FILES);
        let definition = statement.predicate.build_definition;
        let names: Vec<&str> = definition.resolved_dependencies.iter().map(|thing| thing.name.as_str()).collect();
        assert_eq!(names, ["linux-source", "sha2", "Cargo.lock"]);
        assert_eq!(definition.resolved_dependencies[0].annotations["kind"], "package");
        assert_eq!(definition.internal_parameters.programs["gcc"], "1");
        assert_eq!(definition.external_parameters.checkout.as_deref(), Some("1"));
    }
}
