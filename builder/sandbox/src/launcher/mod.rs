//! Starts steps. [`Launcher::start`] forks a launcher process while the caller is still single-threaded; from then on any thread
//! may spawn, wait for and kill steps.

pub(crate) mod channel;
pub(crate) mod order;
mod zygote;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open};
use thiserror::Error;

use crate::cgroup::{self, Hierarchy};
use crate::enforced::Enforced;
use crate::filter::{Filter, StepFilters};
use crate::kernel::{self, Missing};
use crate::layer::{Layer, Requirements};
use crate::policy::{Policy, Profile, VIEW_ID};
use crate::readback::{self, Ordered};
use crate::running::{Space, Started, Step};
use crate::sys::{self, Forked, SingleThread};
use crate::trace::{self, Rules, Sources, Watch};
use crate::tree;
use crate::view::{self, Identity, Place};

use channel::{Channel, Received};
use order::{AGAIN, DESCRIPTORS_MAX, Failed, GO, ORDER_BYTES_MAX, Order, REPORT_BYTES_MAX, Reply, Report};
use zygote::Filters;

/// How long the set-up of one step may take: milliseconds on hardware, seconds on an emulated and busy machine.
const SETUP_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a step tries the forbidden thing again whose record must be heard, and how long it waits before: another step may
/// flood the kernel with records for a moment.
const FORBIDDEN_TRIES: usize = 200;
const FORBIDDEN_PAUSE: Duration = Duration::from_millis(20);

/// Why a step was not started. In every case nothing of it ran and nothing of it is left.
#[derive(Debug, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what its fields are")]
pub enum Error {
    #[error("the launcher must be started while the process has one thread; it has {count}")]
    Threads { count: usize },
    #[error("layer {layer} cannot be had: {what}")]
    Unavailable { layer: Layer, what: &'static str },
    #[error("cannot start the launcher")]
    Start { source: io::Error },
    #[error("the system call filter does not compile")]
    Filter { source: seccompiler::BackendError },
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    #[error("cannot detach the source of {target:?}")]
    Source { target: String, source: io::Error },
    #[error(transparent)]
    View(#[from] view::Error),
    #[error("the order for the step has {bytes} bytes, at most {ORDER_BYTES_MAX} are taken")]
    OrderTooLong { bytes: usize },
    #[error("cannot talk to the {with}")]
    Channel { with: &'static str, source: io::Error },
    #[error("the {who} ended without a word")]
    Gone { who: &'static str },
    #[error("the step was not ready after {} s", SETUP_TIMEOUT.as_secs())]
    SetupTimeout,
    #[error("layer {layer}: {operation} failed: {}", io::Error::from_raw_os_error(*errno))]
    Setup { layer: Layer, operation: String, errno: i32 },
    #[error("the step sent a report out of turn")]
    OutOfTurn,
    #[error(transparent)]
    ReadBack(#[from] readback::Error),
    #[error(transparent)]
    Trace(#[from] trace::Error),
}

impl From<Missing> for Error {
    fn from(Missing { layer, what }: Missing) -> Self {
        Self::Unavailable { layer, what }
    }
}

impl From<Failed> for Error {
    fn from(Failed { layer, operation, errno }: Failed) -> Self {
        Self::Setup { layer, operation, errno }
    }
}

/// Asks whether this machine's kernel can run steps of a profile: what [`Launcher::spawn`] asks first, for who must know earlier.
///
/// # Errors
/// [`Error::Unavailable`], which says what is in the way.
pub fn check_profile(profile: Profile) -> Result<(), Error> {
    Ok(kernel::check_profile(profile)?)
}

/// A running launcher process. Dropped, it ends, and steps that still run are killed.
#[derive(Debug)]
pub struct Launcher {
    channel: Mutex<Channel>,
    pid: i32,
    hierarchy: Hierarchy,
    requirements: Requirements,
    filters: StepFilters,
    /// While they live, the kernel tells what steps do.
    _rules: Option<Arc<Rules>>,
}

impl Launcher {
    /// Starts a launcher that insists on every layer.
    ///
    /// # Errors
    /// [`Error::Threads`] if another thread exists; [`Error::Unavailable`] if the kernel cannot give a layer.
    pub fn start() -> Result<Self, Error> {
        Self::start_with(Requirements::all())
    }

    /// Starts a launcher that insists on `requirements`.
    ///
    /// # Errors
    /// As [`Launcher::start`].
    pub fn start_with(requirements: Requirements) -> Result<Self, Error> {
        let start = |source| Error::Start { source };
        let alone = SingleThread::prove().map_err(start)?.map_err(|count| Error::Threads { count })?;
        kernel::check(&requirements)?;
        let listened = !requirements.left_out().contains(&Layer::Trace);
        let filters = StepFilters::compile(listened).map_err(|source| Error::Filter { source })?;
        let rules = requirements.require(Layer::Trace).then(Watch::prepare).transpose()?;
        let hierarchy = Hierarchy::prepare(requirements.require(Layer::Limits))?;
        let (ours, theirs) = Channel::pair().map_err(start)?;
        match sys::fork(&alone).map_err(start)? {
            // Leaves by _exit, so nothing of the caller's is dropped there.
            Forked::Child => zygote::run(&theirs, ours, &Filters { steps: filters, init: Filter::of_init() }, &alone),
            Forked::Parent(pid) => {
                Ok(Self { channel: Mutex::new(ours), pid, hierarchy, requirements, filters, _rules: rules })
            }
        }
    }

    /// Starts one step and returns once it is confined, checked and about to execute its program.
    ///
    /// Blocks for the set-up. May be called from several threads.
    ///
    /// # Errors
    /// Whatever kept the step from starting; [`Error::Unavailable`] if the kernel lets nobody be traced and the profile is for
    /// that; [`Error::ReadBack`] names the layer that the kernel did not confirm.
    pub fn spawn(&self, policy: &Policy, stdout: OwnedFd, stderr: OwnedFd) -> Result<Step, Error> {
        check_profile(policy.profile)?;
        let detach = |target: &str, source: &crate::policy::Source| {
            tree::detach(source).map_err(|source| Error::Source { target: target.to_owned(), source })
        };
        let root = detach("/", &policy.root)?;
        let trees = policy.mounts.iter().map(|m| detach(&m.target, &m.source)).collect::<Result<Vec<OwnedFd>, _>>()?;
        let places = view::plan(policy, root.as_fd(), &trees)?;
        let identities = std::iter::once(&root).chain(&trees).map(|tree| Identity::of(tree.as_fd()));
        let identities = identities
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| Error::Source { target: "/".into(), source: source.into() })?;
        let cgroup = self.hierarchy.create(&policy.limits)?;
        let (control, far) = Channel::pair_with_sender().map_err(|source| Error::Channel { with: "step", source })?;
        let order = Order::new(policy, places, &self.requirements);
        let mut descriptors: Vec<BorrowedFd<'_>> =
            vec![far.as_fd(), stdout.as_fd(), stderr.as_fd(), cgroup.as_fd(), root.as_fd()];
        descriptors.extend(trees.iter().map(AsFd::as_fd));
        debug_assert!(descriptors.len() <= DESCRIPTORS_MAX);
        let watched = self.requirements.require(Layer::Trace);
        let mut watch = watched.then(|| Watch::start(&self.requirements)).transpose()?;
        let (init, pidfd) = self.order(&order, &descriptors)?;
        // From here on only the step and its init hold the other ends.
        drop((far, stdout, stderr, root, trees));
        let ordered = Ordered {
            policy,
            places: &order.places,
            identities: &identities,
            requirements: &self.requirements,
            filter: self.filters.of(policy.profile),
            cgroup: &cgroup,
            sources: None,
        };
        let Checked { enforced, spaces, main, pid } = prepare(&control, init, ordered, watch.as_mut())?;
        watch.iter_mut().for_each(Watch::begin);
        control.send_bytes(GO, &[]).map_err(|source| Error::Channel { with: "step", source })?;
        let limits = policy.limits;
        Ok(Step::new(Started { control, init: pidfd, main, cgroup, limits, enforced, pid, spaces, watch }))
    }

    fn order(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> Result<(i32, OwnedFd), Error> {
        let failed = |source| Error::Channel { with: "launcher", source };
        let bytes = serde_json::to_vec(order).map_err(|error| failed(error.into()))?;
        if bytes.len() > ORDER_BYTES_MAX {
            return Err(Error::OrderTooLong { bytes: bytes.len() });
        }
        // A thread that panicked between sending and receiving cannot exist: nothing in between panics.
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        channel.send_bytes(&bytes, descriptors).map_err(failed)?;
        let received = channel.receive::<Reply>(&mut [0; REPORT_BYTES_MAX]).map_err(failed)?;
        let received = received.ok_or(Error::Gone { who: "launcher" })?;
        match (received.message, received.descriptors.into_iter().next()) {
            (Reply::Started { pid }, Some(pidfd)) => Ok((pid, pidfd)),
            (Reply::Started { .. }, None) => Err(Error::OutOfTurn),
            (Reply::Failed(failed), _) => Err(failed.into()),
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let channel = self.channel.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The launcher then ends by itself; if it is gone already, both calls fail and there is nothing to do.
        let _ = rustix::net::shutdown(channel.as_fd(), rustix::net::Shutdown::Both);
        let _ = rustix::process::waitpid(Pid::from_raw(self.pid), WaitOptions::empty());
    }
}

/// Asks each source of the trace for a sign of life. `landlock`: the step has tried something forbidden, which must be heard.
fn sources(
    watch: &mut Watch,
    control: &Channel,
    step: i32,
    places: &[Place],
    landlock: bool,
) -> Result<Sources, Error> {
    let executable = places.iter().filter(|place| !place.kind.attributes().no_exec);
    let executions = watch.mark(step, executable.map(|place| place.target.as_str()))?;
    let mut is_heard = watch.has_heard(step)?;
    for _ in 0..FORBIDDEN_TRIES {
        if is_heard || !landlock {
            break;
        }
        std::thread::sleep(FORBIDDEN_PAUSE);
        control.send_bytes(AGAIN, &[]).map_err(|source| Error::Channel { with: "step", source })?;
        match hear(control, Instant::now() + SETUP_TIMEOUT)? {
            Received { message: Report::Tried, sender, .. } if sender == Some(step) => {
                is_heard = watch.has_heard(step)?
            }
            Received { message: Report::Failed(failed), .. } => return Err(failed.into()),
            _ => return Err(Error::OutOfTurn),
        }
    }
    Ok(Sources { filter: watch.is_listening(), landlock: is_heard, executions })
}

/// A step that waits before execve and was found to be confined as ordered.
struct Checked {
    enforced: Enforced,
    spaces: Vec<Space>,
    main: OwnedFd,
    pid: i32,
}

/// Leads the step to the point before execve and checks it there.
fn prepare(
    control: &Channel,
    init: i32,
    mut ordered: Ordered<'_>,
    mut watch: Option<&mut Watch>,
) -> Result<Checked, Error> {
    let deadline = Instant::now() + SETUP_TIMEOUT;
    let (mut step, mut retired, mut confirmed) = (None, false, None);
    let (step, confirmed) = loop {
        let Received { message, sender, descriptors } = hear(control, deadline)?;
        match (message, sender) {
            (Report::Unmapped, Some(sender)) if step.is_none() && sender != init => {
                map_user(sender, ordered.policy.host_id())?;
                control.send_bytes(GO, &[]).map_err(|source| Error::Channel { with: "step", source })?;
                step = Some(sender);
            }
            (Report::Listening, sender) if step.is_some() && sender == step => {
                let watch = watch.as_mut().ok_or(Error::OutOfTurn)?;
                watch.listen(descriptors.into_iter().next().ok_or(Error::OutOfTurn)?);
            }
            (Report::Ready(ready), sender) if step.is_some() && sender == step => confirmed = Some(*ready),
            (Report::Retired, Some(sender)) if sender == init => retired = true,
            (Report::Failed(failed), _) => return Err(failed.into()),
            _ => return Err(Error::OutOfTurn),
        }
        if let (Some(step), true) = (step, retired)
            && let Some(confirmed) = confirmed.take()
        {
            break (step, confirmed);
        }
    };
    if let Some(watch) = watch {
        let landlock = confirmed.landlock.is_some();
        ordered.sources = Some(sources(watch, control, step, ordered.places, landlock)?);
    }
    let (enforced, spaces) = readback::check(step, init, confirmed, &ordered)?;
    // The step waits for the caller, so its pid is still its own.
    let main = Pid::from_raw(step).ok_or(Error::OutOfTurn)?;
    let main = pidfd_open(main, PidfdFlags::empty())
        .map_err(|source| Error::Channel { with: "step", source: source.into() })?;
    Ok(Checked { enforced, spaces, main, pid: step })
}

/// The next report and who sent it.
fn hear(control: &Channel, deadline: Instant) -> Result<Received<Report>, Error> {
    let failed = |source| Error::Channel { with: "step", source };
    let mut polled = [PollFd::new(control, PollFlags::IN)];
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    loop {
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) => return Err(Error::SetupTimeout),
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
    control.receive::<Report>(&mut [0; REPORT_BYTES_MAX]).map_err(failed)?.ok_or(Error::Gone { who: "step" })
}

/// Gives the step's user namespace its only user and group.
fn map_user(step: i32, host_id: u32) -> Result<(), Error> {
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{step}/{map}"), format!("{VIEW_ID} {host_id} 1\n")).map_err(|error| {
            Error::Setup { layer: Layer::Identity, operation: map.into(), errno: error.raw_os_error().unwrap_or(0) }
        })?;
    }
    Ok(())
}
