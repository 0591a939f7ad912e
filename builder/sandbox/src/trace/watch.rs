//! Everything that is listened to on behalf of one step, from before its set-up until after its end.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags};
use thiserror::Error;

use super::Trace;
use super::denials::Denials;
use crate::filter::Listener;
use crate::layer::Layer;
use crate::outcome::Usage;

/// Why a trace is not whole.
#[derive(Debug, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what its fields are")]
pub enum Error {
    #[error("cannot answer the system call filter")]
    Filter { source: io::Error },
}

/// One step's sources.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    listener: Option<Listener>,
    denials: Denials,
}

impl Watch {
    /// Takes the other end of the step's filter.
    pub(crate) fn listen(&mut self, listener: OwnedFd) {
        self.listener = Some(Listener::new(listener));
    }

    /// Whether the step's filter has somebody to ask.
    pub(crate) fn is_listening(&self) -> bool {
        self.listener.is_some()
    }

    /// What to wait for.
    pub(crate) fn polled(&self) -> Vec<PollFd<'_>> {
        self.listener.iter().map(|listener| PollFd::new(listener, PollFlags::IN)).collect()
    }

    /// Takes in what there is; `ready` are the answers to [`Watch::polled`].
    pub(crate) fn hear(&mut self, ready: &[PollFlags]) -> Result<(), Error> {
        let (Some(listener), Some(ready)) = (&self.listener, ready.first()) else { return Ok(()) };
        if ready.contains(PollFlags::IN) {
            if let Some(call) = listener.deny_one().map_err(|source| Error::Filter { source })? {
                self.denials.add(Layer::Seccomp, &call.name, &call.arguments, 1);
            }
        } else if !ready.is_empty() {
            // Nobody is left who could ask.
            self.listener = None;
        }
        Ok(())
    }

    /// The whole trace of a step that is gone.
    pub(crate) fn finish(mut self, usage: &Usage) -> Result<Trace, Error> {
        self.denials.add(Layer::Limits, "oom_kill", "memory", usage.oom_kills);
        self.denials.add(Layer::Limits, "max", "pids", usage.pids_refused);
        let (denials, denials_unlisted) = self.denials.into_list();
        Ok(Trace { denials, denials_unlisted, ..Trace::default() })
    }
}
