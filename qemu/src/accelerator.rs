//! Which accelerator really runs a guest on this host.
//!
//! That `/dev/kvm` opens says little: nested and emulated implementations exist on which firmware hangs. So the probe
//! starts a machine, with the arguments that all machines get, whose boot sector does a little arithmetic and switches the
//! power off. Only a machine that was seen to do that makes KVM the choice, and whatever else happened is told.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::time::timeout;

use crate::end::End;
use crate::machine::{Boot, Machine, Sector, Tpm};
use crate::running::{StartError, start};
use crate::tools::Tools;

const KVM_DEVICE: &str = "/dev/kvm";
/// SeaBIOS comes to the boot sector within 0.2 s even under TCG.
const PROBE_LIFE_MAX: Duration = Duration::from_secs(2);
/// A QEMU that does not even come to power-on: it takes a tenth of a second where all is well.
const PROBE_MAX: Duration = Duration::from_secs(6);

/// 16-bit code that ends in a power-off. `fwait` is the instruction on which emulated KVMs were seen to stop.
#[rustfmt::skip]
const POWER_OFF: [u8; 14] = [
    0xfa,             // cli
    0xdb, 0xe3,       // fninit
    0x9b,             // fwait
    0xba, 0x04, 0x06, // mov dx, 0x604   PM1a_CNT: SeaBIOS moves q35's ACPI block to 0x600 (src/fw/pciinit.c), PM1a_CNT is at 4
    0xb8, 0x00, 0x20, // mov ax, 0x2000  SLP_EN with SLP_TYP 0, which is S5 in QEMU (hw/acpi/core.c); ACPI 6.5, 4.8.3.2.1
    0xef,             // out dx, ax
    0xf4,             // hlt
    0xeb, 0xfd,       // jmp to hlt
];

/// How the machine's processors are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accelerator {
    /// The host's processor, through the kernel.
    Kvm,
    /// QEMU's translation: everywhere, about 15 times slower.
    Tcg,
}

/// An accelerator and why it was chosen.
#[derive(Debug)]
pub struct Choice {
    /// What machines are to be started with.
    pub accelerator: Accelerator,
    /// The reason, to be said aloud.
    pub why: Why,
}

/// Why an accelerator was chosen.
#[derive(Debug)]
pub enum Why {
    /// The caller asked for it.
    Asked,
    /// A guest ran under KVM.
    GuestRan {
        /// From power-on to power-off.
        took: Duration,
    },
    /// KVM's device cannot be opened.
    NoDevice {
        /// The system's reason.
        source: io::Error,
    },
    /// No guest could be started under KVM.
    NotStarted {
        /// Why not.
        source: StartError,
    },
    /// QEMU hung under KVM before a guest could start.
    NoAnswer,
    /// A guest was started under KVM and did not do what it was to do.
    GuestFailed {
        /// How it ended instead.
        end: End,
    },
}

/// Takes KVM if a guest really runs under it, else TCG. Takes six seconds at most.
pub async fn probe(tools: &Tools) -> Choice {
    if let Err(source) = std::fs::File::options().read(true).write(true).open(KVM_DEVICE) {
        return Choice { accelerator: Accelerator::Tcg, why: Why::NoDevice { source } };
    }
    match timeout(PROBE_MAX, run_guest(Accelerator::Kvm, &POWER_OFF, PROBE_LIFE_MAX, tools)).await {
        Ok(Ok(took)) => Choice { accelerator: Accelerator::Kvm, why: Why::GuestRan { took } },
        Ok(Err(why)) => Choice { accelerator: Accelerator::Tcg, why },
        Err(_) => Choice { accelerator: Accelerator::Tcg, why: Why::NoAnswer },
    }
}

/// Takes what the caller asks for, unseen.
#[must_use]
pub fn force(accelerator: Accelerator) -> Choice {
    Choice { accelerator, why: Why::Asked }
}

/// Runs a guest that is to switch its power off; returns how long it ran.
async fn run_guest(accelerator: Accelerator, code: &[u8], life_max: Duration, tools: &Tools) -> Result<Duration, Why> {
    let not_started = |source| Why::NotStarted { source };
    let sector = Sector::new(code).map_err(|error| not_started(error.into()))?;
    let machine =
        Machine { boot: Boot::Sector(sector), memory_mib: 64, cpus: 1, disks: Vec::new(), tpm: Tpm::Absent, life_max };
    let (mut machine, _link) = start(machine, accelerator, tools, None).await.map_err(not_started)?;
    let ended = machine.wait().await;
    match ended.end {
        End::PoweredOff => Ok(ended.timings.run),
        end => Err(Why::GuestFailed { end }),
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accelerator::Kvm => "KVM",
            Accelerator::Tcg => "TCG",
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.accelerator, self.why)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Asked => f.write_str("as asked for"),
            Why::GuestRan { took } => write!(f, "a guest ran under KVM in {} ms", took.as_millis()),
            Why::NoDevice { source } => write!(f, "{KVM_DEVICE} cannot be opened ({source})"),
            Why::NotStarted { source } => write!(f, "no guest starts under KVM: {source}"),
            Why::NoAnswer => write!(f, "QEMU hung under KVM for {} s", PROBE_MAX.as_secs()),
            Why::GuestFailed { end } => write!(f, "a guest under KVM failed: {end}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Tools {
        Tools::find(&std::env::var_os("PATH").unwrap()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The guest is right where an accelerator is: so a failure under KVM speaks of KVM.
    #[tokio::test]
    async fn the_guest_runs_under_tcg() {
        let patient = Duration::from_secs(60);
        let ran = run_guest(Accelerator::Tcg, &POWER_OFF, patient, &tools()).await;
        assert!(ran.is_ok(), "{ran:?}");
    }

    #[tokio::test]
    async fn an_accelerator_on_which_the_guest_hangs_is_not_taken() {
        let why = run_guest(Accelerator::Tcg, &POWER_OFF[11..], PROBE_LIFE_MAX, &tools()).await.unwrap_err();
        assert!(matches!(why, Why::GuestFailed { end: End::Overdue { .. } }), "{why}");
    }

    /// Whatever this host has: KVM is taken if and only if a second guest runs under it too.
    #[tokio::test]
    async fn the_probe_tells_what_it_saw() {
        let choice = probe(&tools()).await;
        println!("{choice}");
        let again = run_guest(Accelerator::Kvm, &POWER_OFF, PROBE_LIFE_MAX, &tools()).await;
        assert_eq!(choice.accelerator == Accelerator::Kvm, again.is_ok(), "{choice}, then {again:?}");
    }
}
