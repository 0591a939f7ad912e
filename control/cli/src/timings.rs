//! What took how long, from power-on to power-off. Measured by this host, with the machine's own word on its kernel's start.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use kiln_attestor::Report;
use serde::Serialize;

/// The phases of one machine, in order.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Timings {
    /// One entry for each phase that was reached.
    pub(crate) phases: Vec<Phase>,
    /// From power-on to power-off, in milliseconds.
    pub(crate) total_ms: u64,
}

/// One phase.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Phase {
    /// `firmware`, `kernel`, `init`, `attest`, `admit`, `step NAME`, `emit`, `power off`.
    pub(crate) phase: String,
    /// How long, in milliseconds.
    pub(crate) ms: u64,
}

/// When what happened.
#[derive(Debug)]
pub(crate) struct Recorder {
    power_on: Instant,
    connected: Option<Instant>,
    attested: Option<Instant>,
    /// From the kernel's start to PID 1's, and to the attestation, by the machine's clock.
    uptimes: (Duration, Duration),
    decided: Option<Instant>,
    steps: Vec<(String, Instant, Instant)>,
}

impl Recorder {
    /// Begins at power-on.
    pub(crate) fn new(power_on: Instant) -> Self {
        let uptimes = (Duration::ZERO, Duration::ZERO);
        Self { power_on, connected: None, attested: None, uptimes, decided: None, steps: Vec::new() }
    }

    /// Takes note of what happens at `now`.
    pub(crate) fn hear(&mut self, report: &Report<'_>, now: Instant) {
        match report {
            Report::Connected => self.connected = Some(now),
            Report::Attested { init_uptime_us, sent_uptime_us, .. } => {
                self.attested = Some(now);
                self.uptimes = (Duration::from_micros(*init_uptime_us), Duration::from_micros(*sent_uptime_us));
            }
            Report::Decided(_) => self.decided = Some(now),
            Report::StepBegun(step) => self.steps.push((format!("step {step}"), now, now)),
            Report::StepEnded(_) => {
                if let Some((_, _, end)) = self.steps.last_mut() {
                    *end = now;
                }
            }
            Report::JobTaken
            | Report::InputTaken { .. }
            | Report::StepWrote(..)
            | Report::StepTraced(..)
            | Report::StepRecorded(_)
            | Report::FileTaken { .. } => {}
        }
    }

    /// When the machine was powered on.
    pub(crate) fn power_on(&self) -> Instant {
        self.power_on
    }

    /// When the machine's kernel started, as far as that is known.
    pub(crate) fn kernel_start(&self) -> Option<Instant> {
        self.attested.and_then(|attested| attested.checked_sub(self.uptimes.1))
    }

    /// When PID 1 started.
    pub(crate) fn init_start(&self) -> Option<Instant> {
        self.kernel_start().map(|start| start + self.uptimes.0)
    }

    /// When the machine was admitted to have its job.
    pub(crate) fn attested(&self) -> Option<Instant> {
        self.attested
    }

    /// When the first step began.
    pub(crate) fn first_step(&self) -> Option<Instant> {
        self.steps.first().map(|(_, begin, _)| *begin)
    }

    /// All phases, of a machine that was done at `done` and off at `off`.
    pub(crate) fn timings(&self, done: Instant, off: Instant) -> Timings {
        let mut phases = Vec::new();
        let mut add = |phase: &str, from: Option<Instant>, to: Option<Instant>| {
            if let (Some(from), Some(to)) = (from, to) {
                phases.push(Phase { phase: phase.to_owned(), ms: millis(to.saturating_duration_since(from)) });
            }
        };
        add("firmware", Some(self.power_on), self.kernel_start());
        add("kernel", self.kernel_start(), self.init_start());
        add("init", self.init_start(), self.connected);
        add("attest", self.connected, self.attested);
        add("admit", self.attested, self.decided);
        for (step, begin, end) in &self.steps {
            add(step, Some(*begin), Some(*end));
        }
        add("emit", self.steps.last().map(|(_, _, end)| *end).or(self.decided), Some(done));
        add("power off", Some(done), Some(off));
        Timings { phases, total_ms: millis(off.saturating_duration_since(self.power_on)) }
    }
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Timings {
    /// A table for a person.
    pub(crate) fn table(&self) -> String {
        let total = Phase { phase: "total".to_owned(), ms: self.total_ms };
        let rows = || self.phases.iter().chain([&total]);
        let width = rows().map(|row| row.phase.len()).max().unwrap_or(0);
        rows().fold(String::new(), |mut table, Phase { phase, ms }| {
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{phase:<width$} {:>8}.{:03} s", ms / 1000, ms % 1000);
            table
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_from_what_was_heard() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut recorder = Recorder::new(start);
        recorder.hear(&Report::Connected, at(3_000));
        let build_id = "0".parse().unwrap();
        let attested = Report::Attested { build_id: &build_id, init_uptime_us: 1_500_000, sent_uptime_us: 2_500_000 };
        recorder.hear(&attested, at(3_500));
        let step = "build".parse().unwrap();
        recorder.hear(&Report::StepBegun(&step), at(4_000));
        recorder.hear(&Report::StepEnded(&step), at(5_000));
        let timings = recorder.timings(at(5_200), at(5_300));
        let found: Vec<_> = timings.phases.iter().map(|phase| (phase.phase.as_str(), phase.ms)).collect();
        let expected = [
            ("firmware", 1_000),
            ("kernel", 1_500),
            ("init", 500),
            ("attest", 500),
            ("step build", 1_000),
            ("emit", 200),
            ("power off", 100),
        ];
        assert_eq!(found, expected);
        assert!(timings.table().ends_with("total             5.300 s\n"), "{}", timings.table());
    }
}
