//! What the sandbox is told about a step: its image as `/`, its inputs and workspaces, a private `/tmp`, and its limits.
//!
//! Plans are made before anything is allowed, so that a step that cannot be confined refuses the job instead of ending it.

use std::collections::BTreeMap;
use std::path::Path;

use kiln_formats::job::{self, Access, INPUTS, Step, WORKSPACES};
use kiln_formats::names::Name;
use kiln_sandbox::{
    self as sandbox, DetachedTree, Draft, Limits, Mount, Policy, PolicyError, Proc, Profile, Source, Temporary,
};

/// A step's private directory.
const TEMPORARY: &str = "/tmp";
/// One file for each so many bytes that a file system in memory may hold: its own page.
const BYTES_PER_FILE: u64 = 4096;
/// The fewest files that a file system in memory may hold.
const FILES_MIN: u64 = 1024;
/// What limits are rounded down to: a page.
const PAGE_BYTES: u64 = 4096;
/// Descriptors of one process: Linux's own default (`INR_OPEN_CUR`, include/uapi/linux/fs.h).
const OPEN_FILES_MAX: u64 = 1024;

/// How many files a file system of this size may hold.
pub(crate) fn files_max(bytes: u64) -> u64 {
    (bytes / BYTES_PER_FILE).max(FILES_MIN)
}

/// A job's prepared parts, by the names that steps call them.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// The verified images.
    pub(crate) images: BTreeMap<Name, DetachedTree>,
    /// Each workspace and how much it may hold.
    pub(crate) workspaces: BTreeMap<Name, (DetachedTree, u64)>,
}

/// The policy of one step. `inputs` is where its inputs are, or will be.
///
/// # Errors
/// What the sandbox does not take.
pub(crate) fn policy(step: &Step, parts: &Parts, inputs: &Path) -> Result<Policy, PolicyError> {
    let image = parts.images.get(&step.image).cloned();
    let missing = |target: &str| PolicyError::Path { path: target.to_owned() };
    let mut mounts = Vec::new();
    for name in &step.inputs {
        let source = Source::Path(inputs.join(name.as_str()));
        mounts.push(Mount { source, target: format!("{INPUTS}/{name}"), access: sandbox::Access::ReadOnly });
    }
    let mut file_bytes = step.limits.tmp_bytes;
    for used in &step.workspaces {
        let target = format!("{WORKSPACES}/{}", used.name);
        let (tree, size_bytes_max) = parts.workspaces.get(&used.name).ok_or_else(|| missing(&target))?;
        let access = match used.access {
            Access::Ro => sandbox::Access::ReadOnly,
            Access::Rw => {
                file_bytes = file_bytes.max(*size_bytes_max);
                sandbox::Access::ReadWrite
            }
        };
        mounts.push(Mount { source: Source::Tree(tree.clone()), target, access });
    }
    let size_bytes_max = step.limits.tmp_bytes.max(PAGE_BYTES);
    let temporary =
        Temporary { target: TEMPORARY.into(), size_bytes_max, inodes_max: files_max(step.limits.tmp_bytes) };
    Policy::new(Draft {
        root: Source::Tree(image.ok_or_else(|| missing("/"))?),
        mounts,
        temporaries: vec![temporary],
        argv: step.argv.clone(),
        env: step.env.clone(),
        workdir: step.workdir.clone(),
        limits: Limits {
            memory_bytes: step.limits.memory_bytes / PAGE_BYTES * PAGE_BYTES,
            // The sandbox counts its own init.
            pids: step.limits.pids.saturating_add(1),
            cpu_percent: step.limits.cpu_percent,
            wall_ms: step.limits.wall_ms,
            grace_ms: step.limits.grace_ms,
            io_bytes_per_second: step.limits.io_bytes_per_second,
            file_bytes,
            open_files: OPEN_FILES_MAX,
        },
        profile: match step.profile {
            job::Profile::Strict => Profile::Strict,
            job::Profile::Loopback => Profile::Loopback,
            job::Profile::Debug => Profile::Debug,
        },
        proc: match step.proc {
            job::Proc::Minimal => Proc::Minimal,
            job::Proc::Masked => Proc::Masked,
        },
        hostname: "localhost".into(),
        // Steps run one after another.
        slot: 0,
    })
}
