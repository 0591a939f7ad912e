//! Everything that goes into an image, by version and digest: the lock of one build.
//!
//! The locks in the checkout (`image/source.lock`, `kernel-config/source.lock`, `Cargo.lock`, `rust-toolchain.toml`) say what shall
//! be used; [`Input`]s say what was. Programs of the host have a version and no digest: they come signed from Debian, and the
//! image is the same without them being.

use std::collections::{BTreeMap, BTreeSet};

use kiln_formats::digest::Sha256Digest;
use serde::{Deserialize, Serialize};

use crate::appliance;
use crate::apt::Fetched;
use crate::command::{CommandError, Tool};
use crate::files::{self, FileError};
use crate::flavour::Flavour;
use crate::kernel::{self, Kernel};
use crate::packages;
use crate::workshop::Workshop;

/// Files of the checkout that decide what the image is, beside the kernel's fragments and the program's source.
const FILES: [&str; 10] = [
    "Cargo.lock",
    "Cargo.toml",
    "image/cmdline",
    "image/cmdline-metal",
    "image/mkosi.conf",
    "image/mkosi.skeleton/usr/lib/os-release",
    "image/source.lock",
    "kernel-config/source.lock",
    "mkosi.conf",
    "rust-toolchain.toml",
];
/// Packages of the host whose programs and libraries write the bytes of the image.
const PROGRAMS: [&str; 13] = [
    "autoconf",
    "binutils",
    "bison",
    "cpio",
    "dosfstools",
    "fdisk",
    "flex",
    "gcc",
    "libc6-dev",
    "libmbedtls-dev",
    "make",
    "mtools",
    "zstd",
];

/// What kind of thing went in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// A package of Debian that was fetched: source of the kernel, of the TPM library, and the tools.
    Package,
    /// A crate that `Cargo.lock` lets the appliance link.
    Crate,
    /// A file of the checkout, or one made on the way.
    File,
    /// A program or library of the host.
    Program,
    /// The checkout itself, by its commit.
    Checkout,
}

/// One thing that went in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its kind.
    pub kind: InputKind,
    /// Its name.
    pub name: String,
    /// Its version, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its digest, where it is one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256Digest>,
}

/// The inputs could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A program would not say its version.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// `Cargo.lock` is not what cargo writes.
    #[error("Cargo.lock cannot be read")]
    Lock(#[from] toml::de::Error),
}

/// `Cargo.lock`, as far as it is read.
#[derive(Debug, Deserialize)]
struct CargoLock {
    package: Vec<LockedCrate>,
}

#[derive(Debug, Deserialize)]
struct LockedCrate {
    name: String,
    version: String,
    checksum: Option<Sha256Digest>,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// Lists what went into an image, sorted.
///
/// # Errors
/// [`InputsError`] by cause.
pub fn list(
    shop: &Workshop<'_>,
    flavour: Flavour,
    kernel: &Kernel,
    sources: &[Fetched],
) -> Result<Vec<Input>, InputsError> {
    let input = |kind, name: &str, version: Option<&str>, sha256| Input {
        kind,
        name: name.to_owned(),
        version: version.map(str::to_owned),
        sha256,
    };
    let mut inputs: Vec<Input> = Vec::new();
    for source in sources {
        inputs.push(input(InputKind::Package, &source.package, Some(&source.version), Some(source.sha256)));
    }
    let fragments = files::list(&shop.checkout.path(kernel::CONFIGURATION))?;
    let fragments = fragments
        .iter()
        .filter_map(|path| path.file_name()?.to_str().map(|name| format!("{}/{name}", kernel::CONFIGURATION)));
    for name in FILES.map(str::to_owned).into_iter().chain(fragments).collect::<BTreeSet<_>>() {
        let (sha256, _) = files::digest(&shop.checkout.path(&name))?;
        inputs.push(input(InputKind::File, &name, None, Some(sha256)));
    }
    let (config, _) = files::digest(&kernel.config)?;
    inputs.push(input(InputKind::File, "the kernel's configuration (.config)", Some(&kernel.release), Some(config)));
    let lock: CargoLock = toml::from_str(&files::read_text(&shop.checkout.path("Cargo.lock"))?)?;
    for linked in reachable(&lock, flavour.package()) {
        inputs.push(input(InputKind::Crate, &linked.name, Some(&linked.version), linked.checksum));
    }
    let installed = packages::versions(shop.progress, &PROGRAMS)?;
    for (name, version) in installed.lines().filter_map(|line| line.split_once(' ')) {
        inputs.push(input(InputKind::Program, name, Some(version), None));
    }
    let compiler = appliance::compiler(shop)?;
    inputs.push(input(InputKind::Program, "rustc", compiler.lines().next(), None));
    if let Some(commit) = commit(shop) {
        inputs.push(input(InputKind::Checkout, "kiln", Some(&commit), None));
    }
    inputs.sort();
    inputs.dedup();
    Ok(inputs)
}

/// The crates of others that the appliance may link, by the lock's own edges.
fn reachable<'a>(lock: &'a CargoLock, appliance: &str) -> Vec<&'a LockedCrate> {
    let named = |edge: &str| {
        let mut words = edge.split(' ');
        let (name, version) = (words.next(), words.next());
        let is = |package: &&LockedCrate| {
            Some(package.name.as_str()) == name && version.is_none_or(|version| version == package.version)
        };
        lock.package.iter().filter(is).collect::<Vec<_>>()
    };
    let mut waiting: Vec<&LockedCrate> = named(appliance);
    let mut seen: BTreeMap<(&str, &str), &LockedCrate> = BTreeMap::new();
    while let Some(package) = waiting.pop() {
        if seen.insert((&package.name, &package.version), package).is_none() {
            waiting.extend(package.dependencies.iter().flat_map(|edge| named(edge)));
        }
    }
    seen.into_values().filter(|package| package.checksum.is_some()).collect()
}

/// The checkout's commit, and whether it has changes; none without git.
fn commit(shop: &Workshop<'_>) -> Option<String> {
    let git =
        |args: &[&str]| Tool::new("git").arg("-C").arg(shop.checkout.root()).args(args).output(shop.progress).ok();
    let head = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.trim().is_empty() { head.trim().to_owned() } else { format!("{} with changes", head.trim()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_appliances_crates_are_found_by_the_locks_edges() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
        let lock: CargoLock = toml::from_str(&std::fs::read_to_string(root).unwrap()).unwrap();
        let of = |flavour: Flavour| -> BTreeSet<&str> {
            reachable(&lock, flavour.package()).iter().map(|package| package.name.as_str()).collect()
        };
        let crates = of(Flavour::Vm);
        for linked in ["tss-esapi", "sha2", "serde", "landlock", "tokio"] {
            assert!(crates.contains(linked), "{linked} is not there");
        }
        for other in ["clap", "miette", "object", "kiln-init"] {
            assert!(!crates.contains(other), "{other} is there");
        }
        for networks in ["smoltcp", "rustls"] {
            assert!(of(Flavour::Metal).contains(networks) && !crates.contains(networks), "{networks}");
        }
    }
}
