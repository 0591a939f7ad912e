//! Text and identifiers as firmware writes them, and their inert form for people.

use std::fmt;

/// A GUID in the mixed byte order of UEFI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

/// GUIDs that people know by a name.
///
/// Source: UEFI 2.10, sections 3.3, 32.4.1 and 5.3.3; shim `lib/guid.c`; edk2 `MdePkg/Include/Guid`; Linux `include/linux/efi.h`.
const NAMES: &[(&str, &str)] = &[
    ("8be4df61-93ca-11d2-aa0d-00e098032b8c", "EFI global"),
    ("d719b2cb-3d3a-4596-a3bc-dad00e67656f", "image security database"),
    ("605dab50-e046-4300-abb6-3dd810dd8b23", "shim"),
    ("77fa9abd-0359-4d32-bd60-28f4e78f784b", "Microsoft"),
    ("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", "systemd loader"),
    ("eb9d2d30-2d88-11d3-9a16-0090273fc14d", "ACPI 1.0 table"),
    ("8868e871-e4f1-11d3-bc22-0080c73c8881", "ACPI 2.0 table"),
    ("eb9d2d31-2d88-11d3-9a16-0090273fc14d", "SMBIOS table"),
    ("f2fd1544-9794-4a2c-992e-e5bbcf20e394", "SMBIOS 3 table"),
    ("eb9d2d2f-2d88-11d3-9a16-0090273fc14d", "MPS table"),
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "EFI system partition"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux data"),
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux root (x86-64)"),
    ("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5", "Linux root verity (x86-64)"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "Linux extended boot"),
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "Windows data"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery"),
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    ("cab6e88e-abf3-4102-a07a-d4bb9be3c1d3", "ChromeOS firmware"),
    ("fe3a2a5d-4f32-41a7-b725-accc3285a309", "ChromeOS kernel"),
    ("3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec", "ChromeOS root"),
];

impl Guid {
    /// The name that people know it by, if it is one of a few.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        let text = self.to_string();
        NAMES.iter().find(|(guid, _)| *guid == text).map(|(_, name)| *name)
    }

    /// Whether every byte is zero, as in an unused partition entry.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, e @ ..] = self.0;
        write!(f, "{:08x}", u32::from_le_bytes([a0, a1, a2, a3]))?;
        write!(f, "-{:04x}", u16::from_le_bytes([b0, b1]))?;
        write!(f, "-{:04x}-{d0:02x}{d1:02x}-", u16::from_le_bytes([c0, c1]))?;
        e.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// UTF-16 text up to its first NUL or its end; `None` if it is no valid UTF-16.
pub(super) fn utf16(bytes: &[u8]) -> Option<String> {
    let units = bytes.chunks_exact(2).filter_map(|pair| Some(u16::from_le_bytes(pair.try_into().ok()?)));
    char::decode_utf16(units.take_while(|unit| *unit != 0)).collect::<Result<_, _>>().ok()
}

/// UTF-16 text up to its first NUL or its end, with a mark for everything that is none: a name is shown and compared, and what
/// stands beside it must not be lost because of it.
pub(super) fn utf16_lossy(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).filter_map(|pair| Some(u16::from_le_bytes(pair.try_into().ok()?)));
    let chars = char::decode_utf16(units.take_while(|unit| *unit != 0));
    chars.map(|read| read.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// UTF-16 text that fills all its bytes, at most a run of NULs behind it, and has nothing in it that people could not read.
pub(super) fn utf16_text(bytes: &[u8]) -> Option<String> {
    // One byte may be missing at the end: a loader counted its NUL as one byte.
    let text = utf16(bytes)?;
    let used = text.encode_utf16().count().checked_mul(2)?;
    let rest_is_zero = bytes.get(used..)?.iter().all(|byte| *byte == 0);
    (!text.is_empty() && rest_is_zero && text.chars().all(is_readable)).then_some(text)
}

/// ASCII text that fills all its bytes, at most a run of NULs behind it.
pub(super) fn ascii_text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    let text = std::str::from_utf8(bytes.get(..end)?).ok()?;
    (!text.is_empty() && text.chars().all(is_readable)).then_some(text)
}

fn is_readable(c: char) -> bool {
    !c.is_control() || matches!(c, '\n' | '\t' | '\r')
}

/// Letters that show nothing. Source: Unicode 16, `Default_Ignorable_Code_Point` among the letters (Hangul fillers).
const HIDDEN: [char; 4] = ['\u{115f}', '\u{1160}', '\u{3164}', '\u{ffa0}'];

/// Text in its inert form: control, directional and other invisible characters are escaped (`\n`, `\x1b`, `\u{202e}`), what is too
/// long is cut. A backslash stays one: paths are full of them.
#[must_use]
pub fn plain(text: &str, chars_max: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(chars_max));
    for c in text.chars().take(chars_max) {
        match c {
            ' '..='~' => shown.push(c),
            '\n' | '\r' | '\t' => shown.extend(c.escape_default()),
            '\0'..='\x7f' => shown.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ if c.is_alphanumeric() && !HIDDEN.contains(&c) => shown.push(c),
            _ => shown.extend(c.escape_unicode()),
        }
    }
    if text.chars().nth(chars_max).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_are_written_as_people_write_them() {
        let bytes = [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
        assert_eq!(Guid(bytes).to_string(), "8be4df61-93ca-11d2-aa0d-00e098032b8c");
        assert_eq!(Guid(bytes).name(), Some("EFI global"));
    }

    #[test]
    fn text_is_inert() {
        assert_eq!(plain("a\u{202e}b\x1b[31m\n\u{3164}\\é", 40), "a\\u{202e}b\\x1b[31m\\n\\u{3164}\\é");
        assert_eq!(plain("abcdef", 3), "abc...");
        assert_eq!(utf16_text(b"a\0b\0\0\0"), Some("ab".to_owned()));
        assert_eq!(utf16_text(b"a\0b\0\0"), Some("ab".to_owned()), "one byte of the NUL is missing");
        assert_eq!(utf16_text(b"a\0\0\0b\0"), None, "text behind the NUL would stay unseen");
        assert_eq!((ascii_text(b"ab\0\0"), ascii_text(b"a\0b"), ascii_text(b"\0")), (Some("ab"), None, None));
    }
}
