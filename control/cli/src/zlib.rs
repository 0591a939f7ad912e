//! The demonstration's job: the real zlib, from its upstream source. `kiln demo` runs it in a virtual machine, `kiln build zlib` hands it
//! to whoever wants it built elsewhere.

use std::path::PathBuf;

use kiln_formats::digest::Sha256Digest;
use kiln_image::toolchain::{self, ToolchainImage};
use kiln_image::upstream;
use kiln_image::workshop::Workshop;
use serde::Serialize;

use crate::exit::{Exit, OrExit as _, Result};

/// The job, with marks where the digests go.
const JOB: &str = include_str!("zlib.toml");
/// The job's one input.
pub(crate) const INPUT: &str = "zlib.tar";
/// The job's one output.
pub(crate) const ARTIFACT: &str = "libz.a";

/// The job, and what it is made from.
pub(crate) struct Zlib {
    /// The image that its steps run on.
    pub(crate) toolchain: ToolchainImage,
    /// What it says, and its input.
    pub(crate) made: Made,
}

/// A draft whose digests are filled in, and where its input is.
#[derive(Debug, Serialize)]
pub(crate) struct Made {
    /// The draft, TOML.
    pub(crate) draft: String,
    /// The source's tarball.
    pub(crate) input: PathBuf,
    /// The digest of that tarball.
    pub(crate) input_sha256: Sha256Digest,
    /// Its size.
    pub(crate) input_bytes: u64,
}

impl Zlib {
    /// Makes the toolchain and gets the source, where they are not in the cache.
    pub(crate) fn make(shop: &Workshop<'_>) -> Result<Self> {
        let toolchain = toolchain::build(shop, "c").or_exit(Exit::Infrastructure)?;
        let source = upstream::zlib(shop).or_exit(Exit::Infrastructure)?;
        let input_bytes = source.path.metadata().or_exit(Exit::Infrastructure)?.len();
        let draft = JOB
            .replace("@ROOT_HASH@", &toolchain.root_hash.to_string())
            .replace("@URI@", &format!("pkg:deb/debian/{}@{}?arch=source", source.package, source.version))
            .replace("@SHA256@", &source.sha256.to_string())
            .replace("@SIZE@", &input_bytes.to_string());
        let made = Made { draft, input: source.path, input_sha256: source.sha256, input_bytes };
        Ok(Self { toolchain, made })
    }
}
