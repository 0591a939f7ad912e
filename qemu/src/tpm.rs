//! A TPM 2.0 in software, made for one machine.
//!
//! `swtpm_setup` manufactures the state: endorsement keys from fresh randomness, their certificates in NV memory (RSA 2048
//! at 0x01c00002, P-384 at 0x01c00016), the SHA-256 bank. `swtpm` then serves it to QEMU. The state is in the machine's own
//! directory and goes with it, so no two machines ever have the same TPM.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::child::{ChildError, Process, run};
use crate::custody::Custody;
use crate::tools::Tools;

/// `swtpm_setup` takes about a second; the bound leaves room for an overloaded host and for waiting on other machines'
/// turns at the certificate authority.
const MANUFACTURE_MAX: Duration = Duration::from_secs(60);
/// `swtpm` makes its socket within milliseconds.
const SOCKET_MAX: Duration = Duration::from_secs(10);
const SOCKET_PAUSE: Duration = Duration::from_millis(5);
/// Certificates are about 1 KiB. More than a few means that the directory is not what it should be.
const CERTIFICATES_MAX: usize = 8;

/// What the certificates say the platform is. Source: `swtpm_cert(8)`.
const CERTIFICATE_OPTIONS: &str =
    "--platform-manufacturer Kiln\n--platform-version 1\n--platform-model disposable-machine\n";

/// Why a machine has no TPM.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// A file could not be written or read.
    #[error("cannot write or read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// `swtpm_setup` or `swtpm` did not do its work.
    #[error(transparent)]
    Program(#[from] ChildError),
    /// `swtpm_setup` succeeded but left no certificate of an endorsement key.
    #[error("swtpm_setup left no certificate of an endorsement key")]
    NoCertificate,
    /// `swtpm` made no socket.
    #[error("swtpm made no control socket within {} s", SOCKET_MAX.as_secs())]
    NoSocket,
}

/// Manufactures a TPM state in `custody`, certified by the authority in `ca`; returns the DER certificates of its
/// endorsement keys.
pub(crate) async fn manufacture(ca: &Path, custody: &Custody, tools: &Tools) -> Result<Vec<Vec<u8>>, TpmError> {
    let at = |name: &str| custody.path().join(name);
    let (state, certificates) = (at("tpm-state"), at("tpm-certificates"));
    for directory in [&state, &certificates] {
        std::fs::create_dir(directory).map_err(|source| TpmError::File { path: directory.clone(), source })?;
    }
    let (setup, authority, options) = (at("swtpm_setup.conf"), at("swtpm-localca.conf"), at("swtpm-localca.options"));
    // Source: swtpm_setup.conf(5), swtpm-localca.conf(5).
    write(
        &setup,
        &format!(
            "create_certs_tool={}\ncreate_certs_tool_config={}\ncreate_certs_tool_options={}\n",
            tools.swtpm_localca.display(),
            authority.display(),
            options.display()
        ),
    )?;
    let ca = ca.display();
    write(
        &authority,
        &format!(
            "statedir = {ca}\nsigningkey = {ca}/{SIGNING_KEY}\nissuercert = {ca}/{ISSUER_CERTIFICATE}\ncertserial = \
             {ca}/{NEXT_SERIAL}\n"
        ),
    )?;
    write(&options, CERTIFICATE_OPTIONS)?;
    let mut command = custody.command(&tools.swtpm_setup);
    command
        .args(["--tpm2", "--create-ek-cert", "--lock-nvram", "--pcr-banks", "sha256", "--tpmstate"])
        .arg(format!("dir://{}", state.display()))
        .arg("--config")
        .arg(&setup)
        .arg("--write-ek-cert-files")
        .arg(&certificates);
    run("swtpm_setup", &mut command, MANUFACTURE_MAX).await?;
    let certificates = read_all(&certificates)?;
    if certificates.is_empty() { Err(TpmError::NoCertificate) } else { Ok(certificates) }
}

/// File names in the authority's directory; the last is `swtpm_localca`'s own choice.
pub(crate) const SIGNING_KEY: &str = "signkey.pem";
pub(crate) const ISSUER_CERTIFICATE: &str = "issuercert.pem";
pub(crate) const NEXT_SERIAL: &str = "certserial";
pub(crate) const ROOT_CERTIFICATE: &str = "swtpm-localca-rootca-cert.pem";

/// Starts the manufactured TPM; returns when it takes connections at `socket`.
pub(crate) async fn power(socket: &Path, custody: &Custody, tools: &Tools) -> Result<Process, TpmError> {
    let mut command = custody.command(&tools.swtpm);
    command
        .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
        .arg(format!("dir={}", custody.path().join("tpm-state").display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={},mode=0600", socket.display()));
    let mut swtpm = Process::spawn("swtpm", &mut command)?;
    let begun = Instant::now();
    while !socket.exists() {
        if let Ok(ended) = tokio::time::timeout(SOCKET_PAUSE, swtpm.wait()).await {
            return Err(ChildError::Failed { program: "swtpm", status: ended?, said: swtpm.said().await }.into());
        }
        if begun.elapsed() > SOCKET_MAX {
            swtpm.end().await?;
            return Err(TpmError::NoSocket);
        }
    }
    Ok(swtpm)
}

fn write(path: &Path, text: &str) -> Result<(), TpmError> {
    std::fs::write(path, text).map_err(|source| TpmError::File { path: path.to_owned(), source })
}

fn read_all(directory: &Path) -> Result<Vec<Vec<u8>>, TpmError> {
    let failed = |source| TpmError::File { path: directory.to_owned(), source };
    let entries = std::fs::read_dir(directory).map_err(failed)?.take(CERTIFICATES_MAX);
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).map_err(failed)).collect()
}
