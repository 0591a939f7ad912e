//! The program as a script sees it: arguments in, status, streams, report and status lines out, and nothing left behind.
//!
//! Needs root and a kernel with every layer but limits and trace, which most tests give up by name; what needs cgroup v2
//! controllers is ignored, with a word, unless it is asked for (`--ignored`).

#![expect(clippy::expect_used, clippy::panic, reason = "what a helper cannot do fails its test")]

mod bench;
mod ends;
mod flags;
mod inherited;
mod life;
mod output;
mod records;
