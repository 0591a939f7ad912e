//! The programs and firmware files of the host that a machine is made of.
//!
//! Holding [`Tools`] tells you that each file was there when it was looked for. Nothing is installed here: the error names
//! the command that does, and the tool decides whether to run it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Where Debian's package `ovmf` puts its firmware. Source: Debian bookworm, `dpkg -L ovmf`.
const FIRMWARE_DIRECTORY: &str = "/usr/share/OVMF";

/// The programs and firmware files, each as an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// `swtpm`, the TPM emulator.
    pub swtpm: PathBuf,
    /// `swtpm_setup`, which manufactures a TPM state.
    pub swtpm_setup: PathBuf,
    /// `swtpm_localca`, which `swtpm_setup` calls to issue endorsement key certificates.
    pub swtpm_localca: PathBuf,
    /// `sh`, which runs the warden of `custody.rs`.
    pub sh: PathBuf,
    /// OVMF's code: UEFI with TPM 2.0 measurement, without Secure Boot enforcement.
    pub firmware_code: PathBuf,
    /// OVMF's code with Secure Boot, for machines with system management mode.
    pub secure_firmware_code: PathBuf,
    /// OVMF's empty variable store; each machine gets a copy.
    pub firmware_variables: PathBuf,
}

/// Files that a machine needs and the host does not have.
#[derive(Debug, thiserror::Error)]
#[error("not on this host: {}; to install: {}", missing.join(", "), MissingTools::INSTALL)]
pub struct MissingTools {
    /// Names of programs, or paths of firmware files.
    pub missing: Vec<String>,
}

impl MissingTools {
    /// The command that installs everything in [`Tools`] on Debian 12, to be run as root.
    pub const INSTALL: &str = "apt-get install -y --no-install-recommends qemu-system-x86 ovmf swtpm swtpm-tools";
}

impl Tools {
    /// Looks in the directories of `search`, a value such as the environment's `PATH`, and in OVMF's directory.
    ///
    /// # Errors
    /// All that is missing, at once.
    pub fn find(search: &OsStr) -> Result<Tools, MissingTools> {
        Self::find_in(search, Path::new(FIRMWARE_DIRECTORY))
    }

    fn find_in(search: &OsStr, firmware: &Path) -> Result<Tools, MissingTools> {
        let mut missing = Vec::new();
        let mut needed = |name: &str| {
            program(search, name).unwrap_or_else(|| {
                missing.push(name.to_owned());
                PathBuf::new()
            })
        };
        let (qemu, swtpm) = (needed("qemu-system-x86_64"), needed("swtpm"));
        let (swtpm_setup, swtpm_localca) = (needed("swtpm_setup"), needed("swtpm_localca"));
        let sh = needed("sh");
        let mut file = |name: &str| {
            let path = firmware.join(name);
            if !path.is_file() {
                missing.push(path.display().to_string());
            }
            path
        };
        let firmware_code = file("OVMF_CODE_4M.fd");
        let secure_firmware_code = file("OVMF_CODE_4M.secboot.fd");
        let firmware_variables = file("OVMF_VARS_4M.fd");
        if missing.is_empty() {
            Ok(Tools {
                qemu,
                swtpm,
                swtpm_setup,
                swtpm_localca,
                sh,
                firmware_code,
                secure_firmware_code,
                firmware_variables,
            })
        } else {
            Err(MissingTools { missing })
        }
    }
}

/// Where a program is, by the directories of `search`; a relative one is none of them.
pub(crate) fn program(search: &OsStr, name: &str) -> Option<PathBuf> {
    let mut places = std::env::split_paths(search).map(|directory| directory.join(name));
    places.find(|path| path.is_absolute() && path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_everything_that_is_missing_and_the_command() {
        let empty = tempfile::tempdir().unwrap();
        let error = Tools::find_in(empty.path().as_os_str(), empty.path()).unwrap_err();
        assert_eq!(error.missing.len(), 8);
        let words = error.to_string();
        assert!(words.contains("swtpm_localca") && words.contains("OVMF_VARS_4M.fd"), "{words}");
        assert!(words.contains("apt-get install"), "{words}");
    }

    #[test]
    fn a_relative_search_path_finds_nothing() {
        assert!(Tools::find_in(OsStr::new("bin:."), Path::new(FIRMWARE_DIRECTORY)).is_err());
    }
}
