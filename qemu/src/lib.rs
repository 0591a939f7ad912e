//! One disposable machine with its own TPM, owned until dropped.
//!
//! In reading order:
//!
//! 1. [`Tools`]: the programs and firmware of the host; without them, the one command that installs them.
//! 2. [`Machine`]: what the machine is, as plain data; [`TpmCa`] is the site's certificate authority for its TPMs.
//! 3. [`probe`]: which [`Accelerator`] really runs a guest here, and why.
//! 4. [`start`]: the machine runs; the caller holds a [`RunningMachine`] and the host end of its link.
//! 5. [`Ended`]: how it ended. When a caller sees this value, or when the `RunningMachine` is dropped, nothing of the
//!    machine is left on the host: no process, no socket, no file.
//!
//! The last promise also holds if the owner panics, returns early, exits, or is killed: see `custody.rs` in the
//! source. A caller that wants it to hold on Ctrl-C selects on `tokio::signal::ctrl_c()` and drops the machine; the
//! machine's processes are in a process group of their own, so a terminal's Ctrl-C reaches only the owner.
//!
//! Deliberately absent: networks, graphics, shared folders, snapshots, reuse of a machine. It knows nothing of jobs, and
//! of the link's bytes it only knows that they flow.

#![forbid(unsafe_code)]

mod accelerator;
mod arguments;
mod child;
mod console;
mod custody;
mod end;
mod host_tpm;
mod keeper;
mod machine;
mod monitor;
mod running;
mod tools;
mod tpm;
mod tpm_ca;

pub use accelerator::{Accelerator, Choice, Why, force, probe};
pub use child::ChildError;
pub use console::ConsoleLine;
pub use custody::CustodyError;
pub use end::{End, Ended, Memory, Timings};
pub use host_tpm::{HostKeys, HostTpm, HostTpmError, NewKeys};
pub use keeper::{OnLine, Part};
pub use machine::{Boot, Disk, Machine, MachineError, Sector, SecureBoot, Serial, Starts, Tpm};
pub use monitor::MonitorError;
pub use running::{RunningMachine, StartError, start};
pub use tools::{MissingTools, Tools};
pub use tpm::TpmError;
pub use tpm_ca::{TpmCa, TpmCaError};
