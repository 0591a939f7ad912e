//! The network card: found, taken up and down. It never has an address, so the kernel's own network stack says nothing on it.

use std::fs::{read_dir, read_to_string, write};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use kiln_formats::uplink::HardwareAddress;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::sys;

/// How long a card may take to appear: its firmware starts when the driver asks for it.
const APPEAR_MAX: Duration = Duration::from_secs(30);
const APPEAR_PAUSE: Duration = Duration::from_millis(50);
/// How long a card may take to have a link once it is up: copper agrees on its speed first.
const LINK_MAX: Duration = Duration::from_secs(30);
/// Where the kernel lists network interfaces.
const INTERFACES: &str = "/sys/class/net";
/// `ARPHRD_ETHER`. Source: include/uapi/linux/if_arp.h.
const ETHERNET: &str = "1";
/// What the kernel would otherwise say by itself when a card comes up: IPv6 announces itself.
const SILENT: [&str; 2] = ["/proc/sys/net/ipv6/conf/all/disable_ipv6", "/proc/sys/net/ipv6/conf/default/disable_ipv6"];

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CardError {
    /// No card, or none that is meant.
    #[error("there is no such network card; there are: {}", list(there))]
    Missing {
        /// The cards that are there.
        there: Vec<Card>,
    },
    /// Several cards, and nothing says which is meant.
    #[error("the uplink names no network card and there are several: {}", list(there))]
    Several {
        /// The cards that are there.
        there: Vec<Card>,
    },
    /// The kernel would speak by itself.
    #[error("cannot set {path}")]
    Silence {
        /// The setting.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It cannot be looked for.
    #[error("cannot look through the network cards")]
    Look {
        /// What the kernel said.
        #[from]
        source: io::Error,
    },
    /// Nothing is at the other end of its cable.
    #[error("the network card {name} has no link")]
    NoLink {
        /// Its name.
        name: String,
    },
    /// It cannot be used.
    #[error("cannot use the network card {name}")]
    Use {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn list(cards: &[Card]) -> String {
    let all: Vec<_> = cards.iter().map(|card| format!("{} ({})", card.address, card.name)).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// An Ethernet card that is a device, as opposed to the kernel's own interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Card {
    name: String,
    index: u32,
    address: HardwareAddress,
}

impl Card {
    /// The card with this address, or the only one.
    ///
    /// # Errors
    /// [`CardError`].
    pub(crate) fn find(wanted: Option<HardwareAddress>) -> Result<Self, CardError> {
        let end = Instant::now() + APPEAR_MAX;
        loop {
            match choose(all(Path::new(INTERFACES))?, wanted) {
                Err(CardError::Missing { .. }) if Instant::now() < end => std::thread::sleep(APPEAR_PAUSE),
                chosen => return chosen,
            }
        }
    }

    /// Its address.
    pub(crate) fn address(&self) -> HardwareAddress {
        self.address
    }

    /// Takes the card up, where nobody but the returned socket speaks on it.
    ///
    /// # Errors
    /// [`CardError::Silence`], [`CardError::Use`].
    pub(crate) fn open(&self) -> Result<OwnedFd, CardError> {
        for path in SILENT {
            let said = write(path, "1").and_then(|()| read_to_string(path));
            let read = said.map_err(|source| CardError::Silence { path, source })?;
            if read.trim_end() != "1" {
                return Err(CardError::Silence { path, source: io::ErrorKind::InvalidData.into() });
            }
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol: until it is bound the socket has no frames.
        let opened = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None).map_err(Errno::into);
        let packets = opened.map_err(|source| self.failed(source))?;
        sys::bind_packets(packets.as_fd(), self.index).map_err(|source| self.failed(source))?;
        self.set_up(true)?;
        Ok(packets)
    }

    /// Takes the card up, and waits for its link, or down. Down, it neither sends nor receives, whoever asks it to.
    ///
    /// # Errors
    /// [`CardError::Use`], [`CardError::NoLink`].
    pub(crate) fn set_up(&self, up: bool) -> Result<(), CardError> {
        let flags = SocketFlags::CLOEXEC;
        let any = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).map_err(Errno::into);
        let done = any.and_then(|socket| sys::set_up(socket.as_fd(), &self.name, up));
        done.map_err(|source| self.failed(source))?;
        if up { self.wait_for_link() } else { Ok(()) }
    }

    fn wait_for_link(&self) -> Result<(), CardError> {
        let carrier = Path::new(INTERFACES).join(&self.name).join("carrier");
        let end = Instant::now() + LINK_MAX;
        // Of a card that is not up yet it cannot be read.
        while !read_to_string(&carrier).is_ok_and(|text| text.trim_end() == "1") {
            if Instant::now() >= end {
                return Err(CardError::NoLink { name: self.name.clone() });
            }
            std::thread::sleep(APPEAR_PAUSE);
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> CardError {
        CardError::Use { name: self.name.clone(), source }
    }
}

fn choose(mut there: Vec<Card>, wanted: Option<HardwareAddress>) -> Result<Card, CardError> {
    let place = match wanted {
        Some(wanted) => there.iter().position(|card| card.address == wanted),
        None if there.len() > 1 => return Err(CardError::Several { there }),
        None => (!there.is_empty()).then_some(0),
    };
    match place {
        Some(place) => Ok(there.swap_remove(place)),
        None => Err(CardError::Missing { there }),
    }
}

/// All cards, by address.
fn all(interfaces: &Path) -> io::Result<Vec<Card>> {
    let mut cards = Vec::new();
    for entry in read_dir(interfaces)? {
        let path = entry?.path();
        let attribute = |name: &str| read_to_string(path.join(name)).map(|text| text.trim_end().to_owned());
        if !path.join("device").exists() || attribute("type")? != ETHERNET {
            continue;
        }
        let (Ok(address), Ok(index)) = (attribute("address")?.parse(), attribute("ifindex")?.parse()) else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        cards.push(Card { name, index, address });
    }
    cards.sort_by_key(|card| card.address.0);
    Ok(cards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_is_the_named_one_or_the_only_one() {
        let interfaces = tempfile::tempdir().unwrap();
        let add = |name: &str, kind: &str, address: &str, device: bool| {
            let path = interfaces.path().join(name);
            std::fs::create_dir(&path).unwrap();
            for (file, text) in [("type", kind), ("address", address), ("ifindex", "7")] {
                write(path.join(file), format!("{text}\n")).unwrap();
            }
            if device {
                std::fs::create_dir(path.join("device")).unwrap();
            }
        };
        let found = |wanted: Option<&str>| {
            choose(all(interfaces.path()).unwrap(), wanted.map(|it| it.parse().unwrap())).map(|card| card.name)
        };
        add("lo", "772", "00:00:00:00:00:00", false);
        add("dummy0", "1", "02:00:00:00:00:01", false);
        add("ib0", "32", "80:00:00:00:00:01", true);
        assert!(matches!(found(None), Err(CardError::Missing { there }) if there.is_empty()));
        add("eth0", "1", "52:54:00:12:34:56", true);
        assert_eq!(found(None).unwrap(), "eth0");
        add("eth1", "1", "52:54:00:12:34:57", true);
        assert!(matches!(found(None), Err(CardError::Several { there }) if there.len() == 2));
        assert_eq!(found(Some("52:54:00:12:34:57")).unwrap(), "eth1");
        let missing = found(Some("52:54:00:12:34:58")).unwrap_err();
        assert!(missing.to_string().ends_with("52:54:00:12:34:56 (eth0), 52:54:00:12:34:57 (eth1)"), "{missing}");
    }
}
