//! The catalogue of hostile behaviour: what each entry of `catalogue.toml` gets, under every layer. The table is the promise.
//!
//! Every probe of an entry runs alone in a fresh sandbox; any other answer than the table's fails. So does an entry without a
//! probe or a test elsewhere, unless it says why, a probe that no entry uses, and a named test that does not exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use kiln_sandbox::collect::{Bounds, Leftovers};
use kiln_sandbox::{Draft, Launcher, Layer, Limits, Profile};
use serde::Deserialize;

use crate::Test;
use crate::bench::{Bench, run};

pub(crate) const TESTS: &[Test] = &[
    ("the_catalogue_is_whole", the_catalogue_is_whole),
    ("every_attack_gets_its_answer", every_attack_gets_its_answer),
];

/// How long a probe may take: a guard against one that hangs. Where nothing is hardware and the host is busy, the longest took a minute.
const PROBE_WALL_MS: u64 = 300_000;
/// Bytes that the harness takes of an output.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// The digest of a workspace that the catalogue's outputs must stay within.
const BOUNDS: Bounds = Bounds { entries_max: 10_000, bytes_max: 64 << 20, depth_max: 64 };

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    entry: Vec<Entry>,
}

/// One entry of the catalogue.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    id: String,
    /// What a step tries: never empty.
    attempt: String,
    /// What it gets, in one word.
    result: Class,
    /// Which layers stand in its way.
    layers: Vec<Layer>,
    /// Probe and answer; alternatives are divided by `|`, because kernels differ.
    #[serde(default)]
    pub(crate) probes: BTreeMap<String, String>,
    /// Probe, and what the collector says to the file that it left.
    #[serde(default)]
    collected: BTreeMap<String, String>,
    /// Tests elsewhere, as `path::name`, the path below the repository's root.
    #[serde(default)]
    covered_by: Vec<String>,
    /// Why nothing is run for it.
    not_covered: Option<String>,
    /// The profile that it runs under, if not the strict one.
    #[serde(default)]
    pub(crate) profile: Profile,
    /// Layers without which its probes are never run: they would harm the machine.
    #[serde(default)]
    pub(crate) never_without: Vec<Layer>,
    /// Whether an emulated processor gets it wrong: QEMU 7.2 writes a far call's frame as the kernel, which takes that for its own
    /// fault and stops.
    #[serde(default)]
    hardware_only: bool,
    /// Whether the mutation table has its probes; not those that use up time, or tell what another kernel would tell otherwise.
    #[serde(default = "yes")]
    pub(crate) mutate: bool,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Class {
    /// An error, and the step goes on.
    Denied,
    /// The process dies.
    Killed,
    /// There is no such thing in the view.
    Absent,
    /// It works, inside, and is gone with the step.
    Contained,
    /// A limit ends it, or an error of a limit.
    Limited,
    /// The collector refuses what was left.
    Refused,
}

/// The table, read anew: it is small.
pub(crate) fn entries() -> Vec<Entry> {
    let table: Table = toml::from_str(include_str!("catalogue.toml")).expect("catalogue.toml");
    table.entry
}

/// Whether `answer` is one of the table's alternatives, or no number of it is beyond those that the table allows.
pub(crate) fn is(answer: &str, expected: &str) -> bool {
    match expected.strip_prefix("within ") {
        Some(allowed) => numbers(answer).is_some_and(|found| numbers(allowed).is_some_and(|all| found.is_subset(&all))),
        None => expected.split('|').any(|one| one == answer),
    }
}

/// Numbers and ranges of numbers, divided by spaces.
fn numbers(text: &str) -> Option<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for word in text.split(' ') {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        all.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(all)
}

/// Runs one probe at a desk.
pub(crate) fn verdict(bench: &Bench, launcher: &Launcher, desk: u16, probe: &str, profile: Profile) -> String {
    let draft = bench.draft_at(desk, &[probe]);
    let limits = Limits { wall_ms: PROBE_WALL_MS, ..draft.limits };
    run(launcher, Draft { limits, profile, ..draft }).verdict(probe)
}

fn the_catalogue_is_whole(bench: &Bench) {
    let entries = entries();
    let mut wrong = Vec::new();
    let mut ids = BTreeSet::new();
    let mut used = BTreeSet::new();
    for entry in &entries {
        let id = &entry.id;
        used.extend(entry.probes.keys().chain(entry.collected.keys()).cloned());
        let tested = entry.probes.len() + entry.collected.len() + entry.covered_by.len();
        if !ids.insert(id) || entry.attempt.is_empty() {
            wrong.push(format!("{id} stands twice or says nothing"));
        }
        if (tested == 0) != entry.not_covered.is_some() {
            wrong.push(format!("{id} has {tested} tests and not_covered is {:?}", entry.not_covered));
        }
        let free = [Class::Contained, Class::Limited, Class::Refused].contains(&entry.result);
        let succeeded = |answer: &&String| answer.split('|').any(|one| one == "OK");
        if !free && entry.probes.values().any(|answer| succeeded(&answer)) {
            wrong.push(format!("{id} is {:?} and lets a probe succeed", entry.result));
        }
        if entry.layers.is_empty() && entry.result != Class::Contained && entry.result != Class::Refused {
            wrong.push(format!("{id} names no layer"));
        }
        wrong.extend(entry.covered_by.iter().filter(|test| !exists(test)).map(|test| format!("{id}: no test {test}")));
    }
    let elsewhere: BTreeSet<String> = ELSEWHERE.iter().map(|name| (*name).to_owned()).collect();
    let all: BTreeSet<String> = bench.probe(&["names"]).said.lines().map(str::to_owned).collect();
    wrong.extend(
        all.difference(&used).filter(|name| !elsewhere.contains(*name)).map(|name| format!("{name} is unused")),
    );
    wrong.extend(used.union(&elsewhere).filter(|name| !all.contains(*name)).map(|name| format!("no probe {name}")));
    let uncovered: Vec<_> = entries.iter().filter_map(|entry| Some((&entry.id, entry.not_covered.as_ref()?))).collect();
    println!("catalogue: {} entries, {} probes, {} not covered", entries.len(), all.len(), uncovered.len());
    uncovered.iter().for_each(|(id, why)| println!("  not covered: {id}: {why}"));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Probes that tests of their own use.
const ELSEWHERE: &[&str] = &[
    "unix_held",
    "spin",
    "spin_all",
    "sleep_forever",
    "stop_self",
    "deaf",
    "memory",
    "memory_some",
    "forks_some",
    "memory_in_tmp",
    "memory_in_memfd",
    "memory_in_files",
    "memory_shared",
    "memory_in_pipes",
    "memory_in_sockets",
    "memory_in_tables",
    "memory_locked",
    "forks",
    "fork_bomb",
    "threads",
    "inode_bomb",
    "log_flood",
];

/// Whether the file has a test function or an entry of that name. Where there is no checkout (in the appliance) there is nothing
/// to look into, and the same was checked where the program was built.
fn exists(test: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let Some((path, name)) = test.split_once("::") else { return false };
    if !root.exists() {
        return true;
    }
    fs::read_to_string(root.join(path)).is_ok_and(|text| text.contains(&format!("fn {name}(")))
}

fn every_attack_gets_its_answer(bench: &Bench) {
    let entries = entries();
    let emulated = fs::read_to_string("/proc/cpuinfo").expect("cpuinfo").contains("QEMU TCG CPU");
    let (entries, left_out): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| !emulated || !entry.hardware_only);
    let left_out: Vec<_> = left_out.iter().flat_map(|entry| entry.probes.keys()).collect();
    println!("catalogue: not run on an emulated processor: {left_out:?}");
    let probes: Vec<_> =
        entries.iter().flat_map(|entry| entry.probes.iter().map(move |probe| (entry, probe))).collect();
    let wrong = bench.with_each(&probes, |desk, (entry, (probe, expected))| {
        let answer = verdict(bench, &bench.launcher, desk, probe, entry.profile);
        (!is(&answer, expected)).then(|| format!("{} {probe}: {answer} instead of {expected}", entry.id))
    });
    let outputs: Vec<_> =
        entries.iter().flat_map(|entry| entry.collected.iter().map(move |output| (entry, output))).collect();
    let refused = bench.with_each(&outputs, |desk, (entry, (probe, expected))| {
        let answer = collected(bench, desk, probe);
        (!is(&answer, expected)).then(|| format!("{} {probe}: {answer} instead of {expected}", entry.id))
    });
    let wrong: Vec<_> = wrong.into_iter().chain(refused).flatten().collect();
    println!("catalogue: {} probes ran, {} outputs were collected", probes.len(), outputs.len());
    assert!(wrong.is_empty(), "{} of {} differ: {wrong:#?}", wrong.len(), probes.len() + outputs.len());
}

/// What the collector says to `artifact` and to the whole workspace that a probe left: `OK` or the error's name, twice.
fn collected(bench: &Bench, desk: u16, probe: &str) -> String {
    let said = verdict(bench, &bench.launcher, desk, probe, Profile::Strict);
    let word = |error: kiln_sandbox::collect::Error| {
        let text = format!("{error:?}");
        text.split([' ', '{']).next().unwrap_or_default().to_owned()
    };
    let leftovers = Leftovers::in_directory(&bench.workspace_at(desk)).expect("the workspace is the harness's own");
    let mut sink = Vec::new();
    let file = leftovers.copy(Path::new("artifact"), OUTPUT_BYTES_MAX, &mut sink).map_or_else(word, |_| {
        if sink == b"made inside\n" { "OK".to_owned() } else { format!("{} bytes", sink.len()) }
    });
    let tree = leftovers.digest(&BOUNDS).map_or_else(word, |_| "OK".to_owned());
    format!("{said}, {file}, {tree}")
}
