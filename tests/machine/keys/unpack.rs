//! What is packed in an image's files: partitions, file systems, sections, compressed kernels and archives, down to the files.
//!
//! Each kind is known by its first bytes, so whatever holds it. Programs of others do the unpacking.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::fixture::scratch;
use crate::measure::sections;

/// What something packed holds: names and bytes, one after the other.
type Inside = Box<dyn Iterator<Item = (String, Vec<u8>)>>;

/// Bytes of a sector.
const SECTOR_BYTES: usize = 512;
/// Where a kernel image says what it is, where its packed kernel lies behind the sectors of its setup, and how long it is. Source:
/// Linux, Documentation/arch/x86/boot.rst.
const KERNEL_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// Bytes behind the packed kernel that say how long it is unpacked. Source: Linux, scripts/Makefile.lib, `size_append`.
const SIZE_BYTES: usize = 4;
/// The first bytes of what zstd packed. Source: RFC 8878, section 3.1.1.
const ZSTD_MAGIC: (usize, &[u8]) = (0, b"\x28\xb5\x2f\xfd");
/// Bytes that may fill up an archive, as every initrd's length is a multiple of 4.
const FILLED_BYTES_MAX: usize = 3;
const PE_MAGIC: (usize, &[u8]) = (0, b"MZ");
const GPT_MAGIC: (usize, &[u8]) = (SECTOR_BYTES, b"EFI PART");
const FAT_MAGIC: (usize, &[u8]) = (82, b"FAT32   ");
const EROFS_MAGIC: (usize, &[u8]) = (1024, b"\xe2\xe1\xf5\xe0");

/// Shows `each` the bytes, and all that is in them, with the path to it.
pub(super) fn layers(name: &str, bytes: &[u8], each: &mut dyn FnMut(&str, &[u8])) {
    each(name, bytes);
    for (inner, content) in inside(bytes) {
        layers(&format!("{name}/{inner}"), &content, each);
    }
}

fn inside(bytes: &[u8]) -> Inside {
    let is = |(at, magic): (usize, &[u8])| bytes.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let one = |name: &str, content: Vec<u8>| -> Inside { Box::new(std::iter::once((name.to_owned(), content))) };
    if is(KERNEL_MAGIC) {
        let (start, length) = payload(bytes);
        one("vmlinux", unpack(&bytes[start..start + length - SIZE_BYTES]).expect("a kernel that zstd packed"))
    } else if is(PE_MAGIC) {
        let sections = sections(bytes).into_iter().map(|(name, content)| (name, content.to_vec()));
        Box::new(sections.collect::<Vec<_>>().into_iter())
    } else if is(ZSTD_MAGIC) {
        one("archive", unpack(bytes).expect("an archive that zstd packed"))
    } else if is(GPT_MAGIC) {
        Box::new(partitions(bytes).into_iter())
    } else if is(FAT_MAGIC) {
        copied_out(bytes, |image, to| {
            Command::new("mcopy").args(["-s", "-n", "-i"]).arg(image).arg("::*").arg(to).status()
        })
    } else if is(EROFS_MAGIC) {
        copied_out(bytes, |image, to| {
            let to = format!("--extract={}", to.display());
            Command::new("fsck.erofs").args(["--no-preserve", &to]).arg(image).stdout(Stdio::null()).status()
        })
    } else {
        Box::new(std::iter::empty())
    }
}

/// Where the packed kernel lies in a kernel image, and how long it is.
fn payload(kernel: &[u8]) -> (usize, usize) {
    let word = |at: usize| u32::from_le_bytes(kernel[at..at + 4].try_into().unwrap()) as usize;
    let setup = (usize::from(kernel[SETUP_SECTORS]) + 1) * SECTOR_BYTES;
    (setup + word(PAYLOAD_OFFSET), word(PAYLOAD_LENGTH))
}

/// A kernel image with another packed kernel: one that the search knows for one, not one that starts.
pub(super) fn pack_kernel(image: &[u8], change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let (start, length) = payload(image);
    let vmlinux = change(unpack(&image[start..start + length - SIZE_BYTES]).unwrap());
    let packed = [pack(&vmlinux), vec![0; SIZE_BYTES]].concat();
    let mut other = [&image[..start], &packed].concat();
    other[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
    other
}

/// What zstd packed, without the zeros that fill it up.
pub(super) fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    (0..=FILLED_BYTES_MAX).find_map(|zeros| zstd("-dcq", &packed[..packed.len() - zeros]))
}

pub(super) fn pack(bytes: &[u8]) -> Vec<u8> {
    zstd("-cq1", bytes).unwrap()
}

fn zstd(options: &str, input: &[u8]) -> Option<Vec<u8>> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(input).unwrap();
    let ran = Command::new("zstd").arg(options).arg(file.path()).stderr(Stdio::null()).output().unwrap();
    ran.status.success().then_some(ran.stdout)
}

/// The partitions of a disk, by number.
fn partitions(disk: &[u8]) -> Vec<(String, Vec<u8>)> {
    let dir = scratch();
    let file = dir.path().join("disk");
    fs::write(&file, disk).unwrap();
    let listed = Command::new("sfdisk").arg("--json").arg(&file).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let place =
        |partition: &Value, key: &str| usize::try_from(partition[key].as_u64().unwrap()).unwrap() * SECTOR_BYTES;
    let partitions = listed["partitiontable"]["partitions"].as_array().unwrap().iter().map(|partition| {
        let start = place(partition, "start");
        disk[start..start + place(partition, "size")].to_vec()
    });
    (1..).map(|number: u32| number.to_string()).zip(partitions).collect()
}

/// The files of a file system, as `copy` writes them into a directory.
fn copied_out(image: &[u8], copy: impl FnOnce(&Path, &Path) -> std::io::Result<std::process::ExitStatus>) -> Inside {
    let dir = scratch();
    let (file, root) = (dir.path().join("image"), dir.path().join("root"));
    fs::write(&file, image).unwrap();
    fs::create_dir(&root).unwrap();
    assert!(copy(&file, &root).unwrap().success());
    Box::new(Files { waiting: vec![root.clone()], root, _dir: dir })
}

/// The plain files below a directory, which goes when this goes.
struct Files {
    waiting: Vec<PathBuf>,
    root: PathBuf,
    _dir: TempDir,
}

impl Iterator for Files {
    type Item = (String, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let path = self.waiting.pop()?;
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_dir() {
                self.waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if kind.is_file() {
                let name = path.strip_prefix(&self.root).unwrap().display().to_string();
                return Some((name, fs::read(&path).unwrap()));
            }
        }
    }
}
