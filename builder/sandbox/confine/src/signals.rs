//! Signals that mean "stop": taken by one thread, so that nothing of ours ever runs in a signal handler.
//!
//! They are blocked before the launcher is forked, which therefore outlives a Ctrl-C on the terminal; the step starts with an
//! empty mask again.
//!
//! One that comes before there is a command waits for it, but not for ever: a start that hangs can be ended by a signal, too.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_sandbox::{Killer, remove_abandoned};
use nix::sys::signal::{SigSet, Signal};

use crate::refusal::Refusal;
use crate::say::say;

/// What a terminal, a shell or a service manager sends to end a program.
const SIGNALS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// How long a signal waits for a command to kill. A start takes milliseconds on hardware, seconds on an emulated and busy machine.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// The signals, blocked.
#[derive(Debug)]
pub(crate) struct Blocked(SigSet);

/// The thread that takes them.
#[derive(Clone, Debug)]
pub(crate) struct Signals(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is a command, or it is gone.
    changed: Condvar,
}

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
        self.0.changed.notify_all();
    }

    /// The command is gone: its cgroup must not be held by us any longer.
    pub(crate) fn release(&self) {
        let mut state = self.state();
        state.killer = None;
        state.released = true;
        self.0.changed.notify_all();
    }

    /// From now on a signal ends this process: there is nothing left but a reader to wait for. So does one that came since the
    /// command was gone.
    pub(crate) fn over(&self) {
        let mut state = self.state();
        state.over = true;
        if let Some(signal) = state.late {
            leave(signal, READER);
        }
    }

    /// The signal that came first, if one came.
    pub(crate) fn first(&self) -> Option<Signal> {
        self.state().came
    }

    fn came(&self, signal: Signal) {
        let mut state = self.state();
        if state.over {
            leave(signal, READER);
        }
        if state.released {
            state.late = Some(signal);
        }
        state.came.get_or_insert(signal);
        let starts = |state: &mut State| state.killer.is_none() && !state.released;
        let waited = self.0.changed.wait_timeout_while(state, START_PATIENCE, starts);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            // Nothing is released meanwhile: the state is locked. What cannot be removed now goes with the slot, in the next run.
            let _ = remove_abandoned(std::process::id());
            leave(signal, START);
        }
        if let Some(killer) = &state.killer {
            kill(killer);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is not waited for any more, for [`leave`].
const READER: &str = "not all output of the command was taken";
const START: &str = "the start of the command took too long";

/// Ends this process before everything is done.
fn leave(signal: Signal, unfinished: &str) -> ! {
    say(format_args!("interrupted by {signal}: {unfinished}"));
    std::process::exit(128 + signal as i32)
}

/// If the kernel refuses, waiting for the step goes on, and the next signal tries again.
fn kill(killer: &Killer) {
    if let Err(error) = killer.kill() {
        say(format_args!("cannot kill the command: {}", io::Error::other(error)));
    }
}
