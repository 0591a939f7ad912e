//! The table, the JSON, and which targets hold.
//!
//! Ratios are of minima: on a machine that does other things as well, the best of many interleaved runs is what the work itself
//! takes. Milliseconds are this machine's and say little about another.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::contenders::Contenders;
use crate::facts::Facts;
use crate::growth::Growth;
use crate::rounds::{Times, Together};
use crate::scene::Payload;

/// Warm start against bubblewrap's.
const WARM_RATIO_MAX: f64 = 0.6;
/// Cold start against bubblewrap's.
const COLD_RATIO_MAX: f64 = 1.0;
/// Compiling inside against outside, start and end of the step included.
const COMPILE_RATIO_MAX: f64 = 1.02;
/// Installation of the system call filter, in milliseconds.
const FILTER_MS_MAX: f64 = 0.3;

/// One target.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    what: String,
    found: f64,
    most: f64,
    pub(crate) met: bool,
}

/// All that was found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: String,
    kernel: String,
    given_up: Vec<String>,
    left_out: Vec<String>,
    lacks: BTreeMap<&'static str, &'static str>,
    pub(crate) facts: Vec<(&'static str, Facts)>,
    /// Milliseconds by payload and contender.
    pub(crate) times: Vec<(&'static str, BTreeMap<&'static str, Times>)>,
    pub(crate) together: Vec<Together>,
    pub(crate) growth: Option<Growth>,
    pub(crate) targets: Vec<Target>,
}

impl Report {
    pub(crate) fn new(contenders: &Contenders<'_>) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown processor");
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let lacks = contenders.everyone().filter(|one| !one.lacks.is_empty()).map(|one| (one.name, one.lacks));
        Self {
            machine: format!("{model}, {processors} processors"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            given_up: contenders.given_up.clone(),
            left_out: contenders.left_out.clone(),
            lacks: lacks.collect(),
            facts: Vec::new(),
            times: Vec::new(),
            together: Vec::new(),
            growth: None,
            targets: Vec::new(),
        }
    }

    /// Compares with the targets whatever was measured.
    pub(crate) fn judge(&mut self) {
        let noop = Payload::noop().name;
        let cold = if self.times(noop, "kiln-confine").is_some() { "kiln-confine" } else { "kiln cold" };
        let ratios = [
            (noop, "kiln warm", "bwrap", WARM_RATIO_MAX),
            (noop, cold, "bwrap", COLD_RATIO_MAX),
            ("gcc -O2 -c", "kiln warm", "plain", COMPILE_RATIO_MAX),
        ];
        for (payload, one, other, most) in ratios {
            if let (Some(one_took), Some(other_took)) = (self.times(payload, one), self.times(payload, other)) {
                self.target(format!("{payload}: {one} / {other}, best of each"), one_took.min / other_took.min, most);
            }
        }
        if let Some(filter) = self.times("system call filter, installation alone", "kiln") {
            self.target("system call filter, installation alone, ms (p50)".into(), filter.p50, FILTER_MS_MAX);
        }
        if let Some(growth) = &self.growth {
            let grown = growth.grown();
            let what = format!("kinds of things that {} steps left behind [{}]", growth.steps, grown.join(", "));
            self.target(what, grown.len() as f64, 0.0);
        }
    }

    fn target(&mut self, what: String, found: f64, most: f64) {
        self.targets.push(Target { what, found, most, met: found <= most });
    }

    fn times(&self, payload: &str, contender: &str) -> Option<Times> {
        self.times.iter().find(|(name, _)| *name == payload)?.1.get(contender).copied()
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data")
    }

    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{}, Linux {}", self.machine, self.kernel)?;
        let given_up = if self.given_up.is_empty() { "nothing".to_owned() } else { self.given_up.join(", ") };
        writeln!(out, "kiln gives up on this kernel: {given_up}")?;
        self.left_out.iter().try_for_each(|why| writeln!(out, "left out: {why}"))?;
        writeln!(
            out,
            "\n{:<16} {:>6} {:>10} {:>18} {:>5} {:>8}",
            "inside", "mounts", "namespaces", "bounding set", "nnp", "filters"
        )?;
        for (name, facts) in &self.facts {
            let Facts { mounts, namespaces, bounding_set, no_new_privs, seccomp_filters } = facts;
            writeln!(
                out,
                "{name:<16} {mounts:>6} {namespaces:>10} {bounding_set:>18} {no_new_privs:>5} {seccomp_filters:>8}"
            )?;
        }
        for (name, lacks) in &self.lacks {
            writeln!(out, "{name} lacks: {lacks}")?;
        }
        for (payload, times) in &self.times {
            self.write_times(out, payload, times)?;
        }
        if !self.together.is_empty() {
            writeln!(out, "\n{:<24} {:>8} {:>12}", "no-op, several callers", "callers", "steps/s")?;
        }
        for Together { contender, callers, steps_per_second } in &self.together {
            writeln!(out, "{contender:<24} {callers:>8} {steps_per_second:>12.1}")?;
        }
        if let Some(growth) = &self.growth {
            writeln!(out, "\n{} steps in a row\nbefore {:?}\nafter  {:?}", growth.steps, growth.before, growth.after)?;
        }
        writeln!(out)?;
        for Target { what, found, most, met } in &self.targets {
            writeln!(out, "{} {what}: {found:.3}, at most {most}", if *met { "met   " } else { "MISSED" })?;
        }
        Ok(())
    }

    fn write_times(&self, out: &mut String, payload: &str, times: &BTreeMap<&str, Times>) -> std::fmt::Result {
        let base = ["bwrap", "every layer", "plain"].iter().find_map(|name| Some((*name, times.get(name)?.min)));
        let (base, least) = base.unwrap_or(("", f64::NAN));
        let header = if base.is_empty() { String::new() } else { format!("/ {base}") };
        writeln!(out, "\n{payload:<40} {:>5} {:>9} {:>9} {:>9} {header:>14}", "runs", "min ms", "p50 ms", "p95 ms")?;
        let mut sorted: Vec<_> = times.iter().collect();
        sorted.sort_by(|a, b| a.1.min.total_cmp(&b.1.min));
        for (name, Times { runs, min, p50, p95 }) in sorted {
            let ratio = if least.is_nan() { String::new() } else { format!("{:.3}", min / least) };
            writeln!(out, "  {name:<38} {runs:>5} {min:>9.3} {p50:>9.3} {p95:>9.3} {ratio:>14}")?;
        }
        Ok(())
    }
}
