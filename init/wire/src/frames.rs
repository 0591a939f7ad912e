//! Frames of one network card, and the gate that they pass: ARP with the two neighbours, DHCP, and TCP with the one peer.
//!
//! What does not pass is dropped unseen, in both directions, so that nothing behind the gate can answer a stranger. While the card
//! is down there are no frames, which is no error.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket,
};

/// The longest frame that is sent. Source: IEEE 802.3, without its checksum.
const FRAME_BYTES: usize = 1514;
/// The longest that is received: cards join segments of one connection. An IPv4 packet has at most 65535 bytes.
const RECEIVED_BYTES_MAX: usize = 65_535 + 14;
/// How many frames are looked at before others have their turn.
const FRAMES_MAX: usize = 64;
/// DHCP's ports. Source: RFC 2131, section 4.1.
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;

/// Who may be spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gate {
    /// The one peer.
    pub(crate) peer: SocketAddrV4,
    /// Who else is asked for a hardware address.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// Whether the machine's address comes by DHCP.
    pub(crate) dhcp: bool,
}

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To this machine.
    In,
    /// From it.
    Out,
}

impl Gate {
    /// Whether a frame may pass.
    pub(crate) fn passes(&self, frame: &[u8], way: Way) -> bool {
        let Ok(frame) = EthernetFrame::new_checked(frame) else { return false };
        match frame.ethertype() {
            EthernetProtocol::Arp => self.arp(frame.payload(), way),
            EthernetProtocol::Ipv4 => self.ipv4(frame.payload(), way),
            _ => false,
        }
    }

    /// ARP with the peer or the gateway.
    fn arp(&self, packet: &[u8], way: Way) -> bool {
        let Ok(ArpRepr::EthernetIpv4 { source_protocol_addr: from, target_protocol_addr: to, .. }) =
            ArpPacket::new_checked(packet).and_then(|packet| ArpRepr::parse(&packet))
        else {
            return false;
        };
        let other = if way == Way::In { from } else { to };
        other == *self.peer.ip() || Some(other) == self.gateway
    }

    fn ipv4(&self, packet: &[u8], way: Way) -> bool {
        let Ok(packet) = Ipv4Packet::new_checked(packet) else { return false };
        if packet.more_frags() || packet.frag_offset() != 0 {
            return false;
        }
        let other = if way == Way::In { packet.src_addr() } else { packet.dst_addr() };
        match packet.next_header() {
            IpProtocol::Tcp => TcpPacket::new_checked(packet.payload()).is_ok_and(|segment| {
                let port = if way == Way::In { segment.src_port() } else { segment.dst_port() };
                other == *self.peer.ip() && port == self.peer.port()
            }),
            IpProtocol::Udp => UdpPacket::new_checked(packet.payload()).is_ok_and(|datagram| {
                let ports = (datagram.src_port(), datagram.dst_port());
                let wanted = if way == Way::In { (DHCP_SERVER, DHCP_CLIENT) } else { (DHCP_CLIENT, DHCP_SERVER) };
                self.dhcp && ports == wanted
            }),
            _ => false,
        }
    }
}

/// The card's frames behind the gate.
#[derive(Debug)]
pub(crate) struct Frames {
    packets: OwnedFd,
    pub(crate) gate: Gate,
    received: Vec<u8>,
    broken: Rc<RefCell<Option<Errno>>>,
}

impl Frames {
    /// Takes a packet socket that does not block.
    pub(crate) fn new(packets: OwnedFd, gate: Gate) -> Self {
        Self { packets, gate, received: vec![0; RECEIVED_BYTES_MAX], broken: Rc::default() }
    }

    /// What to wait on.
    pub(crate) fn packets(&self) -> BorrowedFd<'_> {
        self.packets.as_fd()
    }

    /// Why there will be no more frames, if the card is gone.
    pub(crate) fn broken(&self) -> Option<Errno> {
        *self.broken.borrow()
    }
}

/// Whether there may be frames again later.
fn passing(errno: Errno) -> bool {
    matches!(errno, Errno::AGAIN | Errno::INTR | Errno::NETDOWN | Errno::NOBUFS)
}

impl Device for Frames {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        for _ in 0..FRAMES_MAX {
            let bytes = match recv(&self.packets, self.received.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((bytes, _)) => bytes,
                Err(errno) if passing(errno) => return None,
                Err(errno) => {
                    self.broken.replace(Some(errno));
                    return None;
                }
            };
            let frame = self.received.get(..bytes).unwrap_or_default();
            if self.gate.passes(frame, Way::In) {
                // Borrowed anew: the first borrow goes on only where it is returned.
                let frame = self.received.get(..bytes).unwrap_or_default();
                let sent = Sent { packets: self.packets.as_fd(), gate: &self.gate, broken: &self.broken };
                return Some((Received(frame), sent));
            }
        }
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        Some(Sent { packets: self.packets.as_fd(), gate: &self.gate, broken: &self.broken })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES;
        // The kernel has checked what it joined, and leaves such packets without a sum. TLS protects what they carry.
        let mut checksum = ChecksumCapabilities::default();
        checksum.tcp = Checksum::Tx;
        capabilities.checksum = checksum;
        capabilities
    }
}

/// A frame that passed.
pub(crate) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// A frame to be.
pub(crate) struct Sent<'a> {
    packets: BorrowedFd<'a>,
    gate: &'a Gate,
    broken: &'a RefCell<Option<Errno>>,
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let written = write(&mut frame);
        if self.gate.passes(&frame, Way::Out) {
            match send(self.packets, &frame, SendFlags::DONTWAIT) {
                // What is lost here is sent again, as everything that a network loses.
                Ok(_) => {}
                Err(errno) if passing(errno) => {}
                Err(errno) => drop(self.broken.replace(Some(errno))),
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::{
        ArpOperation, EthernetAddress, EthernetRepr, Ipv4Repr, TcpControl, TcpRepr, TcpSeqNumber, UdpRepr,
    };

    use super::*;

    const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 2), 8443);
    const US: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

    fn gate() -> Gate {
        Gate { peer: PEER, gateway: Some(Ipv4Addr::new(10, 0, 2, 1)), dhcp: true }
    }

    fn frame(ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
        let head = EthernetRepr { src_addr: EthernetAddress([2; 6]), dst_addr: EthernetAddress([4; 6]), ethertype };
        let mut bytes = vec![0; head.buffer_len() + payload.len()];
        head.emit(&mut EthernetFrame::new_unchecked(&mut bytes));
        let at = bytes.len() - payload.len();
        bytes[at..].copy_from_slice(payload);
        bytes
    }

    fn ipv4(src_addr: Ipv4Addr, dst_addr: Ipv4Addr, next_header: IpProtocol, payload: &[u8]) -> Vec<u8> {
        let head = Ipv4Repr { src_addr, dst_addr, next_header, payload_len: payload.len(), hop_limit: 64 };
        let mut bytes = vec![0; head.buffer_len() + payload.len()];
        head.emit(&mut Ipv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
        let at = bytes.len() - payload.len();
        bytes[at..].copy_from_slice(payload);
        frame(EthernetProtocol::Ipv4, &bytes)
    }

    fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
        let segment = TcpRepr {
            src_port: from.1,
            dst_port: to.1,
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(1),
            ack_number: None,
            window_len: 1,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: b"",
        };
        let mut bytes = vec![0; segment.buffer_len()];
        let packet = &mut TcpPacket::new_unchecked(&mut bytes);
        segment.emit(packet, &from.0.into(), &to.0.into(), &ChecksumCapabilities::default());
        ipv4(from.0, to.0, IpProtocol::Tcp, &bytes)
    }

    fn udp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
        let datagram = UdpRepr { src_port: from.1, dst_port: to.1 };
        let mut bytes = vec![0; datagram.header_len() + 1];
        let packet = &mut UdpPacket::new_unchecked(&mut bytes);
        datagram.emit(packet, &from.0.into(), &to.0.into(), 1, |_| {}, &ChecksumCapabilities::default());
        ipv4(from.0, to.0, IpProtocol::Udp, &bytes)
    }

    fn arp(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
        let packet = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress([2; 6]),
            source_protocol_addr: from,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: to,
        };
        let mut bytes = vec![0; packet.buffer_len()];
        packet.emit(&mut ArpPacket::new_unchecked(&mut bytes));
        frame(EthernetProtocol::Arp, &bytes)
    }

    #[test]
    fn the_peer_and_what_leads_to_it_pass() {
        let (us, peer) = ((US, 49_152), (*PEER.ip(), PEER.port()));
        let gate = gate();
        assert!(gate.passes(&tcp(us, peer), Way::Out) && gate.passes(&tcp(peer, us), Way::In));
        let none = Ipv4Addr::UNSPECIFIED;
        assert!(gate.passes(&udp((none, 68), (Ipv4Addr::BROADCAST, 67)), Way::Out));
        assert!(gate.passes(&udp((OTHER, 67), (Ipv4Addr::BROADCAST, 68)), Way::In));
        for neighbour in [*PEER.ip(), Ipv4Addr::new(10, 0, 2, 1)] {
            assert!(gate.passes(&arp(US, neighbour), Way::Out) && gate.passes(&arp(neighbour, US), Way::In));
        }
    }

    #[test]
    fn nobody_else_is_heard_or_answered() {
        let (us, peer) = ((US, 49_152), (*PEER.ip(), PEER.port()));
        let other_port = (*PEER.ip(), 22);
        let strangers = [
            tcp(us, (OTHER, PEER.port())),
            tcp((OTHER, PEER.port()), us),
            tcp(us, other_port),
            tcp(other_port, us),
            udp(us, (OTHER, 53)),
            udp((OTHER, 53), us),
            arp(US, OTHER),
            arp(OTHER, US),
            ipv4(US, *PEER.ip(), IpProtocol::Icmp, &[8; 16]),
            ipv4(*PEER.ip(), US, IpProtocol::Icmp, &[8; 16]),
            frame(EthernetProtocol::Ipv6, &[0x60; 60]),
            frame(EthernetProtocol::Unknown(0x88cc), &[1; 60]),
        ];
        for (place, stranger) in strangers.iter().enumerate() {
            assert!(!gate().passes(stranger, Way::In) && !gate().passes(stranger, Way::Out), "{place}");
        }
        // The right words in the wrong direction.
        assert!(!gate().passes(&tcp(us, peer), Way::In) && !gate().passes(&tcp(peer, us), Way::Out));
        assert!(!gate().passes(&udp((OTHER, 67), (US, 68)), Way::Out));
        let fixed = Gate { dhcp: false, ..gate() };
        assert!(!fixed.passes(&udp((OTHER, 67), (US, 68)), Way::In));
    }

    #[test]
    fn a_fragment_hides_nothing() {
        let mut fragment = tcp((*PEER.ip(), PEER.port()), (US, 49_152));
        // "More fragments", in the flags of the IPv4 header.
        fragment[14 + 6] |= 0x20;
        assert!(!gate().passes(&fragment, Way::In));
    }

    /// What a frame says by its bytes alone, without the library that the gate reads it with: is it between us and somebody who may
    /// be spoken to? Source: RFC 826; RFC 791, section 3.1; RFC 9293, section 3.1.
    fn may_pass(frame: &[u8], way: Way) -> Option<bool> {
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
        let number = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let other = |source: usize, target: usize| address(if way == Way::In { source } else { target });
        match number(12)? {
            0x0806 => Some([*PEER.ip(), Ipv4Addr::new(10, 0, 2, 1)].contains(&other(28, 38)?)),
            0x0800 => {
                let whole = number(20)? & 0x3fff == 0;
                let payload = 14 + 4 * usize::from(frame.get(14)? & 0xf);
                let ports = (number(payload)?, number(payload + 2)?);
                let (theirs, dhcp) = if way == Way::In { (ports.0, (67, 68)) } else { (ports.1, (68, 67)) };
                Some(match frame.get(23)? {
                    6 => whole && other(26, 30)? == *PEER.ip() && theirs == PEER.port(),
                    17 => whole && ports == dhcp,
                    _ => false,
                })
            }
            _ => Some(false),
        }
    }

    proptest! {
        /// Frames that pass, with some bytes replaced and the end cut off, in both directions: what still passes may.
        #[test]
        fn a_changed_frame_passes_only_if_it_still_may(
            which in 0_usize..5,
            changes in proptest::collection::vec((0_usize..60, any::<u8>()), 0..4),
            cut in 0_usize..8,
        ) {
            let (us, peer) = ((US, 49_152), (*PEER.ip(), PEER.port()));
            let frames =
                [tcp(us, peer), tcp(peer, us), udp((US, 68), (OTHER, 67)), udp((OTHER, 67), (US, 68)), arp(US, peer.0)];
            let mut frame = frames[which].clone();
            for (at, byte) in changes {
                let at = at % frame.len();
                frame[at] = byte;
            }
            frame.truncate(frame.len() - cut);
            for way in [Way::In, Way::Out] {
                prop_assert!(!gate().passes(&frame, way) || may_pass(&frame, way) == Some(true), "{way:?} {frame:?}");
            }
        }

        /// A panic ends the machine: nobody on the network may cause one.
        #[test]
        fn garbage_makes_nobody_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), kind in 0_usize..3) {
            let mut bytes = bytes;
            // Of the two kinds that are read at all, or of any.
            if let (Some(ethertype), Some(wanted)) = (bytes.get_mut(12..14), [[8, 6], [8, 0]].get(kind)) {
                ethertype.copy_from_slice(wanted);
            }
            for way in [Way::In, Way::Out] {
                let _no_panic = gate().passes(&bytes, way);
            }
        }
    }

    /// The oracle is no rubber stamp: it knows what may pass, and what may not.
    #[test]
    fn the_oracle_tells_them_apart() {
        let (us, peer) = ((US, 49_152), (*PEER.ip(), PEER.port()));
        assert_eq!(may_pass(&tcp(us, peer), Way::Out), Some(true));
        assert_eq!(may_pass(&udp((OTHER, 67), (US, 68)), Way::In), Some(true));
        assert_eq!(may_pass(&arp(US, peer.0), Way::Out), Some(true));
        assert_eq!(may_pass(&tcp(us, (OTHER, PEER.port())), Way::Out), Some(false));
        assert_eq!(may_pass(&arp(OTHER, US), Way::In), Some(false));
    }
}
