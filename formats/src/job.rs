//! The job: what to build, from which inputs, by which steps, on which images.
//!
//! One structure serves people and machines: people write it as TOML ([`draft`]), machines pass its canonical JSON in a DSSE
//! envelope. A [`Job`] that was only parsed is an allegation; a [`CheckedJob`] also obeys every rule of [`check`], and its steps
//! are in an order in which each workspace is written before it is read.

pub mod check;
pub mod draft;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::digest::Sha256Digest;
use crate::names::Name;
use crate::timestamp::Timestamp;

pub use check::{CheckedJob, Violation};

/// The version of the format that this code reads and writes.
pub const VERSION: u32 = 1;

/// A job, as canonical JSON or TOML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Always [`VERSION`].
    pub version: u32,
    /// What the job is called; not unique.
    pub name: Name,
    /// The machine refuses the job from this time on.
    pub expires: Timestamp,
    /// The read-only roots that steps run on.
    pub image: Vec<Image>,
    /// Files from outside, each named by its digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub input: Vec<Input>,
    /// Directories through which steps hand on files.
    pub workspace: Vec<Workspace>,
    /// What is run.
    pub step: Vec<Step>,
    /// What leaves the machine.
    pub output: Vec<Output>,
}

/// A toolchain image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// What steps call it.
    pub name: Name,
    /// The dm-verity root hash of its file system.
    pub root_hash: Sha256Digest,
}

/// A file from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its file name in a step's view, under [`INPUTS`].
    pub name: Name,
    /// Where it comes from; recorded, never fetched by the machine.
    pub uri: String,
    /// What it is.
    pub sha256: Sha256Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// A directory that one step writes and others may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// Its directory name in a step's view, under [`WORKSPACES`].
    pub name: Name,
    /// How much it may hold, in bytes.
    pub size_bytes_max: u64,
}

/// One program run on one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Unique in the job.
    pub name: Name,
    /// The image it runs on.
    pub image: Name,
    /// The program, by its path in the image or looked up in the step's `PATH`, and its arguments.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Where the program starts: an absolute path in its view.
    pub workdir: String,
    /// The inputs it sees, at [`INPUTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Name>,
    /// The workspaces it sees, at [`WORKSPACES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workspaces: Vec<WorkspaceUse>,
    /// What it may do beyond its own files. Left out where it is the default, so that one step has one canonical text.
    #[serde(default, skip_serializing_if = "Profile::is_default")]
    pub profile: Profile,
    /// What it sees of `/proc`. Left out where it is the default.
    #[serde(default, skip_serializing_if = "Proc::is_default")]
    pub proc: Proc,
    /// What it may use up.
    #[serde(default)]
    pub limits: Limits,
}

/// What a step may do beyond its own files. The site's policy says which of these are allowed; no profile has a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Talk to its own processes over UNIX sockets, and nothing else.
    #[default]
    Strict,
    /// Also over TCP and UDP on 127.0.0.1 and ::1, where it meets nobody but itself.
    Loopback,
    /// As strict, and trace its own children. For the desk: no policy allows it unless it says so.
    Debug,
}

impl Profile {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Loopback => "loopback",
            Self::Debug => "debug",
        })
    }
}

/// What a step sees of `/proc`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proc {
    /// Its own processes.
    #[default]
    Minimal,
    /// Also what tools ask of the machine: its processors and memory (`cpuinfo`, `meminfo` and the like), read-only.
    Masked,
}

impl Proc {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a step uses a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceUse {
    /// Which one.
    pub name: Name,
    /// Whether it may write there.
    pub access: Access,
}

/// Whether a step may write to a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read only.
    Ro,
    /// Read and write; one step only.
    Rw,
}

/// What a step may use up. A step that meets a limit ends, and its record says which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory in bytes, files in its temporary directories included.
    pub memory_bytes: u64,
    /// Processes and threads at once.
    pub pids: u32,
    /// Time from start to end, in milliseconds.
    pub wall_ms: u64,
    /// What its log may take up in the evidence, in bytes, the heads of frames included. Of a longer one the beginning and the end
    /// are kept; all of it is counted and digested.
    pub log_bytes: u64,
    /// What its private temporary directories may hold together, in bytes.
    pub tmp_bytes: u64,
    /// Processor time in hundredths of one processor; left out: as much as there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
    /// Bytes read from, and bytes written to, each disk in a second; left out: as many as there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_bytes_per_second: Option<u64>,
    /// When its time is over the program is asked to end (SIGTERM), and killed so many milliseconds later; 0, which is left out: it
    /// is killed at once.
    #[serde(skip_serializing_if = "is_zero")]
    pub grace_ms: u64,
}

impl Default for Limits {
    /// What a C library's build needs, with room.
    fn default() -> Self {
        Self {
            memory_bytes: 512 << 20,
            pids: 256,
            wall_ms: 600_000,
            log_bytes: 4 << 20,
            tmp_bytes: 128 << 20,
            cpu_percent: None,
            io_bytes_per_second: None,
            grace_ms: 0,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What leaves the machine: a file, or a directory as an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Its name outside; unique in the job.
    pub name: Name,
    /// The workspace that holds it.
    pub workspace: Name,
    /// Its path there; of a tree also `.`, the whole workspace.
    pub path: String,
    /// What it is there.
    #[serde(default, skip_serializing_if = "OutputKind::is_file")]
    pub kind: OutputKind,
    /// How large it may be as it leaves, in bytes.
    pub size_bytes_max: u64,
}

/// What an output is in its workspace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    /// A regular file: the artifact is its bytes.
    #[default]
    File,
    /// A directory: the artifact is a tar archive of all that is in it, the same for the same names, contents and modes.
    Tree,
}

impl OutputKind {
    /// Whether it is what an output is that does not say.
    #[must_use]
    pub fn is_file(&self) -> bool {
        *self == Self::File
    }
}

/// Where a step sees its inputs.
pub const INPUTS: &str = "/inputs";
/// Where a step sees its workspaces.
pub const WORKSPACES: &str = "/work";

impl Step {
    /// The digest of the step's canonical text: what `step-begin` measures and a record repeats.
    ///
    /// # Errors
    /// Those of [`canonical::to_vec`], for a number that no step of a checked job holds.
    pub fn digest(&self) -> Result<Sha256Digest, canonical::Error> {
        Ok(Sha256Digest::of(&canonical::to_vec(self)?))
    }
}
