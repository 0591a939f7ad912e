//! The boot disk: a GPT with an EFI system partition that holds the UKI where firmware looks for it; on a server's disk ([`Contents`])
//! also its uplink, and behind it partitions with images and one for scratch.
//!
//! Bit-identical for one UKI: every identifier and time is fixed. Fixed identifiers are no harm on a disk that is only read.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use kiln_formats::digest::Sha256Digest;
use kiln_formats::uplink::{ESP_NAME, SCRATCH_NAME, UPLINK_PATH};

use crate::cache::Inputs;
use crate::command::{CommandError, Tool};
use crate::files::{self, FileError, failed};
use crate::progress::{Progress, phase};
use crate::uki::EPOCH;
use crate::workshop::Workshop;

/// The disk's file.
const DISK: &str = "disk.img";
/// Where the first partition begins, what all are aligned to, and what the second table at the end has: as partition tools do.
pub(crate) const PARTITION_OFFSET_BYTES: u64 = 1 << 20;
/// Bytes of the EFI system partition: the smallest round disk on which it can be FAT32, the one format that all firmware reads.
pub(crate) const PARTITION_BYTES: u64 = (64 << 20) - 2 * PARTITION_OFFSET_BYTES;
/// The most images on one disk: a table has room for 128 partitions, and a site has a handful.
const IMAGES_MAX: usize = 16;
/// Where firmware looks for what it starts. Source: UEFI 2.10, section 3.5.1.1.
pub(crate) const UKI_PATH: &str = "EFI/BOOT/BOOTX64.EFI";
/// Bytes of a sector.
const SECTOR_BYTES: u64 = 512;
/// Disk, partitions and volume: "kiln" in ASCII and a number. The disk is 0, partitions count from 1.
const ID: &str = "6b696c6e-0000-4000-8002-00000000000";
const VOLUME_ID: &str = "6b696c6e";
/// What sfdisk calls the type of an EFI system partition. Source: sfdisk(8), "uefi".
const ESP_TYPE: &str = "uefi";
/// What it calls all others. Not "swap": other systems would use the scratch partition, unencrypted.
const DATA_TYPE: &str = "linux";

/// The disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// A disk tool failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// More images than one disk takes.
    #[error("{count} images are more than the {IMAGES_MAX} that one disk takes")]
    Images {
        /// How many.
        count: usize,
    },
}

/// What is on a disk beside the UKI.
#[derive(Debug, Clone, Copy, Default)]
pub struct Contents<'a> {
    /// The uplink's bytes.
    pub uplink: Option<&'a [u8]>,
    /// Images that steps run on: root hash and file.
    pub images: &'a [(Sha256Digest, PathBuf)],
    /// Bytes of the scratch partition; none if 0.
    pub scratch_bytes: u64,
}

/// A partition of a disk that is being made.
struct Partition {
    name: String,
    kind: &'static str,
    offset: u64,
    bytes: u64,
    /// What it holds; zeros without one.
    content: Option<PathBuf>,
}

/// Makes the disk with `uki` on it, or takes it from the cache. Returns the file, sparse, 64 MiB long.
///
/// # Errors
/// [`DiskError`] by cause.
pub fn build(shop: &Workshop<'_>, uki: &Path) -> Result<PathBuf, DiskError> {
    phase(shop.progress, "boot disk", || {
        let tools = crate::packages::versions(shop.progress, &["dosfstools", "mtools", "fdisk"])?;
        let inputs = Inputs::of("disk", 2).file("uki", uki)?.text("tools", &tools);
        let entry = shop
            .cache
            .entry("disk", inputs.key(), |dir| write(shop.progress, uki, &Contents::default(), dir).map(drop))?;
        Ok((entry.path.join(DISK), entry.cached))
    })
}

/// Writes a disk with `uki` and what else is on it into the directory `dir`, past the cache: for a UKI that carries a site's
/// signature. Returns the file.
///
/// # Errors
/// [`DiskError`] by cause.
pub fn write(progress: &dyn Progress, uki: &Path, contents: &Contents<'_>, dir: &Path) -> Result<PathBuf, DiskError> {
    let (esp, disk) = (dir.join("esp"), dir.join(DISK));
    sparse(&esp, PARTITION_BYTES)?;
    Tool::new("mkfs.vfat")
        .args(["--invariant", "-F", "32", "-s", "1", "-S", "512", "-n", "KILN", "-i", VOLUME_ID])
        .arg(&esp)
        .run(progress)?;
    let mtool = |program: &str| Tool::new(program).env("SOURCE_DATE_EPOCH", EPOCH).arg("-i").arg(&esp);
    mtool("mmd").args(["::/EFI", "::/EFI/BOOT"]).run(progress)?;
    mtool("mcopy").arg(uki).arg(format!("::/{UKI_PATH}")).run(progress)?;
    if let Some(bytes) = contents.uplink {
        let uplink = dir.join("uplink");
        files::write(&uplink, bytes)?;
        mtool("mmd").arg("::/kiln").run(progress)?;
        mtool("mcopy").arg(&uplink).arg(format!("::/{UPLINK_PATH}")).run(progress)?;
        files::remove(&uplink)?;
    }

    let partitions = partitions(&esp, contents)?;
    let last = partitions.last().map_or(0, |partition| partition.offset + partition.bytes);
    sparse(&disk, last + PARTITION_OFFSET_BYTES)?;
    let script = dir.join("table");
    files::write(&script, table(&partitions).as_bytes())?;
    let sfdisk = Tool::new("sh").args(["-c", "sfdisk --quiet --no-reread --no-tell-kernel \"$1\" <\"$2\"", "sh"]);
    sfdisk.arg(&disk).arg(&script).run(progress)?;
    for Partition { content, offset, .. } in &partitions {
        content.as_ref().map_or(Ok(()), |content| embed(content, &disk, *offset))?;
    }
    files::remove(&script)?;
    files::remove(&esp)?;
    Ok(disk)
}

/// The partitions, one behind the other.
fn partitions(esp: &Path, contents: &Contents<'_>) -> Result<Vec<Partition>, DiskError> {
    if contents.images.len() > IMAGES_MAX {
        return Err(DiskError::Images { count: contents.images.len() });
    }
    let mut wanted = vec![(ESP_NAME.to_owned(), ESP_TYPE, PARTITION_BYTES, Some(esp.to_owned()))];
    for (root_hash, path) in contents.images {
        let bytes = fs::metadata(path).map_err(failed("read", path))?.len();
        // The name by which the machine looks for it, as for a virtual disk's serial number.
        wanted.push((root_hash.to_string().chars().take(20).collect(), DATA_TYPE, bytes, Some(path.clone())));
    }
    if contents.scratch_bytes > 0 {
        wanted.push((SCRATCH_NAME.to_owned(), DATA_TYPE, contents.scratch_bytes, None));
    }
    let mut offset = PARTITION_OFFSET_BYTES;
    let place = |(name, kind, bytes, content): (String, _, u64, _)| {
        let partition =
            Partition { name, kind, offset, bytes: bytes.next_multiple_of(PARTITION_OFFSET_BYTES), content };
        offset += partition.bytes;
        partition
    };
    Ok(wanted.into_iter().map(place).collect())
}

/// The partition table, as sfdisk reads it.
fn table(partitions: &[Partition]) -> String {
    let first = PARTITION_OFFSET_BYTES / SECTOR_BYTES;
    let mut table = format!("label: gpt\nlabel-id: {ID}0\nfirst-lba: {first}\n");
    for (number, Partition { name, kind, offset, bytes, .. }) in (1..).zip(partitions) {
        let (start, size) = (offset / SECTOR_BYTES, bytes / SECTOR_BYTES);
        table.push_str(&format!("start={start}, size={size}, type={kind}, uuid={ID}{number:x}, name=\"{name}\"\n"));
    }
    table
}

fn sparse(path: &Path, bytes: u64) -> Result<(), FileError> {
    let file = fs::File::create(path).map_err(failed("make", path))?;
    file.set_len(bytes).map_err(failed("set the length of", path))
}

/// Writes a file into the disk, skipping blocks of zeros so that the disk stays sparse.
fn embed(content: &Path, disk: &Path, offset: u64) -> Result<(), FileError> {
    const BLOCK_BYTES: usize = 1 << 16;
    let source = fs::File::open(content).map_err(failed("open", content))?;
    let mut file = fs::OpenOptions::new().write(true).open(disk).map_err(failed("open", disk))?;
    let (mut block, mut at) = (Vec::new(), offset);
    loop {
        block.clear();
        let taken = (&source).take(BLOCK_BYTES as u64).read_to_end(&mut block);
        if taken.map_err(failed("read", content))? == 0 {
            return Ok(());
        }
        if block.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start(at)).map_err(failed("write", disk))?;
            file.write_all(&block).map_err(failed("write", disk))?;
        }
        at += block.len() as u64;
    }
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
        let disk = write(&Silent, &uki, &Contents::default(), dir.path()).unwrap();
        let bytes = fs::read(&disk).unwrap();
        assert_eq!(bytes[FIRST_ENTRY_OFFSET..FIRST_ENTRY_OFFSET + 16], ESP_TYPE_BYTES);
        let listed = said("sfdisk", &["--list", "--output", "Start,Size,Type"], &disk);
        assert!(listed.contains("EFI System"), "{listed}");
        let offset = PARTITION_OFFSET_BYTES.to_string();
        let probed = said("blkid", &["--probe", "--output", "export", "--offset", &offset], &disk);
        assert!(probed.contains("TYPE=vfat") && probed.contains("LABEL=KILN"), "{probed}");
        let again = dir.path().join("again");
        fs::create_dir(&again).unwrap();
        assert_eq!(bytes, fs::read(write(&Silent, &uki, &Contents::default(), &again).unwrap()).unwrap());
    }

    #[test]
    fn a_servers_disk_has_all_its_partitions_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (uki, image) = (dir.path().join("kiln.efi"), dir.path().join("image"));
        fs::write(&uki, b"MZ and so on").unwrap();
        fs::write(&image, vec![7; (1 << 20) + 1]).unwrap();
        let root_hash = Sha256Digest::of(b"image");
        let images = [(root_hash, image)];
        let contents = Contents { uplink: Some(b"{}"), images: &images, scratch_bytes: 3 << 20 };
        let disk = write(&Silent, &uki, &contents, dir.path()).unwrap();
        let listed = said("sfdisk", &["--json"], &disk);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let parts = listed["partitiontable"]["partitions"].as_array().unwrap().iter();
        let parts: Vec<_> =
            parts.map(|it| (it["name"].as_str().unwrap(), it["size"].as_u64().unwrap() / 2048)).collect();
        let name = &root_hash.to_string()[..20];
        assert_eq!(parts, [(ESP_NAME, 62), (name, 2), (SCRATCH_NAME, 3)]);
        let bytes = fs::read(&disk).unwrap();
        assert!(bytes[63 << 20..(64 << 20) + 1].iter().all(|byte| *byte == 7) && bytes[(64 << 20) + 1] == 0);
        let listed = said("mdir", &["-b", "-i"], Path::new(&format!("{}@@1M", disk.display())));
        assert!(listed.contains("::/kiln"), "{listed}");
        let too_many: Vec<_> = (0..17).map(|_| images[0].clone()).collect();
        let contents = Contents { images: &too_many, ..contents };
        assert!(matches!(write(&Silent, &uki, &contents, dir.path()), Err(DiskError::Images { count: 17 })));
    }
}
