//! The host's side of a machine: programs, accelerator, kind of start, and Ctrl-C.

use std::future::Future;

use clap::ValueEnum;
use kiln_formats::names::{BUILDER_DIRECT, BUILDER_FIRMWARE, BUILDER_SECURE_BOOT};
use kiln_qemu::{Accelerator, Boot, Choice, Machine, RunningMachine, SecureBoot, Starts, Tools, force, probe, start};
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, Failure, OrExit as _, Result};
use crate::image::Image;
use crate::screen::Screen;
use crate::signed::Signed;

/// Virtual processors of a machine.
pub(crate) const CPUS: u16 = 2;

/// How a machine starts. Each kind has its own builder id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BootMode {
    /// Through firmware that measures what it starts
    Firmware,
    /// QEMU loads the kernel itself: faster, and nothing is measured before PID 1
    Direct,
}

/// How a machine's processors are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Acceleration {
    /// KVM if a guest really runs under it, else TCG
    Auto,
    /// The host's processor, unseen
    Kvm,
    /// QEMU's translation
    Tcg,
}

impl BootMode {
    /// The builder id of machines that start this way, with Secure Boot or without.
    pub(crate) fn builder_id(self, secure_boot: bool) -> &'static str {
        match (self, secure_boot) {
            (Self::Firmware, false) => BUILDER_FIRMWARE,
            (Self::Firmware, true) => BUILDER_SECURE_BOOT,
            (Self::Direct, _) => BUILDER_DIRECT,
        }
    }

    /// The same, for a machine of this image, which firmware may hold to its signature.
    pub(super) fn of(self, image: &Image, signed: Option<&Signed>) -> Boot {
        match self {
            Self::Firmware => {
                let (path, secure_boot) = match signed {
                    None => (image.disk.path.clone(), SecureBoot::Off),
                    Some(signed) => (signed.disk(), SecureBoot::Enforced { variables: signed.variables() }),
                };
                Boot::Firmware { starts: Starts::Disk { path }, secure_boot }
            }
            Self::Direct => Boot::Direct {
                kernel: image.kernel.path.clone(),
                initrd: image.initrd.path.clone(),
                cmdline: image.cmdline.clone(),
            },
        }
    }
}

/// What this host starts machines with.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) tools: Tools,
    pub(crate) choice: Choice,
}

impl Host {
    /// Finds the programs and settles on an accelerator, aloud.
    pub(crate) async fn probe(acceleration: Acceleration, screen: &Screen) -> Result<Self> {
        let tools = Tools::find(&std::env::var_os("PATH").unwrap_or_default()).or_exit(Exit::Infrastructure)?;
        let choice = match acceleration {
            Acceleration::Auto => probe(&tools).await,
            Acceleration::Kvm => force(Accelerator::Kvm),
            Acceleration::Tcg => force(Accelerator::Tcg),
        };
        screen.say(&format!("kiln: accelerator {choice}"));
        Ok(Self { tools, choice })
    }

    /// Powers a machine on. Its console can be read along with `KILN_LOG=debug`.
    pub(crate) async fn start(&self, machine: Machine) -> Result<(RunningMachine, UnixStream)> {
        let on_line = |line: &kiln_qemu::ConsoleLine| tracing::debug!(at_ms = line.at.as_millis(), "{}", line.text);
        let started = start(machine, self.choice.accelerator, &self.tools, Some(Box::new(on_line))).await;
        started.or_exit(Exit::Infrastructure)
    }
}

/// Does the work, unless the person stops it; then everything that the work holds is dropped, machines too.
pub(crate) fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().or_exit(Exit::Infrastructure)?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).or_exit(Exit::Infrastructure)?;
        let mut terminate = signal(SignalKind::terminate()).or_exit(Exit::Infrastructure)?;
        let mut hang_up = signal(SignalKind::hangup()).or_exit(Exit::Infrastructure)?;
        tokio::select! {
            done = work => done,
            _ = interrupt.recv() => Err(interrupted()),
            _ = terminate.recv() => Err(interrupted()),
            _ = hang_up.recv() => Err(interrupted()),
        }
    })
}

fn interrupted() -> Failure {
    Failure { exit: Exit::Interrupted, report: miette::miette!("interrupted; nothing is left of the machine") }
}
