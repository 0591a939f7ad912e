//! The initrd as systemd-stub hands it to the kernel: the UKI's own, and behind it an archive of what the stub passes on.
//!
//! Pure. Of the sections that the stub passes on we have one, `.osrel`, which becomes `/.extra/os-release`. Source: systemd 257,
//! src/boot/stub.c (the order of initrds) and src/boot/cpio.c (the archive); Linux, Documentation/driver-api/early-userspace/
//! buffer-format.rst. Checked against PCR 9 of a live boot.

/// The directory, its mode, the file in it, its mode.
const DIRECTORY: (&str, u32) = (".extra", 0o040_555);
const FILE: (&str, u32) = (".extra/os-release", 0o100_444);
/// The name of the last entry.
const TRAILER: &str = "TRAILER!!!";
/// Archives and what is in them begin at multiples of this.
const ALIGNMENT_BYTES: usize = 4;

/// The initrd that the kernel measures, given the contents of `.initrd` and `.osrel`.
#[must_use]
pub fn combined_initrd(initrd: &[u8], os_release: &[u8]) -> Vec<u8> {
    let mut combined = initrd.to_vec();
    pad(&mut combined);
    entry(&mut combined, 1, DIRECTORY, &[]);
    entry(&mut combined, 2, FILE, os_release);
    entry(&mut combined, 0, (TRAILER, 0), &[]);
    combined
}

/// Appends one entry: header, name, content.
fn entry(archive: &mut Vec<u8>, inode: u32, (name, mode): (&str, u32), content: &[u8]) {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let (links, name_bytes) = (1, length(name.len() + 1));
    let fields = [inode, mode, 0, 0, links, 0, length(content.len()), 0, 0, 0, 0, name_bytes, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        // The stub's trailer is a constant with one digit in upper case; its other headers are in lower case.
        let word = if name == TRAILER { format!("{field:08X}") } else { format!("{field:08x}") };
        archive.extend_from_slice(word.as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(ALIGNMENT_BYTES), 0);
}
