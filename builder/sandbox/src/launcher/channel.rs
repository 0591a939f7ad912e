//! Bounded messages with descriptors over a SOCK_SEQPACKET socketpair.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair, sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::order::{DESCRIPTORS_MAX, ORDER_BYTES_MAX};

/// One end of a pair.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// A received message.
#[derive(Debug)]
pub(crate) struct Received<T> {
    pub(crate) message: T,
    /// The sender in our pid namespace, on a channel made with [`Channel::pair_with_sender`].
    pub(crate) sender: Option<i32>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Two connected ends, both closed at execve.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Two connected ends; on the first, the kernel says who sent each message.
    pub(crate) fn pair_with_sender() -> io::Result<(Self, Self)> {
        let (a, b) = Self::pair()?;
        sockopt::set_socket_passcred(&a.0, true)?;
        Ok((a, b))
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends one message.
    pub(crate) fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_bytes(&serde_json::to_vec(message)?, descriptors)
    }

    /// Sends one message of bytes.
    pub(crate) fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        loop {
            match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                result => return result.map(|_| ()).map_err(Into::into),
            }
        }
    }

    /// Waits for a message, which stays where it is, and says how long that is: at most [`ORDER_BYTES_MAX`]. 0: the other end is
    /// closed.
    pub(crate) fn next_bytes(&self) -> io::Result<usize> {
        loop {
            match recv(&self.0, &mut [0; 0], RecvFlags::PEEK | RecvFlags::TRUNC) {
                Err(rustix::io::Errno::INTR) => {}
                Ok((_, bytes)) if bytes > ORDER_BYTES_MAX => return Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
                result => return result.map(|(_, bytes)| bytes).map_err(Into::into),
            }
        }
    }

    /// Receives one message, at most as long as `buffer`; `None`: the other end is closed.
    pub(crate) fn receive<T: DeserializeOwned>(&self, buffer: &mut [u8]) -> io::Result<Option<Received<T>>> {
        let Some(Received { message, sender, descriptors }) = self.receive_bytes(buffer)? else { return Ok(None) };
        Ok(Some(Received { message: serde_json::from_slice(message)?, sender, descriptors }))
    }

    /// Receives one message of bytes into `buffer`; `None`: the other end is closed.
    pub(crate) fn receive_bytes<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<Received<&'a [u8]>>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result?,
            }
        };
        let (mut sender, mut descriptors) = (None, Vec::new());
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(received) => descriptors.extend(received),
                RecvAncillaryMessage::ScmCredentials(from) => sender = Some(from.pid.as_raw_nonzero().get()),
                _ => {}
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let message = buffer.get(..received.bytes).unwrap_or_default();
        Ok((!message.is_empty()).then_some(Received { message, sender, descriptors }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_too_long_is_an_error_not_a_cut() {
        let (a, b) = Channel::pair().expect("pair");
        a.send_bytes(&[1; 100], &[]).expect("sent");
        let mut buffer = [0; 99];
        assert!(b.receive_bytes(&mut buffer).is_err());
        a.send_bytes(&[1; 99], &[]).expect("sent");
        assert_eq!(b.receive_bytes(&mut buffer).expect("received").expect("open").message.len(), 99);
        drop(a);
        assert!(b.receive_bytes(&mut buffer).expect("closed is no error").is_none());
    }

    #[test]
    fn a_message_is_measured_before_it_is_taken() {
        let (a, b) = Channel::pair().expect("pair");
        a.send_bytes(&[1; 100], &[]).expect("sent");
        let bytes = b.next_bytes().expect("measured");
        let mut buffer = vec![0; bytes];
        assert_eq!((bytes, b.receive_bytes(&mut buffer).expect("received").expect("open").message.len()), (100, 100));
        drop(a);
        assert_eq!(b.next_bytes().expect("closed is no error"), 0);
    }

    #[test]
    fn the_kernel_names_the_sender() {
        let (a, b) = Channel::pair_with_sender().expect("pair");
        b.send(&7_u8, &[]).expect("sent");
        let got = a.receive::<u8>(&mut [0; 16]).expect("received").expect("open");
        assert_eq!((got.message, got.sender), (7, Some(std::process::id() as i32)));
    }
}
