//! Partitions, by the name that the GPT gives them. A virtual machine's kernel knows none.

use std::fs::{read_dir, read_to_string};
use std::io;
use std::path::Path;

/// The kernel's names of all partitions called `name` on the disks that it lists in `block` (sysfs). Source: Linux, block/partitions/core.c,
/// `part_uevent`.
///
/// # Errors
/// If the disks cannot be looked through.
pub fn named(block: &Path, name: &str) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for disk in read_dir(block)? {
        for entry in read_dir(disk?.path())? {
            let entry = entry?;
            // Whatever has no such file, or another line in it, is no partition of this name.
            let text = read_to_string(entry.path().join("uevent")).unwrap_or_default();
            if text.lines().any(|line| line.strip_prefix("PARTNAME=") == Some(name)) {
                found.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_found_by_its_whole_name() {
        let block = tempfile::tempdir().unwrap();
        let add = |disk: &str, part: &str, name: &str| {
            let path = block.path().join(disk).join(part);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("uevent"), format!("DEVTYPE=partition\nPARTN=1\nPARTNAME={name}\n")).unwrap();
        };
        std::fs::create_dir_all(block.path().join("sda/queue")).unwrap();
        add("nvme0n1", "nvme0n1p2", "kiln-scratch");
        add("sdb", "sdb1", "other kiln-esp");
        let find = |name: &str| named(block.path(), name).unwrap();
        assert!(find("kiln-esp").is_empty());
        add("nvme0n1", "nvme0n1p1", "kiln-esp");
        assert_eq!((find("kiln-esp"), find("kiln-scratch")), (vec!["nvme0n1p1".into()], vec!["nvme0n1p2".into()]));
        add("sdc", "sdc1", "kiln-esp");
        assert_eq!(find("kiln-esp").len(), 2);
    }
}
