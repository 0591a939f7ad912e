//! The edges between the packages are those of the architecture and no others.
//!
//! Above all: nothing that runs in the appliance is linked with anything that judges it.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::MetadataCommand;

/// Which packages of the workspace each may use, tests and build scripts included.
const EDGES: [(&str, &[&str]); 13] = [
    ("kiln-formats", &[]),
    ("kiln-tpm", &["kiln-formats"]),
    ("kiln-sandbox", &[]),
    ("kiln-confine", &["kiln-sandbox"]),
    ("kiln-init", &["kiln-formats", "kiln-tpm", "kiln-builder"]),
    ("kiln-wire", &["kiln-formats", "kiln-init", "kiln-builder"]),
    ("kiln-builder", &["kiln-formats", "kiln-sandbox"]),
    ("kiln-image", &["kiln-formats"]),
    ("kiln-qemu", &["kiln-formats"]),
    ("kiln-verifier", &["kiln-formats"]),
    ("kiln-attestor", &["kiln-formats", "kiln-verifier"]),
    ("kiln", &["kiln-attestor", "kiln-formats", "kiln-image", "kiln-qemu", "kiln-verifier"]),
    ("kiln-tests", &["kiln-formats", "kiln-qemu", "kiln-verifier"]),
];

/// What runs in the appliance, and what judges or launches it.
const APPLIANCE: [&str; 5] = ["kiln-init", "kiln-wire", "kiln-tpm", "kiln-builder", "kiln-sandbox"];
const HOST: [&str; 5] = ["kiln-image", "kiln-qemu", "kiln-verifier", "kiln-attestor", "kiln"];

/// The edges as cargo sees them.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().unwrap();
    let ours: BTreeSet<_> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let of = |package: &cargo_metadata::Package| {
        let others =
            package.dependencies.iter().map(|edge| edge.name.clone()).filter(|name| *name != package.name.as_str());
        others.filter(|name| ours.contains(name)).collect()
    };
    metadata.packages.iter().map(|package| (package.name.to_string(), of(package))).collect()
}

#[test]
fn every_edge_is_in_the_architecture() {
    let allowed: BTreeMap<_, _> = EDGES.into_iter().collect();
    let found = edges();
    assert_eq!(
        found.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        allowed.keys().copied().collect(),
        "packages"
    );
    for (package, uses) in &found {
        for used in uses {
            assert!(allowed[package.as_str()].contains(&used.as_str()), "{package} must not depend on {used}");
        }
    }
}

#[test]
fn no_edge_joins_the_appliance_and_the_host() {
    let joins = |from: &[&str], to: &[&str], (package, uses): (&String, &BTreeSet<String>)| {
        from.contains(&package.as_str()) && uses.iter().any(|used| to.contains(&used.as_str()))
    };
    for edge in &edges() {
        assert!(!joins(&APPLIANCE, &HOST, edge) && !joins(&HOST, &APPLIANCE, edge), "{edge:?}");
    }
}
