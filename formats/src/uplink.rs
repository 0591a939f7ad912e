//! How a server reaches its authority: the one file on its boot disk that is not the same for everyone.
//!
//! PID 1 measures the file's bytes into PCR 15 before anything in them is read ([`crate::event::Event::Uplink`]), and [`read`] is the
//! only way from bytes to an [`Uplink`]. Whoever swaps the file changes a predicted value, and reaches no other authority than one
//! that the file's root certified.
//!
//! Deliberately absent: names that must be looked up, IPv6, a second authority, a proxy.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::certificate::{Certificate, CertificateError};

/// The version of this format.
pub const VERSION: u32 = 1;
/// The largest file in bytes: a certificate, and some addresses.
pub const UPLINK_BYTES_MAX: usize = 16 << 10;
/// Where the file is on the EFI system partition.
pub const UPLINK_PATH: &str = "kiln/uplink.json";
/// The partition that PID 1 looks for it on, by its name in the GPT.
pub const ESP_NAME: &str = "kiln-esp";
/// The partition that may be written, and is read by nobody after the power is off, by its name in the GPT.
pub const SCRATCH_NAME: &str = "kiln-scratch";
/// The longest DNS name. Source: RFC 1035, section 2.3.4.
const NAME_BYTES_MAX: usize = 253;
/// The longest prefix with two hosts in it.
const PREFIX_MAX: u8 = 30;

/// The content of the file: an allegation until [`read`] has checked it. Canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// Always [`VERSION`].
    pub version: u32,
    /// Where the authority listens.
    pub attestor: SocketAddrV4,
    /// The name in its certificate: a DNS name, which nobody looks up, or an address.
    pub name: String,
    /// The root that its certificate leads to, PEM.
    pub root: String,
    /// Where the machine's own address comes from.
    pub address: Address,
    /// The network card; without it the machine must have exactly one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<HardwareAddress>,
}

/// Where the machine's own address comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "kind")]
pub enum Address {
    /// From whoever answers first.
    Dhcp,
    /// From here.
    Static {
        /// The machine's address.
        address: Ipv4Addr,
        /// How many of its bits are the network's.
        prefix: u8,
        /// Who takes packets for other networks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<Ipv4Addr>,
    },
}

/// A network card's address. Text form: six lowercase pairs of hex digits, with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HardwareAddress(pub [u8; 6]);

/// Why a file is no uplink.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// More than [`UPLINK_BYTES_MAX`].
    #[error("it is larger than {UPLINK_BYTES_MAX} bytes")]
    TooLarge,
    /// It is not the canonical form of an uplink.
    #[error("it is no uplink")]
    Document {
        /// What the reader said.
        #[from]
        source: canonical::Error,
    },
    /// The root is no certificate.
    #[error("its root is no certificate")]
    Root {
        /// Why.
        #[from]
        source: CertificateError,
    },
    /// A field has a value that no machine can use.
    #[error("{field}: {rule}")]
    Field {
        /// Which.
        field: &'static str,
        /// What holds for it.
        rule: &'static str,
    },
}

/// Reads the file's bytes.
///
/// # Errors
/// [`UplinkError`], at the first rule that does not hold.
pub fn read(bytes: &[u8]) -> Result<Uplink, UplinkError> {
    if bytes.len() > UPLINK_BYTES_MAX {
        return Err(UplinkError::TooLarge);
    }
    let uplink: Uplink = canonical::from_slice_exact(bytes)?;
    uplink.check()?;
    Ok(uplink)
}

impl Uplink {
    /// The file's bytes.
    ///
    /// # Errors
    /// [`UplinkError`]: no machine would take them.
    pub fn to_bytes(&self) -> Result<Vec<u8>, UplinkError> {
        self.check()?;
        Ok(canonical::to_vec(self)?)
    }

    fn check(&self) -> Result<(), UplinkError> {
        let need = |holds, field, rule| if holds { Ok(()) } else { Err(UplinkError::Field { field, rule }) };
        need(self.version == VERSION, "version", "is not known")?;
        need(is_host(*self.attestor.ip()), "attestor", "is not the address of one host")?;
        need(self.attestor.port() != 0, "attestor", "has no port")?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        let name = self.name.as_bytes();
        need((1..=NAME_BYTES_MAX).contains(&name.len()), "name", "is empty or too long")?;
        need(name.iter().all(|b| plain(*b)), "name", "is neither a DNS name nor an IPv4 address")?;
        if let Address::Static { address, prefix, gateway } = self.address {
            need(is_host(address), "address", "is not the address of one host")?;
            need((1..=PREFIX_MAX).contains(&prefix), "prefix", "is not between 1 and 30")?;
            let near = |other: Ipv4Addr| (u32::from(other) ^ u32::from(address)) >> (32 - prefix) == 0;
            need(gateway.is_none_or(|it| is_host(it) && near(it) && it != address), "gateway", "is not a neighbour")?;
            need(gateway.is_some() || near(*self.attestor.ip()), "gateway", "is needed to reach the attestor")?;
        }
        Certificate::from_pem(self.root.as_bytes())?;
        Ok(())
    }
}

fn is_host(address: Ipv4Addr) -> bool {
    let others = [address.is_unspecified(), address.is_multicast(), address.is_broadcast(), address.is_loopback()];
    others.into_iter().all(|other| !other)
}

impl std::fmt::Display for HardwareAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Text that is no [`HardwareAddress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a network card's address: six pairs of hex digits, in lower case, with colons between them")]
pub struct ParseHardwareAddressError;

impl std::str::FromStr for HardwareAddress {
    type Err = ParseHardwareAddressError;

    fn from_str(text: &str) -> Result<Self, ParseHardwareAddressError> {
        let mut bytes = [0; 6];
        hex::decode_to_slice(text.replace(':', ""), &mut bytes).map_err(|_| ParseHardwareAddressError)?;
        let address = Self(bytes);
        if address.to_string() == text { Ok(address) } else { Err(ParseHardwareAddressError) }
    }
}

impl Serialize for HardwareAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HardwareAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any certificate: only its form is looked at here.
    fn root() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/certificate");
        let files = std::fs::read_dir(path).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        let mut pems = files.filter(|bytes| Certificate::from_pem(bytes).is_ok());
        String::from_utf8(pems.next().expect("a certificate in the corpus")).unwrap()
    }

    fn uplink() -> Uplink {
        Uplink {
            version: VERSION,
            attestor: "10.0.2.2:8443".parse().unwrap(),
            name: "attestor.example".to_owned(),
            root: root(),
            address: Address::Dhcp,
            interface: Some(HardwareAddress([0x52, 0x54, 0, 0x12, 0x34, 0xab])),
        }
    }

    fn field(change: impl FnOnce(&mut Uplink)) -> Option<&'static str> {
        let mut changed = uplink();
        change(&mut changed);
        // By both ways: nothing is written that is not read.
        assert_eq!(changed.to_bytes().is_ok(), read(&canonical::to_vec(&changed).unwrap()).is_ok());
        match changed.to_bytes() {
            Err(UplinkError::Field { field, .. }) => Some(field),
            Err(UplinkError::Root { .. }) => Some("root"),
            Ok(_) => None,
            Err(other) => panic!("{other}"),
        }
    }

    fn fixed(address: &str, prefix: u8, gateway: Option<&str>) -> Address {
        Address::Static { address: address.parse().unwrap(), prefix, gateway: gateway.map(|it| it.parse().unwrap()) }
    }

    #[test]
    fn what_a_machine_can_use_is_read_and_nothing_else() {
        assert_eq!(read(&uplink().to_bytes().unwrap()).unwrap(), uplink());
        assert_eq!(field(|it| it.address = fixed("10.0.2.15", 24, None)), None);
        assert_eq!(field(|it| it.address = fixed("10.9.9.9", 24, Some("10.9.9.1"))), None);
        assert_eq!(field(|it| it.version = 2), Some("version"));
        assert_eq!(field(|it| it.attestor.set_port(0)), Some("attestor"));
        for other in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1"] {
            assert_eq!(field(|it| it.attestor.set_ip(other.parse().unwrap())), Some("attestor"), "{other}");
            assert_eq!(field(|it| it.address = fixed(other, 24, None)), Some("address"), "{other}");
        }
        for other in ["", "A.example", "a b", "*.example", &"a".repeat(254)] {
            assert_eq!(field(|it| it.name = other.to_owned()), Some("name"), "{other}");
        }
        for prefix in [0, 31, 255] {
            assert_eq!(field(|it| it.address = fixed("10.0.2.15", prefix, None)), Some("prefix"));
        }
        for gateway in [None, Some("10.9.8.1"), Some("10.9.9.9")] {
            assert_eq!(field(|it| it.address = fixed("10.9.9.9", 24, gateway)), Some("gateway"), "{gateway:?}");
        }
        assert_eq!(field(|it| it.root.clear()), Some("root"));
    }

    #[test]
    fn another_spelling_or_a_larger_file_is_refused() {
        let text = String::from_utf8(uplink().to_bytes().unwrap()).unwrap();
        for other in [
            format!("{text} "),
            text.replace("52:54", "52-54"),
            text.replace(":ab", ":AB"),
            text.replace("\"dhcp\"", "\"dhcp\",\"more\":1"),
            text.replace("10.0.2.2:8443", "attestor.example:8443"),
            text.replace("\"version\":1", "\"proxy\":1,\"version\":1"),
        ] {
            assert!(other != text && read(other.as_bytes()).is_err(), "{other}");
        }
        assert!(matches!(read(&vec![b' '; UPLINK_BYTES_MAX + 1]), Err(UplinkError::TooLarge)));
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(at in 0_usize..600, byte: u8) {
            let mut bytes = uplink().to_bytes().unwrap();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            if let Ok(uplink) = read(&bytes) {
                prop_assert_eq!(uplink.to_bytes().unwrap(), bytes);
            }
        }

        #[test]
        fn garbage_is_refused_and_harmless(bytes: Vec<u8>) {
            prop_assert!(read(&bytes).is_err());
        }
    }
}
