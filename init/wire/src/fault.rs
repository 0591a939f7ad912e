//! Why the wire cannot carry any more. PID 1 says it on the console, and the machine ends.

use std::error::Error as _;
use std::io;

use kiln_formats::certificate::CertificateError;
use kiln_formats::uplink::UplinkError;
use kiln_init::WireError;

use crate::attestor;
use crate::network::{ADDRESS_MAX, CONNECT_MAX};

/// Why. [`Fault::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// PID 1 cannot be understood.
    #[error(transparent)]
    Orders(#[from] WireError),
    /// The uplink cannot be used.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// Its root cannot be used.
    #[error("the uplink's root cannot be used")]
    Root(#[from] CertificateError),
    /// The process could not give something up.
    #[error("the wire is not confined: {what}")]
    Confine {
        /// What.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No randomness.
    #[error("the kernel gives no randomness: {source}")]
    Random {
        /// What it said.
        #[from]
        source: getrandom::Error,
    },
    /// Nobody gave the machine an address.
    #[error("nobody on this network answers DHCP within {} s", ADDRESS_MAX.as_secs())]
    NoAddress,
    /// The authority does not take the connection.
    #[error("the attestor does not answer within {} s", CONNECT_MAX.as_secs())]
    NoAnswer,
    /// The authority, or somebody in its name, said no.
    #[error("the attestor refuses the connection")]
    Refused,
    /// TLS does not hold. A certificate that is not valid now also means that the machine's clock may be wrong.
    #[error("TLS to the attestor does not hold")]
    Tls {
        /// Why.
        #[from]
        source: rustls::Error,
    },
    /// The builder says more than the wire may keep.
    #[error("more was to be sent than the wire keeps")]
    Backlog,
    /// A socket cannot be used.
    #[error("a socket cannot be used")]
    Socket {
        /// What the kernel said.
        #[from]
        source: io::Error,
    },
}

impl Fault {
    /// Stable; scripts may rely on it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Orders(_) | Self::Backlog | Self::Socket { .. } => "wire",
            Self::Uplink(_) | Self::Root(_) => "uplink",
            Self::Confine { .. } => "wire_confine",
            Self::Random { .. } => "random",
            Self::NoAddress => "no_address",
            Self::NoAnswer => "attestor_silent",
            Self::Refused => "attestor_refuses",
            Self::Tls { source } => attestor::code(source),
        }
    }

    /// The chain of causes on one line.
    pub(crate) fn text(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        text
    }
}
