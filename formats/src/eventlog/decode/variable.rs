//! Variables that steer a boot: names, owners, and values in the form that their name calls for.
//!
//! Source: TCG PC Client Platform Firmware Profile 1.06, section 10.2.6 (UEFI_VARIABLE_DATA); UEFI 2.10, section 3.3 (names),
//! 3.1.3 (load options).

use super::super::cursor::Cursor;
use super::device_path::DevicePath;
use super::signatures::{Signature, SignatureDatabase, subject};
use super::text::{self, Guid};

/// A variable as an event carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable<'a> {
    /// Whose name space the name is in.
    pub owner: Guid,
    /// The name, as written; show it through [`super::plain`].
    pub name: String,
    /// The value, by the variable's name.
    pub value: VariableValue<'a>,
    /// The value's bytes.
    pub data: &'a [u8],
}

/// A variable's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VariableValue<'a> {
    /// The variable was measured without a value: it is not set.
    Unset,
    /// A switch of one byte: `SecureBoot`, `SetupMode`, `AuditMode`, `DeployedMode`, `MokSBState`.
    Switch(bool),
    /// A database of keys and hashes: `PK`, `KEK`, `db`, `dbx`, `dbt`, `dbr`, MOK lists.
    Database(SignatureDatabase<'a>),
    /// The entry of a database that vouched for an image.
    Authority(Signature<'a>),
    /// A bare certificate: shim's own.
    Certificate {
        /// Its subject, inert.
        subject: String,
    },
    /// Numbers of options in the order in which they are tried: `BootOrder`, `DriverOrder`.
    Order(Vec<u16>),
    /// What to start: `Boot0001`, `Driver0001`.
    LoadOption(LoadOption<'a>),
    /// Text: `SbatLevel`.
    Text(&'a str),
    /// Anything else.
    Bytes,
}

/// A boot entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOption<'a> {
    /// Bit 0: active.
    pub attributes: u32,
    /// How the menu calls it, as written.
    pub description: String,
    /// What it starts.
    pub path: DevicePath<'a>,
    /// What the image is given: for a kernel, its command line.
    pub options: &'a [u8],
}

impl<'a> Variable<'a> {
    /// Reads a `UEFI_VARIABLE_DATA`; an authority event's data is an entry and not a whole database.
    pub(super) fn parse(bytes: &'a [u8], is_authority: bool) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        let owner = Guid(cursor.array()?);
        let (name_chars, data_bytes) = (cursor.u64()?, cursor.u64()?);
        let name = text::utf16_lossy(cursor.take_u64(name_chars.checked_mul(2)?)?);
        let data = cursor.take_u64(data_bytes)?;
        let value = value(&name, data, is_authority).unwrap_or(VariableValue::Bytes);
        Some(Self { owner, name, value, data })
    }
}

/// The value of the variable `name`; `None` if its bytes are not of the form that the name calls for.
fn value<'a>(name: &str, data: &'a [u8], is_authority: bool) -> Option<VariableValue<'a>> {
    if data.is_empty() {
        return Some(VariableValue::Unset);
    }
    if let Some(text) = Some(data).filter(|_| name.starts_with("Sbat")).and_then(text::ascii_text) {
        return Some(VariableValue::Text(text));
    }
    if is_authority {
        return authority(data);
    }
    match name {
        "SecureBoot" | "SetupMode" | "AuditMode" | "DeployedMode" | "MokSBState" => match data {
            [byte] => Some(VariableValue::Switch(*byte != 0)),
            _ => None,
        },
        "PK" | "KEK" | "db" | "dbx" | "dbt" | "dbr" | "MokList" | "MokListX" => {
            SignatureDatabase::parse(data).map(VariableValue::Database)
        }
        "BootOrder" | "DriverOrder" | "SysPrepOrder" => {
            let numbers = data.chunks_exact(2).filter_map(|pair| Some(u16::from_le_bytes(pair.try_into().ok()?)));
            data.len().is_multiple_of(2).then(|| VariableValue::Order(numbers.collect()))
        }
        _ if is_load_option(name) => load_option(data).map(VariableValue::LoadOption),
        _ => None,
    }
}

fn authority(data: &[u8]) -> Option<VariableValue<'_>> {
    if let Some(signature) = Signature::single(data) {
        return Some(VariableValue::Authority(signature));
    }
    subject(data).map(|subject| VariableValue::Certificate { subject })
}

/// `Boot0001`: a word and four hex digits.
fn is_load_option(name: &str) -> bool {
    ["Boot", "Driver", "SysPrep"]
        .iter()
        .filter_map(|word| name.strip_prefix(word))
        .any(|digits| digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn load_option(data: &[u8]) -> Option<LoadOption<'_>> {
    let mut cursor = Cursor::new(data);
    let attributes = cursor.u32()?;
    let path_bytes = usize::from(cursor.u16()?);
    let description = text::utf16(cursor.bytes)?;
    let text_bytes = description.encode_utf16().count().checked_add(1)?.checked_mul(2)?;
    cursor.take(text_bytes)?;
    let path = DevicePath::new(cursor.take(path_bytes)?);
    Some(LoadOption { attributes, description, path, options: cursor.bytes })
}

/// A `UEFI_VARIABLE_DATA`, as firmware writes it.
#[cfg(test)]
pub(in crate::eventlog) fn written(name: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes.extend((name.len() as u64).to_le_bytes());
    bytes.extend((data.len() as u64).to_le_bytes());
    name.bytes().for_each(|byte| bytes.extend([byte, 0]));
    bytes.extend(data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_form_of_their_name() {
        let read = |name, data: &[u8], is_authority| {
            let bytes = written(name, data);
            format!("{:?}", Variable::parse(&bytes, is_authority).unwrap().value)
        };
        assert_eq!(read("SecureBoot", &[1], false), "Switch(true)");
        assert_eq!(read("SecureBoot", &[1, 1], false), "Bytes");
        assert_eq!(read("dbx", &[], false), "Unset");
        assert_eq!(read("BootOrder", &[1, 0, 2, 0], false), "Order([1, 2])");
        assert_eq!(read("BootOrder", &[1, 0, 2], false), "Bytes");
        assert_eq!(read("SbatLevel", b"sbat,1,2021030218\n", true), "Text(\"sbat,1,2021030218\\n\")");
        assert!(read("Boot0001", b"\x01\0\0\0\0\0A\0\0\0opt", false).contains("description: \"A\""));
        assert_eq!(read("Boot1", b"\x01\0\0\0\0\0A\0\0\0opt", false), "Bytes");
    }

    #[test]
    fn lengths_beyond_the_event_are_refused() {
        let mut bytes = written("db", b"x");
        bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Variable::parse(&bytes, false), None);
        assert_eq!(Variable::parse(&bytes[..20], false), None);
    }
}
