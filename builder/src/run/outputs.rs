//! Looks at what a step left in its workspaces, once nothing of the step is left: digests them, and takes the outputs out.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use kiln_formats::digest::Sha256Digest;
use kiln_formats::job::{Access, Job, Output, Step};
use kiln_formats::names::Name;
use kiln_sandbox::DetachedTree;
use kiln_sandbox::collect::{Bounds, Error, Leftovers};
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

/// What each workspace of a step holds now, in the order in which the step names them.
pub(super) fn digests(step: &Step, workspaces: &BTreeMap<Name, DetachedTree>) -> Result<Vec<Sha256Digest>, RunError> {
    let trees = step.workspaces.iter().filter_map(|used| workspaces.get_key_value(&used.name));
    let digests = trees.map(|(name, tree)| {
        let digested = Leftovers::in_tree(tree).and_then(|leftovers| leftovers.digest(&Bounds::default()));
        let failed = |source| RunError::Workspace { workspace: name.clone(), source };
        digested.map(|digest| Sha256Digest::from_bytes(digest.sha256)).map_err(failed)
    });
    digests.collect()
}

/// Takes out the outputs that lie in workspaces which this step wrote; no other step ever writes there. `None`: one of them is
/// not as declared, which the console says and the step's record repeats.
pub(super) fn written_by(
    step: &Step,
    job: &Job,
    workspaces: &BTreeMap<Name, DetachedTree>,
) -> Result<Option<Vec<Collected>>, RunError> {
    let written = step.workspaces.iter().filter(|used| used.access == Access::Rw);
    let trees: Vec<_> = written.filter_map(|used| workspaces.get_key_value(&used.name)).collect();
    let mut collected = Vec::new();
    for output in &job.output {
        let Some((_, tree)) = trees.iter().find(|(name, _)| **name == output.workspace) else { continue };
        match copy(output, tree) {
            Ok(copied) => collected.push(copied),
            Err(source @ (Error::Io { .. } | Error::Sink { .. })) => {
                return Err(RunError::Output { output: output.name.clone(), source });
            }
            Err(reason) => {
                tracing::info!(output = %output.name, %reason, "not as declared");
                return Ok(None);
            }
        }
    }
    Ok(Some(collected))
}

fn copy(output: &Output, tree: &DetachedTree) -> Result<Collected, Error> {
    let memory = memfd_create(output.name.as_str(), MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL);
    let path = || output.path.as_bytes().to_vec();
    let mut file = File::from(memory.map_err(|error| Error::Sink { path: path(), source: error.into() })?);
    let copied = Leftovers::in_tree(tree)?.copy(Path::new(&output.path), output.size_bytes_max, &mut file)?;
    let sha256 = Sha256Digest::from_bytes(copied.sha256);
    Ok(Collected { name: output.name.clone(), file, sha256, size: copied.size_bytes })
}
