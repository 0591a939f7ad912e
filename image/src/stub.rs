//! What systemd-stub does with a UKI's sections before it starts the kernel.
//!
//! Pure. The initrd that the kernel measures is not the UKI's alone: the stub joins the microcode, the initrd, and an archive for
//! each section that it passes on, in this order. What is passed on, and what is measured, depends on the stub's version, which the
//! stub says in its section `.sdmagic`. Source: systemd, src/boot/stub.c (the order of initrds), src/boot/cpio.c (the archives),
//! src/boot/linux.c (how the kernel is loaded), src/fundamental/uki.h (the order of sections), at v252 to v258; Linux,
//! Documentation/driver-api/early-userspace/buffer-format.rst. Checked against PCR 9 of live boots with version 257.

use std::borrow::Cow;

/// The directory of all that is passed on, and its mode.
const DIRECTORY: (&str, u32) = (".extra", 0o040_555);
/// The mode of the files in it.
const FILE_MODE: u32 = 0o100_444;
/// The name of the last entry.
const TRAILER: &str = "TRAILER!!!";
/// Archives and what is in them begin at multiples of this.
const ALIGNMENT_BYTES: usize = 4;
/// How the stub's version begins in `.sdmagic`.
const MAGIC: &[u8] = b"LoaderInfo: systemd-stub ";

/// The sections that the stub measures into PCR 11, in its order, and the first version that does. `.pcrsig` is never measured, for
/// it signs the result.
const MEASURED: [(&str, u32); 14] = [
    (".linux", 252),
    (".osrel", 252),
    (".cmdline", 252),
    (".initrd", 252),
    (".ucode", 256),
    (".splash", 252),
    (".dtb", 252),
    (".uname", 252),
    (".sbat", 252),
    (".pcrpkey", 252),
    (".profile", 257),
    (".dtbauto", 257),
    (".hwids", 257),
    (".efifw", 258),
];
/// The sections that the stub passes on as files, in the order of their archives, and the first version that does.
const PASSED_ON: [(&str, &str, u32); 4] = [
    (".pcrsig", ".extra/tpm2-pcr-signature.json", 252),
    (".pcrpkey", ".extra/tpm2-pcr-public-key.pem", 252),
    (".osrel", ".extra/os-release", 257),
    (".profile", ".extra/profile", 257),
];

/// A stub's version: all that decides what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StubVersion(u32);

impl StubVersion {
    /// The first version that measures into PCR 11 alone and loads the kernel as firmware does.
    pub const OLDEST: Self = Self(252);
    /// The first version that loads the kernel by itself, so that firmware does not measure it again.
    pub const LOADS_KERNEL: Self = Self(258);
    /// The last version whose initrds are known here.
    pub const NEWEST: Self = Self(258);

    /// The version that `.sdmagic` names, if the stub is systemd's.
    #[must_use]
    pub fn of_magic(content: &[u8]) -> Option<Self> {
        let at = content.windows(MAGIC.len()).position(|window| window == MAGIC)?;
        let digits: Vec<u8> =
            content.get(at + MAGIC.len()..)?.iter().take(9).copied().take_while(u8::is_ascii_digit).collect();
        std::str::from_utf8(&digits).ok()?.parse().ok().map(Self)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The sections that it measures, in its order.
    pub fn measured(self) -> impl Iterator<Item = &'static str> {
        MEASURED.into_iter().filter(move |(_, since)| self.0 >= *since).map(|(name, _)| name)
    }

    /// The initrd that the kernel gets, in pieces, given the content of each section. `None` if there is nothing to get.
    #[must_use]
    pub fn initrd<'a>(self, section: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Vec<Cow<'a, [u8]>>> {
        let content = |name: &str, since: u32| if self.0 >= since { section(name) } else { None };
        let mut initrds: Vec<Cow<'a, [u8]>> =
            [content(".ucode", 256), content(".initrd", 252)].into_iter().flatten().map(Cow::Borrowed).collect();
        for (name, path, since) in PASSED_ON {
            if let Some(content) = content(name, since) {
                initrds.push(Cow::Owned(archive(path, content)));
            }
        }
        if initrds.len() < 2 {
            // One alone is handed over as it is.
            return if initrds.is_empty() { None } else { Some(initrds) };
        }
        let padded = initrds.into_iter().flat_map(|initrd| {
            let missing = initrd.len().next_multiple_of(ALIGNMENT_BYTES) - initrd.len();
            [initrd, Cow::Owned(vec![0; missing])]
        });
        Some(padded.collect())
    }
}

/// The command line as the stub hands it over, given the section's content: text up to the first zero, control characters made
/// spaces, trimmed, in UTF-16 with its terminating zero. `None` if it is not text.
#[must_use]
pub fn load_options(cmdline: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(cmdline.split(|byte| *byte == 0).next().unwrap_or_default()).ok()?;
    let text = text.replace(|c| c <= '\u{1f}', " ");
    Some(text.trim_matches(' ').encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect())
}

/// An archive of one file.
fn archive(path: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = Vec::with_capacity(content.len() + 512);
    entry(&mut archive, 1, DIRECTORY, &[]);
    entry(&mut archive, 2, (path, FILE_MODE), content);
    entry(&mut archive, 0, (TRAILER, 0), &[]);
    archive
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_number_before_anything_else() {
        let of = |text: &str| StubVersion::of_magic(text.as_bytes()).map(StubVersion::get);
        assert_eq!(of("#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####"), Some(257));
        assert_eq!(of("#### LoaderInfo: systemd-stub 258~rc1 ####"), Some(258));
        assert_eq!(of("#### LoaderInfo: systemd-boot 257 ####"), None);
        assert_eq!(of("#### LoaderInfo: systemd-stub x ####"), None);
    }

    #[test]
    fn a_lone_initrd_is_not_padded_and_joined_ones_are() {
        let stub = StubVersion(252);
        let alone = stub.initrd(|name| (name == ".initrd").then_some(b"abcde")).unwrap().concat();
        assert_eq!(alone, b"abcde");
        let with_key = stub
            .initrd(|name| match name {
                ".initrd" => Some(b"abcde"),
                ".pcrpkey" => Some(b"key"),
                _ => None,
            })
            .unwrap()
            .concat();
        assert_eq!(with_key[..8], *b"abcde\0\0\0");
        assert!(with_key.len().is_multiple_of(4) && with_key.len() > 8);
        assert_eq!(stub.initrd(|name| (name == ".osrel").then_some(b"ID=a")), None, "only newer stubs pass it on");
        assert_eq!(
            StubVersion(257).initrd(|name| (name == ".osrel").then_some(b"ID=a")).map(|parts| parts.len()),
            Some(1)
        );
    }

    #[test]
    fn the_command_line_is_trimmed_text() {
        let options = |text: &[u8]| load_options(text).map(|bytes| String::from_utf8(bytes).unwrap().replace('\0', ""));
        assert_eq!(options(b" \nquiet\tro \0ignored").as_deref(), Some("quiet ro"));
        assert_eq!(load_options(b"").unwrap(), [0, 0]);
        assert_eq!(load_options(b"\xff"), None);
    }
}
