//! Where the waiting step stands, read back from its directory in `/proc`.

use std::collections::BTreeMap;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::time::{ClockId, clock_gettime};

use super::{Error, Ordered, expect, read};
use crate::enforced::Surroundings;
use crate::layer::Layer::{Identity, Namespaces, Process, View};
use crate::policy::VIEW_ID;
use crate::view;

/// A step's clocks show no more than this when it is checked: the longest set-up, in seconds, and rounding.
const CLOCK_SECONDS_MAX: i64 = 62;

/// Reads and compares; `status` is the text of its file of that name.
pub(super) fn check(pid: i32, status: &str, ordered: &Ordered<'_>) -> Result<Surroundings, Error> {
    let file = |name: &str| read(&format!("/proc/{pid}/{name}"));
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (uid_map, gid_map) = (words(&file("uid_map")?), words(&file("gid_map")?));
    let map = format!("{VIEW_ID} {} 1", ordered.policy.host_id());
    expect(Identity, "uid_map", &uid_map, &map)?;
    expect(Identity, "gid_map", &gid_map, &map)?;
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    };
    let umask = field("Umask");
    expect(Process, "Umask", &umask.as_str(), &"0022")?;
    let bits = |name: &str| u64::from_str_radix(&field(name), 16).unwrap_or(u64::MAX);
    let signals_held = bits("SigBlk") | bits("SigIgn");
    expect(Process, "signals ignored or blocked", &signals_held, &0)?;
    let stat = file("stat")?;
    // Fields after the name, which may hold anything; the first is number 3. Source: proc_pid_stat(5).
    let (_, stat) = stat.rsplit_once(')').unwrap_or_default();
    let number = |field: usize| stat.split_whitespace().nth(field - 3).and_then(|word| word.parse::<i64>().ok());
    let session_is_own = number(6) == Some(i64::from(pid));
    expect(Process, "a session of its own", &session_is_own, &true)?;
    let scheduling = (number(41), number(19));
    expect(Process, "scheduling policy and nice value", &scheduling, &(Some(0), Some(0)))?;
    let oom_score_adj = words(&file("oom_score_adj")?);
    expect(Process, "oom_score_adj", &oom_score_adj.as_str(), &"0")?;
    stands(pid, ordered)?;
    let clock_offsets = clocks(&file("timens_offsets")?)?;
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
fn stands(pid: i32, ordered: &Ordered<'_>) -> Result<(), Error> {
    let identity = |path: String, within: Option<&str>| {
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let at = openat(CWD, &path, flags, Mode::empty())?;
            let Some(within) = within else { return view::Identity::of(std::os::fd::AsFd::as_fd(&at)) };
            let resolve = rustix::fs::ResolveFlags::IN_ROOT | rustix::fs::ResolveFlags::NO_MAGICLINKS;
            let at = rustix::fs::openat2(&at, within, flags, Mode::empty(), resolve)?;
            view::Identity::of(std::os::fd::AsFd::as_fd(&at))
        };
        open().map_err(|source| Error::Read { path: path.clone(), source: source.into() })
    };
    let found = identity(format!("/proc/{pid}/cwd"), None)?;
    let expected = identity(format!("/proc/{pid}/root"), Some(&ordered.policy.workdir))?;
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
