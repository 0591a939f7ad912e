//! The machine's keeper: one thread that owns all its processes and files, from the first to the last.
//!
//! It brings the machine up, watches until the first of several ends, tears everything down and only then says how it
//! ended. It runs its own small runtime, so the machine is looked after whatever the owner's runtime does, and the owner
//! can wait for the thread when it drops the machine.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};

use crate::accelerator::Accelerator;
use crate::arguments::{Places, arguments};
use crate::child::{ChildError, Process, drain, read_lines};
use crate::console::{Console, ConsoleLine};
use crate::custody::Custody;
use crate::end::{End, Ended, Memory, Timings};
use crate::machine::{Boot, Machine, SecureBoot, Tpm};
use crate::monitor::{Halt, Monitor, MonitorError};
use crate::running::StartError;
use crate::tools::Tools;
use crate::tpm;

/// QEMU connects within a tenth of a second; the bound leaves room for an overloaded host.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// After its TPM is gone the guest has this long to notice, say so and power off by itself.
const TPM_GRACE: Duration = Duration::from_secs(10);
/// After its monitor is gone QEMU has this long to end: it was most likely ending.
const QEMU_GRACE: Duration = Duration::from_secs(2);
/// How often QEMU's memory is looked at, for an end that leaves nothing to look at.
const MEMORY_PERIOD: Duration = Duration::from_secs(1);
/// SeaBIOS reads more than the boot sector; a disk of one sector is not booted from.
const SECTOR_DISK_BYTES: usize = 1024 * 1024;

/// Sees each line of the serial console.
pub type OnLine = Box<dyn FnMut(&ConsoleLine) + Send>;

/// A process of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The machine itself.
    Qemu,
    /// Its TPM.
    Tpm,
}

/// What the owner can ask for; the end of orders is a `Stop` too.
#[derive(Debug)]
pub(crate) enum Order {
    Stop,
    Break(Part),
}

/// All that the keeper needs.
pub(crate) struct Plan {
    pub(crate) machine: Machine,
    pub(crate) accelerator: Accelerator,
    pub(crate) tools: Tools,
    /// Where the machine's directory is made.
    pub(crate) parent: PathBuf,
    pub(crate) console: Arc<Mutex<Console>>,
    pub(crate) on_line: Option<OnLine>,
}

/// What the owner gets at power-on.
pub(crate) struct Ready {
    pub(crate) link: StdUnixStream,
    pub(crate) directory: PathBuf,
    pub(crate) qemu_pid: Option<u32>,
    pub(crate) power_on: Instant,
    pub(crate) endorsement_certificates: Vec<Vec<u8>>,
}

/// The thread's whole work.
pub(crate) fn keep(
    plan: Plan,
    orders: mpsc::Receiver<Order>,
    ready: oneshot::Sender<Result<Ready, StartError>>,
    ended: watch::Sender<Option<Ended>>,
) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(live(plan, orders, ready, ended)),
        // A dropped receiver is an owner that has given up: there is nobody to tell.
        Err(source) => drop(ready.send(Err(StartError::Keeper { source }))),
    }
}

/// The machine's processes.
#[derive(Default)]
struct Parts {
    qemu: Option<Process>,
    tpm: Option<Process>,
    console: Option<JoinHandle<()>>,
}

/// From the first file to the last.
async fn live(
    mut plan: Plan,
    mut orders: mpsc::Receiver<Order>,
    ready: oneshot::Sender<Result<Ready, StartError>>,
    ended: watch::Sender<Option<Ended>>,
) {
    let custody = match Custody::take(&plan.parent, &plan.tools) {
        Ok(custody) => custody,
        Err(error) => return drop(ready.send(Err(error.into()))),
    };
    let mut parts = Parts::default();
    let up = tokio::select! {
        biased;
        // The owner has no machine yet to give orders to: this is the end of orders.
        _ = orders.recv() => Err(StartError::GivenUp),
        up = bring_up(&mut plan, &custody, &mut parts) => up,
    };
    let (mut monitor, up, mut timings) = match up {
        Ok(up) => up,
        Err(error) => {
            tear_down(&custody, &mut parts).await;
            let error = custody.release().map_or_else(StartError::from, |()| error);
            return drop(ready.send(Err(error)));
        }
    };
    let power_on = up.power_on;
    // If the owner has given up meanwhile, its orders have ended, which is the next thing to be seen.
    drop(ready.send(Ok(up)));
    let (end, memory) = watch_over(&plan.machine, &mut monitor, &mut parts, &mut orders).await;
    timings.run = power_on.elapsed();
    drop(monitor);
    tear_down(&custody, &mut parts).await;
    let path = custody.path().to_owned();
    let left = custody.release().err().map(|_not_gone| path);
    ended.send_replace(Some(Ended { end, timings, memory, left }));
}

/// From an empty directory to power-on.
async fn bring_up(
    plan: &mut Plan,
    custody: &Custody,
    parts: &mut Parts,
) -> Result<(Monitor, Ready, Timings), StartError> {
    let begun = Instant::now();
    let at = |name: &str| custody.path().join(name);
    let places = Places {
        link: at("link"),
        monitor: at("monitor"),
        tpm: at("tpm"),
        variables: at("variables"),
        sector: at("sector"),
    };
    prepare_files(&plan.machine.boot, &plan.tools, &places)?;
    let endorsement_certificates = match &plan.machine.tpm {
        Tpm::Absent => Vec::new(),
        Tpm::Software { ca } => {
            let certificates = tpm::manufacture(ca.directory(), custody, &plan.tools).await?;
            parts.tpm = Some(tpm::power(&places.tpm, custody, &plan.tools).await?);
            certificates
        }
    };
    let (for_monitor, for_link) = (listen(&places.monitor)?, listen(&places.link)?);

    let spawned = Instant::now();
    let mut command = custody.command(&plan.tools.qemu);
    command.args(arguments(&plan.machine, parts.tpm.is_some(), plan.accelerator, &plan.tools, &places));
    let qemu = parts.qemu.insert(Process::spawn("QEMU", &mut command)?);
    let powered_on = Arc::new(OnceLock::new());
    parts.console = qemu.take_stdout().map(|pipe| {
        let since = Arc::clone(&powered_on);
        let clock = move || since.get().map_or(Duration::ZERO, Instant::elapsed);
        let on_line = plan.on_line.take().unwrap_or_else(|| Box::new(|_| {}));
        read_lines(pipe, Arc::clone(&plan.console), clock, on_line)
    });
    let qemu_pid = qemu.pid();
    let (monitor, link, power_on) = connect(qemu, &for_monitor, &for_link, &powered_on).await?;
    let link = link.into_std().map_err(|source| StartError::Keeper { source })?;
    let timings = Timings { prepare: spawned - begun, connect: power_on - spawned, run: Duration::ZERO };
    Ok((
        monitor,
        Ready { link, directory: custody.path().to_owned(), qemu_pid, power_on, endorsement_certificates },
        timings,
    ))
}

/// Writes what the boot mode needs in the machine's directory.
fn prepare_files(boot: &Boot, tools: &Tools, places: &Places) -> Result<(), StartError> {
    let (path, written) = match boot {
        Boot::Direct { .. } => return Ok(()),
        Boot::Firmware { secure_boot, .. } => {
            let from = match secure_boot {
                SecureBoot::Off => &tools.firmware_variables,
                SecureBoot::Enforced { variables } => variables,
            };
            (&places.variables, std::fs::read(from).and_then(|bytes| std::fs::write(&places.variables, bytes)))
        }
        Boot::Sector(sector) => {
            let mut disk = sector.as_bytes().to_vec();
            disk.resize(SECTOR_DISK_BYTES, 0);
            (&places.sector, std::fs::write(&places.sector, disk))
        }
    };
    written.map_err(|source| StartError::File { path: path.clone(), source })
}

fn listen(path: &Path) -> Result<UnixListener, StartError> {
    UnixListener::bind(path).map_err(|source| StartError::File { path: path.to_owned(), source })
}

/// Takes QEMU's connections and starts its processors.
async fn connect(
    qemu: &mut Process,
    for_monitor: &UnixListener,
    for_link: &UnixListener,
    powered_on: &OnceLock<Instant>,
) -> Result<(Monitor, UnixStream, Instant), StartError> {
    let connect = async {
        let (stream, _) = for_monitor.accept().await.map_err(MonitorError::from)?;
        let mut monitor = Monitor::greet(stream).await?;
        let (link, _) = for_link.accept().await.map_err(MonitorError::from)?;
        let power_on = *powered_on.get_or_init(Instant::now);
        monitor.power_on().await?;
        Ok((monitor, link, power_on))
    };
    let failed = tokio::select! {
        biased;
        connected = timeout(CONNECT_MAX, connect) => match connected {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => error,
            Err(_) => StartError::NotConnected,
        },
        status = qemu.wait() => return Err(StartError::QemuEnded { status: status?, said: qemu.said().await }),
    };
    // A connection that failed because QEMU was ending: then QEMU has the reason.
    match timeout(QEMU_GRACE, qemu.wait()).await {
        Ok(status) => Err(StartError::QemuEnded { status: status?, said: qemu.said().await }),
        Err(_) => Err(failed),
    }
}

/// Watches until the machine ends one way or another; tells how, and the most memory that was seen.
async fn watch_over(
    machine: &Machine,
    monitor: &mut Monitor,
    parts: &mut Parts,
    orders: &mut mpsc::Receiver<Order>,
) -> (End, Option<Memory>) {
    let mut memory = None;
    let Parts { qemu: Some(qemu), tpm, .. } = parts else { return (End::Lost, memory) };
    let mut tpm_ended: Option<ExitStatus> = None;
    let mut overdue = pin!(sleep(machine.life_max));
    let mut grace = pin!(sleep(Duration::ZERO));
    let mut halted = pin!(monitor.until_halt());
    let mut look = interval(MEMORY_PERIOD);
    let end = loop {
        tokio::select! {
            biased;
            status = qemu.wait() => break qemu_end(qemu, status).await,
            halt = &mut halted => {
                memory = qemu.pid().and_then(Memory::of).or(memory);
                break halt_end(qemu, halt).await;
            }
            status = ended(tpm.as_mut()), if tpm_ended.is_none() => match status {
                Ok(status) => {
                    tpm_ended = Some(status);
                    grace.as_mut().reset(tokio::time::Instant::now() + TPM_GRACE);
                }
                Err(_) => break End::Lost,
            },
            () = &mut grace, if tpm_ended.is_some() => break End::Stopped,
            () = &mut overdue => break End::Overdue { life_max: machine.life_max },
            order = orders.recv() => match order {
                None | Some(Order::Stop) => break End::Stopped,
                Some(Order::Break(Part::Qemu)) => qemu.kill(),
                Some(Order::Break(Part::Tpm)) => if let Some(tpm) = tpm { tpm.kill() },
            },
            _ = look.tick() => memory = qemu.pid().and_then(Memory::of).or(memory),
        }
    };
    memory = qemu.pid().and_then(Memory::of).or(memory);
    match (tpm_ended, tpm, end) {
        // QEMU's own end takes the TPM with it; every other end of such a machine began with its TPM's.
        (Some(status), Some(tpm), End::PoweredOff | End::Reset | End::Stopped | End::Overdue { .. }) => {
            (End::TpmEnded { status, said: tpm.said().await }, memory)
        }
        (_, _, end) => (end, memory),
    }
}

/// Waits for a process's end; for ever, if there is none.
async fn ended(process: Option<&mut Process>) -> Result<ExitStatus, ChildError> {
    match process {
        Some(process) => process.wait().await,
        None => std::future::pending().await,
    }
}

async fn qemu_end(qemu: &mut Process, status: Result<ExitStatus, ChildError>) -> End {
    match status {
        Ok(status) => End::QemuEnded { status, said: qemu.said().await },
        Err(_) => End::Lost,
    }
}

async fn halt_end(qemu: &mut Process, halt: Result<Halt, MonitorError>) -> End {
    match halt {
        Ok(Halt::PoweredOff) => End::PoweredOff,
        Ok(Halt::Reset) => End::Reset,
        Ok(Halt::Stopped) => match qemu.end().await {
            Ok(_) => End::AcceleratorFailed { said: qemu.said().await },
            Err(_) => End::Lost,
        },
        Ok(Halt::Asked) | Err(_) => match timeout(QEMU_GRACE, qemu.wait()).await {
            Ok(status) => qemu_end(qemu, status).await,
            Err(_) => End::MonitorLost,
        },
    }
}

/// Kills and waits for everything; the console's last lines are read.
async fn tear_down(custody: &Custody, parts: &mut Parts) {
    custody.kill_all();
    for process in [&mut parts.qemu, &mut parts.tpm] {
        if let Some(mut process) = process.take() {
            // What cannot be waited for is in the kernel's hands; its directory is removed all the same.
            let _status = process.end().await;
        }
    }
    if let Some(console) = parts.console.take() {
        drain(console).await;
    }
}
