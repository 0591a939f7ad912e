//! The programs that assemble the image, unpacked beside the host's own: mkosi, ukify and the UEFI stub.
//!
//! Nothing is installed: they run from the cache with the host's Python.

use std::path::{Path, PathBuf};

use crate::apt::{AptError, Fetched};
use crate::cache::Inputs;
use crate::command::{CommandError, Tool};
use crate::files::{self, FileError};
use crate::lock::{self, LockError};
use crate::progress::phase;
use crate::workshop::Workshop;

/// The packages that hold them.
const PACKAGES: [&str; 3] = ["mkosi", "systemd-ukify", "systemd-boot-efi"];
/// The host's Python: another one that comes first on a search path lacks Debian's modules.
const PYTHON: &str = "/usr/bin/python3";

/// The tools could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    /// A file could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// The source lock cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A package could not be had.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A package could not be unpacked.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// The unpacked tools.
#[derive(Debug, Clone)]
pub struct ImageTools {
    root: PathBuf,
    /// The packages they came from.
    pub sources: Vec<Fetched>,
}

impl ImageTools {
    /// Fetches and unpacks them, or takes them from the cache.
    ///
    /// # Errors
    /// [`ToolsError`] by cause.
    pub fn fetch(shop: &Workshop<'_>) -> Result<Self, ToolsError> {
        let lock = shop.checkout.path("image/source.lock");
        phase(shop.progress, "image tools", || {
            let pins = PACKAGES.map(|package| lock::pin_of(&lock, package));
            let mut sources = Vec::new();
            for pin in pins {
                sources.push(shop.archive.fetch(&pin?)?);
            }
            let inputs = Inputs::of("image-tools", 1);
            let inputs = sources.iter().fold(inputs, |inputs, f| inputs.text(&f.package, &f.sha256.to_string()));
            let entry = shop.cache.entry("image-tools", inputs.key(), |dir| unpack(shop, &sources, dir))?;
            Ok((Self { root: entry.path, sources }, entry.cached))
        })
    }

    /// The directory that they were unpacked into.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The stub that firmware starts.
    pub(crate) fn stub(&self) -> PathBuf {
        self.root.join("usr/lib/systemd/boot/efi/linuxx64.efi.stub")
    }

    /// mkosi, without arguments.
    pub(crate) fn mkosi(&self) -> Tool {
        self.python().args(["-m", "mkosi"])
    }

    /// ukify, without arguments.
    pub(crate) fn ukify(&self) -> Tool {
        self.python().arg(self.root.join("usr/bin/ukify"))
    }

    /// The digests of the packages, for the keys of what the tools make.
    pub(crate) fn inputs(&self, inputs: Inputs) -> Inputs {
        self.sources.iter().fold(inputs, |inputs, f| inputs.text(&f.package, &f.sha256.to_string()))
    }

    fn python(&self) -> Tool {
        // Compiled modules written beside the sources would change the cache entry.
        let tool = Tool::new(PYTHON).env("PYTHONDONTWRITEBYTECODE", "1");
        tool.env("PYTHONPATH", self.root.join("usr/lib/python3/dist-packages"))
    }
}

/// Unpacks packages side by side, without what only people read.
pub(crate) fn unpack(shop: &Workshop<'_>, sources: &[Fetched], dir: &Path) -> Result<(), ToolsError> {
    for source in sources {
        Tool::new("dpkg-deb").arg("-x").arg(&source.path).arg(dir).run(shop.progress)?;
    }
    files::remove(&dir.join("usr/share"))?;
    Ok(())
}
