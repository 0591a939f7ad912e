//! What a machine is: plain data, made by the caller, checked once when it is started.
//!
//! No field grants a network device, a writable disk or a shared folder, because there is none to grant.

use std::path::PathBuf;
use std::time::Duration;

use crate::tpm_ca::TpmCa;

/// Guest memory that still lets OVMF start. Source: OVMF README, "at least 128 MB" is assumed for PEI and DXE.
const MEMORY_MIB_MIN: u32 = 64;
/// Four times the memory of a large build host; a larger number is a slip of the pen.
const MEMORY_MIB_MAX: u32 = 4 * 1024 * 1024;
/// Source: QEMU 7.2, `hw/i386/pc_q35.c`, `max_cpus` of q35 is 288; above 255 a guest needs interrupt remapping.
const CPUS_MAX: u16 = 255;
/// A q35 root bus has 32 slots, some of them taken; a job names a handful of images.
const DISKS_MAX: usize = 16;
/// Source: Linux `include/uapi/linux/virtio_blk.h`, `VIRTIO_BLK_ID_BYTES`.
const SERIAL_BYTES_MAX: usize = 20;
/// Bytes that firmware loads of a boot sector. Source: IBM PC BIOS, INT 19h.
const SECTOR_BYTES: usize = 512;

/// One machine, for one build.
#[derive(Debug, Clone)]
pub struct Machine {
    /// How it starts.
    pub boot: Boot,
    /// Guest memory in MiB; it is also the machine's only scratch space.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u16,
    /// Read-only disks, beside the one that `boot` names.
    pub disks: Vec<Disk>,
    /// Its TPM.
    pub tpm: Tpm,
    /// Bound of its whole life from power-on; then it is killed and ends as [`End::Overdue`](crate::End::Overdue).
    pub life_max: Duration,
}

/// How a machine starts. Modes differ in what is measured, so evidence of one never passes for another's.
#[derive(Debug, Clone)]
pub enum Boot {
    /// OVMF starts the UKI and measures what it loads.
    Firmware {
        /// Where it finds the UKI.
        starts: Starts,
        /// Whose images it starts.
        secure_boot: SecureBoot,
    },
    /// QEMU's loader starts the kernel. Fast; no firmware measures the kernel.
    Direct {
        /// A Linux bzImage.
        kernel: PathBuf,
        /// The initial file system.
        initrd: PathBuf,
        /// The kernel command line.
        cmdline: String,
    },
    /// SeaBIOS runs one boot sector: the accelerator's probe, and tests of this crate.
    Sector(Sector),
}

/// Where firmware finds the UKI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Starts {
    /// On an EFI system partition.
    Disk {
        /// Raw disk image with a GPT; attached read-only.
        path: PathBuf,
    },
    /// QEMU hands the file to the firmware, which starts it like one from a disk. With [`SecureBoot::Enforced`] this enforces
    /// nothing against the machine's owner: OVMF starts a bare kernel that it has refused through an older way, unsigned. Source:
    /// edk2, OvmfPkg/Library/X86QemuLoadImageLib, EFI_ACCESS_DENIED.
    Kernel {
        /// A UKI.
        path: PathBuf,
    },
}

/// Whose images firmware starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecureBoot {
    /// Anybody's.
    Off,
    /// Those that the variables allow. The firmware's variables are out of the guest's reach: only system management mode writes
    /// them.
    Enforced {
        /// A variable store with keys enrolled; each machine gets a copy.
        variables: PathBuf,
    },
}

/// A read-only disk. The guest finds it at `/sys/block/vd*/serial`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Raw image.
    pub path: PathBuf,
    /// Its name in the guest.
    pub serial: Serial,
}

/// A machine's TPM.
#[derive(Debug, Clone)]
pub enum Tpm {
    /// A TPM 2.0 in software, made for this machine and gone with it; its endorsement key is certified by `ca`.
    Software {
        /// The site's certificate authority.
        ca: TpmCa,
    },
    /// None: a fault, for tests.
    Absent,
}

/// A virtio-blk serial: 1 to 20 ASCII letters, digits, `-`, `_` or `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

/// A boot sector: at most 510 bytes of real mode code and the boot signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sector(Vec<u8>);

/// Why a description is not that of a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// The guest memory is out of range.
    #[error("guest memory of {memory_mib} MiB is not between {MEMORY_MIB_MIN} and {MEMORY_MIB_MAX}")]
    Memory {
        /// What was asked for.
        memory_mib: u32,
    },
    /// The number of virtual processors is out of range.
    #[error("{cpus} virtual processors is not between 1 and {CPUS_MAX}")]
    Cpus {
        /// What was asked for.
        cpus: u16,
    },
    /// More disks than a machine has places for.
    #[error("{count} disks are more than {DISKS_MAX}")]
    Disks {
        /// What was asked for.
        count: usize,
    },
    /// Two disks that the guest could not tell apart.
    #[error("two disks have the serial {serial}")]
    SerialTwice {
        /// The serial.
        serial: String,
    },
    /// A serial that virtio-blk cannot carry whole, or that needs quoting.
    #[error("the serial {serial:?} is not 1 to {SERIAL_BYTES_MAX} ASCII letters, digits, '-', '_' or '.'")]
    Serial {
        /// What was given.
        serial: String,
    },
    /// Boot code that does not fit a sector.
    #[error("boot code of {bytes} bytes does not fit the {} that a sector has for it", SECTOR_BYTES - 2)]
    Sector {
        /// Its length.
        bytes: usize,
    },
}

impl Machine {
    /// Checks what types do not.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub(crate) fn check(&self) -> Result<(), MachineError> {
        if !(MEMORY_MIB_MIN..=MEMORY_MIB_MAX).contains(&self.memory_mib) {
            return Err(MachineError::Memory { memory_mib: self.memory_mib });
        }
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            return Err(MachineError::Cpus { cpus: self.cpus });
        }
        if self.disks.len() > DISKS_MAX {
            return Err(MachineError::Disks { count: self.disks.len() });
        }
        let mut seen = std::collections::BTreeSet::new();
        match self.disks.iter().find(|disk| !seen.insert(&disk.serial)) {
            Some(disk) => Err(MachineError::SerialTwice { serial: disk.serial.0.clone() }),
            None => Ok(()),
        }
    }
}

impl Serial {
    /// Takes a serial as it is.
    ///
    /// # Errors
    /// [`MachineError::Serial`] if virtio-blk would cut it short or an option parser would read it otherwise.
    pub fn new(serial: &str) -> Result<Serial, MachineError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if (1..=SERIAL_BYTES_MAX).contains(&serial.len()) && serial.bytes().all(plain) {
            Ok(Serial(serial.to_owned()))
        } else {
            Err(MachineError::Serial { serial: serial.to_owned() })
        }
    }

    /// The serial of an image: the first 20 hexadecimal digits of its dm-verity root hash.
    ///
    /// # Errors
    /// [`MachineError::Serial`] if `root_hash_hex` has no 20 such bytes.
    pub fn of_root_hash(root_hash_hex: &str) -> Result<Serial, MachineError> {
        let refused = || MachineError::Serial { serial: root_hash_hex.to_owned() };
        let digits = root_hash_hex.get(..SERIAL_BYTES_MAX).ok_or_else(refused)?;
        if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) { Serial::new(digits) } else { Err(refused()) }
    }

    /// The serial as the guest reads it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Sector {
    /// Lays `code` out as a boot sector.
    ///
    /// # Errors
    /// [`MachineError::Sector`] if it does not fit.
    pub fn new(code: &[u8]) -> Result<Sector, MachineError> {
        if code.len() > SECTOR_BYTES - 2 {
            return Err(MachineError::Sector { bytes: code.len() });
        }
        let mut sector = code.to_vec();
        sector.resize(SECTOR_BYTES - 2, 0);
        sector.extend([0x55, 0xaa]);
        Ok(Sector(sector))
    }

    /// The sector's 512 bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let serials = ["a", "b"].map(|name| Serial::new(name).unwrap());
        Machine {
            boot: Boot::Sector(Sector::new(&[]).unwrap()),
            memory_mib: 64,
            cpus: 1,
            disks: serials.map(|serial| Disk { path: "/image".into(), serial }).into(),
            tpm: Tpm::Absent,
            life_max: Duration::from_secs(1),
        }
    }

    #[test]
    fn each_rule_refuses_its_breach() {
        assert_eq!(machine().check(), Ok(()));
        let refused = |change: fn(&mut Machine)| {
            let mut machine = machine();
            change(&mut machine);
            machine.check().unwrap_err()
        };
        assert!(matches!(refused(|m| m.memory_mib = 0), MachineError::Memory { .. }));
        assert!(matches!(refused(|m| m.cpus = 0), MachineError::Cpus { .. }));
        assert!(matches!(refused(|m| m.disks = vec![m.disks[0].clone(); 17]), MachineError::Disks { .. }));
        assert!(matches!(refused(|m| m.disks[1] = m.disks[0].clone()), MachineError::SerialTwice { .. }));
    }

    #[test]
    fn serials_are_what_the_guest_will_read() {
        let root_hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(Serial::of_root_hash(root_hash).unwrap().as_str(), "0123456789abcdef0123");
        assert!(Serial::of_root_hash("0123").is_err());
        for refused in ["", "a,readonly=off", "123456789012345678901", "a b", "\u{e9}"] {
            assert!(Serial::new(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_sector_ends_in_the_boot_signature() {
        let sector = Sector::new(&[0xf4; 510]).unwrap();
        assert_eq!((sector.as_bytes().len(), &sector.as_bytes()[509..]), (512, &[0xf4, 0x55, 0xaa][..]));
        assert!(Sector::new(&[0; 511]).is_err());
    }
}
