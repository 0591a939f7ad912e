//! The TPM of this host itself, by tpm2-tools: makes the key that quotes, once, and quotes with it.
//!
//! The key stays in the TPM at [`HANDLE`]. Which tool does what is one line each; what they say is bounded and told with an error. Not
//! known here: what a quote is good for, and whether the key is what it should be. Whoever reads the bytes finds that out.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::child::{ChildError, run};
use crate::tools::program;

/// Where the TPM keeps the key that quotes. Source: TCG registry of reserved TPM 2.0 handles, section 2.3.1: the owner's range.
const HANDLE: &str = "0x81010b17";
/// Where a TPM keeps the certificates of its endorsement keys. Source: TCG EK Credential Profile, version 2.5, section 2.2.1.4.
const CERTIFICATES: [(&str, &str); 2] = [("rsa", "0x01c00002"), ("ecc", "0x01c0000a")];
/// The longest that one tool may take: a TPM makes an RSA key in some 10 s, and in a minute at worst.
const TOOL_MAX: Duration = Duration::from_secs(120);
/// The largest file that a tool leaves: certificates have about 1 KiB.
const FILE_BYTES_MAX: u64 = 16 << 10;
/// What stands before a credential in a file of tpm2-tools: a magic number and a version. Source: tpm2-tools 5.4, `lib/files.c`.
const CREDENTIAL_HEAD: [u8; 8] = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];

/// A TPM of this host, by the name that the TSS has for it (TCTI), such as `device:/dev/tpmrm0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTpm {
    tcti: String,
    search: OsString,
}

/// What a host's TPM says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKeys {
    /// The certificate of the endorsement key, as NV memory has it; `None` if the TPM keeps none.
    pub certificate: Option<Vec<u8>>,
    /// The endorsement key (`TPMT_PUBLIC`).
    pub endorsement_key: Vec<u8>,
    /// The key that is to quote (`TPMT_PUBLIC`).
    pub attestation_key: Vec<u8>,
}

/// Keys that were made and are not kept yet: gone when it is dropped.
#[derive(Debug)]
pub struct NewKeys {
    tools: Tools,
    keys: HostKeys,
}

/// Why the host's TPM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum HostTpmError {
    /// A file of a tool could not be written or read.
    #[error("cannot write or read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A tool is not on this host.
    #[error("not on this host: {tool}; to install: apt-get install -y --no-install-recommends tpm2-tools")]
    NoTool {
        /// The tool.
        tool: &'static str,
    },
    /// A tool did not do its work.
    #[error(transparent)]
    Tool(#[from] ChildError),
    /// A tool left something else than it says.
    #[error("{tool} left no {what}")]
    Left {
        /// The tool.
        tool: &'static str,
        /// What it should have left.
        what: &'static str,
    },
    /// Another key is where the new one should be.
    #[error(
        "the TPM keeps a key at {HANDLE} already; --replace takes it away, and whoever quotes with it cannot any more"
    )]
    Taken,
}

impl HostTpm {
    /// A TPM; its tools are looked for in the directories of `search`, a value such as the environment's `PATH`.
    #[must_use]
    pub fn new(tcti: &str, search: OsString) -> Self {
        Self { tcti: tcti.to_owned(), search }
    }

    /// Makes the endorsement key and a new attestation key below it. Nothing of it stays but by [`NewKeys::keep`].
    ///
    /// # Errors
    /// [`HostTpmError`].
    pub async fn make_keys(&self) -> Result<NewKeys, HostTpmError> {
        let tools = self.tools()?;
        let (mut algorithm, mut certificate) = ("rsa", None);
        for (of, index) in CERTIFICATES {
            if tools.run("tpm2_nvread", &[index, "-o", "certificate"]).await.is_ok() {
                (algorithm, certificate) = (of, Some(tools.read("certificate")?));
                break;
            }
        }
        tools.run("tpm2_createek", &["-c", "ek.ctx", "-G", algorithm, "-u", "ek.pub"]).await?;
        let scheme = ["-C", "ek.ctx", "-c", "ak.ctx", "-G", "ecc", "-g", "sha256", "-s", "ecdsa", "-u", "ak.pub"];
        tools.run("tpm2_createak", &scheme).await?;
        let endorsement_key = tools.public("tpm2_createek", "ek.pub")?;
        let attestation_key = tools.public("tpm2_createak", "ak.pub")?;
        Ok(NewKeys { tools, keys: HostKeys { certificate, endorsement_key, attestation_key } })
    }

    /// The key that quotes (`TPMT_PUBLIC`).
    ///
    /// # Errors
    /// [`HostTpmError`], also if the TPM keeps none.
    pub async fn attestation_key(&self) -> Result<Vec<u8>, HostTpmError> {
        let tools = self.tools()?;
        tools.run("tpm2_readpublic", &["-c", HANDLE, "-o", "ak.pub"]).await?;
        tools.public("tpm2_readpublic", "ak.pub")
    }

    /// The values of these registers, SHA-256, in this order.
    ///
    /// # Errors
    /// [`HostTpmError`].
    pub async fn read(&self, registers: &[u8]) -> Result<Vec<[u8; 32]>, HostTpmError> {
        let tools = self.tools()?;
        let mut values = Vec::with_capacity(registers.len());
        for register in registers {
            tools.run("tpm2_pcrread", &[&selection(&[*register]), "-o", "values"]).await?;
            let left = HostTpmError::Left { tool: "tpm2_pcrread", what: "value of 32 bytes: is there a SHA-256 bank?" };
            values.push(tools.read("values")?.try_into().map_err(|_| left)?);
        }
        Ok(values)
    }

    /// Quotes these registers, SHA-256, over `qualifying`: the quote (TPMS_ATTEST) and its signature (TPMT_SIGNATURE).
    ///
    /// # Errors
    /// [`HostTpmError`].
    pub async fn quote(&self, registers: &[u8], qualifying: &[u8]) -> Result<(Vec<u8>, Vec<u8>), HostTpmError> {
        let tools = self.tools()?;
        let qualifying: String = qualifying.iter().map(|byte| format!("{byte:02x}")).collect();
        let what = ["-c", HANDLE, "-l", &selection(registers), "-q", &qualifying, "-m", "quote", "-s", "signature"];
        tools.run("tpm2_quote", &what).await?;
        Ok((tools.read("quote")?, tools.read("signature")?))
    }

    fn tools(&self) -> Result<Tools, HostTpmError> {
        let directory =
            tempfile::tempdir().map_err(|source| HostTpmError::File { path: std::env::temp_dir(), source })?;
        Ok(Tools { tpm: self.clone(), directory })
    }
}

impl NewKeys {
    /// What they are.
    #[must_use]
    pub fn keys(&self) -> &HostKeys {
        &self.keys
    }

    /// What is in a credential, if it is for these keys.
    ///
    /// # Errors
    /// [`HostTpmError`], also for a credential that this TPM does not open.
    pub async fn open(&self, id_object: &[u8], encrypted_secret: &[u8]) -> Result<Vec<u8>, HostTpmError> {
        let tools = &self.tools;
        tools.write("credential", &[&CREDENTIAL_HEAD, id_object, encrypted_secret].concat())?;
        tools.run("tpm2_startauthsession", &["--policy-session", "-S", "session"]).await?;
        tools.run("tpm2_policysecret", &["-S", "session", "-c", "e"]).await?;
        let keys = ["-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential", "-o", "secret", "-P", "session:session"];
        let opened = tools.run("tpm2_activatecredential", &keys).await;
        tools.run("tpm2_flushcontext", &["session"]).await?;
        opened?;
        tools.read("secret")
    }

    /// Keeps the attestation key in the TPM, in place of the one that is there if `replace` says so.
    ///
    /// # Errors
    /// [`HostTpmError::Taken`], and others.
    pub async fn keep(self, replace: bool) -> Result<(), HostTpmError> {
        let taken = self.tools.run("tpm2_readpublic", &["-c", HANDLE, "-o", "taken"]).await.is_ok();
        match (taken, replace) {
            (false, _) => {}
            (true, false) => return Err(HostTpmError::Taken),
            (true, true) => self.tools.run("tpm2_evictcontrol", &["-C", "o", "-c", HANDLE]).await?,
        }
        self.tools.run("tpm2_evictcontrol", &["-C", "o", "-c", "ak.ctx", HANDLE]).await
    }
}

/// `sha256:0,1,…`.
fn selection(registers: &[u8]) -> String {
    let registers: Vec<_> = registers.iter().map(u8::to_string).collect();
    format!("sha256:{}", registers.join(","))
}

/// The tools, and the directory in which they leave their files.
#[derive(Debug)]
struct Tools {
    tpm: HostTpm,
    directory: TempDir,
}

impl Tools {
    /// Runs a tool; what it loaded into the TPM is flushed, which a TPM without a resource manager does not do by itself.
    async fn run(&self, tool: &'static str, arguments: &[&str]) -> Result<(), HostTpmError> {
        self.tool(tool, arguments).await?;
        self.tool("tpm2_flushcontext", &["-t"]).await
    }

    async fn tool(&self, tool: &'static str, arguments: &[&str]) -> Result<(), HostTpmError> {
        let program = program(&self.tpm.search, tool).ok_or(HostTpmError::NoTool { tool })?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", &self.tpm.search)
            .env("LC_ALL", "C")
            .env("TPM2TOOLS_TCTI", &self.tpm.tcti)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(run(tool, &mut command, TOOL_MAX).await?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), HostTpmError> {
        let path = self.path(name);
        fs::write(&path, bytes).map_err(|source| HostTpmError::File { path, source })
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, HostTpmError> {
        let path = self.path(name);
        read(&path).map_err(|source| HostTpmError::File { path, source })
    }

    /// A public area behind its length (TPM2B_PUBLIC), without it.
    fn public(&self, tool: &'static str, name: &str) -> Result<Vec<u8>, HostTpmError> {
        let bytes = self.read(name)?;
        let area =
            bytes.split_first_chunk().filter(|(length, area)| usize::from(u16::from_be_bytes(**length)) == area.len());
        area.map(|(_, area)| area.to_vec()).ok_or(HostTpmError::Left { tool, what: "public area" })
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
