//! The layers of confinement by name, and which of them a caller insists on.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One layer of confinement. Errors, evidence and tests name it by these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Layer {
    /// cgroup v2 with memory, pids and cpu limits.
    Limits,
    /// Mount, pid, net, ipc, uts, cgroup, time and (last) user namespaces.
    Namespaces,
    /// The mount table: what exists for the step, and what of it is writable.
    View,
    /// The step's own user and group, no supplementary groups.
    Identity,
    /// No namespace can be created inside: `user.max_*_namespaces` are 0.
    NestedNamespaces,
    /// Nothing can be executed from a memfd: `vm.memfd_noexec` is 2.
    AnonymousExec,
    /// Empty capability sets, an empty bounding set, locked securebits.
    Capabilities,
    /// `no_new_privs`.
    NoNewPrivileges,
    /// The Landlock ruleset.
    Landlock,
    /// The system call filter.
    Seccomp,
    /// Resource limits of the process (`setrlimit`).
    ProcessLimits,
    /// No descriptor but the standard three.
    Descriptors,
    /// Session, signals, keyring, umask, personality.
    Process,
    /// What the step executes and is denied is heard while it runs.
    Trace,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Limits => "limits",
            Self::Namespaces => "namespaces",
            Self::View => "view",
            Self::Identity => "identity",
            Self::NestedNamespaces => "nested_namespaces",
            Self::AnonymousExec => "anonymous_exec",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivileges => "no_new_privileges",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::ProcessLimits => "process_limits",
            Self::Descriptors => "descriptors",
            Self::Process => "process",
            Self::Trace => "trace",
        })
    }
}

/// Why a layer cannot be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// Without it there would be no sandbox to speak of.
    #[error("layer {layer} cannot be given up")]
    Essential {
        /// Which.
        layer: Layer,
    },
}

/// Layers that everything else rests on.
const ESSENTIAL: [Layer; 4] = [Layer::Namespaces, Layer::View, Layer::Identity, Layer::Process];

/// What a caller insists on. The default is everything; what is given up by name is recorded in [`crate::Enforced`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    given_up: BTreeSet<Layer>,
    /// Insisted on, but left out all the same: only the tests of the read-back put something here.
    sabotaged: BTreeSet<Layer>,
}

impl Requirements {
    /// Every layer: the only choice for a machine that vouches for its steps.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Gives up one more layer by name: for a stand-alone caller on a kernel that lacks it, never for a machine that vouches.
    /// Without [`Layer::Limits`] a step still has a cgroup of its own, by which it is killed.
    ///
    /// # Errors
    /// [`Error::Essential`] for the layers that everything else rests on.
    pub fn without(mut self, layer: Layer) -> Result<Self, Error> {
        if ESSENTIAL.contains(&layer) {
            return Err(Error::Essential { layer });
        }
        self.given_up.insert(layer);
        Ok(self)
    }

    /// Leaves `layer` out while still insisting on it, to see that the read-back notices.
    #[cfg(feature = "mutation")]
    #[must_use]
    pub fn sabotage(mut self, layer: Layer) -> Self {
        self.sabotaged.insert(layer);
        self
    }

    /// What the step's own set-up leaves out.
    pub(crate) fn left_out(&self) -> BTreeSet<Layer> {
        self.given_up.union(&self.sabotaged).copied().collect()
    }

    /// Whether `layer` is insisted on.
    #[must_use]
    pub fn require(&self, layer: Layer) -> bool {
        !self.given_up.contains(&layer)
    }

    /// What was given up, in the order of [`Layer`].
    #[must_use]
    pub fn given_up(&self) -> &BTreeSet<Layer> {
        &self.given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_everything_rests_on_cannot_be_given_up() {
        for layer in ESSENTIAL {
            assert_eq!(Requirements::all().without(layer), Err(Error::Essential { layer }));
        }
        let less = Requirements::all().without(Layer::Limits).expect("not essential");
        assert!(!less.require(Layer::Limits) && less.require(Layer::Landlock));
        assert_eq!(less.given_up().iter().collect::<Vec<_>>(), [&Layer::Limits]);
    }
}
