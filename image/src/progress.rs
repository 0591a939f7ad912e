//! How far the work is, for whoever watches.
//!
//! The library prints nothing: it tells a [`Progress`] what begins, what a child process says and what ended. Deliberately
//! absent: percentages, which nobody can compute for a compiler.

use std::time::{Duration, Instant};

/// Watches the work. Called from one thread at a time, in order: `begin`, any number of lines and notes, `end`.
pub trait Progress: Sync {
    /// A phase begins, such as `kernel`.
    fn begin(&self, phase: &str);
    /// A line that a child process printed during the current phase, without its line end.
    fn line(&self, line: &str);
    /// Something the person must know, such as a package version that is no longer to be had.
    fn note(&self, text: &str);
    /// The phase ended well.
    fn end(&self, phase: &str, ended: Ended);
}

/// How a phase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// What it took.
    pub took: Duration,
    /// Whether the work had been done before, so that only its result was checked.
    pub cached: bool,
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _phase: &str) {}
    fn line(&self, _line: &str) {}
    fn note(&self, _text: &str) {}
    fn end(&self, _phase: &str, _ended: Ended) {}
}

/// Runs `work` as the phase `name`. `work` says beside its value whether that value came from the cache.
pub(crate) fn phase<T, E>(
    progress: &dyn Progress,
    name: &str,
    work: impl FnOnce() -> Result<(T, bool), E>,
) -> Result<T, E> {
    progress.begin(name);
    let start = Instant::now();
    let (value, cached) = work()?;
    progress.end(name, Ended { took: start.elapsed(), cached });
    Ok(value)
}
