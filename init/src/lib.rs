//! PID 1 of a machine that exists for one build.
//!
//! What happens, in this order: PID 1 protects itself; the file systems; the kernel's settings; what the kernel must offer; the
//! TPM, with the registers that must be zero; PID 1 measures its own program, the first event in PCR 15; the builder starts as a
//! child; PID 1 answers it ([`kiln_builder::custody`] has the order that it insists on) until the job has ended; power off.
//! Whatever fails on the way is a fault: one line on the console, no evidence, power off.
//!
//! [`start`] takes the builder as an argument: PID 1 knows it only as a child that asks. On a server ([`Machine::Metal`]) it also
//! measures the uplink and starts the wire, a child that carries the builder's bytes over the network (`metal.rs`), before the builder.
//! Deliberately absent: a shell, a service manager, any file that is read before it is measured, any way to go on after something
//! failed; in a virtual machine, a network.

#![deny(unsafe_code)]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use kiln_builder::custody::Identity;
use kiln_formats::link::Blob;
use kiln_formats::manifest::Outcome;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::system::{RebootCommand, reboot};
use rustix::time::{ClockId, clock_gettime};

use crate::child::ChildError;
use crate::custody::Custody;
use crate::fault::Fault;
use crate::measure::{Anchor, Ledger};

pub use metal::wire::{GO, HOLD, Handed, WireError, fault, receive};

mod child;
mod custody;
mod fault;
mod features;
mod identity;
mod measure;
mod metal;
mod mounts;
mod order;
mod power;
mod supervise;
mod sys;
mod sysctl;

/// The program that runs, whatever its path was.
const PROGRAM: &str = "/proc/self/exe";

/// Under this name the program is the builder.
const BUILDER: &str = "kiln-builder";

/// Under this name the program is the wire.
const WIRE: &str = "kiln-wire";

/// For which kind of machine the program is, and what its children do. Each gets its sockets in a process that has one thread,
/// and what it returns is that process's exit status.
#[derive(Debug, Clone, Copy)]
pub enum Machine {
    /// A disposable virtual machine.
    Virtual {
        /// The builder, with its socket to PID 1.
        builder: fn(UnixStream) -> ExitCode,
    },
    /// A server that reaches its authority over a network.
    Metal {
        /// The builder, with its socket to PID 1 and its end of the wire.
        builder: fn(UnixStream, UnixStream) -> ExitCode,
        /// The wire, with its socket to PID 1 ([`receive`]).
        wire: fn(OwnedFd) -> ExitCode,
    },
}

/// The appliance's only program: PID 1, or one of its children if it is called like one.
pub fn start(machine: Machine) -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if let Some(ended) = child(&machine, &name) {
        return ended.unwrap_or_else(|error| {
            eprintln!("{}", Fault::from(error).line());
            ExitCode::FAILURE
        });
    }
    if std::process::id() != 1 {
        eprintln!("kiln-init is PID 1 of a build machine and does nothing elsewhere");
        return ExitCode::from(2);
    }
    power::off_on_panic();
    match live(&machine) {
        Ok(outcome) => power::off(&format!("kiln: done: {outcome:?}")),
        Err(fault) => power::off(&fault.line()),
    }
}

/// What the program does under the name of a child; nothing under another.
fn child(machine: &Machine, name: &std::ffi::OsStr) -> Option<Result<ExitCode, ChildError>> {
    match machine {
        Machine::Virtual { builder } if name == BUILDER => Some(child::prepare().map(builder)),
        Machine::Metal { builder, .. } if name == BUILDER => {
            Some(child::prepare_with_stream().map(|(custody, stream)| builder(custody, stream)))
        }
        Machine::Metal { wire, .. } if name == WIRE => Some(child::prepare_wire().map(wire)),
        _ => None,
    }
}

/// The one life of the machine.
fn live(machine: &Machine) -> Result<Outcome, Fault> {
    let init_uptime_us = uptime_us();
    harden()?;
    mounts::mount_all()?;
    sysctl::set_all(Path::new("/proc/sys"))?;
    features::check()?;
    let firmware_log = measure::firmware_log()?;
    let anchor = Anchor::open()?;
    let identity = Identity {
        enrolment: anchor.enrolment(),
        statement_key: Blob::default(),
        issuer_key: Blob::default(),
        firmware_log: Blob(firmware_log),
        init_uptime_us,
    };
    let banks = anchor.banks().to_vec();
    let ledger = Ledger::new(anchor, measure::boot_id()?, &banks, uptime_us)?;
    let mut custody = Custody::new(ledger, measure::own_digest()?, &[custody::seed()?, custody::seed()?], identity)?;
    match machine {
        Machine::Virtual { .. } => supervise::run(custody, None),
        Machine::Metal { .. } => {
            let connected = metal::connect(&mut custody)?;
            supervise::run(custody, Some(connected))
        }
    }
}

/// Nobody reads PID 1's memory, it leaves no dump, and no key combination restarts the machine.
fn harden() -> Result<(), Fault> {
    let failed = |what: &'static str| move |source| Fault::Harden { what, source };
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("refuse dumps"))?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(failed("limit dumps"))?;
    reboot(RebootCommand::CadOff).map_err(failed("turn off the restart keys"))
}

/// `CLOCK_BOOTTIME` in microseconds.
fn uptime_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}
