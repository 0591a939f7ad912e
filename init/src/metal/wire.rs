//! The wire, from PID 1's side: a child that carries bytes between the builder and the authority, and what PID 1 orders it to do.
//!
//! The child starts as PID 1's program under another name. Its standard input is one SOCK_SEQPACKET socket: the first message
//! brings it two descriptors ([`receive`]), the packet socket and its end of the builder's stream, with the card's address and the
//! uplink. After that PID 1 says [`HOLD`] and [`GO`], and the child repeats the word when it is done: after `HOLD` nothing of it is on its way, and it
//! sends nothing until `GO`. If it cannot go on it says so in a last message ([`fault`]), before it closes the builder's stream.
//!
//! PID 1 does not rely on the word alone: between the two it takes the card down.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use kiln_formats::names::Name;
use kiln_formats::uplink::{HardwareAddress, UPLINK_BYTES_MAX};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};

use super::MetalError;
use super::card::Card;
use crate::sys;

/// Nothing more is to be sent.
pub const HOLD: u8 = b'h';
/// It may go on.
pub const GO: u8 = b'g';
/// How a last message begins; a code, a colon and a text follow.
const FAULT: u8 = b'f';
/// Bytes of a card's address, before the uplink in the first message.
const ADDRESS_BYTES: usize = 6;
/// The longest message: the first one.
const MESSAGE_BYTES_MAX: usize = ADDRESS_BYTES + UPLINK_BYTES_MAX;
/// The longest last message in bytes: a line of the console.
const FAULT_BYTES_MAX: usize = 512;
/// How long the child may take to have everything acknowledged that it has sent.
const OBEY_MAX: Duration = Duration::from_secs(30);

/// Why the wire does not carry any more.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It cannot be started or spoken to.
    #[error("cannot speak to the wire")]
    Orders {
        /// What the kernel said.
        #[from]
        source: std::io::Error,
    },
    /// It said so itself.
    #[error("{text}")]
    Said {
        /// Stable.
        code: Name,
        /// Why.
        text: String,
    },
    /// It is gone, or said something that is none of the protocol.
    #[error("the wire ended without a last word")]
    Ended,
    /// It did not do as it was told in time.
    #[error("the wire did not come to rest within {} s", OBEY_MAX.as_secs())]
    Restless,
}

impl From<Errno> for WireError {
    fn from(errno: Errno) -> Self {
        Self::Orders { source: errno.into() }
    }
}

/// The running wire, with the card that it speaks on.
#[derive(Debug)]
pub(crate) struct Wire {
    orders: OwnedFd,
    card: Card,
}

/// The builder's end of the stream.
pub(crate) type Ends = UnixStream;

impl Wire {
    /// Starts the child on an open card.
    pub(crate) fn start(
        card: Card,
        packets: OwnedFd,
        address: HardwareAddress,
        uplink: &[u8],
    ) -> Result<(Self, Ends), WireError> {
        let (orders, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (stream, builders) = UnixStream::pair()?;
        // The TPM's descriptor is the C library's, which does not promise that it is closed.
        sys::close_on_exec()?;
        Command::new(crate::PROGRAM).arg0(crate::WIRE).env_clear().stdin(theirs).spawn()?;
        let handed = [packets.as_fd(), stream.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        rights.push(SendAncillaryMessage::ScmRights(&handed));
        let message = [IoSlice::new(&address.0), IoSlice::new(uplink)];
        sendmsg(&orders, &message, &mut rights, SendFlags::NOSIGNAL)?;
        Ok((Self { orders, card }, builders))
    }

    /// What to wait on: readable when the child has said something that it was not asked.
    pub(crate) fn orders(&self) -> BorrowedFd<'_> {
        self.orders.as_fd()
    }

    /// What it said without being asked, which can only be its last word.
    pub(crate) fn last_word(&self) -> WireError {
        match self.hear() {
            Ok(_) => WireError::Ended,
            Err(error) => error,
        }
    }

    /// Nothing is on its way, and nothing comes or goes until [`Wire::resume`]: the card is down.
    pub(crate) fn hold(&self) -> Result<(), MetalError> {
        self.order(HOLD)?;
        self.card.set_up(false)?;
        eprintln!("kiln: network down");
        Ok(())
    }

    /// The card is up, and the child goes on.
    pub(crate) fn resume(&self) -> Result<(), MetalError> {
        eprintln!("kiln: network up");
        self.card.set_up(true)?;
        Ok(self.order(GO)?)
    }

    fn order(&self, word: u8) -> Result<(), WireError> {
        // One that is gone is heard of below.
        match send(&self.orders, &[word], SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut waiting = [PollFd::new(&self.orders, PollFlags::IN)];
        let patience = Timespec::try_from(OBEY_MAX).map_err(|_| WireError::Restless)?;
        if poll(&mut waiting, Some(&patience))? == 0 {
            return Err(WireError::Restless);
        }
        if self.hear()? == word { Ok(()) } else { Err(WireError::Ended) }
    }

    /// The next message, if it is one word.
    fn hear(&self) -> Result<u8, WireError> {
        let mut message = [0; FAULT_BYTES_MAX];
        let (bytes, _) = recv(&self.orders, &mut message, RecvFlags::DONTWAIT)?;
        match message.get(..bytes) {
            Some([FAULT, text @ ..]) => Err(said(text)),
            Some([word]) => Ok(*word),
            _ => Err(WireError::Ended),
        }
    }
}

fn said(message: &[u8]) -> WireError {
    let text = String::from_utf8_lossy(message);
    let parts = text.split_once(':').and_then(|(code, text)| Some((code.parse().ok()?, text.to_owned())));
    parts.map_or(WireError::Ended, |(code, text)| WireError::Said { code, text })
}

/// What the child is given.
#[derive(Debug)]
pub struct Handed {
    /// Frames of one card, from and to the network. Does not block.
    pub packets: OwnedFd,
    /// The builder's bytes.
    pub stream: UnixStream,
    /// The card's address.
    pub address: HardwareAddress,
    /// The uplink's bytes, measured.
    pub uplink: Vec<u8>,
}

/// The child's side of the first message.
///
/// # Errors
/// [`WireError::Ended`] if it is not that message.
pub fn receive(orders: BorrowedFd<'_>) -> Result<Handed, WireError> {
    let mut message = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(orders, &mut [IoSliceMut::new(&mut message)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = rights.drain().filter_map(|it| match it {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mut descriptors = descriptors.flatten();
    let (packets, stream) = descriptors.next().zip(descriptors.next()).ok_or(WireError::Ended)?;
    message.truncate(received.bytes);
    let (address, uplink) = message.split_first_chunk::<ADDRESS_BYTES>().ok_or(WireError::Ended)?;
    let address = HardwareAddress(*address);
    Ok(Handed { packets, stream: stream.into(), address, uplink: uplink.to_vec() })
}

/// Says why the child cannot go on: its last message.
///
/// # Errors
/// What the kernel says; there is then nobody to tell.
pub fn fault(orders: BorrowedFd<'_>, code: &str, text: &str) -> Result<(), WireError> {
    let mut message = vec![FAULT];
    message.extend(format!("{code}:{text}").into_bytes());
    message.truncate(FAULT_BYTES_MAX);
    send(orders, &message, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn the_child_gets_its_descriptors_and_the_uplink() {
        let (ours, theirs) = pair();
        let ((one, mut other), (stream, mut far)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let handed = [one.as_fd(), stream.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        assert!(rights.push(SendAncillaryMessage::ScmRights(&handed)));
        let message = [IoSlice::new(&[1, 2, 3, 4, 5, 6]), IoSlice::new(b"{}")];
        sendmsg(&ours, &message, &mut rights, SendFlags::NOSIGNAL).unwrap();
        let mut handed = receive(theirs.as_fd()).unwrap();
        assert_eq!((handed.address.0, handed.uplink.as_slice()), ([1, 2, 3, 4, 5, 6], b"{}".as_slice()));
        far.write_all(b"x").unwrap();
        let mut byte = [0];
        handed.stream.read_exact(&mut byte).unwrap();
        UnixStream::from(handed.packets).write_all(b"y").unwrap();
        other.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"y");
    }

    #[test]
    fn a_message_without_descriptors_starts_nothing() {
        let (ours, theirs) = pair();
        send(&ours, b"123456{}", SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(receive(theirs.as_fd()), Err(WireError::Ended)));
    }

    #[test]
    fn only_a_well_formed_last_word_is_one() {
        assert!(
            matches!(said(b"no_address:nobody answers"), WireError::Said { code, .. } if code.as_str() == "no_address")
        );
        for other in [&b"no colon"[..], b"A B:text", b"", b":"] {
            assert!(matches!(said(other), WireError::Ended), "{other:?}");
        }
    }
}
