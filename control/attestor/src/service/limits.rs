//! Who may connect: so many at once, so many from one address, and so often. No clock and no socket.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The most connections at once: each holds two read buffers of 64 KiB and at most one message of 8 MiB.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// The most of one address: a rack behind one address translation.
pub(super) const CONNECTIONS_PER_ADDRESS_MAX: usize = 64;
/// How many connections an address may open in a row.
pub(super) const BURST_MAX: u32 = 64;
/// How long an address takes to be granted one more: four a second are more than any rack starts.
const REFILL: Duration = Duration::from_millis(250);
/// The most addresses that are remembered: each takes about 100 bytes.
pub(super) const ADDRESSES_MAX: usize = 4096;

/// What the bounds are kept by.
#[derive(Debug)]
pub(super) struct Limits {
    begin: Instant,
    all: Arc<AtomicUsize>,
    addresses: HashMap<IpAddr, Address>,
}

#[derive(Debug)]
struct Address {
    here: Arc<AtomicUsize>,
    /// When its bucket is full again.
    full_at: Instant,
}

/// The right to be connected, until it is dropped.
#[derive(Debug)]
pub(super) struct Pass([Arc<AtomicUsize>; 2]);

impl Drop for Pass {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Limits {
    pub(super) fn new(begin: Instant) -> Self {
        Self { begin, all: Arc::default(), addresses: HashMap::new() }
    }

    /// Whether this address may connect now; the error says why not.
    pub(super) fn admit(&mut self, from: IpAddr, now: Instant) -> Result<Pass, &'static str> {
        let now = now.max(self.begin);
        if self.all.load(Ordering::Acquire) >= CONNECTIONS_MAX {
            return Err("full");
        }
        let from = group(from);
        if !self.addresses.contains_key(&from) && self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.retain(|_, address| address.full_at > now || address.here.load(Ordering::Acquire) > 0);
            if self.addresses.len() >= ADDRESSES_MAX {
                return Err("too_many_addresses");
            }
        }
        let address = self.addresses.entry(from).or_insert_with(|| Address { here: Arc::default(), full_at: now });
        let full_at = address.full_at.max(now) + REFILL;
        if full_at.saturating_duration_since(now) > REFILL * BURST_MAX {
            return Err("too_often");
        }
        if address.here.load(Ordering::Acquire) >= CONNECTIONS_PER_ADDRESS_MAX {
            return Err("too_many_from_address");
        }
        address.full_at = full_at;
        let counts = [Arc::clone(&self.all), Arc::clone(&address.here)];
        for count in &counts {
            count.fetch_add(1, Ordering::AcqRel);
        }
        Ok(Pass(counts))
    }
}

/// Whoever has one IPv6 address has its whole /64. Source: RFC 4291, section 2.5.1.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(number))
    }

    #[test]
    fn an_address_may_come_so_often() {
        let now = Instant::now();
        let mut limits = Limits::new(now);
        for _ in 0..BURST_MAX {
            drop(limits.admit(address(1), now).unwrap());
        }
        assert_eq!(limits.admit(address(1), now).unwrap_err(), "too_often");
        assert!(limits.admit(address(2), now).is_ok());
        assert!(limits.admit(address(1), now + REFILL).is_ok());
        assert_eq!(limits.admit(address(1), now + REFILL).unwrap_err(), "too_often");
    }

    #[test]
    fn so_many_are_here_at_once() {
        let mut now = Instant::now();
        let mut limits = Limits::new(now);
        let mut here = Vec::new();
        for number in 0..CONNECTIONS_MAX {
            now += REFILL;
            here.push(
                limits.admit(address(u32::try_from(number / CONNECTIONS_PER_ADDRESS_MAX).unwrap()), now).unwrap(),
            );
            if number == CONNECTIONS_PER_ADDRESS_MAX - 1 {
                now += REFILL;
                assert_eq!(limits.admit(address(0), now).unwrap_err(), "too_many_from_address");
            }
        }
        assert_eq!(limits.admit(address(99), now).unwrap_err(), "full");
        here.pop();
        assert!(limits.admit(address(99), now).is_ok());
    }

    #[test]
    fn so_many_addresses_are_remembered() {
        let now = Instant::now();
        let mut limits = Limits::new(now);
        for number in 0..ADDRESSES_MAX {
            drop(limits.admit(address(u32::try_from(number).unwrap()), now).unwrap());
        }
        assert_eq!(limits.admit(address(u32::MAX), now).unwrap_err(), "too_many_addresses");
        assert!(limits.admit(address(u32::MAX), now + REFILL).is_ok());
        assert_eq!(limits.addresses.len(), 1);
    }

    #[test]
    fn a_network_is_one_address() {
        let same = ["2001:db8::1", "2001:db8::ffff:1"].map(|text| group(text.parse().unwrap()));
        assert_eq!(same[0], same[1]);
        assert_ne!(same[0], group("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(group("::ffff:10.0.0.1".parse().unwrap()), "10.0.0.1".parse::<IpAddr>().unwrap());
    }
}
