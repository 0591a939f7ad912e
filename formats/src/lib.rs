//! Every byte that crosses the boundary between a machine and the world: encode, strict bounded decode, pure folds.
//!
//! Both sides use it, so no side owns it. It reads no clock, file or socket and holds no key.

#![forbid(unsafe_code)]

// How anything is written.
pub mod canonical;
pub mod digest;
pub mod dsse;
pub mod names;
pub mod statement;
pub mod timestamp;

// What is to be done, and on whose word.
pub mod challenge;
pub mod host;
pub mod image_provenance;
pub mod job;
pub mod trust;
pub mod trust_list;

// What the boot says.
pub mod audit;
pub mod boot;
pub mod cel;
pub mod certificate;
pub mod endorsement;
pub mod enrolment;
pub mod event;
pub mod eventlog;
pub mod pcr;
pub mod prediction;
pub mod quote;
pub mod reference;
pub mod runtime_log;

// What was observed, and what is said of it.
pub mod decision;
pub mod dispatch;
pub mod image_summary;
pub mod log;
pub mod manifest;
pub mod provenance;
pub mod record;
pub mod runtime_trace;
pub mod teardown;
pub mod verdict;

// How the two sides talk.
pub mod link;
pub mod uplink;

// How a TPM writes.
mod wire;
