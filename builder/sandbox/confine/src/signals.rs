//! Signals that mean "stop": taken by one thread, so that nothing of ours ever runs in a signal handler.
//!
//! They are blocked before the launcher is forked, which therefore outlives a Ctrl-C on the terminal; the step starts with an
//! empty mask again.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_sandbox::Killer;
use nix::sys::signal::{SigSet, Signal};

use crate::refusal::Refusal;
use crate::say::say;

/// What a terminal, a shell or a service manager sends to end a program.
const SIGNALS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The signals, blocked.
#[derive(Debug)]
pub(crate) struct Blocked(SigSet);

/// The thread that takes them.
#[derive(Clone, Debug)]
pub(crate) struct Signals(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The first one that came.
    came: Option<Signal>,
    /// What it ends.
    killer: Option<Killer>,
    /// Whether the command is gone, and its remains are being cleared away.
    released: bool,
    /// One that came in the meantime.
    late: Option<Signal>,
    /// Whether the command is gone and only its output is still on its way.
    over: bool,
}

impl Blocked {
    /// Blocks them for this thread and every process and thread made by it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn block() -> Result<Self, Refusal> {
        let set: SigSet = SIGNALS.into_iter().collect();
        set.thread_block().map_err(|error| Refusal::Signals { source: error.into() })?;
        Ok(Self(set))
    }

    /// Starts the thread that takes them.
    ///
    /// # Errors
    /// If there is no more thread to be had.
    pub(crate) fn take(self) -> Result<Signals, Refusal> {
        let signals = Signals(Arc::default());
        let (theirs, set) = (signals.clone(), self.0);
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            // An error would be an invalid set, which this is not.
            while let Ok(signal) = set.wait() {
                theirs.came(signal);
            }
        });
        thread.map_err(|source| Refusal::Signals { source })?;
        Ok(signals)
    }
}

impl Signals {
    /// From now on a signal kills the step; one that came already does it now.
    pub(crate) fn kill_with(&self, killer: Killer) {
        let mut state = self.state();
        if state.came.is_some() {
            kill(&killer);
        }
        state.killer = Some(killer);
    }

    /// The command is gone: its cgroup must not be held by us any longer.
    pub(crate) fn release(&self) {
        let mut state = self.state();
        state.killer = None;
        state.released = true;
    }

    /// From now on a signal ends this process: there is nothing left but a reader to wait for. So does one that came since the
    /// command was gone.
    pub(crate) fn over(&self) {
        let mut state = self.state();
        state.over = true;
        if let Some(signal) = state.late {
            leave(signal);
        }
    }

    /// The signal that came first, if one came.
    pub(crate) fn first(&self) -> Option<Signal> {
        self.state().came
    }

    fn came(&self, signal: Signal) {
        let mut state = self.state();
        if state.over {
            leave(signal);
        }
        if state.released {
            state.late = Some(signal);
        }
        state.came.get_or_insert(signal);
        if let Some(killer) = &state.killer {
            kill(killer);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends this process before everything that the command said was taken.
fn leave(signal: Signal) -> ! {
    say(format_args!("interrupted by {signal}: not all output of the command was taken"));
    std::process::exit(128 + signal as i32)
}

/// If the kernel refuses, waiting for the step goes on, and the next signal tries again.
fn kill(killer: &Killer) {
    if let Err(error) = killer.kill() {
        say(format_args!("cannot kill the command: {}", io::Error::other(error)));
    }
}
