//! What the firmware says of itself and of the machine: images, volumes, tables, partitions, trust domains.
//!
//! Source: TCG PC Client Platform Firmware Profile 1.06, sections 10.2 (structures) and 10.4.5 (EV_NO_ACTION); UEFI 2.10,
//! section 5.3 (GPT); td-shim `td-shim-interface` (trust domains).

use super::super::cursor::Cursor;
use super::device_path::DevicePath;
use super::text::{self, Guid};

/// An image that the firmware started; the digest is the image's, by Authenticode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image<'a> {
    /// Where it lay in memory.
    pub address: u64,
    /// How many bytes it had.
    pub image_bytes: u64,
    /// Where it came from.
    pub path: DevicePath<'a>,
}

/// A piece of firmware; the digest is of the bytes that lay there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// What it is, if the event says so.
    pub description: Option<String>,
    /// Where it lay in memory.
    pub address: u64,
    /// How many bytes it had.
    pub blob_bytes: u64,
}

/// Tables that the firmware hands over; the digest is of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// What they are, if the event says so.
    pub description: Option<String>,
    /// Which table, and its address.
    pub tables: Vec<(Guid, u64)>,
}

/// The partition table of the disk that was booted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionTable<'a> {
    /// The disk.
    pub disk: Guid,
    entry_bytes: usize,
    entries: &'a [u8],
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// What it is for.
    pub purpose: Guid,
    /// Which one it is.
    pub identity: Guid,
    /// Its first block.
    pub first_block: u64,
    /// Its last block.
    pub last_block: u64,
    /// Its name, as written.
    pub name: String,
}

/// A manifest of reference values that the firmware points at (SP 800-155).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Which one.
    pub reference: Guid,
    /// Who made the platform, as written; empty in the older forms.
    pub manufacturer: String,
    /// Which platform.
    pub model: String,
}

/// What a trust domain (TDX) was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustDomain<'a> {
    /// `td_hob`, `td_payload_info`: what it is.
    pub name: &'a str,
    /// The bytes; the digest is of them.
    pub data: &'a [u8],
}

/// Reads a `UEFI_IMAGE_LOAD_EVENT`.
pub(super) fn image(data: &[u8]) -> Option<Image<'_>> {
    let mut cursor = Cursor::new(data);
    let (address, image_bytes, _link_address) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
    let path_bytes = cursor.u64()?;
    Some(Image { address, image_bytes, path: DevicePath::new(cursor.take_u64(path_bytes)?) })
}

/// Reads a `UEFI_PLATFORM_FIRMWARE_BLOB`, which is all of the data.
pub(super) fn blob(data: &[u8]) -> Option<Blob> {
    let mut cursor = Cursor::new(data);
    let blob = Blob { description: None, address: cursor.u64()?, blob_bytes: cursor.u64()? };
    cursor.bytes.is_empty().then_some(blob)
}

/// Reads a `UEFI_PLATFORM_FIRMWARE_BLOB2`: a description before the same.
pub(super) fn blob2(data: &[u8]) -> Option<Blob> {
    let mut cursor = Cursor::new(data);
    let description = cursor.sized_u8()?;
    let description = text::ascii_text(description).map(str::to_owned);
    Some(Blob { description, ..blob(cursor.bytes)? })
}

/// Reads a `UEFI_HANDOFF_TABLE_POINTERS`.
pub(super) fn tables(data: &[u8]) -> Option<Tables> {
    const ENTRY_BYTES: usize = 24;
    let mut cursor = Cursor::new(data);
    let count = usize::try_from(cursor.u64()?).ok()?;
    let mut entries = Cursor::new(cursor.take(count.checked_mul(ENTRY_BYTES)?)?);
    let tables = (0..count).map(|_| Some((Guid(entries.array()?), entries.u64()?))).collect::<Option<_>>()?;
    Some(Tables { description: None, tables })
}

/// Reads a `UEFI_HANDOFF_TABLE_POINTERS2`: a description before the same.
pub(super) fn tables2(data: &[u8]) -> Option<Tables> {
    let mut cursor = Cursor::new(data);
    let description = text::ascii_text(cursor.sized_u8()?).map(str::to_owned);
    Some(Tables { description, ..tables(cursor.bytes)? })
}

/// Reads a `UEFI_GPT_DATA`: header, count, entries.
pub(super) fn partition_table(data: &[u8]) -> Option<PartitionTable<'_>> {
    let mut cursor = Cursor::new(data);
    let mut header = Cursor::new(cursor.take(92)?);
    if header.take(8)? != b"EFI PART" {
        return None;
    }
    header.take(48)?; // revision, sizes, checksums, the header's own places, first and last usable block
    let disk = Guid(header.array()?);
    header.take(12)?; // where the entries start, how many the disk has room for
    let entry_bytes = usize::try_from(header.u32()?).ok().filter(|size| *size >= 128)?;
    let count = usize::try_from(cursor.u64()?).ok()?;
    let entries = cursor.take(count.checked_mul(entry_bytes)?)?;
    Some(PartitionTable { disk, entry_bytes, entries })
}

impl PartitionTable<'_> {
    /// The partitions in order.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> {
        self.entries.chunks_exact(self.entry_bytes).filter_map(partition)
    }
}

fn partition(entry: &[u8]) -> Option<Partition> {
    let mut cursor = Cursor::new(entry);
    let (purpose, identity) = (Guid(cursor.array()?), Guid(cursor.array()?));
    let (first_block, last_block, _attributes) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
    let name = text::utf16(cursor.take(72)?).unwrap_or_default();
    Some(Partition { purpose, identity, first_block, last_block, name })
}

/// Reads the data of an SP 800-155 event, of any of its three forms.
pub(super) fn manifest(data: &[u8]) -> Option<Manifest> {
    let mut cursor = Cursor::new(data);
    let form = cursor.take(16)?;
    if !form.starts_with(b"SP800-155 Event") {
        return None;
    }
    let _vendor = cursor.u32()?;
    let reference = Guid(cursor.array()?);
    let mut word = || Some(text::ascii_text(cursor.sized_u8()?).unwrap_or_default().to_owned());
    let described = if form.ends_with(b"Event\0") { None } else { word().zip(word()) };
    let (manufacturer, model) = described.unwrap_or_default();
    Some(Manifest { reference, manufacturer, model })
}

/// Reads what td-shim measures: sixteen bytes of name, a length, the bytes.
pub(in super::super) fn trust_domain(data: &[u8]) -> Option<TrustDomain<'_>> {
    let mut cursor = Cursor::new(data);
    let name = text::ascii_text(cursor.take(16)?).filter(|name| name.starts_with("td_"))?;
    let data = cursor.sized()?;
    Some(TrustDomain { name, data })
}

/// How a cloud machine is isolated, as its `EV_NONHOST_INFO` says.
///
/// Source: google/go-eventlog, `extract/extract.go` (`ParseGCENonHostInfo`).
pub(super) fn isolation(data: &[u8]) -> Option<&'static str> {
    match data.strip_prefix(b"GCE NonHostInfo\0")?.first()? {
        0 => Some("no memory encryption"),
        1 => Some("AMD SEV"),
        2 => Some("AMD SEV-ES"),
        3 => Some("Intel TDX"),
        4 => Some("AMD SEV-SNP"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_the_event_are_refused() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        assert_eq!(tables(&bytes), None);
        bytes = 1_u64.to_le_bytes().to_vec();
        bytes.extend([7; 24]);
        assert_eq!(tables(&bytes).unwrap().tables.len(), 1);
        let described = [&b"\x04ACPI"[..], &bytes].concat();
        assert_eq!(tables2(&described).unwrap().description.as_deref(), Some("ACPI"));
        let mut gpt = b"EFI PART".to_vec();
        gpt.extend([0; 76]);
        gpt.extend(128_u32.to_le_bytes());
        gpt.extend([0; 4]);
        gpt.extend(1_u64.to_le_bytes());
        assert_eq!(partition_table(&gpt), None);
        gpt.extend([b'a'; 128]);
        assert_eq!(partition_table(&gpt).unwrap().partitions().count(), 1);
        gpt[84] = 0;
        assert_eq!(partition_table(&gpt), None, "entries of no size");
    }
}
