//! What the benchmark is asked to do.

use std::path::PathBuf;

use crate::rounds::Rounds;
use crate::scene::Payload;

/// One part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A static program that exits at once.
    Noop,
    /// A dynamically linked one.
    Dynamic,
    /// A compiler on real files.
    Compile,
    /// The system call filter alone.
    Filter,
    /// Our own time with one layer less.
    Layers,
    /// Several at once.
    Together,
    /// Thousands in a row.
    Growth,
}

/// Every part with the word that selects it.
const PARTS: [(&str, Part); 7] = [
    ("noop", Part::Noop),
    ("dynamic", Part::Dynamic),
    ("compile", Part::Compile),
    ("filter", Part::Filter),
    ("layers", Part::Layers),
    ("together", Part::Together),
    ("growth", Part::Growth),
];

/// The command line.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) json: bool,
    pub(crate) check: bool,
    pub(crate) confine: Option<PathBuf>,
    pub(crate) linux_sandbox: Option<PathBuf>,
    /// A C file for the compiler instead of this package's own.
    pub(crate) source: Option<PathBuf>,
    quick: bool,
    only: Vec<Part>,
    steps: Option<u32>,
}

impl Options {
    /// An unknown word is the end: a benchmark that ignores it would measure something else.
    pub(crate) fn parse(arguments: &[String]) -> Self {
        // Cargo says `--bench` only when it is asked for benchmarks; otherwise this is a test run.
        let mut options = Self { quick: !arguments.iter().any(|word| word == "--bench"), ..Self::default() };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| stop(&format!("{word} takes a value")));
            match word.as_str() {
                "--bench" => options.quick = false,
                "--quick" => options.quick = true,
                "--json" => options.json = true,
                "--check" => options.check = true,
                "--confine" => options.confine = Some(value().into()),
                "--linux-sandbox" => options.linux_sandbox = Some(value().into()),
                "--source" => options.source = Some(value().into()),
                "--steps" => options.steps = Some(value().parse().unwrap_or_else(|_| stop("--steps takes a number"))),
                "--only" => options.only = value().split(',').map(part).collect(),
                _ => stop(&format!("unknown word {word:?}")),
            }
        }
        options
    }

    pub(crate) fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// How often each contender runs a payload.
    pub(crate) fn rounds(&self, payload: &Payload) -> Rounds {
        match (self.quick, payload.long) {
            (true, _) => Rounds { rounds: 1, runs: 1 },
            // A compiler takes a quarter longer in one run than in the next: the best of so many are comparable.
            (false, true) => Rounds { rounds: 40, runs: 1 },
            (false, false) => Rounds { rounds: 20, runs: 25 },
        }
    }

    pub(crate) fn filter_runs(&self) -> usize {
        if self.quick { 4 } else { 500 }
    }

    pub(crate) fn together_runs(&self) -> usize {
        if self.quick { 4 } else { 200 }
    }

    pub(crate) fn steps(&self) -> u32 {
        self.steps.unwrap_or(if self.quick { 20 } else { 10_000 })
    }
}

fn part(word: &str) -> Part {
    let found = PARTS.iter().find(|(name, _)| *name == word).map(|(_, part)| *part);
    found.unwrap_or_else(|| stop(&format!("{word:?} is none of {:?}", PARTS.map(|(name, _)| name))))
}

fn stop(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(2)
}
