//! The little of cpio's `newc` format that an initrd needs. Bounded by the archive's length. Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.

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

/// The most files of an archive that are listed: an initrd of ours has some ten entries.
const FILES_MAX: usize = 4096;

/// The content of the file called `name`.
#[must_use]
pub fn find<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    entries(archive).find(|(found, _)| *found == name.as_bytes()).map(|(_, content)| content)
}

/// Its entries up to the first that is damaged, each with its name and content; at most 4096.
pub fn entries(mut archive: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (name, content, rest) = entry(archive)?;
        archive = rest;
        (name != TRAILER.as_bytes()).then_some((name, content))
    })
    .take(FILES_MAX)
}

/// The first entry's name and content, and what follows it.
fn entry(archive: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let head = archive.get(..HEAD_BYTES)?;
    let numbers = head.strip_prefix(MAGIC)?;
    let number = |at: usize| {
        let digits = std::str::from_utf8(numbers.get(at * 8..at * 8 + 8)?).ok()?;
        usize::try_from(u32::from_str_radix(digits, 16).ok()?).ok()
    };
    let (file_size, name_size) = (number(FILE_SIZE)?, number(NAME_SIZE)?);
    let name = archive.get(HEAD_BYTES..HEAD_BYTES + name_size)?.strip_suffix(&[0])?;
    let start = (HEAD_BYTES + name_size).next_multiple_of(4);
    let content = archive.get(start..start + file_size)?;
    let rest = archive.get((start + file_size).next_multiple_of(4)..).unwrap_or_default();
    Some((name, content, rest))
}

/// An archive that holds one program.
#[must_use]
pub fn pack(name: &str, program: &[u8]) -> Vec<u8> {
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_lie_in_the_archive(head in 0_usize..250, noise: Vec<u8>, flip in 0_usize..250) {
            let mut archive = pack("init", b"program");
            archive.truncate(head);
            archive.extend(noise);
            if let Some(byte) = archive.get_mut(flip) {
                *byte ^= 1;
            }
            let all: usize = entries(&archive).map(|(name, content)| name.len() + content.len()).sum();
            prop_assert!(all <= archive.len());
        }
    }

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
