//! A server's way to its authority: one TLS 1.3 connection to one address, over frames of one network card.
//!
//! It runs in a process of its own, a child of PID 1 that has given up everything but two sockets and memory ([`confine`]). In
//! reading order: [`frames`] lets no frame through, in or out, but ARP with two neighbours, DHCP and TCP with the one peer;
//! [`network`] gets an address and the connection; [`attestor`] says who may answer there; [`relay`] encrypts what the builder says and
//! rests when PID 1 says so.
//!
//! Deliberately absent: anything that listens or answers (no ping, no reset to strangers), name look-up, IPv6, a second connection,
//! session resumption, and any thought about what it carries: PID 1 measures and the builder checks, whoever is at the other end.

#![forbid(unsafe_code)]

mod attestor;
mod confine;
mod fault;
mod frames;
mod network;
mod relay;

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use fault::Fault;
use kiln_formats::uplink;
use relay::Relay;

/// What the wire's process does from its first instruction to its last: `orders` is its socket to PID 1.
pub fn main(orders: OwnedFd) -> ExitCode {
    let Err(fault) = carry(&orders) else { return ExitCode::SUCCESS };
    // PID 1 says it on the console. If it cannot be told, it is about to end the machine anyway.
    match kiln_init::fault(orders.as_fd(), fault.code(), &fault.text()) {
        Ok(()) => ExitCode::FAILURE,
        Err(_) => ExitCode::from(2),
    }
}

fn carry(orders: &OwnedFd) -> Result<(), Fault> {
    let handed = kiln_init::receive(orders.as_fd())?;
    let uplink = uplink::read(&handed.uplink)?;
    let relay = Relay::new(handed, &uplink, orders)?;
    confine::confine()?;
    relay.run()
}
