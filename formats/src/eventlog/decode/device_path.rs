//! UEFI device paths: where an image was loaded from.
//!
//! Source: UEFI 2.10, section 10.3 (nodes) and 10.6.1.6 (their text).

use std::fmt::{self, Write as _};

use super::super::cursor::Cursor;
use super::text::{self, Guid};

/// The most nodes of one path that are shown. Real paths have fewer than ten.
const NODES_MAX: usize = 64;
/// The most characters of a node's own text.
const NODE_CHARS_MAX: usize = 256;

/// A device path: nodes of type, subtype and data, as they lie in the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicePath<'a> {
    bytes: &'a [u8],
}

/// One node of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node<'a> {
    /// 1 hardware, 2 ACPI, 3 messaging, 4 media, 5 BIOS boot, 0x7f end.
    pub kind: u8,
    /// The kind of that kind.
    pub subtype: u8,
    /// What the node says.
    pub data: &'a [u8],
}

impl<'a> DevicePath<'a> {
    /// Takes bytes as a path. Nothing is checked: what is no node ends the path.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The nodes in order, the end node left out.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        std::iter::from_fn(move || {
            let (kind, subtype) = (cursor.u8()?, cursor.u8()?);
            let data_bytes = usize::from(cursor.u16()?).checked_sub(4)?;
            let data = cursor.take(data_bytes)?;
            (kind != 0x7f || subtype != 0xff).then_some(Node { kind, subtype, data })
        })
        .take(NODES_MAX)
    }

    /// Whether the path leads through a network card: it has a MAC or IP address or a URI in it.
    #[must_use]
    pub fn is_network(&self) -> bool {
        self.nodes().any(|node| node.kind == 3 && matches!(node.subtype, 11..=13 | 24))
    }

    /// Whether the path ends inside a device's own memory: the image is an option ROM.
    #[must_use]
    pub fn is_option_rom(&self) -> bool {
        self.nodes().last().is_some_and(|node| (node.kind, node.subtype) == (4, 8))
    }

    /// The path up to and with its last PCI node, in words: which device.
    #[must_use]
    pub fn pci_device(&self) -> Option<String> {
        let last =
            self.nodes().enumerate().filter(|(_, node)| (node.kind, node.subtype) == (1, 1)).map(|(n, _)| n).last()?;
        Some(join(self.nodes().take(last.saturating_add(1))))
    }

    /// The path of the file in its file system, if the path names one.
    #[must_use]
    pub fn file(&self) -> Option<String> {
        self.nodes().filter(|node| (node.kind, node.subtype) == (4, 4)).find_map(|node| text::utf16(node.data))
    }

    /// The firmware volume's file, if the path leads into the firmware itself.
    #[must_use]
    pub fn firmware_file(&self) -> Option<Guid> {
        self.nodes()
            .find(|node| (node.kind, node.subtype) == (4, 6))
            .and_then(|node| node.data.try_into().ok().map(Guid))
    }
}

impl fmt::Display for DevicePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&join(self.nodes()))
    }
}

fn join<'a>(nodes: impl Iterator<Item = Node<'a>>) -> String {
    nodes.map(|node| node.to_string()).collect::<Vec<_>>().join("/")
}

impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match words(self) {
            Some(text) => f.write_str(&text::plain(&text, NODE_CHARS_MAX)),
            None => write!(f, "Path({},{},{} bytes)", self.kind, self.subtype, self.data.len()),
        }
    }
}

/// A node's text; `None` for a kind that we do not know or whose data is too short.
fn words(node: &Node<'_>) -> Option<String> {
    let mut data = Cursor::new(node.data);
    let d = &mut data;
    Some(match (node.kind, node.subtype) {
        (1, 1) => {
            let (function, device) = (d.u8()?, d.u8()?);
            format!("Pci({device:#x},{function:#x})")
        }
        (1, 3) => format!("MemoryMapped({:#x},{:#x},{:#x})", d.u32()?, d.u64()?, d.u64()?),
        (1, 4) => format!("VenHw({})", Guid(d.array()?)),
        (1, 5) => format!("Ctrl({:#x})", d.u32()?),
        (2, 1) => acpi(d.u32()?, d.u32()?),
        (2, 3) => format!("AcpiAdr({:#x})", d.u32()?),
        (3, 1) => format!("Ata({},{},{})", d.u8()?, d.u8()?, d.u16()?),
        (3, 2) => format!("Scsi({:#x},{:#x})", d.u16()?, d.u16()?),
        (3, 5) => format!("USB({:#x},{:#x})", d.u8()?, d.u8()?),
        (3, 10) => format!("VenMsg({})", Guid(d.array()?)),
        (3, 11) => format!("MAC({})", hex::encode(d.array::<6>()?)),
        (3, 12) => {
            let (_local, remote) = (d.array::<4>()?, d.array::<4>()?);
            let [a, b, c, e] = remote;
            format!("IPv4({a}.{b}.{c}.{e})")
        }
        (3, 13) => {
            let (_local, remote) = (d.array::<16>()?, d.array::<16>()?);
            format!("IPv6({})", std::net::Ipv6Addr::from(remote))
        }
        (3, 17) => format!("Unit({:#x})", d.u8()?),
        (3, 18) => format!("Sata({:#x},{:#x},{:#x})", d.u16()?, d.u16()?, d.u16()?),
        (3, 23) => format!("NVMe({:#x},{})", d.u32()?, hex::encode(d.array::<8>()?)),
        (3, 24) => format!("Uri({})", text::ascii_text(node.data).unwrap_or_default()),
        (3, 29) => format!("eMMC({:#x})", d.u8()?),
        (3, 26) => format!("SD({:#x})", d.u8()?),
        (4, 1) => partition(d)?,
        (4, 2) => format!("CDROM({:#x},{:#x},{:#x})", d.u32()?, d.u64()?, d.u64()?),
        (4, 3) => format!("VenMedia({})", Guid(d.array()?)),
        (4, 4) => text::utf16(node.data)?,
        (4, 6) => format!("FvFile({})", Guid(d.array()?)),
        (4, 7) => format!("Fv({})", Guid(d.array()?)),
        (4, 8) => {
            let _reserved = d.u32()?;
            format!("Offset({:#x},{:#x})", d.u64()?, d.u64()?)
        }
        (4, 9) => format!("RamDisk({:#x},{:#x})", d.u64()?, d.u64()?),
        (5, 1) => {
            let (device, _status) = (d.u16()?, d.u16()?);
            format!("BBS({device:#x},{})", text::ascii_text(d.bytes).unwrap_or_default())
        }
        (0x7f, 1) => ";".to_owned(),
        _ => return None,
    })
}

/// EISA identifiers of the PNP range. Source: UEFI 2.10, section 10.3.3; `PNP0A03` is a PCI root, `PNP0A08` a PCIe root.
fn acpi(hid: u32, uid: u32) -> String {
    match hid {
        0x0a03_41d0 => format!("PciRoot({uid:#x})"),
        0x0a08_41d0 => format!("PcieRoot({uid:#x})"),
        _ => format!("Acpi({hid:#010x},{uid:#x})"),
    }
}

fn partition(d: &mut Cursor<'_>) -> Option<String> {
    let (number, start, size) = (d.u32()?, d.u64()?, d.u64()?);
    let (signature, _format, signature_type) = (d.array::<16>()?, d.u8()?, d.u8()?);
    let mut text = format!("HD({number},");
    match signature_type {
        2 => write!(text, "GPT,{}", Guid(signature)),
        1 => write!(text, "MBR,{}", hex::encode(signature.first_chunk::<4>()?)),
        other => write!(text, "{other}"),
    }
    .ok()?;
    write!(text, ",{start:#x},{size:#x})").ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kind: u8, subtype: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, subtype];
        bytes.extend((data.len() as u16 + 4).to_le_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn a_path_reads_as_the_specification_writes_it() {
        let mut acpi = 0x0a03_41d0_u32.to_le_bytes().to_vec();
        acpi.extend([0; 4]);
        let rom = [node(2, 1, &acpi), node(1, 1, &[0, 0x19]), node(4, 8, &[0; 20]), node(0x7f, 0xff, &[])].concat();
        let path = DevicePath::new(&rom);
        assert_eq!(path.to_string(), "PciRoot(0x0)/Pci(0x19,0x0)/Offset(0x0,0x0)");
        assert!(path.is_option_rom() && !path.is_network());
        assert_eq!(path.pci_device().unwrap(), "PciRoot(0x0)/Pci(0x19,0x0)");
        let card = [node(2, 1, &acpi), node(1, 1, &[0, 0x19]), node(3, 11, &[1; 33])].concat();
        assert!(DevicePath::new(&card).is_network());
        let file = node(4, 4, b"\\\0a\0\0\0");
        assert_eq!(DevicePath::new(&file).file().unwrap(), "\\a");
    }

    #[test]
    fn what_is_no_node_ends_the_path() {
        for bad in [&[1u8, 1, 3, 0][..], &[1, 1, 0xff, 0xff, 0], &[1]] {
            assert_eq!(DevicePath::new(bad).nodes().count(), 0);
        }
        assert_eq!(DevicePath::new(&node(1, 1, &[])).to_string(), "Path(1,1,0 bytes)");
        assert_eq!(DevicePath::new(&node(9, 9, &[]).repeat(1000)).nodes().count(), NODES_MAX);
    }
}
