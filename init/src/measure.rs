//! The measured boot from here on: PCR 15, the log that explains it, and quotes of both.
//!
//! [`Anchor::open`] proves that nobody wrote to our register before us; [`Ledger`] keeps register and log in step. A log entry is
//! appended only after the TPM has taken its digests, so the log never claims more than the register; an entry that the TPM did
//! not take ends the machine. Deliberately absent: the firmware's part, which [`firmware_log`] only hands on.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use kiln_formats::digest::{Digester, Sha256Digest};
use kiln_formats::enrolment::{Credential, Enrolment, SECRET_BYTES};
use kiln_formats::event::Event;
use kiln_formats::link::Blob;
use kiln_formats::link::FIRMWARE_LOG_BYTES_MAX;
use kiln_formats::pcr::{Bank, BankDigest, PcrIndex, PcrIndexError};
use kiln_formats::runtime_log::{BootId, RuntimeLogError, Writer};
use kiln_tpm::{AttestationKey, EndorsementKey, SignedQuote, Tpm, TpmError};
use zeroize::Zeroizing;

/// The device with the kernel's resource manager. Source: Linux, Documentation/security/tpm/tpm_tis.rst and tpm-dev-common.c.
const DEVICE: &str = "/dev/tpmrm0";

/// The TPM's device files: once PID 1 has its own descriptor, they go.
const DEVICE_FILES: [&str; 2] = ["/dev/tpmrm0", "/dev/tpm0"];

/// Registers that nothing on our way to PID 1 extends. 8: GRUB. 12, 13: what systemd-stub was given beside the image. 14: shim.
/// 15: us. Source: UAPI Group, Linux TPM PCR Registry.
const ZERO: [u32; 5] = [8, 12, 13, 14, 15];

/// Where the kernel shows the firmware's log.
const FIRMWARE_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// This boot's identifier.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why something could not be measured, or the machine is not one that can be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeasureError {
    /// There is no TPM, or the kernel has no driver for it.
    #[error("there is no {DEVICE}: no TPM 2.0")]
    NoTpm,
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// A register's number.
    #[error(transparent)]
    Index(#[from] PcrIndexError),
    /// The log.
    #[error(transparent)]
    Log(#[from] RuntimeLogError),
    /// Something else extended a register before PID 1.
    #[error("{index} is {value} and not zero: something else than Kiln wrote to it")]
    NotZero {
        /// The register.
        index: PcrIndex,
        /// Its value in the SHA-256 bank.
        value: Sha256Digest,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A device file cannot be taken away.
    #[error("cannot remove {path}")]
    Remove {
        /// Which.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's text is no boot identifier.
    #[error("{BOOT_ID} holds no identifier")]
    BootId,
    /// The firmware's log is larger than [`FIRMWARE_LOG_BYTES_MAX`].
    #[error("the firmware's event log is larger than {FIRMWARE_LOG_BYTES_MAX} bytes")]
    FirmwareLogTooLarge,
    /// No randomness.
    #[error("the kernel gives no randomness: {source}")]
    Random {
        /// What it said.
        source: getrandom::Error,
    },
}

/// What is extended and quoted. The real one is [`Anchor`].
pub(crate) trait Registers {
    /// Extends PCR 15, one digest a bank.
    ///
    /// # Errors
    /// [`TpmError`].
    fn extend(&mut self, digests: &[BankDigest]) -> Result<(), TpmError>;

    /// Opens a credential for this boot's attestation key.
    ///
    /// # Errors
    /// [`TpmError`].
    fn activate(&mut self, credential: &Credential) -> Result<Zeroizing<[u8; SECRET_BYTES]>, TpmError>;

    /// Quotes sha256:0-15.
    ///
    /// # Errors
    /// [`TpmError`].
    fn quote(&mut self, qualifying: &Sha256Digest) -> Result<SignedQuote, TpmError>;
}

/// The machine's TPM, reachable by nobody else, with the key that it was born with and this boot's attestation key.
#[derive(Debug)]
pub(crate) struct Anchor {
    tpm: Tpm,
    endorsement: EndorsementKey,
    key: AttestationKey,
}

impl Anchor {
    /// Takes the TPM, checks the registers that must be zero, makes the attestation key.
    ///
    /// # Errors
    /// [`MeasureError`].
    pub(crate) fn open() -> Result<Self, MeasureError> {
        let device = Path::new(DEVICE);
        if !device.exists() {
            return Err(MeasureError::NoTpm);
        }
        let mut tpm = Tpm::open(device)?;
        for path in DEVICE_FILES {
            std::fs::remove_file(path).map_err(|source| MeasureError::Remove { path, source })?;
        }
        untouched(|index| tpm.pcr(index))?;
        let mut unique = [0; 32];
        getrandom::fill(&mut unique).map_err(|source| MeasureError::Random { source })?;
        let endorsement = tpm.endorsement_key()?;
        let key = tpm.create_attestation_key(&unique)?;
        Ok(Self { tpm, endorsement, key })
    }

    /// What the authority is told of the TPM.
    pub(crate) fn enrolment(&self) -> Enrolment {
        let blobs = |certificates: &[Vec<u8>]| certificates.iter().cloned().map(Blob).collect();
        Enrolment {
            certificates: blobs(self.endorsement.certificates()),
            chain: blobs(self.endorsement.chain()),
            endorsement_key: Blob(self.endorsement.public().to_vec()),
            attestation_key: Blob(self.key.public().to_vec()),
        }
    }

    /// The banks that every event is extended in.
    pub(crate) fn banks(&self) -> &[Bank] {
        self.tpm.banks()
    }
}

/// Holds if each register of [`ZERO`] is zero, as `read` has it.
///
/// # Errors
/// [`MeasureError::NotZero`] with the first that is not; [`MeasureError::Tpm`].
fn untouched(mut read: impl FnMut(PcrIndex) -> Result<Sha256Digest, TpmError>) -> Result<(), MeasureError> {
    for index in ZERO {
        let index = PcrIndex::new(index)?;
        let value = read(index)?;
        if value.as_bytes().iter().any(|byte| *byte != 0) {
            return Err(MeasureError::NotZero { index, value });
        }
    }
    Ok(())
}

impl Registers for Anchor {
    fn extend(&mut self, digests: &[BankDigest]) -> Result<(), TpmError> {
        self.tpm.extend(digests)
    }

    fn activate(&mut self, credential: &Credential) -> Result<Zeroizing<[u8; SECRET_BYTES]>, TpmError> {
        self.tpm.activate(&self.key, &self.endorsement, credential)
    }

    fn quote(&mut self, qualifying: &Sha256Digest) -> Result<SignedQuote, TpmError> {
        self.tpm.quote(&self.key, qualifying)
    }
}

/// PCR 15 and its log.
#[derive(Debug)]
pub(crate) struct Ledger<R> {
    registers: R,
    writer: Writer,
    log: Vec<u8>,
    clock_us: fn() -> u64,
}

impl<R: Registers> Ledger<R> {
    /// An empty log for registers that are zero. `clock_us` is `CLOCK_BOOTTIME` in microseconds.
    ///
    /// # Errors
    /// [`MeasureError::Log`] for banks that no log has.
    pub(crate) fn new(
        registers: R,
        boot_id: BootId,
        banks: &[Bank],
        clock_us: fn() -> u64,
    ) -> Result<Self, MeasureError> {
        Ok(Self { registers, writer: Writer::new(boot_id, banks)?, log: Vec::new(), clock_us })
    }

    /// Extends PCR 15 with the event, then logs it.
    ///
    /// # Errors
    /// [`MeasureError::Tpm`], [`MeasureError::Log`]: the ledger is not to be used again.
    pub(crate) fn record(&mut self, event: &Event) -> Result<(), MeasureError> {
        let entry = self.writer.entry(event, (self.clock_us)())?;
        self.registers.extend(&entry.digests)?;
        self.log.extend_from_slice(&entry.bytes);
        Ok(())
    }

    /// What is in a credential for this boot's attestation key.
    ///
    /// # Errors
    /// [`MeasureError::Tpm`].
    pub(crate) fn activate(&mut self, credential: &Credential) -> Result<Zeroizing<[u8; SECRET_BYTES]>, MeasureError> {
        Ok(self.registers.activate(credential)?)
    }

    /// A quote over `qualifying`.
    ///
    /// # Errors
    /// [`MeasureError::Tpm`].
    pub(crate) fn quote(&mut self, qualifying: &Sha256Digest) -> Result<SignedQuote, MeasureError> {
        Ok(self.registers.quote(qualifying)?)
    }

    /// The log that explains PCR 15 as it is now.
    pub(crate) fn log(&self) -> &[u8] {
        &self.log
    }
}

/// The digest of the program that runs as PID 1.
///
/// # Errors
/// [`MeasureError::Read`].
pub(crate) fn own_digest() -> Result<Sha256Digest, MeasureError> {
    let path = crate::PROGRAM;
    digest_of(Path::new(path)).map_err(|source| MeasureError::Read { path, source })
}

fn digest_of(path: &Path) -> io::Result<Sha256Digest> {
    let mut file = File::open(path)?;
    let mut digester = Digester::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(digester.finish()),
            bytes => digester.update(piece.get(..bytes).unwrap_or_default()),
        }
    }
}

/// This boot's identifier.
///
/// # Errors
/// [`MeasureError::Read`], [`MeasureError::BootId`].
pub(crate) fn boot_id() -> Result<BootId, MeasureError> {
    let text = std::fs::read_to_string(BOOT_ID).map_err(|source| MeasureError::Read { path: BOOT_ID, source })?;
    BootId::from_kernel_text(&text).ok_or(MeasureError::BootId)
}

/// The firmware's event log as it is; empty if the kernel has none, which is how it looks where the firmware measured nothing.
///
/// # Errors
/// [`MeasureError::Read`], [`MeasureError::FirmwareLogTooLarge`].
pub(crate) fn firmware_log() -> Result<Vec<u8>, MeasureError> {
    read_bounded(Path::new(FIRMWARE_LOG), FIRMWARE_LOG_BYTES_MAX)
        .map_err(|source| MeasureError::Read { path: FIRMWARE_LOG, source })?
        .ok_or(MeasureError::FirmwareLogTooLarge)
}

/// `None` for a file of more bytes; an empty text for one that is not there.
fn read_bounded(path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Vec::new())),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= bytes_max).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_that_anybody_wrote_to_is_named() {
        let value = |written: u8, index: PcrIndex| {
            let mut bytes = [0; 32];
            bytes[31] = u8::from(index.get() == written);
            Sha256Digest::from_bytes(bytes)
        };
        for written in 0..24_u8 {
            match (untouched(|index| Ok(value(written, index))), [8, 12, 13, 14, 15].contains(&written)) {
                (Err(MeasureError::NotZero { index, .. }), true) => assert_eq!(index.get(), written),
                (Ok(()), false) => {}
                (other, _) => panic!("PCR {written}: {other:?}"),
            }
        }
        let broken = untouched(|_| Err(TpmError::Banks));
        assert!(matches!(broken, Err(MeasureError::Tpm(TpmError::Banks))), "{broken:?}");
    }

    #[test]
    fn a_file_is_digested_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        let program = vec![7; (64 << 10) + 1];
        std::fs::write(&path, &program).unwrap();
        assert_eq!(digest_of(&path).unwrap(), Sha256Digest::of(&program));
    }

    #[test]
    fn a_log_is_read_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        assert_eq!(read_bounded(&path, 3).unwrap(), Some(Vec::new()));
        std::fs::write(&path, "123").unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap(), Some(b"123".to_vec()));
        assert_eq!(read_bounded(&path, 2).unwrap(), None);
    }
}
