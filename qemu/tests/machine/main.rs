//! Machines on this host, from outside: how they end, what is left when their owner ends, and their TPMs.
//!
//! The guests are a few instructions in a boot sector; the real image is booted by the workspace's own tests.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests, and what tests share")]

mod ends;
mod host;
mod owner;
mod tpm;
