//! Looks at what a step left in its workspaces, once nothing of the step is left: digests them, and takes the outputs out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use kiln_formats::digest::Sha256Digest;
use kiln_formats::job::{Access, Job, Output, OutputKind, Step};
use kiln_formats::names::Name;
use kiln_sandbox::DetachedTree;
use kiln_sandbox::collect::{self, Bounds, Error, Kind, Leftovers, NotTaken, Wanted};
use rustix::fs::{MemfdFlags, memfd_create};

use super::RunError;

/// One output, copied out of its workspace.
#[derive(Debug)]
pub(crate) struct Collected {
    /// Its name outside.
    pub(crate) name: Name,
    /// The copy, which nobody else can reach.
    pub(crate) file: File,
    /// Its digest, taken while copying.
    pub(crate) sha256: Sha256Digest,
    /// Its size in bytes.
    pub(crate) size: u64,
}

/// What each workspace of a step holds before it starts, in the order in which the step names them.
///
/// # Errors
/// [`RunError::Workspace`] for whatever is in the way: no step before has left anything that cannot be digested.
pub(super) fn before(step: &Step, workspaces: &BTreeMap<Name, DetachedTree>) -> Result<Vec<Sha256Digest>, RunError> {
    let failed = |(workspace, source): (&Name, Error)| RunError::Workspace { workspace: workspace.clone(), source };
    digests(step, workspaces).map(|digest| digest.map_err(failed)).collect()
}

/// What each holds now. `None` for one that holds what no digest covers, which the console says.
///
/// # Errors
/// [`RunError::Workspace`] if the machine cannot look.
pub(super) fn after(
    step: &Step,
    workspaces: &BTreeMap<Name, DetachedTree>,
) -> Result<Vec<Option<Sha256Digest>>, RunError> {
    let observed = digests(step, workspaces).map(|digest| match digest {
        Ok(digest) => Ok(Some(digest)),
        Err((workspace, reason)) if reason.is_refusal() => {
            tracing::info!(%workspace, %reason, "cannot be digested");
            Ok(None)
        }
        Err((workspace, source)) => Err(RunError::Workspace { workspace: workspace.clone(), source }),
    });
    observed.collect()
}

fn digests<'a>(
    step: &'a Step,
    workspaces: &'a BTreeMap<Name, DetachedTree>,
) -> impl Iterator<Item = Result<Sha256Digest, (&'a Name, Error)>> {
    let trees = step.workspaces.iter().filter_map(|used| workspaces.get_key_value(&used.name));
    trees.map(|(name, tree)| {
        let digested = Leftovers::in_tree(tree).and_then(|leftovers| leftovers.digest(&Bounds::default()));
        digested.map(|digest| Sha256Digest::from_bytes(digest.sha256)).map_err(|error| (name, error))
    })
}

/// Takes out the outputs that lie in workspaces which this step wrote, all or none; no other step ever writes there. `None`: one
/// of them is not as declared, which the console says and the step's record repeats.
pub(super) fn written_by(
    step: &Step,
    job: &Job,
    workspaces: &BTreeMap<Name, DetachedTree>,
) -> Result<Option<Vec<Collected>>, RunError> {
    let writes = |output: &&Output| {
        step.workspaces.iter().any(|used| used.access == Access::Rw && used.name == output.workspace)
    };
    let mut places = Vec::new();
    for output in job.output.iter().filter(writes) {
        let Some(tree) = workspaces.get(&output.workspace) else { continue };
        let failed = |source| RunError::Output { output: output.name.clone(), source };
        places.push((output, Leftovers::in_tree(tree).map_err(failed)?));
    }
    let wanted: Vec<_> = places.iter().map(|(output, from)| wanted(output, from)).collect();
    match collect::take(&wanted, |_| memory()) {
        Ok(taken) => Ok(Some(places.iter().map(|(output, _)| *output).zip(taken).map(collected).collect())),
        Err(NotTaken { at, source }) => {
            let Some(output) = places.get(at).map(|(output, _)| output.name.clone()) else { return Ok(None) };
            if !source.is_refusal() {
                return Err(RunError::Output { output, source });
            }
            tracing::info!(%output, reason = %source, "not as declared");
            Ok(None)
        }
    }
}

fn wanted<'a>(output: &'a Output, from: &'a Leftovers) -> Wanted<'a> {
    let kind = match output.kind {
        OutputKind::File => Kind::File,
        OutputKind::Tree => Kind::Tree,
    };
    Wanted { from, path: Path::new(&output.path), kind, bytes_max: output.size_bytes_max }
}

fn memory() -> io::Result<File> {
    Ok(memfd_create("output", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL)?.into())
}

fn collected((output, (copied, file)): (&Output, (collect::Collected, File))) -> Collected {
    let sha256 = Sha256Digest::from_bytes(copied.sha256);
    Collected { name: output.name.clone(), file, sha256, size: copied.size_bytes }
}
