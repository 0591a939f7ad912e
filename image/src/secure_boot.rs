//! Secure Boot of a site: whose images firmware starts.
//!
//! In reading order: [`Database`] is a list of certificates and image digests as firmware keeps it; [`Keys`] are a site's three keys
//! and the files that enrol them; [`update`] is a signed change of one of firmware's variables, for bare metal; [`enrolled`] is a
//! variable store that has them, for virtual machines; [`sign`] puts a site's signature on the published image, which stays the
//! same image: its digests in PCR 4, 9 and 11 do not change. [`docs/secure-boot.md`] is the runbook.
//!
//! Deliberately absent: shim and its machine owner keys, and with them SBAT levels, which only shim knows: the machine refuses to
//! run behind it.
//!
//! [`docs/secure-boot.md`]: ../../../docs/secure-boot.md

mod database;
mod image;
mod keys;
mod store;
mod update;

pub use database::{DATABASE_BYTES_MAX, Database, DatabaseError};
pub use image::{SignError, sign};
pub use keys::{Keys, KeysError, Role, create};
pub use store::{Store, StoreError, Stored, enrolled};
pub use update::{UpdateError, update};

/// One of firmware's variables that say whose images start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variable {
    /// Who owns the machine: may change `KEK`.
    PlatformKey,
    /// Who may change `db` and `dbx`.
    KeyExchangeKeys,
    /// What starts.
    Allowed,
    /// What does not start, whoever signed it.
    Forbidden,
}

/// Source: UEFI 2.10, section 3.3, EFI_GLOBAL_VARIABLE.
const GLOBAL: [u8; 16] = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";
/// Source: UEFI 2.10, section 32.6.1, EFI_IMAGE_SECURITY_DATABASE_GUID.
const IMAGE_SECURITY: [u8; 16] = *b"\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f";
/// Kept, seen by firmware and system, and changed by signed updates only. Source: UEFI 2.10, section 8.2.1.
const ATTRIBUTES: u32 = 0x01 | 0x02 | 0x04 | 0x20;

impl Variable {
    /// All of them, in the order in which they are enrolled in a virtual machine.
    pub const ALL: [Variable; 4] = [Self::PlatformKey, Self::KeyExchangeKeys, Self::Allowed, Self::Forbidden];

    /// What firmware calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PlatformKey => "PK",
            Self::KeyExchangeKeys => "KEK",
            Self::Allowed => "db",
            Self::Forbidden => "dbx",
        }
    }

    /// The GUID that its name stands under.
    #[must_use]
    pub const fn vendor(self) -> [u8; 16] {
        match self {
            Self::PlatformKey | Self::KeyExchangeKeys => GLOBAL,
            Self::Allowed | Self::Forbidden => IMAGE_SECURITY,
        }
    }
}

/// Text as firmware keeps names, without a terminating zero.
fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
