//! What a server has that a disposable machine has not: a disk of its own with a file on it, and a network card.
//!
//! [`find`] reads the uplink from the boot disk and has its bytes measured before anything in them is read; [`Card::find`] is the one
//! network card that the uplink means; [`wire`] is the child that talks to the authority over it. The kernel is never given an
//! address, so that nothing but that child's packet socket speaks on the card, and PID 1 takes the card down while a step runs.

pub(crate) mod card;
pub(crate) mod disk;
pub(crate) mod wire;

use kiln_formats::digest::Sha256Digest;
use kiln_formats::event::Event;
use kiln_formats::uplink::{self, UplinkError};

use crate::custody::Custody;
use crate::fault::Fault;
use crate::measure::Registers;
use card::{Card, CardError};
use disk::DiskError;
use wire::{Ends, Wire, WireError};

/// Why a server cannot reach its authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetalError {
    /// The uplink's file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The uplink's content.
    #[error("the uplink {} on the EFI system partition cannot be used", uplink::UPLINK_PATH)]
    Uplink(#[from] UplinkError),
    /// The network card.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The child that talks to the authority.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl MetalError {
    /// Stable; scripts may rely on it.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Disk(_) => "uplink_missing",
            Self::Uplink(_) => "uplink",
            Self::Card(_) => "network_card",
            Self::Wire(WireError::Said { code, .. }) => code.as_str(),
            Self::Wire(_) => "wire",
        }
    }
}

/// Measures and reads the uplink, takes the card up, and starts the wire over it.
///
/// # Errors
/// [`Fault`]: [`MetalError`], or the measurement was not made.
pub(crate) fn connect<R: Registers>(custody: &mut Custody<R>) -> Result<(Wire, Ends), Fault> {
    let bytes = disk::uplink().map_err(MetalError::from)?;
    custody.measure(&Event::Uplink(Sha256Digest::of(&bytes)))?;
    let uplink = uplink::read(&bytes).map_err(MetalError::from)?;
    let card = Card::find(uplink.interface).map_err(MetalError::from)?;
    let packets = card.open().map_err(MetalError::from)?;
    let address = card.address();
    Ok(Wire::start(card, packets, address, &bytes).map_err(MetalError::from)?)
}
