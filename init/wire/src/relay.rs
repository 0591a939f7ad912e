//! The builder's bytes into TLS and back, until PID 1 ends the machine. Between HOLD and GO nothing is sent, and what the builder says
//! is kept.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use kiln_formats::manifest::FILE_BYTES_MAX;
use kiln_formats::uplink::Uplink;
use kiln_init::{GO, HOLD, Handed, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use smoltcp::time::Instant;

use crate::attestor;
use crate::fault::Fault;
use crate::network::Network;

/// What is taken at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// What is kept in memory each way while the network is slower than the builder, or the other way round, in bytes.
const KEPT_BYTES: usize = 1 << 20;
/// What the builder may say while nothing is sent, in bytes: the largest log of a step, and its frame.
const HELD_BYTES_MAX: usize = 2 * FILE_BYTES_MAX as usize;

/// All that the wire is.
pub(crate) struct Relay<'a> {
    orders: &'a OwnedFd,
    stream: UnixStream,
    network: Network,
    tls: ClientConnection,
    /// Of the builder, not encrypted yet.
    outgoing: Vec<u8>,
    /// Encrypted, not sent yet.
    sealed: Vec<u8>,
    /// Of the peer, for the builder.
    incoming: Vec<u8>,
    /// What PID 1 ordered and has not been told yet.
    ordered: Option<u8>,
    held: bool,
    /// The builder's end is closed.
    left: bool,
    /// The peer's is, and the builder was told.
    over: bool,
}

impl<'a> Relay<'a> {
    /// Puts everything together; nothing is sent yet.
    ///
    /// # Errors
    /// [`Fault`], by what cannot be used.
    pub(crate) fn new(handed: Handed, uplink: &Uplink, orders: &'a OwnedFd) -> Result<Self, Fault> {
        let Handed { packets, stream, address, .. } = handed;
        stream.set_nonblocking(true)?;
        let network = Network::new(packets, address, uplink, Instant::now())?;
        let name = ServerName::try_from(uplink.name.clone())
            .map_err(|_| rustls::Error::General("the uplink's name is none of a server".to_owned()))?;
        let tls = ClientConnection::new(Arc::new(attestor::config(&uplink.root)?), name)?;
        let (outgoing, sealed, incoming) = Default::default();
        Ok(Self {
            orders,
            stream,
            network,
            tls,
            outgoing,
            sealed,
            incoming,
            ordered: None,
            held: false,
            left: false,
            over: false,
        })
    }

    /// Carries until somebody ends this process.
    ///
    /// # Errors
    /// [`Fault`].
    pub(crate) fn run(mut self) -> Result<(), Fault> {
        loop {
            let ordered = self.take_orders()?;
            let mut moved = ordered | self.take_from_builder()?;
            if !self.held {
                moved |= self.network.step(Instant::now())?;
                moved |= self.take_from_peer()?;
                moved |= self.give_to_peer()?;
                // At once: what is sent must be on its way before anything is waited for. What comes meanwhile counts as well.
                moved |= self.network.step(Instant::now())?;
            }
            moved |= self.give_to_builder()?;
            self.obey()?;
            if !moved {
                self.wait()?;
            }
        }
    }

    fn take_orders(&mut self) -> Result<bool, Fault> {
        let mut word = [0; 2];
        match recv(self.orders, &mut word, RecvFlags::DONTWAIT) {
            Ok((1, _)) if self.ordered.is_none() && [HOLD, GO].contains(&word[0]) => {
                self.ordered = Some(word[0]);
                Ok(true)
            }
            Err(Errno::AGAIN) => Ok(false),
            _ => Err(WireError::Ended.into()),
        }
    }

    /// Answers an order that is carried out.
    fn obey(&mut self) -> Result<(), Fault> {
        let done = match self.ordered {
            Some(HOLD) => self.is_at_rest(),
            Some(_) => true,
            None => false,
        };
        if let Some(word) = self.ordered.take_if(|_| done) {
            self.held = word == HOLD;
            send(self.orders, &[word], SendFlags::NOSIGNAL).map_err(io::Error::from)?;
        }
        Ok(())
    }

    /// Whether nothing is under way.
    fn is_at_rest(&mut self) -> bool {
        let kept = [&self.outgoing, &self.sealed, &self.incoming].iter().any(|bytes| !bytes.is_empty());
        !kept && !self.tls.wants_write() && self.network.is_quiet()
    }

    fn take_from_builder(&mut self) -> Result<bool, Fault> {
        let room = if self.held { HELD_BYTES_MAX } else { KEPT_BYTES };
        if self.left || (!self.held && self.outgoing.len() >= room) {
            return Ok(false);
        }
        let mut piece = vec![0; PIECE_BYTES];
        match self.stream.read(&mut piece) {
            Ok(0) => {
                self.left = true;
                Ok(true)
            }
            Ok(bytes) if self.outgoing.len() + bytes > room + PIECE_BYTES => Err(Fault::Backlog),
            Ok(bytes) => {
                self.outgoing.extend_from_slice(piece.get(..bytes).unwrap_or_default());
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(source) => Err(source.into()),
        }
    }

    fn take_from_peer(&mut self) -> Result<bool, Fault> {
        if self.incoming.len() >= KEPT_BYTES {
            return Ok(false);
        }
        let mut piece = vec![0; PIECE_BYTES];
        let bytes = self.network.read(&mut piece);
        let mut sealed = piece.get(..bytes).unwrap_or_default();
        while !sealed.is_empty() {
            // From memory: reading fails only where TLS has no room, which processing makes.
            self.tls.read_tls(&mut sealed)?;
            let state = self.tls.process_new_packets()?;
            let before = self.incoming.len();
            self.incoming.resize(before + state.plaintext_bytes_to_read(), 0);
            let place = self.incoming.get_mut(before..).unwrap_or_default();
            self.tls.reader().read_exact(place)?;
        }
        if !self.over && !self.left && bytes == 0 && self.incoming.is_empty() && self.network.is_over() {
            // The builder finds the end of its stream, and says whether it came too early.
            self.stream.shutdown(Shutdown::Write)?;
            self.over = true;
        }
        Ok(bytes > 0)
    }

    fn give_to_peer(&mut self) -> Result<bool, Fault> {
        if !self.network.is_connected() {
            return Ok(false);
        }
        if !self.tls.is_handshaking() && self.sealed.len() < KEPT_BYTES && !self.outgoing.is_empty() {
            let taken = self.tls.writer().write(&self.outgoing)?;
            self.outgoing.drain(..taken);
        }
        while self.tls.wants_write() && self.sealed.len() < KEPT_BYTES {
            self.tls.write_tls(&mut self.sealed)?;
        }
        let sent = self.network.write(&self.sealed);
        self.sealed.drain(..sent);
        Ok(sent > 0)
    }

    fn give_to_builder(&mut self) -> Result<bool, Fault> {
        if self.incoming.is_empty() || self.left {
            return Ok(false);
        }
        match self.stream.write(&self.incoming) {
            Ok(given) => {
                self.incoming.drain(..given);
                Ok(given > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            // It has ended, and PID 1 knows.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.left = true;
                Ok(true)
            }
            Err(source) => Err(source.into()),
        }
    }

    /// Waits until anybody has anything, or something is due.
    fn wait(&mut self) -> Result<(), Fault> {
        let pause = if self.held { None } else { self.network.pause(Instant::now()) };
        let pause = pause.map(|pause| Timespec::try_from(pause).unwrap_or_default());
        let mut of_builder = PollFlags::empty();
        of_builder.set(PollFlags::IN, !self.left && (self.held || self.outgoing.len() < KEPT_BYTES));
        of_builder.set(PollFlags::OUT, !self.left && !self.incoming.is_empty());
        // Whoever has hung up, and a card that is down, would say so again and again: they are left out.
        let stream = (!self.left).then(|| self.stream.as_fd());
        let packets = (!self.held).then(|| self.network.packets());
        let mut waiting = vec![PollFd::new(self.orders, PollFlags::IN)];
        waiting.extend(stream.as_ref().map(|stream| PollFd::new(stream, of_builder)));
        waiting.extend(packets.as_ref().map(|packets| PollFd::new(packets, PollFlags::IN)));
        match poll(&mut waiting, pause.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(io::Error::from(errno).into()),
        }
    }
}
