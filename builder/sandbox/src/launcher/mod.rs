//! Starts steps. [`Launcher::start`] forks a launcher process while the caller is still single-threaded; from then on any thread
//! may spawn, wait for and kill steps.

pub(crate) mod channel;
mod line;
pub(crate) mod order;
mod owners;
mod spaces;
mod zygote;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open};
use thiserror::Error;

use crate::cgroup::{self, Hierarchy};
use crate::contact;
use crate::enforced::Enforced;
use crate::filter::{Filter, StepFilters};
use crate::kernel::{self, Missing};
use crate::layer::{Layer, Requirements};
use crate::policy::{Access, Policy, Profile, VIEW_ID};
use crate::readback::{self, MountReader, Namespaces, Ordered, Process};
use crate::running::{Space, Started, Step};
use crate::stage::{self, At as _, Kit};
use crate::sys::{self, Forked, SingleThread};
use crate::trace::{self, Hearing, Rules, Sources, Watch};
use crate::tree;
use crate::view::{self, Identity};

use channel::{Channel, Received};
use line::{Line, Sandbox};
use order::{AGAIN, DESCRIPTORS_MAX, Failed, GO, ORDER_BYTES_MAX, Order, REPORT_BYTES_MAX, Report};
pub(crate) use owners::Owners;
use spaces::Spaces;

/// How long the set-up of one step may take: milliseconds on hardware, seconds on an emulated and busy machine.
const SETUP_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a step tries the forbidden thing again whose record must be heard, and how long it waits before: another step may
/// flood the kernel with records for a moment.
const FORBIDDEN_TRIES: usize = 200;
const FORBIDDEN_PAUSE: Duration = Duration::from_millis(20);

/// Reports of one step before its execve: one of each kind.
const REPORTS_MAX: usize = 8;

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
    #[error(transparent)]
    Contact(#[from] contact::Error),
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
    zygote: Zygote,
    hierarchy: Hierarchy,
    requirements: Requirements,
    filters: StepFilters,
    mounts: MountReader,
    /// Those of this process, which are no step's.
    namespaces: Namespaces,
    /// While it lives, the kernel tells what steps do. `None` if the trace was given up.
    hearing: Option<Hearing>,
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
        let listened = !requirements.left_out().contains(&Layer::Trace);
        let filters = StepFilters::new(listened).map_err(|source| Error::Filter { source })?;
        let (ours, theirs) = Channel::pair().map_err(start)?;
        match sys::fork(&alone).map_err(start)? {
            // Leaves by _exit, so nothing of the caller's is dropped there.
            Forked::Child => {
                let kit = Kit { filters, init_filter: Filter::of_init(), left_out: requirements.left_out() };
                zygote::run(&theirs, ours, &kit, &alone)
            }
            Forked::Parent(pid) => {
                drop(theirs);
                // Dropped after the zygote, whose sandboxes are in it.
                let hierarchy;
                // It settles while we see to our own things; from here on a failure ends it.
                let zygote = Zygote { line: Mutex::new(Line::new(ours)), pid };
                kernel::check(&requirements)?;
                hierarchy = Hierarchy::prepare(requirements.require(Layer::Limits))?;
                let network = || {
                    // One of our own: the caller's may be read-only.
                    let proc = stage::proc(true).at(Layer::Namespaces, "procfs for the set-up")?;
                    spaces::network(&proc, &alone)
                };
                zygote.line().ask_first(&hierarchy, network)?;
                let namespaces = readback::own_namespaces()?;
                let hear = || Hearing::start(Rules::of(pid.unsigned_abs()));
                let hearing = requirements.require(Layer::Trace).then(hear).transpose()?;
                let mounts = MountReader::default();
                Ok(Self { zygote, hierarchy, requirements, filters, mounts, namespaces, hearing })
            }
        }
    }

    /// Has made meanwhile what a step of `policy` takes that comes soon. If it cannot be had, [`Launcher::spawn`] says why.
    pub fn announce(&self, policy: &Policy) {
        let _ = self.line().ask(&self.hierarchy, policy.host_id());
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
        // Made while the trees are detached.
        self.line().ask(&self.hierarchy, policy.host_id())?;
        let detach = |target: &str, source: &crate::policy::Source| {
            tree::detach(source).map_err(|source| Error::Source { target: target.to_owned(), source })
        };
        let root = detach("/", &policy.root)?;
        let trees = policy.mounts.iter().map(|m| detach(&m.target, &m.source)).collect::<Result<Vec<OwnedFd>, _>>()?;
        for (mount, tree) in policy.mounts.iter().zip(&trees).filter(|(mount, _)| mount.access == Access::ReadWrite) {
            contact::check(tree.as_fd(), &mount.target)?;
        }
        let places = view::plan(policy, root.as_fd(), &trees)?;
        let order = Order::new(policy, places, &self.requirements);
        let (Sandbox { control, init, pidfd, spaces: Spaces { network, user }, cgroup }, owners) =
            self.line().take(&self.hierarchy, policy.host_id())?;
        if self.requirements.require(Layer::Limits) {
            cgroup.limit(&policy.limits)?;
        }
        let mut descriptors = vec![stdout.as_fd(), stderr.as_fd()];
        descriptors.extend(owners.descriptors());
        descriptors.extend([network.as_fd(), user.as_fd(), root.as_fd()]);
        descriptors.extend(trees.iter().map(AsFd::as_fd));
        debug_assert!(descriptors.len() <= DESCRIPTORS_MAX);
        send(&control, &order, &descriptors)?;
        // The rest is seen to while the sandbox makes its view.
        self.mounts.prepare();
        let mut watch = self.hearing.as_ref().map(|hearing| Watch::start(hearing, &self.requirements)).transpose()?;
        let identities = std::iter::once(&root).chain(&trees).map(|tree| Identity::of(tree.as_fd()));
        let identities = identities
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| Error::Source { target: "/".into(), source: source.into() })?;
        // From here on only the step and its init hold these.
        drop((stdout, stderr, network, user, root, trees));
        self.line().prepare_ahead(&self.hierarchy);
        let ordered = Ordered {
            policy,
            places: &order.places,
            identities: &identities,
            requirements: &self.requirements,
            filter: self.filters.of(policy.profile).map_err(|source| Error::Filter { source })?,
            cgroup: &cgroup,
            mounts: &self.mounts,
            namespaces: &self.namespaces,
        };
        let Checked { enforced, spaces, main, pid } = prepare(&control, init, &ordered, watch.as_mut())?;
        watch.iter_mut().for_each(Watch::begin);
        control.send_bytes(GO, &[]).map_err(|source| Error::Channel { with: "step", source })?;
        self.line().ask_ahead(&self.hierarchy);
        let limits = policy.limits;
        Ok(Step::new(Started { control, init: pidfd, main, cgroup, limits, enforced, pid, spaces, watch }))
    }

    /// Ends the empty sandbox that is kept ahead, if there is one: for a caller that starts no step for a while. The next step
    /// makes its own, and so starts a little later.
    pub fn rest(&self) {
        self.line().end_unused();
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.zygote.line()
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let slow = self.hearing.as_ref().map(Hearing::groups).unwrap_or_default();
        self.line().leave(&slow);
    }
}

/// The launcher process and the line to it. Dropped, it ends and is waited for.
#[derive(Debug)]
struct Zygote {
    line: Mutex<Line>,
    pid: i32,
}

impl Zygote {
    /// A thread that panicked in the middle of an exchange cannot exist: nothing in between panics.
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.line().hang_up();
        // Fails only if it is gone already.
        let _ = rustix::process::waitpid(Pid::from_raw(self.pid), WaitOptions::empty());
    }
}

/// Sends an order to an empty sandbox.
fn send(control: &Channel, order: &Order, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let failed = |source| Error::Channel { with: "step", source };
    let bytes = serde_json::to_vec(order).map_err(|error| failed(error.into()))?;
    if bytes.len() > ORDER_BYTES_MAX {
        return Err(Error::OrderTooLong { bytes: bytes.len() });
    }
    control.send_bytes(&bytes, descriptors).map_err(failed)
}

/// Hears whether the step's Landlock domain is told of. The step has tried something forbidden, which must be heard.
fn is_heard(watch: &mut Watch, control: &Channel, step: i32) -> Result<bool, Error> {
    for _ in 0..FORBIDDEN_TRIES {
        if watch.has_heard(step)? {
            return Ok(true);
        }
        std::thread::sleep(FORBIDDEN_PAUSE);
        control.send_bytes(AGAIN, &[]).map_err(|source| Error::Channel { with: "step", source })?;
        match hear(control, Instant::now() + SETUP_TIMEOUT)? {
            Received { message: Report::Tried, sender, .. } if sender == Some(step) => {}
            Received { message: Report::Failed(failed), .. } => return Err(failed.into()),
            _ => return Err(Error::OutOfTurn),
        }
    }
    watch.has_heard(step).map_err(Error::from)
}

/// A step that waits before execve and was found to be confined as ordered.
struct Checked {
    enforced: Enforced,
    spaces: Vec<Space>,
    main: OwnedFd,
    pid: i32,
}

/// Leads the step to the point before execve and checks it on the way and there.
fn prepare(
    control: &Channel,
    init: i32,
    ordered: &Ordered<'_>,
    mut watch: Option<&mut Watch>,
) -> Result<Checked, Error> {
    let deadline = Instant::now() + SETUP_TIMEOUT;
    // A step that fails meanwhile is gone, and has said why.
    let failed = |error: Error| said(control).unwrap_or(error);
    let is = |step: &Option<(Process, _)>, sender| step.as_ref().is_some_and(|(step, _)| step.pid() == sender);
    let (mut step, mut retired, mut place, mut confirmed) = (None, false, None, None);
    // What stands is read while the step takes off the rest: from then on nobody in there can change it.
    let ((step, belonging), place, confirmed) = loop {
        if let (Some((step, _)), true, true) = (&step, retired, place.is_none()) {
            place = Some(check_place(step, init, ordered, watch.as_deref_mut()).map_err(failed)?);
        }
        match (step, place, confirmed) {
            (Some(step), Some(place), Some(confirmed)) => break (step, place, confirmed),
            incomplete => (step, place, confirmed) = incomplete,
        }
        let Received { message, sender, descriptors } = hear(control, deadline)?;
        match (message, sender) {
            (Report::Unmapped, Some(sender)) if step.is_none() && sender != init => {
                let process = Process::open(sender)?;
                map_user(&process, ordered.policy.host_id())?;
                control.send_bytes(GO, &[]).map_err(|source| Error::Channel { with: "step", source })?;
                let belonging = readback::check_belonging(&process, ordered).map_err(|error| failed(error.into()))?;
                step = Some((process, belonging));
            }
            (Report::Listening, Some(sender)) if is(&step, sender) => {
                let watch = watch.as_mut().ok_or(Error::OutOfTurn)?;
                watch.listen(descriptors.into_iter().next().ok_or(Error::OutOfTurn)?);
            }
            (Report::Ready(ready), Some(sender)) if is(&step, sender) => confirmed = Some(*ready),
            (Report::Retired, Some(sender)) if sender == init => retired = true,
            (Report::Failed(failed), _) => return Err(failed.into()),
            _ => return Err(Error::OutOfTurn),
        }
    };
    let (enforced, spaces) = readback::check(&step, belonging, place, confirmed, ordered)?;
    // Last, because its record is on its way meanwhile.
    if let Some(watch) = watch {
        let landlock = enforced.confirmed.landlock.is_some() && is_heard(watch, control, step.pid())?;
        let sources = Sources { filter: watch.is_listening(), landlock, executions: watch.is_marked()? };
        readback::check_sources(sources, ordered.requirements)?;
    }
    // The step waits for the caller, so its pid is still its own.
    let main = Pid::from_raw(step.pid()).ok_or(Error::OutOfTurn)?;
    let main = pidfd_open(main, PidfdFlags::empty())
        .map_err(|source| Error::Channel { with: "step", source: source.into() })?;
    Ok(Checked { enforced, spaces, main, pid: step.pid() })
}

/// Reads back where the step is, and has the kernel ask about what it executes there.
fn check_place(
    step: &Process,
    init: i32,
    ordered: &Ordered<'_>,
    watch: Option<&mut Watch>,
) -> Result<readback::Surrounded, Error> {
    let place = readback::check_place(step, init, ordered)?;
    if let Some(watch) = watch {
        watch.mark(&step.read("sessionid")?, place.executable())?;
    }
    Ok(place)
}

/// What failed in the sandbox, if that was said already.
fn said(control: &Channel) -> Option<Error> {
    let waiting = std::iter::from_fn(|| hear(control, Instant::now()).ok()).take(REPORTS_MAX);
    waiting.map(|received| received.message).find_map(|report| match report {
        Report::Failed(failed) => Some(failed.into()),
        _ => None,
    })
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
fn map_user(step: &Process, host_id: u32) -> Result<(), Error> {
    let line = format!("{VIEW_ID} {host_id} 1\n");
    ["uid_map", "gid_map"].into_iter().try_for_each(|map| {
        step.write(map, &line).map_err(|error| Error::Setup {
            layer: Layer::Identity,
            operation: map.into(),
            errno: error.raw_os_error().unwrap_or(0),
        })
    })
}
