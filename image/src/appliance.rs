//! The appliance's program: package `kiln-init`, on a server `kiln-wire`; one static executable.
//!
//! Its bytes depend on the sources, `Cargo.lock`, the Rust toolchain, the C library and the TPM library, not on where any of them
//! lies: every path that the compiler would write down is replaced. Source: rustc book, "Remap source paths".

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_formats::digest::Sha256Digest;

use crate::command::{CommandError, Tool};
use crate::files::{self, FileError};
use crate::flavour::Flavour;
use crate::progress::phase;
use crate::tss::Tss;
use crate::workshop::Workshop;

/// The platform: glibc, which links statically.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// A cold build takes two minutes on two idle cores.
const BUILD_TIMEOUT: Duration = Duration::from_secs(3600);
/// The variables that say where cargo, its toolchain and the network are; none of them changes the result.
const PLACES: [&str; 7] =
    ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "SSL_CERT_FILE", "SSL_CERT_DIR"];
/// The beginnings of more such variables: mirrors, proxies and credentials of a site.
const PLACE_PREFIXES: [&str; 4] = ["CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTRIES_", "CARGO_SOURCE_"];

/// The appliance's program could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ApplianceError {
    /// A file could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// cargo, or a program that looks at the result, failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// rustc did not say which commit it is.
    #[error("rustc -vV names no commit")]
    NoCommit,
    /// The program needs a dynamic loader, which the appliance does not have.
    #[error("{} is not statically linked", path.display())]
    NotStatic {
        /// The program.
        path: PathBuf,
    },
}

/// The appliance's program: static, without debugging symbols.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable, below the checkout's `target/`.
    pub path: PathBuf,
    /// Its digest.
    pub sha256: Sha256Digest,
    /// Its size.
    pub bytes: u64,
}

/// Builds a flavour's program; cargo knows what has changed.
///
/// # Errors
/// [`ApplianceError`] by cause.
pub fn build(shop: &Workshop<'_>, flavour: Flavour, tss: &Tss) -> Result<Program, ApplianceError> {
    phase(shop.progress, "appliance program", || make(shop, flavour, tss).map(|program| (program, false)))
}

fn make(shop: &Workshop<'_>, flavour: Flavour, tss: &Tss) -> Result<Program, ApplianceError> {
    let package = flavour.package();
    let target = shop.checkout.path("target/appliance");
    let cargo = cargo("cargo", shop).args(["build", "--locked", "--package", package, "--profile", "appliance"]);
    let cargo = cargo.args(["--target", TARGET]).env("CARGO_TARGET_DIR", &target).env("CARGO_INCREMENTAL", "0");
    let cargo = cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(shop, tss)?).env("CARGO_TERM_COLOR", "never");
    let cargo = tss.environment().into_iter().fold(cargo, |cargo, (name, value)| cargo.env(name, value));
    cargo.within(BUILD_TIMEOUT).run(shop.progress)?;
    let path = target.join(TARGET).join("appliance").join(package);
    let headers = Tool::new("readelf").arg("--program-headers").arg("--wide").arg(&path).output(shop.progress)?;
    if headers.contains("INTERP") {
        return Err(ApplianceError::NotStatic { path });
    }
    let (sha256, bytes) = files::digest(&path)?;
    Ok(Program { path, sha256, bytes })
}

/// A program of the Rust toolchain, in the checkout, with nothing but places in its environment.
fn cargo(program: &str, shop: &Workshop<'_>) -> Tool {
    let place =
        |name: &str| PLACES.contains(&name) || PLACE_PREFIXES.into_iter().any(|prefix| name.starts_with(prefix));
    Tool::new(program).dir(shop.checkout.root()).inherit(place)
}

/// What the compiler says of itself: version, commit, platform.
pub(crate) fn compiler(shop: &Workshop<'_>) -> Result<String, CommandError> {
    cargo("rustc", shop).arg("-vV").output(shop.progress)
}

/// The compiler's flags: static, without a build id, and with every path replaced.
fn flags(shop: &Workshop<'_>, tss: &Tss) -> Result<OsString, ApplianceError> {
    let version = compiler(shop)?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: ")).ok_or(ApplianceError::NoCommit)?;
    let sysroot = cargo("rustc", shop).args(["--print", "sysroot"]).output(shop.progress)?;
    let std_source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    let homes =
        [std::env::var_os("CARGO_HOME").map(PathBuf::from), std::env::home_dir().map(|home| home.join(".cargo"))];
    let cargo_home = homes.into_iter().flatten().next().unwrap_or_default();

    let mut flags: Vec<OsString> =
        ["-Ctarget-feature=+crt-static", "-Clink-arg=-Wl,--build-id=none"].map(OsString::from).into();
    let checkout = shop.checkout.root();
    let std_name = format!("/rustc/{commit}");
    let replaced: [(&Path, &str); 4] =
        [(checkout, "/kiln"), (&cargo_home, "/cargo"), (&tss.prefix, "/tss"), (&std_source, &std_name)];
    for (path, name) in replaced {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(path);
        flag.push("=");
        flag.push(name);
        flags.push(flag);
    }
    Ok(flags.join(std::ffi::OsStr::new("\u{1f}")))
}
