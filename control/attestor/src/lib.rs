//! The authority: it challenges a machine, certifies it, hands it its one job and takes in the evidence.
//!
//! In reading order: [`site`] is what a site has on disk; [`state`] is what its authority remembers, and [`ledger`] what it did;
//! [`Offer`] is one job with its files; [`Authority`] serves one machine, over one link, in one fixed order; [`service`] serves many,
//! over a network.
//!
//! No image is started, and no machine with it challenged, before [`image`] found that a producer whom the site trusts made it.
//! A machine proves first which TPM it has: [`site::enrolment`] says whose TPMs count, [`credential`] makes what only that TPM opens.
//!
//! Deliberately absent: any judgement of the evidence but that of the first quote.

#![forbid(unsafe_code)]

mod authority;
mod certify;
pub mod credential;
pub mod image;
mod input;
mod intake;
pub mod ledger;
mod link;
mod notice;
mod offer;
pub mod service;
pub mod site;
pub mod state;
pub mod teardown;

pub use authority::{Authority, BOOT, Fault, HostAnswer, Listener, Outcome, QuotingHost, Report, Signed, Surroundings};
pub use certify::CertifyError;
pub use credential::CredentialError;
pub use intake::IntakeError;
pub use link::LinkError;
pub use notice::Notices;
pub use offer::{Offer, OfferError};
