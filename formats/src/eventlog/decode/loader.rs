//! What boot loaders and kernels measure: GRUB, shim, systemd-boot and systemd-stub, the kernel's EFI stub.
//!
//! Source: GRUB `grub-core/commands/tpm.c`, `grub-core/loader`; shim `tpm.c`, `mok.c`; systemd `src/boot/measure.c`,
//! `src/fundamental/uki.h`, `src/fundamental/tpm2-pcr.h`; Linux `drivers/firmware/efi/libstub/efistub.h`.

use super::super::cursor::Cursor;
use super::text;

/// GRUB's labels in front of what it hashes, older ones without the colon.
const GRUB_LABELS: &[(&str, Word)] = &[
    ("grub_cmd: ", Word::Command),
    ("grub_cmd ", Word::Command),
    ("kernel_cmdline: ", Word::KernelCommandLine),
    ("grub_kernel_cmdline ", Word::KernelCommandLine),
    ("module_cmdline: ", Word::ModuleCommandLine),
];

/// What shim names in PCR 14 and what it keeps in variables of its own.
const SHIM_NAMES: &[&str] = &[
    "MokList",
    "MokListX",
    "MokListTrusted",
    "MokSBState",
    "MokDBState",
    "MokPolicy",
    "SbatLevel",
    "Shim",
    "HSIStatus",
];

/// The sections that systemd-stub measures into PCR 11, in its order; `.pcrsig` is not measured.
pub const UKI_SECTIONS: &[&str] = &[
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile",
    ".dtbauto", ".hwids", ".efifw",
];

/// The tags of `EV_EVENT_TAG` that Linux and systemd use.
const TAGS: &[(u32, &str)] = &[
    (0x8f3b_22ec, "initrd"),
    (0x8f3b_22ed, "kernel command line"),
    (0xf5bc_582a, "loader.conf"),
    (0x6c46_f751, "devicetree add-on"),
    (0x49df_fe0f, "initrd add-on"),
    (0xdac0_8e1a, "microcode add-on"),
    (0x13ae_d6db, "UKI profile"),
    (0xd5cb_7cbc, "SMBIOS type 1 (system)"),
    (0xe0d4_7bc8, "SMBIOS type 2 (board)"),
    (0xc0b3_bd23, "SMBIOS type 11 (OEM strings)"),
];

/// What a label of GRUB announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// A command of its script.
    Command,
    /// The line that the kernel is started with.
    KernelCommandLine,
    /// The line of a module.
    ModuleCommandLine,
}

/// What an `EV_IPL` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loader {
    /// A label of GRUB, and the text behind it. The digest covers the text and not the label.
    Grub {
        /// What the label announces.
        word: Word,
        /// The text, as written.
        text: String,
    },
    /// A file that the loader read; the digest is of its content.
    File(String),
    /// A section of a UKI; of its two events the first has the digest of the name, the second of the content.
    Section(&'static str),
    /// A variable or state of shim's; the digest is of its content.
    Shim(&'static str),
    /// UTF-16 text: the command line of systemd-boot and systemd-stub, or the name of what was measured.
    Text(String),
    /// Other readable bytes.
    Words(String),
}

/// A tagged structure: an identifier, and what its owner put behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag<'a> {
    /// The identifier.
    pub id: u32,
    /// What Linux or systemd use it for; `None` for others.
    pub name: Option<&'static str>,
    /// The bytes behind the identifier and their length.
    pub data: &'a [u8],
}

/// The label of GRUB at the start of `data`, and what follows it.
pub(in super::super) fn grub_label(data: &[u8]) -> Option<(Word, &[u8])> {
    GRUB_LABELS.iter().find_map(|(label, word)| Some((*word, data.strip_prefix(label.as_bytes())?)))
}

/// The section of a UKI whose name, in UTF-16 with its NUL, is all of `data`.
pub(in super::super) fn uki_section(data: &[u8]) -> Option<&'static str> {
    let name = text::utf16_text(data)?;
    UKI_SECTIONS.iter().find(|section| **section == name).copied()
}

/// Reads the data of an `EV_IPL`.
pub(super) fn loader(data: &[u8]) -> Option<Loader> {
    if let Some((word, rest)) = grub_label(data) {
        return Some(Loader::Grub { word, text: text::ascii_text(rest)?.to_owned() });
    }
    if let Some(section) = uki_section(data) {
        return Some(Loader::Section(section));
    }
    if let Some(words) = text::ascii_text(data) {
        if let Some(name) = SHIM_NAMES.iter().find(|name| **name == words) {
            return Some(Loader::Shim(name));
        }
        let is_file = words.starts_with('/') || words.starts_with('(') || words.starts_with("grub_linuxefi");
        return Some(if is_file { Loader::File(words.to_owned()) } else { Loader::Words(words.to_owned()) });
    }
    text::utf16_text(data).map(Loader::Text)
}

/// Reads the data of an `EV_EVENT_TAG`.
pub(super) fn tag(data: &[u8]) -> Option<Tag<'_>> {
    let mut cursor = Cursor::new(data);
    let id = cursor.u32()?;
    let body = cursor.sized()?;
    let name = TAGS.iter().find(|(known, _)| *known == id).map(|(_, name)| *name);
    Some(Tag { id, name, data: body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_names_and_lines_are_told_apart() {
        let grub = |word, text: &str| Some(Loader::Grub { word, text: text.to_owned() });
        assert_eq!(loader(b"grub_cmd: insmod xfs\0"), grub(Word::Command, "insmod xfs"));
        assert_eq!(loader(b"grub_kernel_cmdline /vmlinuz ro\0"), grub(Word::KernelCommandLine, "/vmlinuz ro"));
        assert_eq!(loader(b"MokListX\0"), Some(Loader::Shim("MokListX")));
        assert_eq!(loader(b".\0l\0i\0n\0u\0x\0\0\0"), Some(Loader::Section(".linux")));
        assert_eq!(loader(b"r\0o\0\0\0"), Some(Loader::Text("ro".to_owned())));
        assert_eq!(loader(b"(hd0)/grub.cfg\0"), Some(Loader::File("(hd0)/grub.cfg".to_owned())));
        assert_eq!(loader(&[0x01, 0x00, 0xff]), None);
    }

    #[test]
    fn tags_hold_no_more_than_the_event() {
        let initrd = [&0x8f3b_22ec_u32.to_le_bytes()[..], &2_u32.to_le_bytes(), b"x\0"].concat();
        assert_eq!(tag(&initrd).unwrap().name, Some("initrd"));
        assert_eq!(tag(&initrd[..9]), None);
    }
}
