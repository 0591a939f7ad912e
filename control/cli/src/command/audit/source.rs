//! What a path stands for, and what is read of it: evidence of ours, a log, a machine's directory, a directory of boots, this
//! machine.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kiln_formats::audit::{BOOTS_MAX, Finding, Severity, Subject};
use kiln_formats::boot::Boot;
use kiln_formats::cel::{self, CelLog};
use kiln_formats::eventlog::EventLog;
use kiln_formats::manifest::path as in_bundle;
use kiln_formats::pcr::{Bank, BankDigest, PcrIndex, PcrValues};
use rustix::fs::{FlockOperation, flock};

use super::problem::Problem;
use crate::document;
use crate::exit::{self, Exit, OrExit as _, Result};

/// What the kernel calls the firmware's log. Source: Linux `drivers/char/tpm/eventlog/common.c`.
const FIRMWARE_LOG: &str = "binary_bios_measurements";
/// What systemd calls the running system's log. Source: systemd `docs/TPM2_PCR_MEASUREMENTS.md`.
const RUNTIME_LOG: &str = "tpm2-measure.log";
/// Set while systemd extends; left behind, the log lacks what was extended. Source: systemd `src/shared/tpm2-util.c`.
const STICKY: u32 = 0o1000;
/// The largest text of one register in sysfs.
const REGISTER_BYTES_MAX: usize = 256;
/// The largest small document of the evidence: configuration, certificate, quote.
const DOCUMENT_BYTES_MAX: usize = 64 << 10;

/// What a path stands for.
#[derive(Debug)]
pub(super) enum Source {
    /// One boot.
    Boot(PathBuf),
    /// A directory of boots.
    Many(Vec<PathBuf>),
}

/// What was read of one boot.
#[derive(Debug)]
pub(super) struct Taken {
    /// What was read.
    pub(super) subject: Subject,
    firmware: Option<(PathBuf, Vec<u8>)>,
    runtime: Option<(PathBuf, Vec<u8>)>,
    /// The registers, where the machine's directory has them.
    pub(super) values: Option<PcrValues>,
    /// The quote that evidence of ours ends with.
    pub(super) evidence: Option<EvidenceQuote>,
    /// The kind of start that evidence of ours claims.
    pub(super) builder_id: Option<String>,
    /// What is wrong with the files themselves.
    pub(super) findings: Vec<Finding>,
}

/// The last quote of a bundle, its signature, and the certificate of its key.
#[derive(Debug)]
pub(super) struct EvidenceQuote {
    pub(super) attest: Vec<u8>,
    pub(super) signature: Vec<u8>,
    pub(super) certificate: Vec<u8>,
}

impl Source {
    /// Looks at what is there.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let failed = |source| exit::Problem::Io { action: "read", path: path.to_owned(), source };
        let kind = fs::metadata(path).map_err(failed).or_exit(Exit::Usage)?;
        if !kind.is_dir() {
            return Ok(Self::Boot(path.to_owned()));
        }
        if is_boot(path) {
            return Ok(Self::Boot(path.to_owned()));
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(failed).or_exit(Exit::Usage)? {
            entries.push(entry.map_err(failed).or_exit(Exit::Usage)?.path());
            if entries.len() > BOOTS_MAX {
                return Err(Problem::TooMany { path: path.to_owned() }).or_exit(Exit::Usage);
            }
        }
        if entries.is_empty() {
            return Err(Problem::NoBoot { path: path.to_owned() }).or_exit(Exit::Usage);
        }
        entries.sort_unstable();
        Ok(Self::Many(entries))
    }

    /// The boots that it stands for.
    pub(super) fn boots(self) -> Vec<PathBuf> {
        match self {
            Self::Boot(path) => vec![path],
            Self::Many(paths) => paths,
        }
    }
}

/// Whether a directory is one boot: evidence of ours, or the logs of a machine.
fn is_boot(path: &Path) -> bool {
    let has = |name: &str| path.join(name).is_file();
    has(in_bundle::RUNTIME_LOG) || has(FIRMWARE_LOG) || has(RUNTIME_LOG)
}

/// Reads one boot of many: in a directory there may be pipes and devices, which nobody named.
pub(super) fn take_plain(path: &Path) -> Result<Taken> {
    if path.is_file() || path.is_dir() {
        take(path, None)
    } else {
        Err(Problem::Kind { path: path.to_owned() }).or_exit(Exit::Usage)
    }
}

/// Reads one boot.
pub(super) fn take(path: &Path, runtime: Option<&Path>) -> Result<Taken> {
    let mut taken = Taken::new(path);
    if path.join(in_bundle::RUNTIME_LOG).is_file() {
        taken.take_evidence(path)?;
    } else if is_boot(path) {
        taken.take_machine(path)?;
    } else if path.is_dir() {
        return Err(Problem::NoBoot { path: path.to_owned() }).or_exit(Exit::Usage);
    } else {
        let bytes = document::read(path, cel::LOG_BYTES_MAX)?;
        if is_json(&bytes) { taken.add_runtime(path, bytes) } else { taken.add_firmware(path, bytes) }
    }
    if let Some(path) = runtime {
        if let Some((path, _)) = taken.runtime {
            return Err(Problem::TwoRuntimeLogs { path }).or_exit(Exit::Usage);
        }
        taken.take_runtime(path)?;
    }
    Ok(taken)
}

/// Reads the logs and registers of the machine whose file systems lie below `root`. While the running system's log is read nobody
/// extends: the lock on it is systemd's own.
pub(super) fn live(root: &Path) -> Result<Taken> {
    let mut taken = Taken::new(Path::new("this machine"));
    let runtime = root.join("run/log/systemd").join(RUNTIME_LOG);
    let lock = File::open(&runtime).ok();
    if let Some(log) = &lock {
        flock(log, FlockOperation::LockShared).or_exit(Exit::Infrastructure)?;
    }
    let log = root.join("sys/kernel/security/tpm0").join(FIRMWARE_LOG);
    let measured = root.join("sys/firmware/acpi/tables/data/CCEL");
    if let Some(log) = [log, measured].into_iter().find(|path| path.exists()) {
        let bytes = document::read(&log, cel::LOG_BYTES_MAX)?;
        taken.add_firmware(&log, bytes);
    }
    if lock.is_some() {
        taken.take_runtime(&runtime)?;
    }
    let registers = root.join("sys/class/tpm/tpm0");
    taken.values = read_registers(&registers, &mut taken.subject)?;
    if taken.values.is_none() && taken.firmware.is_none() {
        return Err(Problem::NoTpm { path: registers }).or_exit(Exit::Infrastructure);
    }
    if taken.firmware.is_none() {
        let words = "the firmware's log cannot be read (it needs root and securityfs), or this machine has none";
        taken.findings.push(Finding::new(Severity::Warning, "firmware_log_missing", words));
    }
    Ok(taken)
}

/// A log in JSON starts with a record or an array; the firmware's starts with a register's number.
fn is_json(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii_start().first(), Some(0x1e | b'[' | b'{'))
}

impl Taken {
    fn new(path: &Path) -> Self {
        let subject = Subject::new(&path.display().to_string());
        let (firmware, runtime, values, evidence, builder_id) = (None, None, None, None, None);
        Self { subject, firmware, runtime, values, evidence, builder_id, findings: Vec::new() }
    }

    fn add_firmware(&mut self, path: &Path, bytes: Vec<u8>) {
        self.subject.read("firmware log", &path.display().to_string(), &bytes);
        self.firmware = Some((path.to_owned(), bytes));
    }

    fn add_runtime(&mut self, path: &Path, bytes: Vec<u8>) {
        self.subject.read("runtime log", &path.display().to_string(), &bytes);
        self.runtime = Some((path.to_owned(), bytes));
    }

    fn take_runtime(&mut self, path: &Path) -> Result<()> {
        let bytes = document::read(path, cel::LOG_BYTES_MAX)?;
        if fs::metadata(path).is_ok_and(|found| found.permissions().mode() & STICKY != 0) {
            let words =
                "the runtime log was left in the middle of an extend: the TPM may hold what the log does not say";
            self.findings.push(Finding::new(Severity::Failure, "runtime_log_torn", words));
        }
        self.add_runtime(path, bytes);
        Ok(())
    }

    fn take_evidence(&mut self, out: &Path) -> Result<()> {
        let firmware = out.join(in_bundle::FIRMWARE_LOG);
        if firmware.exists() {
            let bytes = document::read(&firmware, cel::LOG_BYTES_MAX)?;
            self.add_firmware(&firmware, bytes);
        }
        self.take_runtime(&out.join(in_bundle::RUNTIME_LOG))?;
        let mut read = |what, name: &str| -> Result<Vec<u8>> {
            let path = out.join(name);
            let bytes = document::read(&path, DOCUMENT_BYTES_MAX)?;
            self.subject.read(what, &path.display().to_string(), &bytes);
            Ok(bytes)
        };
        let evidence = EvidenceQuote {
            attest: read("quote", in_bundle::LAST_QUOTE)?,
            signature: read("signature", in_bundle::LAST_SIGNATURE)?,
            certificate: read("certificate of the quote's key", in_bundle::ATTESTATION_KEY)?,
        };
        let configuration = read("configuration", in_bundle::CONFIGURATION)?;
        let claimed = serde_json::from_slice::<serde_json::Value>(&configuration).ok();
        self.builder_id = claimed.and_then(|it| Some(it.get("builder_id")?.as_str()?.to_owned()));
        self.evidence = Some(evidence);
        Ok(())
    }

    fn take_machine(&mut self, directory: &Path) -> Result<()> {
        let (firmware, runtime) = (directory.join(FIRMWARE_LOG), directory.join(RUNTIME_LOG));
        if firmware.is_file() {
            let bytes = document::read(&firmware, cel::LOG_BYTES_MAX)?;
            self.add_firmware(&firmware, bytes);
        }
        if runtime.is_file() {
            self.take_runtime(&runtime)?;
        }
        self.values = read_registers(directory, &mut self.subject)?;
        Ok(())
    }

    /// How many bytes were read.
    pub(super) fn bytes(&self) -> usize {
        self.subject.inputs.iter().fold(0, |sum, input| sum.saturating_add(input.bytes))
    }

    /// Whether there is a log of the firmware.
    pub(super) fn has_firmware_log(&self) -> bool {
        self.firmware.is_some()
    }

    /// The logs, read.
    pub(super) fn boot(&self) -> Result<Boot<'_>> {
        let firmware = self.firmware.as_ref().map(|(path, bytes)| {
            if bytes.is_empty() {
                return Err(Problem::Empty { path: path.clone() });
            }
            EventLog::parse(bytes).map_err(|source| Problem::Firmware { path: path.clone(), source })
        });
        let runtime = self.runtime.as_ref().map(|(path, bytes)| {
            let log = CelLog::parse(bytes).map_err(|source| Problem::Runtime { path: path.clone(), source })?;
            if log.record_count() == 0 { Err(Problem::NoRecord { path: path.clone() }) } else { Ok(log) }
        });
        let (firmware, runtime) = (firmware.transpose(), runtime.transpose());
        Ok(Boot { firmware: firmware.or_exit(Exit::Usage)?, runtime: runtime.or_exit(Exit::Usage)? })
    }
}

/// The registers of a directory as sysfs has them (`pcr-sha256/0`), or in a file `pcrs`; `None` if there is neither.
///
/// Source: Linux `Documentation/ABI/stable/sysfs-class-tpm`.
pub(super) fn read_registers(directory: &Path, subject: &mut Subject) -> Result<Option<PcrValues>> {
    let mut values = PcrValues::new();
    for (bank, index) in Bank::ALL.into_iter().flat_map(|bank| PcrIndex::all().map(move |index| (bank, index))) {
        let path = directory.join(format!("pcr-{bank}")).join(index.get().to_string());
        if !path.is_file() {
            continue;
        }
        let text = String::from_utf8(document::read(&path, REGISTER_BYTES_MAX)?).unwrap_or_default();
        let value = BankDigest::from_hex(bank, text.trim());
        let wrong = kiln_formats::pcr::ValuesError::Line { line: 1 };
        values.set(index, value.ok_or(Problem::Values { path, source: wrong }).or_exit(Exit::Usage)?);
    }
    let file = directory.join("pcrs");
    let is_found = values.iter().next().is_some();
    if !is_found && file.is_file() {
        return read_values(&file, subject).map(Some);
    }
    Ok(is_found.then_some(values))
}

/// The registers that a file holds.
pub(super) fn read_values(file: &Path, subject: &mut Subject) -> Result<PcrValues> {
    let bytes = document::read(file, kiln_formats::pcr::VALUES_BYTES_MAX)?;
    subject.read("register values", &file.display().to_string(), &bytes);
    let values = PcrValues::from_text(&bytes);
    values.map_err(|source| Problem::Values { path: file.to_owned(), source }).or_exit(Exit::Usage)
}
