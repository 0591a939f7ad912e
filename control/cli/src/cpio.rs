//! The little of cpio's `newc` format that an initrd needs. Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.

/// Begins each entry.
const MAGIC: &[u8] = b"070701";
/// Bytes of an entry's head: the magic and thirteen numbers of eight hex digits.
const HEAD_BYTES: usize = 6 + 13 * 8;
/// Where two of the numbers stand, counted from 0.
const FILE_SIZE: usize = 6;
const NAME_SIZE: usize = 11;
/// Ends the archive.
const TRAILER: &str = "TRAILER!!!";
/// A plain file that root may run. Source: inode(7).
const PROGRAM: u32 = 0o100_755;

/// The content of the file called `name`.
pub(crate) fn find<'a>(mut archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    loop {
        let head = archive.get(..HEAD_BYTES)?;
        let numbers = head.strip_prefix(MAGIC)?;
        let number = |at: usize| {
            let digits = std::str::from_utf8(numbers.get(at * 8..at * 8 + 8)?).ok()?;
            usize::try_from(u32::from_str_radix(digits, 16).ok()?).ok()
        };
        let (file_size, name_size) = (number(FILE_SIZE)?, number(NAME_SIZE)?);
        let found = archive.get(HEAD_BYTES..HEAD_BYTES + name_size)?.strip_suffix(&[0])?;
        let content = (HEAD_BYTES + name_size).next_multiple_of(4);
        if found == name.as_bytes() {
            return archive.get(content..content + file_size);
        }
        if found == TRAILER.as_bytes() {
            return None;
        }
        archive = archive.get((content + file_size).next_multiple_of(4)..)?;
    }
}

/// An archive that holds one program.
pub(crate) fn pack(name: &str, program: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in [(name, PROGRAM, program), (TRAILER, 0, &[])] {
        // ino, mode, uid, gid, nlink, mtime, size, device and special device numbers, length of the name, no checksum
        let numbers = [0, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend_from_slice(MAGIC);
        archive.extend(numbers.iter().flat_map(|number| format!("{number:08x}").into_bytes()));
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_found() {
        let archive = pack("init", b"program");
        assert_eq!(find(&archive, "init"), Some(&b"program"[..]));
        assert_eq!(find(&archive, "other"), None);
        for end in 0..archive.len() {
            let _no_panic = find(&archive[..end], "other");
        }
    }

    #[test]
    fn cpio_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("archive");
        std::fs::write(&file, pack("init", b"program")).unwrap();
        let listed = std::process::Command::new("cpio").args(["-t", "-F"]).arg(&file).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "init\n", "{listed:?}");
    }
}
