//! What one step may be and do: plain data, checked once by its constructor.
//!
//! Holding a [`Policy`] proves that it is within the bounds below and that its parts do not contradict each other. It does not
//! prove that the named sources exist; the launcher finds that out. Serialising it gives a stable description for a digest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::tree::DetachedTree;

/// Bytes of all arguments and environment entries together. The kernel takes 2 MiB; an order to the launcher must fit one
/// socket message of the default buffer size (212,992 bytes, net.core.wmem_default).
pub const TEXT_BYTES_MAX: usize = 96 * 1024;
/// Mounts and private file systems of one step: each costs time at every start.
pub const MOUNTS_MAX: usize = 64;
/// Bytes of one path in the view: half of the kernel's PATH_MAX, so that what is below still has names.
pub const PATH_BYTES_MAX: usize = 2048;
/// Smallest memory limit: below this, even the set-up of the step does not fit.
pub const MEMORY_BYTES_MIN: u64 = 8 << 20;
/// Longest grace in milliseconds: a step that is over must not hold the machine.
pub const GRACE_MS_MAX: u64 = 10 * 60_000;
/// Slots for steps that run at the same time.
pub const SLOTS: u16 = 1024;
/// First host user and group id of the steps, where nobody else's are: above what `useradd` gives out as subordinate ids and
/// container managers use, below systemd's foreign ids. Source: systemd's UIDS-GIDS.md, 1879048192 to 2147352575 "Unused".
pub(crate) const HOST_ID_BASE: u32 = 0x7000_0000;
/// Host user and group of every sandbox init: not a step's, so that no step can trace or signal it.
pub(crate) const INIT_HOST_ID: u32 = HOST_ID_BASE + SLOTS as u32;
/// A user or group that no file has: the largest id there is. A map must map something. Source: user_namespaces(7).
pub(crate) const NO_ID: u32 = u32::MAX - 1;
/// User and group that a step sees itself as, whatever its slot: outputs must not depend on the slot.
pub const VIEW_ID: u32 = 1000;

/// Where a part of the view comes from.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A directory or file of the caller's mount namespace. Nothing mounted below it is part of the view. It is on a file
    /// system that allows owner-mapped mounts (tmpfs, ext4, xfs, btrfs, EROFS; not overlay, not an initramfs) and, but for the root,
    /// belongs to root.
    Path(PathBuf),
    /// A mount that is attached nowhere: a verified image, or a workspace.
    Tree(DetachedTree),
}

/// Whether a step may change what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read and execute.
    ReadOnly,
    /// Also create, write and remove regular files, directories and symbolic links.
    ReadWrite,
}

/// One source at one place.
#[derive(Clone, Debug, Serialize)]
pub struct Mount {
    /// What.
    pub source: Source,
    /// Where, absolute. It exists in the root, or its parent is an empty directory there.
    pub target: String,
    /// How.
    pub access: Access,
}

/// A private file system in memory, gone with the step and charged to its memory limit.
#[derive(Clone, Debug, Serialize)]
pub struct Temporary {
    /// Where, absolute; exists in the root.
    pub target: String,
    /// Bytes it can hold.
    pub size_bytes_max: u64,
    /// Files and directories it can hold.
    pub inodes_max: u64,
}

/// Which way a step may talk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// To its own processes over UNIX sockets.
    #[default]
    Strict,
    /// Also to its own processes over TCP and UDP on 127.0.0.1 and ::1.
    Loopback,
    /// As strict; and its processes may trace one another and read and write one another's memory, as debuggers and leak
    /// checkers do. Needs a kernel whose Yama lets children be traced (`kernel.yama.ptrace_scope` 0 or 1, or no Yama).
    Debug,
}

/// How much of `/proc` a step sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proc {
    /// Its own processes.
    #[default]
    Minimal,
    /// Also what tools ask about the machine: `cpuinfo`, `meminfo` and the like, to be read only. Different machines then give a
    /// step different answers.
    Masked,
}

/// What a step may use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Memory of all its processes and temporary files together; reaching it kills the whole step. A multiple of 4096.
    pub memory_bytes: u64,
    /// Processes and threads at one time, sandbox init included.
    pub pids: u32,
    /// Processor time in hundredths of one processor; `None`: no limit.
    pub cpu_percent: Option<u32>,
    /// From its first instruction, in milliseconds; then it is asked to end (SIGTERM to its main process) and, after
    /// [`Limits::grace_ms`], killed.
    pub wall_ms: u64,
    /// Between being asked to end and being killed, in milliseconds; 0: it is not asked.
    pub grace_ms: u64,
    /// What it may read from each block device of the machine, and what it may write to each, in bytes a second; `None`: no
    /// limit.
    pub io_bytes_per_second: Option<u64>,
    /// Size of one file.
    pub file_bytes: u64,
    /// Descriptors of one process.
    pub open_files: u64,
}

impl Default for Limits {
    /// 2 GiB, 512 processes, one hour and no grace, files of 1 GiB, 1024 descriptors.
    fn default() -> Self {
        Self {
            memory_bytes: 2 << 30,
            pids: 512,
            cpu_percent: None,
            wall_ms: 3_600_000,
            grace_ms: 0,
            io_bytes_per_second: None,
            file_bytes: 1 << 30,
            open_files: 1024,
        }
    }
}

/// The unchecked parts of a policy.
#[derive(Clone, Debug, Serialize)]
pub struct Draft {
    /// The step's `/`, always read-only. Has the empty directories `/proc` and `/dev`.
    pub root: Source,
    /// What else it sees.
    pub mounts: Vec<Mount>,
    /// Where it can write without trace.
    pub temporaries: Vec<Temporary>,
    /// Program and arguments. A program without a slash is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Where it starts, absolute.
    pub workdir: String,
    /// What it may use up.
    pub limits: Limits,
    /// Which way it may talk.
    pub profile: Profile,
    /// How much of `/proc` it sees.
    pub proc: Proc,
    /// Its host name.
    pub hostname: String,
    /// Which of the host's [`SLOTS`] it takes: no two steps at one time share one.
    pub slot: u16,
}

/// A checked policy.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Policy(Draft);

/// Why a policy is none.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what its fields are")]
pub enum Error {
    #[error("argv is empty")]
    NoProgram,
    #[error("arguments and environment have {bytes} bytes, at most {TEXT_BYTES_MAX} are taken")]
    TextTooLong { bytes: usize },
    #[error("an argument or environment entry has a NUL byte: {text:?}")]
    Nul { text: String },
    #[error("environment name {name:?} is empty or has a '='")]
    EnvironmentName { name: String },
    #[error("path {path:?} is not absolute, normal and within {PATH_BYTES_MAX} bytes")]
    Path { path: String },
    #[error("two mounts at {target:?}")]
    TwoMounts { target: String },
    #[error("{target:?} is where the sandbox itself mounts")]
    Reserved { target: String },
    #[error("{count} mounts, at most {MOUNTS_MAX} are taken")]
    TooManyMounts { count: usize },
    #[error("limit {name} is {value}, outside of {least} to {most}")]
    Limit { name: &'static str, value: u64, least: u64, most: u64 },
    #[error("host name {name:?} is not 1 to 63 of a-z, 0-9 and '-'")]
    Hostname { name: String },
    #[error("slot {slot} is not below {SLOTS}")]
    Slot { slot: u16 },
}

impl Policy {
    /// Checks a draft.
    ///
    /// # Errors
    /// One variant for each rule; the first that is broken.
    pub fn new(draft: Draft) -> Result<Self, Error> {
        check_text(&draft)?;
        check_places(&draft)?;
        check_limits(&draft.limits)?;
        let name = &draft.hostname;
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
            return Err(Error::Hostname { name: name.clone() });
        }
        if draft.slot >= SLOTS {
            return Err(Error::Slot { slot: draft.slot });
        }
        Ok(Self(draft))
    }

    /// Host user and group id of the step.
    #[must_use]
    pub fn host_id(&self) -> u32 {
        HOST_ID_BASE + u32::from(self.0.slot)
    }
}

impl std::ops::Deref for Policy {
    type Target = Draft;

    fn deref(&self) -> &Draft {
        &self.0
    }
}

fn check_text(draft: &Draft) -> Result<(), Error> {
    if draft.argv.first().is_none_or(String::is_empty) {
        return Err(Error::NoProgram);
    }
    let environment = draft.env.iter().flat_map(|(name, value)| [name, value]);
    let texts = || draft.argv.iter().chain(environment.clone());
    let bytes = texts().map(|text| text.len() + 1).sum();
    if bytes > TEXT_BYTES_MAX {
        return Err(Error::TextTooLong { bytes });
    }
    if let Some(text) = texts().find(|text| text.contains('\0')) {
        return Err(Error::Nul { text: text.clone() });
    }
    match draft.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        Some(name) => Err(Error::EnvironmentName { name: name.clone() }),
        None => Ok(()),
    }
}

fn check_places(draft: &Draft) -> Result<(), Error> {
    let count = draft.mounts.len() + draft.temporaries.len();
    if count > MOUNTS_MAX {
        return Err(Error::TooManyMounts { count });
    }
    check_path(&draft.workdir)?;
    let targets = || draft.mounts.iter().map(|m| &m.target).chain(draft.temporaries.iter().map(|t| &t.target));
    let mut seen = BTreeSet::new();
    for target in targets() {
        check_path(target)?;
        let reserved = |place: &str| target == place || target.starts_with(&format!("{place}/"));
        if target == "/" || reserved("/proc") || reserved("/dev") {
            return Err(Error::Reserved { target: target.clone() });
        }
        if !seen.insert(target) {
            return Err(Error::TwoMounts { target: target.clone() });
        }
    }
    for temporary in &draft.temporaries {
        within("temporary.size_bytes_max", temporary.size_bytes_max, 4096, 1 << 40)?;
        within("temporary.inodes_max", temporary.inodes_max, 2, 1 << 32)?;
    }
    Ok(())
}

/// Absolute, no empty, `.` or `..` component, no NUL, no trailing slash but for `/` itself.
fn check_path(path: &str) -> Result<(), Error> {
    let bad = || Error::Path { path: path.to_owned() };
    if path.len() > PATH_BYTES_MAX || path.contains('\0') {
        return Err(bad());
    }
    if path == "/" {
        return Ok(());
    }
    let rest = path.strip_prefix('/').ok_or_else(bad)?;
    if rest.split('/').any(|part| matches!(part, "" | "." | "..")) { Err(bad()) } else { Ok(()) }
}

fn check_limits(limits: &Limits) -> Result<(), Error> {
    within("memory_bytes", limits.memory_bytes, MEMORY_BYTES_MIN, 1 << 46)?;
    within("memory_bytes modulo 4096", limits.memory_bytes % 4096, 0, 0)?;
    within("pids", limits.pids.into(), 2, 1 << 22)?;
    within("cpu_percent", limits.cpu_percent.unwrap_or(1).into(), 1, 100 * 4096)?;
    within("wall_ms", limits.wall_ms, 1, 7 * 24 * 3_600_000)?;
    within("grace_ms", limits.grace_ms, 0, GRACE_MS_MAX)?;
    within("io_bytes_per_second", limits.io_bytes_per_second.unwrap_or(1), 1, 1 << 46)?;
    within("file_bytes", limits.file_bytes, 0, 1 << 46)?;
    within("open_files", limits.open_files, 8, 1 << 20)
}

fn within(name: &'static str, value: u64, least: u64, most: u64) -> Result<(), Error> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(Error::Limit { name, value, least, most }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft {
        Draft {
            root: Source::Path("/".into()),
            mounts: vec![],
            temporaries: vec![],
            argv: vec!["true".into()],
            env: BTreeMap::new(),
            workdir: "/".into(),
            limits: Limits::default(),
            profile: Profile::Strict,
            proc: Proc::Minimal,
            hostname: "localhost".into(),
            slot: 0,
        }
    }

    fn refusal(change: impl FnOnce(&mut Draft)) -> Error {
        let mut draft = draft();
        change(&mut draft);
        Policy::new(draft).expect_err("must be refused")
    }

    fn mount(target: &str) -> Mount {
        Mount { source: Source::Path("/x".into()), target: target.into(), access: Access::ReadOnly }
    }

    #[test]
    fn a_plain_draft_is_a_policy() {
        assert_eq!(Policy::new(draft()).expect("plain").host_id(), HOST_ID_BASE);
    }

    #[test]
    fn each_rule_refuses() {
        assert_eq!(refusal(|d| d.argv.clear()), Error::NoProgram);
        assert!(matches!(refusal(|d| d.argv.push("x".repeat(TEXT_BYTES_MAX))), Error::TextTooLong { .. }));
        assert!(matches!(refusal(|d| d.argv.push("a\0b".into())), Error::Nul { .. }));
        assert!(matches!(refusal(|d| drop(d.env.insert("A=B".into(), "c".into()))), Error::EnvironmentName { .. }));
        for path in ["work", "/work/", "/a//b", "/a/../b", "/.", ""] {
            assert!(matches!(refusal(|d| d.workdir = path.into()), Error::Path { .. }), "{path:?}");
        }
        assert!(matches!(refusal(|d| d.mounts.push(mount("/proc/self"))), Error::Reserved { .. }));
        assert!(matches!(refusal(|d| d.mounts.push(mount("/dev"))), Error::Reserved { .. }));
        assert!(matches!(refusal(|d| d.mounts.extend([mount("/a"), mount("/a")])), Error::TwoMounts { .. }));
        assert!(matches!(refusal(|d| d.limits.pids = 1), Error::Limit { name: "pids", .. }));
        assert!(matches!(refusal(|d| d.limits.memory_bytes += 1), Error::Limit { .. }));
        assert!(matches!(refusal(|d| d.hostname = "A".into()), Error::Hostname { .. }));
        assert!(matches!(refusal(|d| d.slot = SLOTS), Error::Slot { .. }));
    }
}
