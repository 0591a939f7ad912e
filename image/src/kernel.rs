//! The kernel: Debian's source, our fragments, nothing else.
//!
//! A [`Kernel`] has every option of every fragment and none that `absent.config` names and no fragment does: the build stops where
//! Kconfig silently dropped one, and where one came in by selection. Its bytes depend on the source, the fragments and the compiler, not on
//! clock, path, user or host. Source: Documentation/kbuild/reproducible-builds.rst.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_formats::digest::Sha256Digest;

use crate::apt::{AptError, Fetched};
use crate::cache::{Entry, Inputs};
use crate::command::{CommandError, Tool};
use crate::files::{self, FileError};
use crate::flavour::Flavour;
use crate::lock::{self, LockError};
use crate::progress::phase;
use crate::workshop::Workshop;

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

/// What the configuration must say: lines of fragments, and names of options that must be off.
struct Wanted {
    /// `CONFIG_X=y`, each with the fragment that it is from. No option twice.
    options: Vec<(&'static str, String)>,
    /// `CONFIG_X`, none of them in a fragment.
    absent: Vec<String>,
}

/// Makes the kernel of a flavour, or takes it from the cache.
///
/// # Errors
/// [`KernelError`] by cause.
pub fn build(shop: &Workshop<'_>, flavour: Flavour) -> Result<Kernel, KernelError> {
    let wanted = Wanted::read(shop, flavour)?;
    let pin = source_pin(shop)?;
    let source = phase(shop.progress, "kernel source", || {
        let source = shop.archive.fetch(&pin)?;
        let cached = source.cached;
        Ok::<_, AptError>((source, cached))
    })?;
    let key = key(shop, &wanted, &source)?;
    let entry = phase(shop.progress, "kernel", || {
        let entry = shop.cache.entry("kernel", key, |dir| make(shop, flavour, &wanted, &source, dir))?;
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

fn make(
    shop: &Workshop<'_>,
    flavour: Flavour,
    wanted: &Wanted,
    source: &Fetched,
    dir: &Path,
) -> Result<(), KernelError> {
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
    let bytes_max = flavour.kernel_bytes_max();
    if bytes > bytes_max { Err(KernelError::TooLarge { bytes, bytes_max }) } else { Ok(()) }
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
    fn read(shop: &Workshop<'_>, flavour: Flavour) -> Result<Self, FileError> {
        let text = |name: &str| files::read_text(&shop.checkout.path(&format!("{CONFIGURATION}/{name}.config")));
        let fragments = flavour.fragments().iter().map(|name| Ok((*name, text(name)?)));
        Ok(Self::of(&fragments.collect::<Result<Vec<_>, FileError>>()?, &text("absent")?))
    }

    /// Of two lines for one option the later counts; what a fragment names is not absent.
    fn of(fragments: &[(&'static str, String)], absent: &str) -> Self {
        let lines = fragments.iter().flat_map(|(name, text)| text.lines().map(|line| (*name, line)));
        let options: Vec<_> = lines.filter_map(|(name, line)| Some((name, named_option(line)?, line))).collect();
        let counts = |at: &usize, option: &str| !options.iter().skip(at + 1).any(|(_, later, _)| *later == option);
        let wanted = options.iter().enumerate().filter(|(at, (_, option, _))| counts(at, option));
        let named = |option: &&str| options.iter().any(|(_, other, _)| other == option);
        Self {
            options: wanted.map(|(_, (name, _, line))| (*name, (*line).to_owned())).collect(),
            absent: absent
                .lines()
                .filter_map(absent_option)
                .filter(|option| !named(option))
                .map(str::to_owned)
                .collect(),
        }
    }

    /// Everything that Kconfig is told, without the reasons: rewording one builds no kernel.
    fn joined(&self) -> String {
        let options = self.options.iter().map(|(_, line)| format!("{line}\n"));
        options.chain(self.absent.iter().map(|option| format!("# {option} is not set\n"))).collect()
    }

    /// Checks the final configuration against the fragments.
    fn check(&self, config: &str) -> Result<(), KernelError> {
        let lines: std::collections::BTreeSet<&str> = config.lines().collect();
        let missing = self.options.iter().filter(|(_, line)| !lines.contains(line.as_str()));
        let mut differences: Vec<String> =
            missing.map(|(name, line)| format!("{name}.config: {line} is not in the result")).collect();
        for option in &self.absent {
            let on = lines.iter().find(|line| line.split_once('=').is_some_and(|(name, _)| name == option));
            differences.extend(on.map(|line| format!("absent.config: the result has {line}")));
        }
        if differences.is_empty() { Ok(()) } else { Err(KernelError::Configuration { differences }) }
    }
}

/// The option in a line `CONFIG_X=y`.
fn named_option(line: &str) -> Option<&str> {
    line.split_once('=').map(|(name, _)| name).filter(|name| name.starts_with("CONFIG_"))
}

/// The option in a line `# CONFIG_X is not set`.
fn absent_option(line: &str) -> Option<&str> {
    line.strip_prefix("# ")?.strip_suffix(" is not set").filter(|option| option.starts_with("CONFIG_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        let fragments = [("base", "# why\nCONFIG_A=y\nCONFIG_B=\"x\"\n".to_owned())];
        Wanted::of(&fragments, "# why\n# CONFIG_IO_URING is not set\n")
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
    fn the_later_line_counts_and_what_a_fragment_names_is_not_absent() {
        let fragments = [("base", "CONFIG_A=1\nCONFIG_B=y\n".to_owned()), ("metal", "CONFIG_A=2\n".to_owned())];
        let wanted = Wanted::of(&fragments, "# CONFIG_B is not set\n# CONFIG_C is not set\n");
        assert_eq!(wanted.joined(), "CONFIG_B=y\nCONFIG_A=2\n# CONFIG_C is not set\n");
        wanted.check("CONFIG_A=2\nCONFIG_B=y\n").unwrap();
        assert!(wanted.check("CONFIG_A=1\nCONFIG_B=y\n").is_err());
    }

    /// What a server's kernel has and a virtual machine's must not have; and nothing else of what must be off is on in it.
    const METAL_ALONE: [&str; 8] = [
        "CONFIG_FW_LOADER",
        "CONFIG_VT",
        "CONFIG_SWAP",
        "CONFIG_NETDEVICES",
        "CONFIG_PACKET",
        "CONFIG_USB_SUPPORT",
        "CONFIG_INPUT",
        "CONFIG_FB",
    ];

    #[test]
    fn every_fragment_gives_reasons_and_none_contradicts_absent() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-config");
        let absent = files::read_text(&dir.join("absent.config")).unwrap();
        let absent: Vec<_> = absent.lines().filter_map(absent_option).collect();
        assert!(absent.len() > 30);
        for name in Flavour::Metal.fragments() {
            let text = files::read_text(&dir.join(format!("{name}.config"))).unwrap();
            let on = |option: &&&str| text.lines().any(|line| named_option(line) == Some(option));
            let found: Vec<&str> = absent.iter().filter(on).copied().collect();
            assert_eq!(found, if *name == "metal" { METAL_ALONE.to_vec() } else { Vec::new() }, "{name}");
            for group in text.split("\n\n") {
                assert!(group.starts_with("# "), "{name}: a group without a reason:\n{group}");
            }
        }
        assert!(!Flavour::Vm.fragments().contains(&"metal"));
    }
}
