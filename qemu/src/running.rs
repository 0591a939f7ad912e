//! A machine that runs, from its owner's side.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::accelerator::Accelerator;
use crate::child::{ChildError, quoted};
use crate::console::{Console, ConsoleLine};
use crate::custody::CustodyError;
use crate::end::{End, Ended, Memory, Timings};
use crate::keeper::{OnLine, Order, Part, Plan, Ready, keep};
use crate::machine::{Machine, MachineError};
use crate::monitor::MonitorError;
use crate::tools::Tools;
use crate::tpm::TpmError;

/// Orders that may wait for the keeper: an owner gives few and waits for them.
const ORDERS_MAX: usize = 4;

/// A machine that was powered on. Dropping it kills the machine, waits for its processes (milliseconds) and removes its
/// files; so does everything else that ends the owner.
#[derive(Debug)]
pub struct RunningMachine {
    keeper: Keeper,
    console: Arc<Mutex<Console>>,
    directory: PathBuf,
    qemu_pid: Option<u32>,
    power_on: Instant,
    endorsement_certificates: Vec<Vec<u8>>,
}

/// Why a machine was not powered on. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The description is not that of a machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// There is no place for its files.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// It has no TPM.
    #[error("the machine got no TPM")]
    Tpm {
        /// Why not.
        #[from]
        source: TpmError,
    },
    /// A file or socket of its directory could not be made.
    #[error("cannot make {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// QEMU could not be started or waited for.
    #[error(transparent)]
    Qemu(#[from] ChildError),
    /// QEMU ended before power-on.
    #[error("QEMU ended with {status} before power-on{}", quoted(said))]
    QemuEnded {
        /// How.
        status: ExitStatus,
        /// Its last messages.
        said: Vec<String>,
    },
    /// QEMU did not connect in time.
    #[error("QEMU did not connect its monitor and link in time")]
    NotConnected,
    /// QEMU connected, but not as it should.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// The keeper's thread or its runtime could not be started, or the link could not be handed over.
    #[error("cannot look after the machine")]
    Keeper {
        /// The system's reason.
        source: io::Error,
    },
    /// The owner gave up, or the keeper's thread is gone.
    #[error("the machine was given up before power-on")]
    GivenUp,
}

/// Makes a machine's TPM, powers the machine on, and returns it with the host end of its link.
///
/// `on_line` sees every line of the serial console; it is called from another thread and must not wait for anything.
/// To be called within a tokio runtime. If the returned future is dropped, nothing is left.
///
/// # Errors
/// By cause; whatever the cause, nothing is left.
pub async fn start(
    machine: Machine,
    accelerator: Accelerator,
    tools: &Tools,
    on_line: Option<OnLine>,
) -> Result<(RunningMachine, UnixStream), StartError> {
    machine.check()?;
    let console = Arc::default();
    let plan = Plan {
        machine,
        accelerator,
        tools: tools.clone(),
        parent: std::env::temp_dir(),
        console: Arc::clone(&console),
        on_line,
    };
    let (orders, to_keeper) = mpsc::channel(ORDERS_MAX);
    let (on_ready, ready) = oneshot::channel();
    let (on_end, ended) = watch::channel(None);
    let thread = std::thread::Builder::new()
        .name("kiln-machine".to_owned())
        .spawn(move || keep(plan, to_keeper, on_ready, on_end))
        .map_err(|source| StartError::Keeper { source })?;
    let keeper = Keeper { orders: Some(orders), ended, thread: Some(thread) };
    let Ready { link, directory, qemu_pid, power_on, endorsement_certificates } =
        ready.await.unwrap_or(Err(StartError::GivenUp))?;
    let link = UnixStream::from_std(link).map_err(|source| StartError::Keeper { source })?;
    Ok((RunningMachine { keeper, console, directory, qemu_pid, power_on, endorsement_certificates }, link))
}

impl RunningMachine {
    /// Waits until the machine has ended and nothing of it is left.
    pub async fn wait(&mut self) -> Ended {
        match self.keeper.ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(ended)) => ended.clone(),
            // The keeper is gone without a word; the warden has seen to the rest.
            _ => Ended { end: End::Lost, timings: Timings::default(), memory: None, left: None },
        }
    }

    /// Kills the machine, unless it has ended already, and tells how it ended.
    pub async fn stop(&mut self) -> Ended {
        self.keeper.order(Order::Stop).await;
        self.wait().await
    }

    /// Kills one of the machine's processes behind its back: a fault, for tests.
    pub async fn break_part(&self, part: Part) {
        self.keeper.order(Order::Break(part)).await;
    }

    /// The last lines of the serial console, oldest first, also after the machine has ended.
    #[must_use]
    pub fn console_tail(&self, lines_max: usize) -> Vec<ConsoleLine> {
        let console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tail: Vec<_> = console.lines().rev().take(lines_max).cloned().collect();
        tail.reverse();
        tail
    }

    /// The directory that holds the machine's files and sockets, and whose path is in the command line of each of its
    /// processes: where to look for what is left of it, which is nothing.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Host memory that QEMU holds now; `None` once it has ended.
    #[must_use]
    pub fn memory(&self) -> Option<Memory> {
        let running = self.keeper.ended.borrow().is_none();
        self.qemu_pid.filter(|_| running).and_then(Memory::of)
    }

    /// When its processors were started.
    #[must_use]
    pub fn power_on(&self) -> Instant {
        self.power_on
    }

    /// DER certificates of its TPM's endorsement keys: what the guest will present. Empty without a TPM.
    #[must_use]
    pub fn endorsement_certificates(&self) -> &[Vec<u8>] {
        &self.endorsement_certificates
    }
}

/// The thread that looks after the machine. It ends when its orders end, and is waited for.
#[derive(Debug)]
struct Keeper {
    orders: Option<mpsc::Sender<Order>>,
    ended: watch::Receiver<Option<Ended>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    async fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // Fails only if the machine has ended.
            let _ended = orders.send(order).await;
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A keeper that panicked has let go of everything while it unwound.
            let _panicked = thread.join();
        }
    }
}
