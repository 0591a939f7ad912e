//! The kernel: Debian's source, our fragments, nothing else.
//!
//! A [`Kernel`] has every option of every fragment and none that `absent.config` names: the build stops where Kconfig silently
//! dropped one, and where one came in by selection. Its bytes depend on the source, the fragments and the compiler, not on
//! clock, path, user or host. Source: Documentation/kbuild/reproducible-builds.rst.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_formats::digest::Sha256Digest;

use crate::apt::{AptError, Fetched};
use crate::cache::{Entry, Inputs};
use crate::command::{CommandError, Tool};
use crate::files::{self, FileError};
use crate::lock::{self, LockError};
use crate::progress::phase;
use crate::workshop::Workshop;

/// The fragments, in the order in which they are read.
const FRAGMENTS: [&str; 7] = ["base", "boot", "virtio", "tpm", "sandbox", "verity", "hardening"];
/// The largest kernel image: what firmware loads and measures on every boot.
pub const KERNEL_BYTES_MAX: u64 = 4_718_592;
/// A build takes ten minutes on two idle cores; a slow and busy machine gets twelve times that.
const BUILD_TIMEOUT: Duration = Duration::from_secs(7200);
/// What the kernel says of when, by whom and where it was built.
const IDENTITY: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 2026"),
    ("KBUILD_BUILD_USER", "kiln"),
    ("KBUILD_BUILD_HOST", "kiln"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// The kernel could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// The source lock cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The source could not be had.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A program of the build failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The package is not laid out as a kernel source package.
    #[error("{package} holds no source tree with a Makefile")]
    NoSource {
        /// The package.
        package: String,
    },
    /// The configuration is not what the fragments say.
    #[error("the kernel's configuration is not what kernel-config/ says:\n{}", differences.join("\n"))]
    Configuration {
        /// One line for each option that is missing or must not be on.
        differences: Vec<String>,
    },
    /// The kernel is larger than it may be.
    #[error("the kernel has {bytes} bytes, more than {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
}

/// A kernel that was configured as the fragments say.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The compressed image, a PE file that firmware can start.
    pub image: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Its release, such as `7.3.4-kiln`.
    pub release: String,
    /// The source it was made from.
    pub source: Fetched,
}

/// Where the checkout has the fragments of its configuration.
pub(crate) const CONFIGURATION: &str = "kernel-config";

/// The text of the fragments, and of what must be off.
struct Wanted {
    fragments: Vec<(&'static str, String)>,
    absent: String,
}

/// Makes the kernel, or takes it from the cache.
///
/// # Errors
/// [`KernelError`] by cause.
pub fn build(shop: &Workshop<'_>) -> Result<Kernel, KernelError> {
    let wanted = Wanted::read(shop)?;
    let pin = source_pin(shop)?;
    let source = phase(shop.progress, "kernel source", || {
        let source = shop.archive.fetch(&pin)?;
        let cached = source.cached;
        Ok::<_, AptError>((source, cached))
    })?;
    let key = key(shop, &wanted, &source)?;
    let entry = phase(shop.progress, "kernel", || {
        let entry = shop.cache.entry("kernel", key, |dir| make(shop, &wanted, &source, dir))?;
        let cached = entry.cached;
        Ok::<_, KernelError>((entry, cached))
    })?;
    finished(&entry, source)
}

fn finished(entry: &Entry, source: Fetched) -> Result<Kernel, KernelError> {
    let release = files::read_text(&entry.path.join("release"))?.trim().to_owned();
    Ok(Kernel { image: entry.path.join("bzImage"), config: entry.path.join("config"), release, source })
}

/// The one line of the source lock.
fn source_pin(shop: &Workshop<'_>) -> Result<lock::Pin, LockError> {
    let path = shop.checkout.path("kernel-config/source.lock");
    let first = lock::read(&path)?.into_iter().next();
    first.ok_or_else(|| LockError::Missing { path, package: "linux-source".into() })
}

fn key(shop: &Workshop<'_>, wanted: &Wanted, source: &Fetched) -> Result<Sha256Digest, KernelError> {
    let compiler = Tool::new("gcc").arg("--version").output(shop.progress)?;
    let linker = Tool::new("ld").arg("--version").output(shop.progress)?;
    let inputs = Inputs::of("kernel", 1).text("source", &source.sha256.to_string());
    let inputs = inputs.text("compiler", &compiler).text("linker", &linker).text("configuration", &wanted.joined());
    Ok(IDENTITY.into_iter().fold(inputs, |inputs, (name, value)| inputs.text(name, value)).key())
}

fn make(shop: &Workshop<'_>, wanted: &Wanted, source: &Fetched, dir: &Path) -> Result<(), KernelError> {
    let tree = unpack(shop, source, dir)?;
    let all = dir.join("all.config");
    files::write(&all, wanted.joined().as_bytes())?;
    kbuild(&tree).arg_path("KCONFIG_ALLCONFIG=", &all).arg("allnoconfig").run(shop.progress)?;
    wanted.check(&files::read_text(&tree.join(".config"))?)?;
    kbuild(&tree).args(["-j", &Workshop::jobs(), "bzImage"]).within(BUILD_TIMEOUT).run(shop.progress)?;
    let release = kbuild(&tree).arg("kernelrelease").output(shop.progress)?;
    let image = dir.join("bzImage");
    files::copy(&tree.join("arch/x86/boot/bzImage"), &image, 0o644)?;
    files::copy(&tree.join(".config"), &dir.join("config"), 0o644)?;
    files::write(&dir.join("release"), release.as_bytes())?;
    files::remove(&dir.join("unpacked"))?;
    files::remove(&all)?;
    let (_, bytes) = files::digest(&image)?;
    if bytes > KERNEL_BYTES_MAX {
        return Err(KernelError::TooLarge { bytes, bytes_max: KERNEL_BYTES_MAX });
    }
    Ok(())
}

/// `make` in the source tree, with the identity that we give to every kernel.
fn kbuild(tree: &Path) -> Tool {
    IDENTITY.into_iter().fold(Tool::new("make").arg("-s").dir(tree), |tool, (name, value)| tool.env(name, value))
}

/// Unpacks the package and the tarball in it; returns the source tree.
fn unpack(shop: &Workshop<'_>, source: &Fetched, dir: &Path) -> Result<PathBuf, KernelError> {
    let unpacked = dir.join("unpacked");
    files::make_dir(&unpacked)?;
    Tool::new("dpkg-deb").arg("-x").arg(&source.path).arg(&unpacked).run(shop.progress)?;
    let tarball = unpacked.join(format!("usr/src/{}.tar.xz", source.package));
    let tree = unpacked.join(&source.package);
    Tool::new("tar").arg("-xJf").arg(&tarball).arg("-C").arg(&unpacked).run(shop.progress)?;
    if !tree.join("Makefile").is_file() {
        return Err(KernelError::NoSource { package: source.package.clone() });
    }
    Ok(tree)
}

impl Wanted {
    fn read(shop: &Workshop<'_>) -> Result<Self, FileError> {
        let text = |name: &str| files::read_text(&shop.checkout.path(&format!("kernel-config/{name}.config")));
        let fragments = FRAGMENTS.into_iter().map(|name| Ok((name, text(name)?))).collect::<Result<_, FileError>>()?;
        Ok(Self { fragments, absent: text("absent")? })
    }

    /// Everything that Kconfig is told, without the reasons: rewording one builds no kernel.
    fn joined(&self) -> String {
        let texts = self.fragments.iter().map(|(_, text)| text).chain([&self.absent]);
        let lines = texts.flat_map(|text| text.lines());
        let options = lines.filter(|line| line.starts_with("CONFIG_") || absent_option(line).is_some());
        options.map(|option| format!("{option}\n")).collect()
    }

    /// Checks the final configuration against the fragments.
    fn check(&self, config: &str) -> Result<(), KernelError> {
        let lines: std::collections::BTreeSet<&str> = config.lines().collect();
        let mut differences = Vec::new();
        for (name, text) in &self.fragments {
            let options = text.lines().filter(|line| line.starts_with("CONFIG_"));
            let missing = options.filter(|option| !lines.contains(option));
            differences.extend(missing.map(|option| format!("{name}.config: {option} is not in the result")));
        }
        for option in self.absent.lines().filter_map(absent_option) {
            let on = lines.iter().find(|line| line.split_once('=').is_some_and(|(name, _)| name == option));
            differences.extend(on.map(|line| format!("absent.config: the result has {line}")));
        }
        if differences.is_empty() { Ok(()) } else { Err(KernelError::Configuration { differences }) }
    }
}

/// The option in a line `# CONFIG_X is not set`.
fn absent_option(line: &str) -> Option<&str> {
    line.strip_prefix("# ")?.strip_suffix(" is not set").filter(|option| option.starts_with("CONFIG_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        let fragments = vec![("base", "# why\nCONFIG_A=y\nCONFIG_B=\"x\"\n".to_owned())];
        Wanted { fragments, absent: "# why\n# CONFIG_IO_URING is not set\n".into() }
    }

    #[test]
    fn accepts_what_the_fragments_say() {
        wanted().check("CONFIG_A=y\nCONFIG_B=\"x\"\n# CONFIG_IO_URING is not set\nCONFIG_IO_URING_BPF=y\n").unwrap();
    }

    #[test]
    fn reasons_are_no_input() {
        assert_eq!(wanted().joined(), "CONFIG_A=y\nCONFIG_B=\"x\"\n# CONFIG_IO_URING is not set\n");
    }

    #[test]
    fn names_each_option_that_was_lost_or_came_in() {
        let error = wanted().check("CONFIG_A=m\nCONFIG_IO_URING=y\n").unwrap_err();
        let KernelError::Configuration { differences } = error else { panic!("{error}") };
        assert_eq!(differences.len(), 3, "{differences:?}");
        assert!(differences[0].contains("CONFIG_A=y") && differences[1].contains("CONFIG_B"), "{differences:?}");
        assert!(differences[2].contains("CONFIG_IO_URING=y"), "{differences:?}");
    }

    #[test]
    fn every_fragment_gives_reasons_and_none_contradicts_absent() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-config");
        let absent = files::read_text(&dir.join("absent.config")).unwrap();
        assert!(absent.lines().filter_map(absent_option).count() > 30);
        for name in FRAGMENTS {
            let text = files::read_text(&dir.join(format!("{name}.config"))).unwrap();
            for line in text.lines().filter(|line| line.starts_with("CONFIG_")) {
                let option = line.split_once('=').unwrap().0;
                assert!(!absent.lines().filter_map(absent_option).any(|off| off == option), "{name}: {option}");
            }
            for group in text.split("\n\n") {
                assert!(group.starts_with("# "), "{name}: a group without a reason:\n{group}");
            }
        }
    }
}
