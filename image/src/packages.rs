//! Programs and libraries of the host that making and running an image needs.
//!
//! As root they are installed without a question. Another user gets the one command to run, and why; nothing is ever installed
//! behind anyone's back. Deliberately absent: versions. What matters for the result enters the keys of the cache.

use std::collections::BTreeSet;

use crate::command::{CommandError, Tool};
use crate::progress::{Progress, phase};

/// A package of the host, and what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPackage {
    /// Its name in Debian 12.
    pub name: &'static str,
    /// Why it is needed.
    pub reason: &'static str,
}

/// Everything that making an image and running it needs beyond a base system with Rust and git.
pub const HOST_PACKAGES: [HostPackage; 37] = [
    of("debian-archive-keyring", "the keys that packages are checked with"),
    of("gcc", "compiles the kernel and the TPM library"),
    of("libc6-dev", "compiles the kernel's tools; links the appliance statically"),
    of("make", "builds the kernel and the TPM library"),
    of("bc", "builds the kernel"),
    of("bison", "builds the kernel"),
    of("flex", "builds the kernel"),
    of("libelf-dev", "builds the kernel"),
    of("xz-utils", "unpacks the kernel's source"),
    of("zstd", "compresses kernel and initrd"),
    of("autoconf", "builds the TPM library"),
    of("automake", "builds the TPM library"),
    of("autoconf-archive", "builds the TPM library"),
    of("libtool", "builds the TPM library"),
    of("libltdl-dev", "builds the TPM library"),
    of("libmbedtls-dev", "the TPM library's cryptography"),
    of("pkg-config", "finds the TPM library"),
    of("python3", "runs mkosi and ukify"),
    of("python3-pefile", "ukify reads PE files"),
    of("bubblewrap", "mkosi runs programs in it"),
    of("uidmap", "mkosi maps users where it is not run by root"),
    of("cpio", "packs the initrd"),
    of("fdisk", "partitions the boot disk"),
    of("dosfstools", "formats the boot disk"),
    of("mtools", "fills the boot disk"),
    of("erofs-utils", "packs toolchain images"),
    of("cryptsetup-bin", "makes the hash trees of toolchain images"),
    of("qemu-system-x86", "runs the machine"),
    of("ovmf", "the machine's firmware"),
    of("swtpm", "the machine's TPM"),
    of("swtpm-tools", "makes the machine's TPM"),
    of("gnutls-bin", "certifies the machine's TPM"),
    of("tpm2-tools", "checks a quote by hand, and in tests"),
    of("openssl", "makes the keys of Secure Boot and signs with them; checks certificates by hand, and in tests"),
    of("sbsigntool", "signs the image for Secure Boot"),
    of("binutils", "links; looks at programs"),
    of("util-linux", "ends programs together with the tool"),
];

/// What the tests need beyond [`HOST_PACKAGES`]: they use other people's clients, and a TPM of their own.
pub const TEST_PACKAGES: [HostPackage; 6] = [
    of("chromium-headless-shell", "reads the pages of `kiln audit` as a person's browser does"),
    of("efitools", "another program that signs updates of firmware's variables; programs for firmware"),
    of("faketime", "another clock, for the test that the image does not depend on it"),
    of("jq", "the lines that the README gives for verifying by hand"),
    of("libtss2-dev", "the TPM library as the host has it, for tests against a software TPM"),
    of("libtss2-tcti-swtpm0", "reaches a software TPM without a kernel"),
];

const fn of(name: &'static str, reason: &'static str) -> HostPackage {
    HostPackage { name, reason }
}

/// The host cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum PackagesError {
    /// A package program failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Packages are missing and we may not install them.
    #[error("this needs packages that are not installed ({}); only root can install them, so run:\n  {command}", reasons.join("; "))]
    Missing {
        /// Each package with what it is for.
        reasons: Vec<String>,
        /// The one command that installs them.
        command: String,
    },
}

/// Those of the packages that are not installed.
///
/// # Errors
/// [`PackagesError::Command`] if dpkg cannot be asked, as on a system that is not Debian's.
pub fn missing(progress: &dyn Progress, packages: &[HostPackage]) -> Result<Vec<HostPackage>, PackagesError> {
    let said = Tool::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .output(progress)?;
    let installed: BTreeSet<&str> = said.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(packages.iter().filter(|package| !installed.contains(package.name)).copied().collect())
}

/// Makes sure that every package is there: installs what is missing if we are root, without a question.
///
/// # Errors
/// [`PackagesError::Missing`] if something is missing and we are not root; [`PackagesError::Command`] if apt fails.
pub fn ensure(progress: &dyn Progress, packages: &[HostPackage], is_root: bool) -> Result<(), PackagesError> {
    phase(progress, "host packages", || {
        let missing = missing(progress, packages)?;
        if missing.is_empty() {
            return Ok(((), true));
        }
        let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
        if !is_root {
            let reasons = missing.iter().map(|package| format!("{}: {}", package.name, package.reason)).collect();
            let command = format!("sudo apt-get install --no-install-recommends {}", names.join(" "));
            return Err(PackagesError::Missing { reasons, command });
        }
        let apt = || {
            Tool::new("apt-get").args(["-q", "-o", "DPkg::Lock::Timeout=600"]).env("DEBIAN_FRONTEND", "noninteractive")
        };
        apt().arg("update").run(progress)?;
        apt().args(["install", "-y", "--no-install-recommends"]).args(&names).run(progress)?;
        Ok(((), false))
    })
}

/// The versions of installed packages, for the keys of what they make.
pub(crate) fn versions(progress: &dyn Progress, names: &[&str]) -> Result<String, CommandError> {
    Tool::new("dpkg-query").args(["--show", "--showformat", "${Package} ${Version}\n"]).args(names).output(progress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn each_package_is_named_once_and_has_a_reason() {
        let all: Vec<HostPackage> = [&HOST_PACKAGES[..], &TEST_PACKAGES].concat();
        let names: BTreeSet<&str> = all.iter().map(|package| package.name).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|package| !package.reason.is_empty()));
    }

    #[test]
    fn says_what_is_missing_only_if_it_is() {
        let names: Vec<&str> = missing(&Silent, &HOST_PACKAGES).unwrap().iter().map(|package| package.name).collect();
        assert!(!names.contains(&"gcc"), "the test was linked with it: {names:?}");
    }
}
