//! What a producer of images says, for tests and benchmarks: nothing was built.

use std::collections::BTreeMap;

use kiln_formats::digest::Sha256Digest;
use kiln_formats::image_provenance::{
    BuildDefinition, ExternalParameters, FILES, ImageProvenance, InternalParameters, RunDetails, UKI,
};
use kiln_formats::names::{BUILD_TYPE_IMAGE, BUILDER_HOST, PREDICATE_PROVENANCE};
use kiln_formats::provenance::Builder;
use kiln_formats::statement::{Statement, Subject};

/// The provenance of the image with this UKI.
pub(crate) fn statement(image: Sha256Digest) -> Statement<ImageProvenance> {
    let file = |name: &str| if name == UKI { image } else { Sha256Digest::of(name.as_bytes()) };
    let predicate = ImageProvenance {
        build_definition: BuildDefinition {
            build_type: BUILD_TYPE_IMAGE.to_owned(),
            external_parameters: ExternalParameters { checkout: None },
            internal_parameters: InternalParameters {
                kernel_release: "7.3".to_owned(),
                cmdline: "quiet".to_owned(),
                pinned: true,
                programs: BTreeMap::new(),
            },
            resolved_dependencies: Vec::new(),
        },
        run_details: RunDetails { builder: Builder { id: BUILDER_HOST.to_owned(), version: BTreeMap::new() } },
    };
    Statement::new(PREDICATE_PROVENANCE, FILES.map(|name| Subject::new(name, file(name))).into(), predicate)
}
