//! How a machine ended: an observation, told in full. Whether it is a fault is for the caller to say.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::child::quoted;

/// All that is known of a machine that has ended. Its processes are gone, and so are its files, unless `left` names them.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What ended it.
    pub end: End,
    /// What took how long.
    pub timings: Timings,
    /// The most host memory that QEMU held, as far as it was seen.
    pub memory: Option<Memory>,
    /// The machine's directory, if it could not be removed or a killed process that used it did not end.
    pub left: Option<PathBuf>,
}

/// What ended a machine.
#[derive(Debug, Clone)]
pub enum End {
    /// The guest switched its power off. The only end that a whole build has.
    PoweredOff,
    /// The guest was reset: a kernel panic, a triple fault or a reboot. It was not started again.
    Reset,
    /// The owner stopped or dropped it.
    Stopped,
    /// It lived longer than its description allows.
    Overdue {
        /// The bound.
        life_max: Duration,
    },
    /// The processors stopped by themselves: an internal error of the accelerator.
    AcceleratorFailed {
        /// QEMU's last messages.
        said: Vec<String>,
    },
    /// QEMU ended by itself, or was killed by somebody else.
    QemuEnded {
        /// How.
        status: ExitStatus,
        /// QEMU's last messages.
        said: Vec<String>,
    },
    /// The TPM ended before the machine did; the machine was given a moment to say so itself.
    TpmEnded {
        /// How.
        status: ExitStatus,
        /// The TPM's last messages.
        said: Vec<String>,
    },
    /// QEMU is no longer to be reached, though it runs.
    MonitorLost,
    /// A process could not be waited for, or the thread that looks after the machine is gone.
    Lost,
}

/// What took how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From the call of `start` until QEMU was started: directory, TPM, firmware variables.
    pub prepare: Duration,
    /// From QEMU's start to power-on.
    pub connect: Duration,
    /// From power-on to the end.
    pub run: Duration,
}

/// Host memory that QEMU holds: the guest's touched memory and QEMU's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now. Source: `proc_pid_status(5)`, `VmRSS`.
    pub resident_bytes: u64,
    /// Resident at most. Source: the same, `VmHWM`.
    pub peak_bytes: u64,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::PoweredOff => f.write_str("the guest switched its power off"),
            End::Reset => f.write_str("the guest was reset (kernel panic, triple fault or reboot)"),
            End::Stopped => f.write_str("its owner stopped it"),
            End::Overdue { life_max } => write!(f, "it ran longer than {} s and was killed", life_max.as_secs_f32()),
            End::AcceleratorFailed { said } => write!(f, "the accelerator failed{}", quoted(said)),
            End::QemuEnded { status, said } => write!(f, "QEMU ended with {status}{}", quoted(said)),
            End::TpmEnded { status, said } => write!(f, "its TPM ended with {status}{}", quoted(said)),
            End::MonitorLost => f.write_str("QEMU closed its monitor but did not end"),
            End::Lost => f.write_str("it was lost from sight and killed"),
        }
    }
}

impl Memory {
    /// Reads what the kernel says of process `pid`; `None` if it is gone.
    pub(crate) fn of(pid: u32) -> Option<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let bytes = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kibibytes * 1024)
        };
        Some(Memory { resident_bytes: bytes("VmRSS:")?, peak_bytes: bytes("VmHWM:")? })
    }
}
