//! The whole machine, from outside: the real image in real virtual machines, driven as a person drives it.
//!
//! Nothing of the appliance is linked in here. `cargo kiln test` builds what these tests need and names the tool in `KILN`; a test
//! that cannot run fails and says what is missing.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what a helper cannot do fails its test")]

mod beside;
mod built;
mod capture;
mod clients;
mod fault;
mod firmware;
mod fixture;
mod hosted;
mod hostile;
mod inside;
mod keys;
mod live;
mod maker;
mod measure;
mod metal;
mod powercut;
mod reference;
mod refusal;
mod reproducible;
mod secureboot;
mod steps;
mod tamper;
mod two;
