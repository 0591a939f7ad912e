//! An address for the machine, and one TCP connection to the peer. Time is an argument; [`Network::step`] does what can be done now.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use kiln_formats::uplink::{Address, HardwareAddress, Uplink};
use rustix::io::Errno;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr};

use crate::fault::Fault;
use crate::frames::{Frames, Gate};

/// How long the network may take to give an address: some switches pass nothing for the first 30 s of a link.
pub(crate) const ADDRESS_MAX: Duration = Duration::from_secs(60);
/// How long the peer may take to take the connection.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(60);
/// How long after the first question the next one is asked, in seconds. Source: RFC 2131, section 4.1.
const DISCOVER_S: u64 = 4;
/// Room for what is under way, each way: a gigabit a second over a line of 2 ms.
const WINDOW_BYTES: usize = 256 << 10;
/// Ports that connections come from. Source: RFC 6335, section 6.
const PORTS: (u16, u16) = (49_152, 16_384);

/// How far the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The machine has no address.
    Nameless,
    /// It has one, and asks for the connection.
    Connecting,
    /// There is a connection.
    Connected,
}

/// One card, one address, one connection.
pub(crate) struct Network {
    frames: Frames,
    interface: Interface,
    sockets: SocketSet<'static>,
    tcp: SocketHandle,
    dhcp: Option<SocketHandle>,
    peer: SocketAddrV4,
    local_port: u16,
    stage: Stage,
    since: Instant,
}

impl Network {
    /// Puts it together; nothing is sent yet.
    ///
    /// # Errors
    /// [`Fault::Random`].
    pub(crate) fn new(
        packets: OwnedFd,
        address: HardwareAddress,
        uplink: &Uplink,
        now: Instant,
    ) -> Result<Self, Fault> {
        let mut seed = [0; 10];
        getrandom::fill(&mut seed)?;
        let [p, q, seed @ ..] = seed;
        let gate = Gate { peer: uplink.attestor, gateway: None, dhcp: uplink.address == Address::Dhcp };
        let mut frames = Frames::new(packets, gate);
        let mut config = Config::new(EthernetAddress(address.0).into());
        // Sequence numbers and the like are drawn from this.
        config.random_seed = u64::from_ne_bytes(seed);
        let interface = Interface::new(config, &mut frames, now);
        let mut sockets = SocketSet::new(Vec::new());
        let buffer = || tcp::SocketBuffer::new(vec![0; WINDOW_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // Nothing may be on its way when PID 1 orders a rest, a late acknowledgement included.
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        let tcp = sockets.add(socket);
        let local_port = PORTS.0 + u16::from_ne_bytes([p, q]) % PORTS.1;
        let mut network = Self {
            frames,
            interface,
            sockets,
            tcp,
            dhcp: None,
            peer: uplink.attestor,
            local_port,
            stage: Stage::Nameless,
            since: now,
        };
        match uplink.address {
            Address::Dhcp => {
                let mut socket = dhcpv4::Socket::new();
                let mut retries = dhcpv4::RetryConfig::default();
                retries.discover_timeout = smoltcp::time::Duration::from_secs(DISCOVER_S);
                socket.set_retry_config(retries);
                network.dhcp = Some(network.sockets.add(socket));
            }
            Address::Static { address, prefix, gateway } => {
                network.take_address(Ipv4Cidr::new(address, prefix), gateway, now)?;
            }
        }
        Ok(network)
    }

    /// What to wait on.
    pub(crate) fn packets(&self) -> BorrowedFd<'_> {
        self.frames.packets()
    }

    /// Takes in what has come and sends what is due. Says whether anything may have changed.
    ///
    /// # Errors
    /// [`Fault`]: no address, no connection, no card.
    pub(crate) fn step(&mut self, now: Instant) -> Result<bool, Fault> {
        let polled = self.interface.poll(now, &mut self.frames, &mut self.sockets);
        if let Some(errno) = self.frames.broken() {
            return Err(Fault::Socket { source: errno.into() });
        }
        self.dhcp(now)?;
        let waited = Duration::from_micros((now - self.since).total_micros());
        let state = self.tcp().state();
        self.stage = match (self.stage, state) {
            (Stage::Nameless, _) if waited > ADDRESS_MAX => return Err(Fault::NoAddress),
            (Stage::Nameless, _) => Stage::Nameless,
            (Stage::Connecting, tcp::State::SynSent) if waited > CONNECT_MAX => return Err(Fault::NoAnswer),
            (Stage::Connecting, tcp::State::SynSent) => Stage::Connecting,
            (Stage::Connecting, tcp::State::Established | tcp::State::CloseWait) => Stage::Connected,
            (Stage::Connecting, _) => return Err(Fault::Refused),
            // However it ends: whoever uses the connection knows whether it had to.
            (Stage::Connected, _) => Stage::Connected,
        };
        Ok(polled == smoltcp::iface::PollResult::SocketStateChanged)
    }

    /// How long nothing is due, unless something comes.
    pub(crate) fn pause(&mut self, now: Instant) -> Option<Duration> {
        let pause = self.interface.poll_delay(now, &self.sockets);
        pause.map(|pause| Duration::from_micros(pause.total_micros()))
    }

    /// Whether there is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.stage == Stage::Connected
    }

    /// Whether nothing more will come from the peer, and all that came was taken.
    pub(crate) fn is_over(&mut self) -> bool {
        self.stage == Stage::Connected && !self.tcp().may_recv()
    }

    /// Whether the peer has acknowledged everything.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.tcp().send_queue() == 0
    }

    /// Takes what the peer said, as far as there is room in `bytes`.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) -> usize {
        if self.tcp().can_recv() { self.tcp().recv_slice(bytes).unwrap_or(0) } else { 0 }
    }

    /// Takes of `bytes` what there is room for.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        if self.tcp().can_send() { self.tcp().send_slice(bytes).unwrap_or(0) } else { 0 }
    }

    fn tcp(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut::<tcp::Socket<'_>>(self.tcp)
    }

    fn dhcp(&mut self, now: Instant) -> Result<(), Fault> {
        let Some(handle) = self.dhcp else { return Ok(()) };
        let lease = match self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            Some(dhcpv4::Event::Configured(lease)) => Some((lease.address, lease.router)),
            Some(dhcpv4::Event::Deconfigured) if self.stage != Stage::Nameless => return Err(Fault::NoAddress),
            Some(dhcpv4::Event::Deconfigured) | None => None,
        };
        match lease {
            Some((address, router)) => self.take_address(address, router, now),
            None => Ok(()),
        }
    }

    /// Takes an address, the first one or the same once more, and asks for the connection.
    fn take_address(&mut self, address: Ipv4Cidr, gateway: Option<Ipv4Addr>, now: Instant) -> Result<(), Fault> {
        let mut taken = false;
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            taken = addresses.push(IpCidr::Ipv4(address)).is_ok();
        });
        self.frames.gate.gateway = gateway;
        let routed = gateway.is_none_or(|it| self.interface.routes_mut().add_default_ipv4_route(it).is_ok());
        if !(taken && routed) {
            return Err(Fault::Socket { source: Errno::NOBUFS.into() });
        }
        if self.stage != Stage::Nameless {
            return Ok(());
        }
        let context = self.interface.context();
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.tcp);
        socket.connect(context, (*self.peer.ip(), self.peer.port()), self.local_port).map_err(|_| Fault::Refused)?;
        (self.stage, self.since) = (Stage::Connecting, now);
        Ok(())
    }
}
