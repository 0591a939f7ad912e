//! Confines one build step and reports what the kernel really enforced. Knows nothing of jobs.
//!
//! In reading order: a [`Policy`] says what a step may be; a [`Launcher`], forked while the process was single-threaded, starts it
//! (`view` plans its mount table, `stage` builds it and takes every privilege off, `filter` is its system call filter, `cgroup`
//! its limits); `readback` compares the kernel's word with the policy before the first instruction, which gives [`Enforced`]; a
//! [`Step`] is waited for and ends in an [`Outcome`], with a [`Trace`] of what it executed and was denied; [`collect`] then takes the outputs out of what it left. Beside
//! them, [`verity`] opens the images that steps run on, and [`scratch`] a disk for what does not fit into memory.
//!
//! Every layer is required. A caller on another machine than ours may give up [`Requirements`] by name, which the record says.
//! Absent: anything that talks to a network, signs, or decides whether a step should run.
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod cgroup;
pub mod collect;
mod contact;
mod device;
mod enforced;
mod filter;
mod kernel;
mod launcher;
mod layer;
mod outcome;
mod policy;
mod readback;
mod running;
pub mod scratch;
mod stage;
mod sys;
mod trace;
mod tree;
pub mod verity;
mod view;

pub use cgroup::{Error as CgroupError, remove_abandoned};
pub use contact::Error as ContactError;
pub use enforced::{CgroupFacts, Confirmed, Enforced, Landlock, MountFact, ProcessFacts, Surroundings};
#[cfg(feature = "mutation")]
pub use filter::time_installation as time_filter_installation;
pub use launcher::{Error as SpawnError, Launcher, check_profile};
pub use layer::{Error as LayerError, Layer, Requirements};
pub use outcome::{Exit, Outcome, Usage};
pub use policy::{
    Access, Draft, Error as PolicyError, GRACE_MS_MAX, Limits, MEMORY_BYTES_MIN, MOUNTS_MAX, Mount, PATH_BYTES_MAX,
    Policy, Proc, Profile, SLOTS, Source, TEXT_BYTES_MAX, Temporary, VIEW_ID,
};
pub use readback::Error as ReadBackError;
pub use running::{Error as WaitError, Killer, Step};
#[cfg(feature = "mutation")]
pub use trace::read_records;
pub use trace::{AuditBefore, Denial, Error as TraceError, Execution, Trace, switch_on as switch_audit_on};
pub use tree::DetachedTree;
pub use view::Error as ViewError;
