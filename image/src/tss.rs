//! The TPM library that the appliance links: tpm2-tss, static, with no transport but the kernel's device.
//!
//! The result is a directory with `include/`, `lib/` and `lib/pkgconfig/` that can be moved: its pkg-config files find it by
//! their own place. Deliberately absent: FAPI, policies, every other transport and `dlopen`, which a static program cannot use.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apt::{AptError, Fetched};
use crate::cache::Inputs;
use crate::command::{CommandError, Tool};
use crate::files::{self, FileError};
use crate::lock::{self, LockError};
use crate::progress::phase;
use crate::workshop::Workshop;

/// The static crypto library of the host, copied beside the TSS so that the result stands alone.
const CRYPTO: &str = "/usr/lib/x86_64-linux-gnu/libmbedcrypto.a";
/// A build takes a minute on two idle cores.
const BUILD_TIMEOUT: Duration = Duration::from_secs(3600);
/// The transports that are switched off; `device` stays.
const NO_TRANSPORT: [&str; 12] = [
    "mssim",
    "swtpm",
    "pcap",
    "libtpms",
    "cmd",
    "spi-helper",
    "spi-ltt2go",
    "spidev",
    "spi-ftdi",
    "i2c-helper",
    "i2c-ftdi",
    "fuzzing",
];

/// The TPM library could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TssError {
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
}

/// The static TPM library.
#[derive(Debug, Clone)]
pub struct Tss {
    /// The directory with `include/` and `lib/`.
    pub prefix: PathBuf,
    /// The source it was made from.
    pub source: Fetched,
}

impl Tss {
    /// The environment in which cargo finds the library.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("PKG_CONFIG_PATH", self.prefix.join("lib/pkgconfig")), ("PKG_CONFIG_ALL_STATIC", PathBuf::from("1"))]
    }
}

/// Makes the library, or takes it from the cache.
///
/// # Errors
/// [`TssError`] by cause.
pub fn build(shop: &Workshop<'_>) -> Result<Tss, TssError> {
    let pin = lock::pin_of(&shop.checkout.path("image/source.lock"), "tpm2-tss")?;
    phase(shop.progress, "TPM library", || {
        let source = shop.archive.fetch(&pin)?;
        let compiler = Tool::new("gcc").arg("--version").output(shop.progress)?;
        let inputs = Inputs::of("tpm2-tss", 1).text("source", &source.sha256.to_string()).text("compiler", &compiler);
        let key = inputs.file("crypto", Path::new(CRYPTO))?.key();
        let entry = shop.cache.entry("tpm2-tss", key, |dir| make(shop, &source, dir))?;
        Ok((Tss { prefix: entry.path, source }, entry.cached))
    })
}

fn make(shop: &Workshop<'_>, source: &Fetched, dir: &Path) -> Result<(), TssError> {
    let tree = dir.join("source");
    let staged = dir.join("staged");
    files::make_dir(&tree)?;
    Tool::new("tar")
        .arg("-xf")
        .arg(&source.path)
        .arg("--strip-components=1")
        .arg("-C")
        .arg(&tree)
        .run(shop.progress)?;
    configure(shop, source, &tree)?;
    let make = || Tool::new("make").arg("-s").dir(&tree).within(BUILD_TIMEOUT);
    make().args(["-j", &Workshop::jobs()]).run(shop.progress)?;
    make().arg_path("DESTDIR=", &staged).arg("install").run(shop.progress)?;
    keep(&staged, dir)?;
    files::remove(&staged)?;
    files::remove(&tree)?;
    Ok(())
}

fn configure(shop: &Workshop<'_>, source: &Fetched, tree: &Path) -> Result<(), TssError> {
    // `bootstrap` asks git for the version; a tarball has no git.
    let bootstrap = tree.join("bootstrap");
    let script = files::read_text(&bootstrap)?;
    let script: String =
        script.lines().filter(|line| !line.starts_with("git describe")).map(|l| format!("{l}\n")).collect();
    files::write(&bootstrap, script.as_bytes())?;
    let upstream = source.version.split('-').next().unwrap_or(&source.version);
    files::write(&tree.join("VERSION"), upstream.as_bytes())?;
    Tool::new("sh").arg("bootstrap").dir(tree).run(shop.progress)?;
    let tool = Tool::new("./configure").dir(tree).env("CFLAGS", "-O2 -g0").args(["--prefix=/usr", "--libdir=/usr/lib"]);
    let tool = tool.args(["--disable-shared", "--enable-static", "--enable-nodl", "--with-crypto=mbed"]);
    let tool = tool.args(["--disable-fapi", "--disable-policy", "--disable-weakcrypto", "--disable-doxygen-doc"]);
    tool.args(NO_TRANSPORT.map(|transport| format!("--disable-tcti-{transport}"))).run(shop.progress)?;
    Ok(())
}

/// Takes headers, archives and pkg-config files out of what was installed.
fn keep(staged: &Path, dir: &Path) -> Result<(), FileError> {
    let (headers, lib) = (dir.join("include/tss2"), dir.join("lib"));
    files::make_dir(&headers)?;
    files::make_dir(&lib.join("pkgconfig"))?;
    for file in files::list(&staged.join("usr/include/tss2"))? {
        copy_into(&file, &headers)?;
    }
    for file in files::list(&staged.join("usr/lib"))?.into_iter().filter(|f| f.extension().is_some_and(|e| e == "a")) {
        copy_into(&file, &lib)?;
    }
    copy_into(Path::new(CRYPTO), &lib)?;
    for file in files::list(&staged.join("usr/lib/pkgconfig"))? {
        let text = movable(&files::read_text(&file)?);
        copy_into(&file, &lib.join("pkgconfig"))?;
        files::write(&lib.join("pkgconfig").join(file.file_name().unwrap_or_default()), text.as_bytes())?;
    }
    Ok(())
}

fn copy_into(file: &Path, dir: &Path) -> Result<(), FileError> {
    files::copy(file, &dir.join(file.file_name().unwrap_or_default()), 0o644)
}

/// A pkg-config file that finds its library by its own place.
fn movable(text: &str) -> String {
    let line = |line: &str| match line {
        _ if line.starts_with("prefix=") => "prefix=${pcfiledir}/../..".to_owned(),
        _ if line.starts_with("libdir=") => "libdir=${prefix}/lib".to_owned(),
        _ => line.replace("-L/usr/lib", "-L${libdir}"),
    };
    text.lines().map(|l| line(l) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pkg_config_files_name_no_fixed_place() {
        let text = "prefix=/usr\nexec_prefix=${prefix}\nlibdir=/usr/lib\n\nLibs: -ltss2-tctildr -L/usr/lib\n";
        let moved = movable(text);
        assert!(!moved.contains("/usr"), "{moved}");
        assert!(moved.contains("Libs: -ltss2-tctildr -L${libdir}\n"), "{moved}");
    }
}
