//! Where the waiting step stands, read back from its directory in `/proc`.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::time::{ClockId, clock_gettime};

use super::{Error, Ordered, Process as Step, expect};
use crate::enforced::Surroundings;
use crate::layer::Layer::{Identity, Namespaces, Process, View};
use crate::policy::VIEW_ID;
use crate::view;

/// A step's clocks show no more than this when it is checked: the longest set-up, in seconds, and rounding.
const CLOCK_SECONDS_MAX: i64 = 62;

/// What the kernel lets nobody change, once the step is in its user namespace and that has a user.
pub(super) struct Settled {
    uid_map: String,
    gid_map: String,
    clock_offsets: BTreeMap<String, i64>,
}

/// Reads and compares what is settled.
pub(super) fn check_settled(step: &Step, ordered: &Ordered<'_>) -> Result<Settled, Error> {
    let (uid_map, gid_map) = (words(&step.read("uid_map")?), words(&step.read("gid_map")?));
    let map = format!("{VIEW_ID} {} 1", ordered.policy.host_id());
    expect(Identity, "uid_map", &uid_map, &map)?;
    expect(Identity, "gid_map", &gid_map, &map)?;
    let clock_offsets = clocks(&step.read("timens_offsets")?)?;
    Ok(Settled { uid_map, gid_map, clock_offsets })
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reads and compares the rest of a step that waits; `status` is the text of its file of that name.
pub(super) fn check(step: &Step, status: &str, settled: Settled, ordered: &Ordered<'_>) -> Result<Surroundings, Error> {
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    };
    let umask = field("Umask");
    expect(Process, "Umask", &umask.as_str(), &"0022")?;
    let bits = |name: &str| u64::from_str_radix(&field(name), 16).unwrap_or(u64::MAX);
    let signals_held = bits("SigBlk") | bits("SigIgn");
    expect(Process, "signals ignored or blocked", &signals_held, &0)?;
    let stat = step.read("stat")?;
    // Fields after the name, which may hold anything; the first is number 3. Source: proc_pid_stat(5).
    let (_, stat) = stat.rsplit_once(')').unwrap_or_default();
    let number = |field: usize| stat.split_whitespace().nth(field - 3).and_then(|word| word.parse::<i64>().ok());
    let session_is_own = number(6) == Some(i64::from(step.pid()));
    expect(Process, "a session of its own", &session_is_own, &true)?;
    let scheduling = (number(41), number(19));
    expect(Process, "scheduling policy and nice value", &scheduling, &(Some(0), Some(0)))?;
    let oom_score_adj = words(&step.read("oom_score_adj")?);
    expect(Process, "oom_score_adj", &oom_score_adj.as_str(), &"0")?;
    stands(step, ordered)?;
    let Settled { uid_map, gid_map, clock_offsets } = settled;
    Ok(Surroundings {
        uid_map,
        gid_map,
        clock_offsets,
        session_is_own,
        umask,
        signals_held,
        scheduling: (0, 0),
        oom_score_adj,
    })
}

/// The step's working directory is the one of its own view.
fn stands(step: &Step, ordered: &Ordered<'_>) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let (cwd, root) = (step.at("cwd", flags)?, step.at("root", flags)?);
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = &ordered.policy.workdir;
    let failed = |source: rustix::io::Errno| Error::Read { path: path.clone(), source: source.into() };
    let ordered = openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(failed)?;
    let [found, expected] = [cwd, ordered].map(|at| view::Identity::of(at.as_fd()).map_err(failed));
    let (found, expected) = (found?, expected?);
    expect(View, "working directory", &found, &expected)
}

/// Both clocks have been set back to where they started when the step was made.
fn clocks(text: &str) -> Result<BTreeMap<String, i64>, Error> {
    let mut offsets = BTreeMap::new();
    for (name, clock) in [("monotonic", ClockId::Monotonic), ("boottime", ClockId::Boottime)] {
        let line = text.lines().map(str::split_whitespace).find(|line| line.clone().next() == Some(name));
        let offset = line.and_then(|mut line| line.nth(1)?.parse::<i64>().ok());
        let shown = offset.map(|offset| clock_gettime(clock).tv_sec.saturating_add(offset));
        let recent = shown.is_some_and(|shown| (0..=CLOCK_SECONDS_MAX).contains(&shown));
        expect(Namespaces, &format!("a {name} clock that starts with the step"), &recent, &true)?;
        offsets.insert(name.to_owned(), offset.unwrap_or_default());
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_not_set_back_is_noticed() {
        let (monotonic, boottime) = (clock_gettime(ClockId::Monotonic).tv_sec, clock_gettime(ClockId::Boottime).tv_sec);
        assert!(clocks(&format!("monotonic -{monotonic} 0\nboottime  -{boottime}   0\n")).is_ok());
        assert!(clocks(&format!("monotonic -{monotonic} 0\nboottime 10000000 0\n")).is_err());
        assert!(clocks(&format!("monotonic -{monotonic} 0\n")).is_err());
        assert!(clocks(&format!("monotonic -{} 0\nboottime -{boottime} 0\n", monotonic + 100)).is_err());
    }
}
