//! What travels between caller, launcher and step. All three are our own code, the same binary, forked from one another:
//! these messages carry no version and never leave the machine.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::enforced::Confirmed;
use crate::layer::{Layer, Requirements};
use crate::policy::{Policy, Profile};
use crate::view::Place;

/// Bytes of one order: text of the policy ([`crate::policy::TEXT_BYTES_MAX`]), escaped, and the view.
pub(crate) const ORDER_BYTES_MAX: usize = 200 * 1024;
/// Bytes of one reply or report.
pub(crate) const REPORT_BYTES_MAX: usize = 16 * 1024;
/// Bytes of one request to the launcher.
pub(crate) const REQUEST_BYTES_MAX: usize = 256;
/// Descriptors before the trees: stdout, stderr, the owner maps, the step's network and user namespaces.
pub(crate) const FIXED_DESCRIPTORS: usize = 7;
/// Descriptors of one message: fixed ones, the root and every mount. The kernel's limit is 253 (SCM_MAX_FD).
pub(crate) const DESCRIPTORS_MAX: usize = FIXED_DESCRIPTORS + 1 + crate::policy::MOUNTS_MAX;

/// Caller to launcher.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Make an empty sandbox. Comes with the far end of its control socket and with its cgroup.
    Sandbox {
        /// Whether the network of its step is wanted with it.
        network: bool,
    },
    /// Make the owner maps for this host user.
    Owners { host_id: u32 },
    /// Close the descriptors that this comes with, when nobody waits any more. Has no reply.
    Close,
}

/// Caller to the init of an empty sandbox: start this. Comes with the descriptors stdout, stderr, owner maps, network and user namespace, then the trees.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) places: Vec<Place>,
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) path: Vec<String>,
    pub(crate) workdir: String,
    pub(crate) hostname: String,
    pub(crate) profile: Profile,
    pub(crate) host_id: u32,
    pub(crate) file_bytes: u64,
    pub(crate) open_files: u64,
    pub(crate) left_out: BTreeSet<Layer>,
}

impl Order {
    pub(crate) fn new(policy: &Policy, places: Vec<Place>, requirements: &Requirements) -> Self {
        let path = policy.env.get("PATH").map_or("", String::as_str);
        Self {
            places,
            argv: policy.argv.clone(),
            env: policy.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            path: path.split(':').filter(|part| part.starts_with('/')).map(str::to_owned).collect(),
            workdir: policy.workdir.clone(),
            hostname: policy.hostname.clone(),
            profile: policy.profile,
            host_id: policy.host_id(),
            file_bytes: policy.limits.file_bytes,
            open_files: policy.limits.open_files,
            left_out: requirements.left_out(),
        }
    }

    pub(crate) fn require(&self, layer: Layer) -> bool {
        !self.left_out.contains(&layer)
    }
}

/// What failed, where, and what the kernel said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub(crate) layer: Layer,
    pub(crate) operation: String,
    pub(crate) errno: i32,
}

/// Launcher to caller, in the order of its requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// There is an empty sandbox. Comes with its init's pidfd, the user namespace of its step and, if it was wanted, the network of
    /// its step.
    Sandbox {
        pid: i32,
    },
    /// Comes with them.
    Owners,
    Failed(Failed),
}

/// Sandbox init or step to caller, over the step's own socket; the kernel adds the sender's pid.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The step is in its user namespace and waits for its user to exist there.
    Unmapped,
    /// The sandbox init has given everything up and only waits for the step.
    Retired,
    /// The forbidden thing was tried again.
    Tried,
    /// The step's filter is on; comes with the filter's listener.
    Listening,
    /// The step is confined and waits before execve.
    Ready(Box<Confirmed>),
    /// Something on the way failed: there will be no step.
    Failed(Failed),
    /// The program could not be executed.
    NotExecuted { errno: i32 },
    /// The step's main process ended with this wait status.
    Exited { status: i32 },
}

/// Caller to step: one byte, try the forbidden thing again, nobody heard of it.
pub(crate) const AGAIN: &[u8; 1] = b"a";
/// Caller to step: one byte, go on.
pub(crate) const GO: &[u8; 1] = b"g";
