//! Thousands of steps in a row, and what the kernel counts before and after.
//!
//! Bounds: counts of things do not grow at all; memory of processes by no more than an allocator's slack.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::contenders::Contender;
use crate::scene::Payload;

/// Steps before the first count: caches and allocators fill up.
const WARM_UP: u32 = 200;
/// What a process may grow by, in KiB.
const MEMORY_KIB_MAX: i64 = 512;
/// Network namespaces: the kernel frees them in batches, and whatever else runs on the machine has some, too.
const NETWORKS_MAX: i64 = 64;
/// Looks at what is freed later, before it is taken as it is.
const LOOKS_MAX: u32 = 100;
/// Pause between them.
const PAUSE: Duration = Duration::from_millis(100);

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    caller_kib: i64,
    launcher_kib: i64,
    caller_descriptors: i64,
    launcher_descriptors: i64,
    mounts: i64,
    cgroups: i64,
    /// Distinct ones that any process is in or holds open.
    namespaces: i64,
    processes: i64,
    /// Objects in the slab cache `net_namespace`.
    network_namespaces: i64,
}

/// Before and after.
#[derive(Debug, Serialize)]
pub(crate) struct Growth {
    pub(crate) steps: u32,
    pub(crate) before: Counts,
    pub(crate) after: Counts,
}

impl Growth {
    /// What grew beyond its bound, by name.
    pub(crate) fn grown(&self) -> Vec<String> {
        let (before, after) = (&self.before, &self.after);
        let pairs = [
            ("caller's memory in KiB", before.caller_kib, after.caller_kib, MEMORY_KIB_MAX),
            ("launcher's memory in KiB", before.launcher_kib, after.launcher_kib, MEMORY_KIB_MAX),
            ("caller's descriptors", before.caller_descriptors, after.caller_descriptors, 0),
            ("launcher's descriptors", before.launcher_descriptors, after.launcher_descriptors, 0),
            ("mounts", before.mounts, after.mounts, 0),
            ("cgroups", before.cgroups, after.cgroups, 0),
            ("network namespaces", before.network_namespaces, after.network_namespaces, NETWORKS_MAX),
        ];
        let grown = pairs.into_iter().filter(|(_, before, after, most)| after - before > *most);
        grown.map(|(name, before, after, _)| format!("{name}: {before} to {after}")).collect()
    }
}

/// Runs `steps` of the payload and counts.
pub(crate) fn watch(contender: &Contender<'_>, payload: &Payload, steps: u32) -> Growth {
    let launchers = children(std::process::id());
    let start = contender.start(payload, 0);
    for _ in 0..WARM_UP.min(steps) {
        start.time();
    }
    let before = settled(&launchers);
    for _ in 0..steps {
        start.time();
    }
    Growth { steps, before, after: settled(&launchers) }
}

/// Counts once the kernel has freed what it frees later, or after a bound.
fn settled(launchers: &[u32]) -> Counts {
    let mut counts = count(launchers);
    for _ in 0..LOOKS_MAX {
        std::thread::sleep(PAUSE);
        let again = count(launchers);
        if again.network_namespaces >= counts.network_namespaces && again.namespaces >= counts.namespaces {
            return again;
        }
        counts = again;
    }
    counts
}

fn count(launchers: &[u32]) -> Counts {
    let own = std::process::id();
    let sum = |of: fn(u32) -> i64| launchers.iter().map(|pid| of(*pid)).sum();
    Counts {
        caller_kib: resident_kib(own),
        launcher_kib: sum(resident_kib),
        caller_descriptors: descriptors(own),
        launcher_descriptors: sum(descriptors),
        mounts: text("/proc/self/mountinfo").lines().count() as i64,
        cgroups: cgroups(),
        namespaces: namespaces(),
        processes: entries("/proc").iter().filter(|path| is_process(path)).count() as i64,
        network_namespaces: network_namespaces(),
    }
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn entries(path: impl AsRef<Path>) -> Vec<PathBuf> {
    fs::read_dir(path).map(|found| found.filter_map(|entry| Some(entry.ok()?.path())).collect()).unwrap_or_default()
}

fn is_process(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
}

/// The launchers: all children that this process has.
fn children(pid: u32) -> Vec<u32> {
    text(format!("/proc/{pid}/task/{pid}/children")).split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn resident_kib(pid: u32) -> i64 {
    let status = text(format!("/proc/{pid}/status"));
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn descriptors(pid: u32) -> i64 {
    entries(format!("/proc/{pid}/fd")).len() as i64
}

/// Those that this process made: others have theirs.
fn cgroups() -> i64 {
    let mounts = text("/proc/self/mountinfo");
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let ours = format!("kiln-{}", std::process::id());
    let parents = entries(mount.unwrap_or_default()).into_iter().filter(|path| path.ends_with(&ours));
    parents.flat_map(entries).filter(|path| path.is_dir()).count() as i64
}

fn namespaces() -> i64 {
    let processes = entries("/proc").into_iter().filter(|path| is_process(path));
    let links = processes.flat_map(|process| entries(process.join("ns")));
    let distinct: BTreeSet<_> = links.filter_map(|link| fs::read_link(link).ok()).collect();
    distinct.len() as i64
}

/// Active objects; -1: this kernel does not say.
fn network_namespaces() -> i64 {
    let slabs = text("/proc/slabinfo");
    let line = slabs.lines().find(|line| line.starts_with("net_namespace "));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(-1)
}
