//! What a person sees while something takes long: a spinner on a terminal, plain lines elsewhere. All of it on standard error.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use kiln_image::progress::{Ended, Progress};
use rustix::termios::{isatty, tcgetwinsize};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(120);
/// The longest line that is shown beside the spinner, in characters.
const SHOWN_MAX: usize = 90;

/// How wide a terminal is that does not say, in columns.
const COLUMNS: usize = 80;

/// The person's screen.
#[derive(Debug)]
pub(crate) struct Screen {
    /// The phase that is going on, on a terminal.
    spinner: Mutex<Option<ProgressBar>>,
    terminal: bool,
}

impl Screen {
    /// Standard error, as it is.
    pub(crate) fn new() -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        Self { spinner: Mutex::new(None), terminal }
    }

    /// Prints a line that stays, above the spinner if there is one.
    pub(crate) fn say(&self, line: &str) {
        match self.spinner().as_ref() {
            Some(spinner) => spinner.println(line),
            None => eprintln!("{line}"),
        }
    }

    /// How wide it is, in columns; `None` if it is no terminal.
    pub(crate) fn columns(&self) -> Option<usize> {
        columns(std::io::stderr())
    }

    /// Takes the spinner away.
    pub(crate) fn clear(&self) {
        if let Some(spinner) = self.spinner().take() {
            spinner.finish_and_clear();
        }
    }

    fn spinner(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.spinner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How wide a terminal is, in columns; `None` if it is none. One that does not say is taken to be 80 wide.
pub(crate) fn columns(terminal: impl AsFd) -> Option<usize> {
    if !isatty(&terminal) {
        return None;
    }
    let said = tcgetwinsize(&terminal).map_or(0, |size| size.ws_col);
    Some(if said == 0 { COLUMNS } else { said.into() })
}

impl Progress for Screen {
    fn begin(&self, phase: &str) {
        self.clear();
        if !self.terminal {
            eprintln!("kiln: {phase} …");
            return;
        }
        let spinner = ProgressBar::new_spinner().with_prefix(phase.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}") {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(TICK);
        *self.spinner() = Some(spinner);
    }

    fn line(&self, line: &str) {
        if let Some(spinner) = self.spinner().as_ref() {
            let shown: String = line.chars().filter(|c| !c.is_control()).take(SHOWN_MAX).collect();
            spinner.set_message(shown);
        }
    }

    fn note(&self, text: &str) {
        self.say(&format!("kiln: note: {text}"));
    }

    fn end(&self, phase: &str, ended: Ended) {
        self.clear();
        let cached = if ended.cached { ", cached" } else { "" };
        eprintln!("kiln: {phase}: {:.1} s{cached}", ended.took.as_secs_f64());
    }
}
