//! What was on a network card's wire, as QEMU wrote it down. Source: libpcap, pcap-savefile(5); RFC 826, 791, 793, 768, 2131.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// All packets, in order.
pub(crate) struct Capture(pub(crate) Vec<Packet>);

/// A packet, and when it passed.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) at: SystemTime,
    pub(crate) kind: Kind,
}

/// What a packet is, as far as the tests care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whose hardware address is asked or told to whom.
    Arp(Ipv4Addr, Ipv4Addr),
    /// A client asks for an address, or a server gives one.
    Dhcp,
    /// From and to.
    Tcp((Ipv4Addr, u16), (Ipv4Addr, u16)),
    /// Anything else: its first bytes.
    Other(Vec<u8>),
}

impl Capture {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let (head, mut rest) = bytes.split_at(24);
        // Written on this machine, with microseconds.
        assert_eq!(&head[..4], 0xa1b2_c3d4_u32.to_ne_bytes(), "no capture");
        let mut packets = Vec::new();
        while let Some((head, behind)) = rest.split_at_checked(16) {
            let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
            let at = UNIX_EPOCH + Duration::from_secs(word(0).into()) + Duration::from_micros(word(4).into());
            // QEMU may have been killed in the middle of the last one.
            let Some((frame, behind)) = behind.split_at_checked(word(8) as usize) else { break };
            packets.push(Packet { at, kind: Kind::of(frame) });
            rest = behind;
        }
        Self(packets)
    }
}

impl Kind {
    fn of(frame: &[u8]) -> Self {
        Self::read(frame).unwrap_or_else(|| Self::Other(frame.iter().take(48).copied().collect()))
    }

    fn read(frame: &[u8]) -> Option<Self> {
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
        match frame.get(12..14)? {
            [8, 6] => Some(Self::Arp(address(28)?, address(38)?)),
            [8, 0] => {
                let payload = 14 + usize::from(frame.get(14)? & 15) * 4;
                let port = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
                let (from, to) = (port(payload)?, port(payload + 2)?);
                match frame.get(23)? {
                    6 => Some(Self::Tcp((address(26)?, from), (address(30)?, to))),
                    17 if [(67, 68), (68, 67)].contains(&(from, to)) => Some(Self::Dhcp),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}
