//! The boot disk: a GPT with one EFI system partition that holds the UKI where firmware looks for it.
//!
//! Bit-identical for one UKI: every identifier and time is fixed. Fixed identifiers are no harm on a disk that is only read.

use std::fs;
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::cache::Inputs;
use crate::command::{CommandError, Tool};
use crate::files::{self, FileError, failed};
use crate::progress::{Progress, phase};
use crate::uki::EPOCH;
use crate::workshop::Workshop;

/// The disk's file.
const DISK: &str = "disk.img";
/// Bytes of the whole disk: the smallest round size whose partition can be FAT32, the one format that all firmware reads.
const DISK_BYTES: u64 = 64 << 20;
/// Where the partition begins: the alignment that partition tools use.
pub(crate) const PARTITION_OFFSET_BYTES: u64 = 1 << 20;
/// Bytes of the partition; the last MiB of the disk holds the second partition table.
pub(crate) const PARTITION_BYTES: u64 = DISK_BYTES - 2 * PARTITION_OFFSET_BYTES;
/// Where firmware looks for what it starts. Source: UEFI 2.10, section 3.5.1.1.
pub(crate) const UKI_PATH: &str = "EFI/BOOT/BOOTX64.EFI";
/// Bytes of a sector.
const SECTOR_BYTES: u64 = 512;
/// Disk, partition and volume: "kiln" in ASCII and a number.
const DISK_ID: &str = "6b696c6e-0000-4000-8002-000000000000";
const PARTITION_ID: &str = "6b696c6e-0000-4000-8002-000000000001";
const VOLUME_ID: &str = "6b696c6e";
/// What sfdisk calls the type of an EFI system partition. Source: sfdisk(8), "uefi".
const ESP_TYPE: &str = "uefi";

/// The disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// A disk tool failed.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Makes the disk with `uki` on it, or takes it from the cache. Returns the file, sparse, 64 MiB long.
///
/// # Errors
/// [`DiskError`] by cause.
pub fn build(shop: &Workshop<'_>, uki: &Path) -> Result<PathBuf, DiskError> {
    phase(shop.progress, "boot disk", || {
        let tools = crate::packages::versions(shop.progress, &["dosfstools", "mtools", "fdisk"])?;
        let inputs = Inputs::of("disk", 2).file("uki", uki)?.text("tools", &tools);
        let entry = shop.cache.entry("disk", inputs.key(), |dir| write(shop.progress, uki, dir).map(drop))?;
        Ok((entry.path.join(DISK), entry.cached))
    })
}

/// Writes the disk with `uki` on it into the directory `dir`, past the cache: for a UKI that carries a site's signature. Returns
/// the file.
///
/// # Errors
/// [`DiskError`] by cause.
pub fn write(progress: &dyn Progress, uki: &Path, dir: &Path) -> Result<PathBuf, DiskError> {
    let (partition, disk) = (dir.join("esp"), dir.join(DISK));
    sparse(&partition, PARTITION_BYTES)?;
    Tool::new("mkfs.vfat")
        .args(["--invariant", "-F", "32", "-s", "1", "-S", "512", "-n", "KILN", "-i", VOLUME_ID])
        .arg(&partition)
        .run(progress)?;
    let mtool = |program: &str| Tool::new(program).env("SOURCE_DATE_EPOCH", EPOCH).arg("-i").arg(&partition);
    mtool("mmd").args(["::/EFI", "::/EFI/BOOT"]).run(progress)?;
    mtool("mcopy").arg(uki).arg(format!("::/{UKI_PATH}")).run(progress)?;

    sparse(&disk, DISK_BYTES)?;
    let script = dir.join("table");
    files::write(&script, table().as_bytes())?;
    let sfdisk = Tool::new("sh").args(["-c", "sfdisk --quiet --no-reread --no-tell-kernel \"$1\" <\"$2\"", "sh"]);
    sfdisk.arg(&disk).arg(&script).run(progress)?;
    embed(&partition, &disk)?;
    files::remove(&script)?;
    files::remove(&partition)?;
    Ok(disk)
}

/// The partition table, as sfdisk reads it.
fn table() -> String {
    let (start, size) = (PARTITION_OFFSET_BYTES / SECTOR_BYTES, PARTITION_BYTES / SECTOR_BYTES);
    format!(
        "label: gpt\nlabel-id: {DISK_ID}\nfirst-lba: {start}\n\
         start={start}, size={size}, type={ESP_TYPE}, uuid={PARTITION_ID}, name=\"kiln-esp\"\n"
    )
}

fn sparse(path: &Path, bytes: u64) -> Result<(), FileError> {
    let file = fs::File::create(path).map_err(failed("make", path))?;
    file.set_len(bytes).map_err(failed("set the length of", path))
}

/// Writes the partition into the disk, skipping blocks of zeros so that the disk stays sparse.
fn embed(partition: &Path, disk: &Path) -> Result<(), FileError> {
    const BLOCK_BYTES: usize = 1 << 16;
    let bytes = files::read(partition)?;
    let mut file = fs::OpenOptions::new().write(true).open(disk).map_err(failed("open", disk))?;
    for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            let offset = PARTITION_OFFSET_BYTES + (index * BLOCK_BYTES) as u64;
            file.seek(SeekFrom::Start(offset)).map_err(failed("write", disk))?;
            std::io::Write::write_all(&mut file, block).map_err(failed("write", disk))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    /// Where the first entry of the partition table lies, and how many bytes of it are the type. Source: UEFI 2.10, sections 5.3.2
    /// and 5.3.3: the entries begin in the third sector.
    const FIRST_ENTRY_OFFSET: usize = 2 * SECTOR_BYTES as usize;
    /// C12A7328-F81F-11D2-BA4B-00A0C93EC93B, its first three numbers in little-endian. Source: UEFI 2.10, table 5.7 and appendix A.
    const ESP_TYPE_BYTES: [u8; 16] = *b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b";

    /// What other programs say of our disk.
    fn said(program: &str, arguments: &[&str], disk: &Path) -> String {
        let output = std::process::Command::new(program).args(arguments).arg(disk).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn firmware_and_other_programs_know_the_partition_for_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let uki = dir.path().join("kiln.efi");
        fs::write(&uki, b"MZ and so on").unwrap();
        let disk = write(&Silent, &uki, dir.path()).unwrap();
        let bytes = fs::read(&disk).unwrap();
        assert_eq!(bytes[FIRST_ENTRY_OFFSET..FIRST_ENTRY_OFFSET + 16], ESP_TYPE_BYTES);
        let listed = said("sfdisk", &["--list", "--output", "Start,Size,Type"], &disk);
        assert!(listed.contains("EFI System"), "{listed}");
        let offset = PARTITION_OFFSET_BYTES.to_string();
        let probed = said("blkid", &["--probe", "--output", "export", "--offset", &offset], &disk);
        assert!(probed.contains("TYPE=vfat") && probed.contains("LABEL=KILN"), "{probed}");
        let again = dir.path().join("again");
        fs::create_dir(&again).unwrap();
        assert_eq!(bytes, fs::read(write(&Silent, &uki, &again).unwrap()).unwrap());
    }
}
