//! Compares what the kernel shows of the waiting step with what was ordered. The step has executed nothing yet; the first
//! difference is the end of it.

mod process;
mod seen;
mod surroundings;
pub(crate) mod table;

pub(crate) use process::Process;
pub(crate) use table::MountReader;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use thiserror::Error;

use crate::cgroup::{self, Cgroup};
use crate::enforced::{CgroupFacts, Confirmed, Enforced, MountFact, ProcessFacts};
use crate::filter::{self, Filter};
use crate::layer::{Layer, Requirements};
use crate::policy::{INIT_HOST_ID, Policy};
use crate::running::Space;
use crate::stage::{LOCKED_BYTES, PENDING_SIGNALS, STACK_BYTES};
use crate::trace::Sources;
use crate::view::{self, Identity, Place};
use seen::Shown;
use surroundings::Settled;

/// All namespaces of a process. Source: namespaces(7).
pub(crate) const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
/// NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE and the locks of all four. Source: include/uapi/linux/securebits.h.
const SECUREBITS: u32 = 0b1110_1111;
/// A process's namespaces by name: `net:[4026531840]` and so on.
pub(crate) type Namespaces = BTreeMap<&'static str, String>;

/// Why the kernel's word is not ours.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A layer is not what was ordered.
    #[error("layer {layer}: {what} is {found:?}, expected {expected:?}")]
    NotEnforced {
        /// Which layer.
        layer: Layer,
        /// Which of its facts.
        what: String,
        /// The kernel's word.
        found: String,
        /// Ours.
        expected: String,
    },
    /// A fact could not be read.
    #[error("cannot read back {path}")]
    Read {
        /// From where.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A mount could not be looked up.
    #[error(transparent)]
    View(#[from] view::Error),
    /// The cgroup could not be read.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
}

/// What was ordered.
pub(crate) struct Ordered<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) places: &'a [Place],
    /// What the image and the policy's trees are, in their order.
    pub(crate) identities: &'a [Identity],
    pub(crate) requirements: &'a Requirements,
    pub(crate) filter: &'a Filter,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) mounts: &'a MountReader,
    /// The caller's own.
    pub(crate) namespaces: &'a Namespaces,
}

/// What a step belongs to: what nobody can change once it is in its user namespace and that has a user.
pub(crate) struct Belonging {
    namespaces: BTreeMap<String, u64>,
    cgroup: CgroupFacts,
    settled: Settled,
}

/// Where a step is: what nobody in the sandbox can change once the sandbox init has given everything up as well.
pub(crate) struct Surrounded {
    init: ProcessFacts,
    mounts: Vec<MountFact>,
    shown: Vec<Shown>,
}

impl Surrounded {
    /// Every mount of the step's from which something can be executed.
    pub(crate) fn executable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.shown.iter().filter(|shown| shown.executable).map(|shown| shown.at.as_fd())
    }
}

/// The caller's own namespaces.
pub(crate) fn own_namespaces() -> Result<Namespaces, Error> {
    namespaces_of(&Process::open(std::process::id() as i32)?)
}

/// Reads back what the step belongs to.
pub(crate) fn check_belonging(step: &Process, ordered: &Ordered<'_>) -> Result<Belonging, Error> {
    let settled = surroundings::check_settled(step, ordered)?;
    Ok(Belonging { namespaces: namespaces(step, ordered.namespaces)?, cgroup: cgroup(step, ordered)?, settled })
}

/// Reads back where the step is, and that its init has given everything up.
pub(crate) fn check_place(step: &Process, init: i32, ordered: &Ordered<'_>) -> Result<Surrounded, Error> {
    // Answered while the rest is read.
    let mounts = seen::ask(step, ordered.mounts)?;
    let init = process(&Process::open(init)?.read("status")?, INIT_HOST_ID, filter::PROGRAMS, &Requirements::all())?;
    let (mounts, shown) = seen::check(step, mounts, ordered)?;
    Ok(Surrounded { init, mounts, shown })
}

/// Reads back what the waiting step itself is, and puts all of it together. Returns the file systems that it can fill, too.
pub(crate) fn check(
    step: &Process,
    belonging: Belonging,
    place: Surrounded,
    confirmed: Confirmed,
    ordered: &Ordered<'_>,
) -> Result<(Enforced, Vec<Space>), Error> {
    let Belonging { namespaces, cgroup, settled } = belonging;
    let Surrounded { init, mounts, shown } = place;
    let status = step.read("status")?;
    let enforced = Enforced {
        given_up: ordered.requirements.given_up().clone(),
        namespaces,
        mounts,
        process: process(&status, ordered.policy.host_id(), filter::PROGRAMS, ordered.requirements)?,
        surroundings: surroundings::check(step, &status, settled, ordered)?,
        init,
        process_limits: process_limits(step, ordered)?,
        descriptors: descriptors(step, ordered)?,
        cgroup,
        confirmed: confirm(confirmed, ordered)?,
        seccomp_sha256: hex::encode(ordered.filter.digest()),
    };
    Ok((enforced, shown.into_iter().filter_map(Shown::space).collect()))
}

fn expect<T: std::fmt::Debug + PartialEq>(layer: Layer, what: &str, found: &T, expected: &T) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::NotEnforced { layer, what: what.into(), found: format!("{found:?}"), expected: format!("{expected:?}") })
}

fn namespaces_of(process: &Process) -> Result<Namespaces, Error> {
    NAMESPACES.iter().map(|name| Ok((*name, process.namespace(name)?))).collect()
}

fn namespaces(step: &Process, ours: &Namespaces) -> Result<BTreeMap<String, u64>, Error> {
    let mut found = BTreeMap::new();
    for (name, theirs) in namespaces_of(step)? {
        let shared = ours.get(name).is_none_or(|ours| *ours == theirs);
        expect(Layer::Namespaces, &format!("{name} namespace shared"), &shared, &false)?;
        let number = theirs.split(['[', ']']).nth(1).and_then(|digits| digits.parse().ok());
        expect(Layer::Namespaces, &format!("{name} namespace named"), &number.is_some(), &true)?;
        found.insert(name.to_owned(), number.unwrap_or_default());
    }
    Ok(found)
}

/// What the text of a `/proc/PID/status` says.
fn process(status: &str, id: u32, filters: usize, requirements: &Requirements) -> Result<ProcessFacts, Error> {
    let field = |name: &str| -> Vec<&str> {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.split_whitespace().collect()).unwrap_or_default()
    };
    for name in ["Uid", "Gid"] {
        expect(Layer::Identity, name, &field(name), &vec![id.to_string().as_str(); 4])?;
    }
    expect(Layer::Identity, "Groups", &field("Groups"), &Vec::new())?;
    let mut capabilities = 0;
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let bits = field(name).first().and_then(|bits| u64::from_str_radix(bits, 16).ok()).unwrap_or(u64::MAX);
        capabilities |= bits;
        if requirements.require(Layer::Capabilities) {
            expect(Layer::Capabilities, name, &bits, &0)?;
        }
    }
    let number = |name: &str| field(name).first().and_then(|digits| digits.parse::<u32>().ok()).unwrap_or(u32::MAX);
    if requirements.require(Layer::NoNewPrivileges) {
        expect(Layer::NoNewPrivileges, "NoNewPrivs", &number("NoNewPrivs"), &1)?;
    }
    if requirements.require(Layer::Seccomp) {
        expect(Layer::Seccomp, "Seccomp", &number("Seccomp"), &2)?;
        expect(Layer::Seccomp, "Seccomp_filters", &number("Seccomp_filters"), &(filters as u32))?;
    }
    expect(Layer::Process, "Threads", &number("Threads"), &1)?;
    Ok(ProcessFacts {
        uid: id,
        gid: id,
        capabilities,
        no_new_privileges: number("NoNewPrivs") == 1,
        seccomp_mode: number("Seccomp") as u8,
        seccomp_filters: number("Seccomp_filters"),
    })
}

fn process_limits(step: &Process, ordered: &Ordered<'_>) -> Result<BTreeMap<String, (String, String)>, Error> {
    let text = step.read("limits")?;
    let mut found = BTreeMap::new();
    for line in text.lines().skip(1) {
        // Fixed columns: name in 26, soft in 21, hard in 21. Source: fs/proc/base.c, proc_pid_limits.
        let column = |from: usize, to: usize| line.get(from..to.min(line.len())).unwrap_or("").trim().to_owned();
        found.insert(column(0, 26), (column(26, 47), column(47, 68)));
    }
    if !ordered.requirements.require(Layer::ProcessLimits) {
        return Ok(found);
    }
    let same = |value: u64| (value.to_string(), value.to_string());
    let none = || ("unlimited".to_owned(), "unlimited".to_owned());
    for (name, expected) in [
        ("Max core file size", same(0)),
        ("Max file size", same(ordered.policy.limits.file_bytes)),
        ("Max open files", same(ordered.policy.limits.open_files)),
        ("Max stack size", (STACK_BYTES.0.to_string(), STACK_BYTES.1.to_string())),
        ("Max locked memory", same(LOCKED_BYTES)),
        ("Max pending signals", same(PENDING_SIGNALS)),
        ("Max realtime priority", same(0)),
        ("Max nice priority", same(0)),
        ("Max msgqueue size", same(0)),
        ("Max cpu time", none()),
        ("Max data size", none()),
        ("Max address space", none()),
    ] {
        expect(Layer::ProcessLimits, name, &found.get(name), &Some(&expected))?;
    }
    Ok(found)
}

fn descriptors(step: &Process, ordered: &Ordered<'_>) -> Result<Vec<u32>, Error> {
    let found = step.descriptors()?;
    if ordered.requirements.require(Layer::Descriptors) {
        expect(Layer::Descriptors, "open descriptors", &found, &vec![0, 1, 2, 3])?;
    }
    Ok(found)
}

fn cgroup(step: &Process, ordered: &Ordered<'_>) -> Result<CgroupFacts, Error> {
    let text = step.read("cgroup")?;
    let found = text.lines().find_map(|line| line.strip_prefix("0::"));
    expect(Layer::Limits, "cgroup", &found, &Some(ordered.cgroup.path()))?;
    let facts = ordered.cgroup.facts()?;
    if ordered.requirements.require(Layer::Limits) {
        let limits = &ordered.policy.limits;
        for (file, value) in cgroup::expected(limits) {
            expect(Layer::Limits, file, &facts.files.get(file), &Some(&value))?;
        }
        let limited = facts.files.get("io.max").map(|text| cgroup::limited_to(text, limits.io_bytes_per_second));
        expect(Layer::Limits, "io.max as ordered, for every device", &limited, &Some(true))?;
    }
    Ok(facts)
}

/// Whoever listens really hears.
pub(crate) fn check_sources(sources: Sources, requirements: &Requirements) -> Result<(), Error> {
    let require = |layer| requirements.require(layer);
    expect(Layer::Trace, "listener of the system call filter", &sources.filter, &require(Layer::Seccomp))?;
    expect(Layer::Trace, "record of a denial", &sources.landlock, &require(Layer::Landlock))?;
    expect(Layer::Trace, "questions about executions", &sources.executions, &true)
}

/// What only the step's own process could ask the kernel.
fn confirm(confirmed: Confirmed, ordered: &Ordered<'_>) -> Result<Confirmed, Error> {
    let require = |layer| ordered.requirements.require(layer);
    expect(Layer::Landlock, "ruleset in force", &confirmed.landlock.is_some(), &require(Layer::Landlock))?;
    expect(Layer::Namespaces, "host name", &confirmed.hostname, &ordered.policy.hostname)?;
    expect(Layer::Process, "personality", &confirmed.personality, &0)?;
    if require(Layer::Capabilities) {
        expect(Layer::Capabilities, "securebits", &confirmed.securebits, &SECUREBITS)?;
    }
    if require(Layer::AnonymousExec) {
        expect(Layer::AnonymousExec, "vm.memfd_noexec", &confirmed.memfd_noexec.as_str(), &"2")?;
    }
    if require(Layer::NestedNamespaces) {
        expect(Layer::NestedNamespaces, "settings", &confirmed.namespaces_max.len(), &NAMESPACES.len())?;
        for (name, value) in &confirmed.namespaces_max {
            expect(Layer::NestedNamespaces, name, &value.as_str(), &"0")?;
        }
    }
    Ok(confirmed)
}
