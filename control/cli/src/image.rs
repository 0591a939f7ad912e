//! The image that machines start, made now or named by a file, and what it must yield.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kiln_attestor::site::Site;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::image_provenance::ImageProvenance;
use kiln_formats::reference::{PcrReference, Reference};
use kiln_formats::statement::Statement;
use kiln_image::flavour::Flavour;
use kiln_image::pe::Pe;
use kiln_image::progress::Progress as _;
use kiln_image::workshop::Workshop;
use kiln_image::{build, cpio, initrd, packages, provenance, reference};
use serde::Deserialize;

use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::screen::Screen;
use crate::{document, host};

/// The largest description of an image in bytes: it lists some dozen packages.
const DESCRIPTION_BYTES_MAX: usize = 1 << 20;
/// The largest UKI whose values are computed.
pub(crate) const UKI_BYTES_MAX: usize = 256 << 20;
/// PID 1's program in the initrd.
const INIT: &str = "init";

/// An image as far as starting it goes: what `kiln build image --json` prints, and no matter what else that says.
#[derive(Debug, Deserialize)]
pub(crate) struct Image {
    /// What evidence names.
    pub(crate) uki: Part,
    /// A disk that firmware boots the UKI from.
    pub(crate) disk: Part,
    /// The kernel, for a direct start.
    pub(crate) kernel: Part,
    /// The initrd, for a direct start.
    pub(crate) initrd: Part,
    /// PID 1's program.
    pub(crate) init: Part,
    /// The kernel's command line.
    pub(crate) cmdline: String,
    /// What the image itself must leave in the TPM.
    pub(crate) pcrs: BTreeMap<String, PcrReference>,
    /// What it was made from, if it was made here: the site's own producer may say so.
    #[serde(skip)]
    pub(crate) provenance: Option<Statement<ImageProvenance>>,
}

/// A file of the image.
#[derive(Debug, Deserialize)]
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) sha256: Sha256Digest,
}

impl From<build::Artifact> for Part {
    fn from(made: build::Artifact) -> Self {
        Self { path: made.path, bytes: made.bytes, sha256: made.sha256 }
    }
}

impl From<build::Image> for Image {
    fn from(made: build::Image) -> Self {
        Self {
            provenance: Some(provenance::statement(&made.published())),
            uki: made.uki.into(),
            disk: made.disk.into(),
            kernel: made.kernel.into(),
            initrd: made.initrd.into(),
            init: made.init.into(),
            cmdline: made.cmdline,
            pcrs: made.pcrs,
        }
    }
}

impl Image {
    /// The image of this checkout, or the one that a file describes.
    pub(crate) fn get(description: Option<&Path>, screen: &Screen) -> Result<Self> {
        match description {
            Some(path) => serde_json::from_slice(&document::read(path, DESCRIPTION_BYTES_MAX)?)
                .map_err(|source| Problem::Json { path: path.to_owned(), source })
                .or_exit(Exit::Usage),
            None => in_workshop(screen, |shop| build::image(shop, Flavour::Vm).or_exit(Exit::Infrastructure))
                .map(Self::from),
        }
    }

    /// What the image must yield at a site: as the site has it, or else computed from the image now and added to the site.
    pub(crate) fn reference(&self, site: &Site, screen: &Screen) -> Result<Reference> {
        let known = site.references().or_exit(Exit::Usage)?;
        if let Some(known) = known.into_iter().find(|known| known.image_sha256 == self.uki.sha256) {
            return Ok(known);
        }
        let computed = site.reference(self.uki.sha256, self.init.sha256, &self.pcrs).or_exit(Exit::Infrastructure)?;
        let path = site.add_reference(&computed).or_exit(Exit::Infrastructure)?;
        screen.note(&format!("computed the reference values of a new image: {}", path.display()));
        Ok(computed)
    }
}

/// Makes the host ready and works on the checkout with the cache.
pub(crate) fn in_workshop<T>(screen: &Screen, work: impl FnOnce(&Workshop<'_>) -> Result<T>) -> Result<T> {
    packages::ensure(screen, &packages::HOST_PACKAGES, host::is_root()).or_exit(Exit::Infrastructure)?;
    let (checkout, cache) = (host::checkout()?, host::cache()?);
    work(&Workshop::new(&checkout, &cache, screen))
}

/// What a UKI says of itself: its digest, that of PID 1's program, and the values that booting it must leave.
pub(crate) struct Uki {
    pub(crate) sha256: Sha256Digest,
    pub(crate) init_sha256: Sha256Digest,
    pub(crate) pcrs: BTreeMap<String, PcrReference>,
}

impl Uki {
    /// Reads a UKI of ours without booting it.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = read_uki(path)?;
        let pcrs = reference::image_registers(&bytes).or_exit(Exit::Usage)?;
        let no_init = || Problem::Bundle { path: path.to_owned(), why: "its initrd has no program called init" };
        let init_sha256 = init_digest(&bytes)?.ok_or_else(no_init).or_exit(Exit::Usage)?;
        Ok(Self { sha256: Sha256Digest::of(&bytes), init_sha256, pcrs })
    }
}

/// The bytes of a UKI that a person named.
pub(crate) fn read_uki(path: &Path) -> Result<Vec<u8>> {
    document::read(path, UKI_BYTES_MAX)
}

/// The digest of PID 1's program in a UKI of ours; none in others, which pack their initrd in other ways or have no such program.
pub(crate) fn init_digest(uki: &[u8]) -> Result<Option<Sha256Digest>> {
    let sections = Pe::parse(uki).and_then(|pe| pe.sections()).or_exit(Exit::Usage)?;
    let initrd = sections.iter().find(|section| section.name == ".initrd").map(|section| section.content);
    let packed = initrd.filter(|initrd| initrd.starts_with(&initrd::ZSTD));
    let archive = packed.map(initrd::unpack).transpose().or_exit(Exit::Usage)?.unwrap_or_default();
    Ok(cpio::find(&archive, INIT).map(Sha256Digest::of))
}
