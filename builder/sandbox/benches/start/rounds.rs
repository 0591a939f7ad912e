//! Takes the times: in rounds, everybody in every round, beginning with another one each time, so that whatever else the machine
//! does hits all alike. Nothing is thrown away.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::contenders::{Contender, FILTER};
use crate::scene::Payload;

/// Steps at one time, at most.
pub(crate) const TOGETHER_MAX: usize = 4;

/// How often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    pub(crate) rounds: usize,
    /// In a row, in each round: what a contender leaves to the kernel for later (network namespaces) falls on itself.
    pub(crate) runs: usize,
}

/// The times of one contender, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Times {
    pub(crate) runs: usize,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: usize| times.get((times.len().saturating_sub(1)) * share / 100).copied().unwrap_or_default();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Self { runs: times.len(), min: ms(at(0)), p50: ms(at(50)), p95: ms(at(95)) }
    }
}

/// Every contender runs the payload in every round.
pub(crate) fn interleave(
    contenders: &[&Contender<'_>],
    payload: &Payload,
    how: Rounds,
) -> BTreeMap<&'static str, Times> {
    let mut times: BTreeMap<&'static str, Vec<Duration>> = BTreeMap::new();
    let starts: Vec<_> = contenders.iter().map(|one| (one.name, one.start(payload, 0))).collect();
    for round in 0..how.rounds {
        for turn in 0..starts.len() {
            let Some((name, start)) = starts.get((round + turn) % starts.len()) else { continue };
            // The first after another one's turn finds cold caches: it is run, and not counted for anybody.
            if !payload.long {
                start.time();
            }
            times.entry(name).or_default().extend((0..how.runs).map(|_| start.time()));
        }
    }
    times.into_iter().map(|(name, times)| (name, Times::of(times))).collect()
}

/// The filter alone: a fresh process each time, which says how long the installation took.
pub(crate) fn filter_installation(runs: usize) -> Times {
    let own = std::env::current_exe().expect("this program");
    let once = || {
        let said = Command::new(&own).arg(FILTER).stderr(Stdio::inherit()).output().expect("a process").stdout;
        let nanoseconds = String::from_utf8_lossy(&said).trim().parse().expect("nanoseconds");
        Duration::from_nanos(nanoseconds)
    };
    Times::of((0..runs).map(|_| once()).collect())
}

/// Steps in a second with so many callers at one time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Together {
    pub(crate) contender: &'static str,
    pub(crate) callers: usize,
    pub(crate) steps_per_second: f64,
}

/// One, two and four callers, each with a thread of its own.
pub(crate) fn together(contenders: &[&Contender<'_>], payload: &Payload, runs: usize) -> Vec<Together> {
    let mut found = Vec::new();
    for callers in [1, 2, TOGETHER_MAX] {
        for one in contenders {
            let starts: Vec<_> = (0..callers).map(|slot| one.start(payload, slot as u16)).collect();
            let begin = Instant::now();
            std::thread::scope(|scope| {
                for start in &starts {
                    scope.spawn(move || (0..runs / callers).map(|_| start.time()).sum::<Duration>());
                }
            });
            let steps = (runs / callers * callers) as f64;
            let steps_per_second = steps / begin.elapsed().as_secs_f64();
            found.push(Together { contender: one.name, callers, steps_per_second });
        }
    }
    found
}
