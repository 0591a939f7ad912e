//! The directory that a person gets: there when it is whole, and not before.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempDir;

use crate::exit::{Exit, OrExit as _, Problem, Result};

/// A directory to be, beside its final place. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Output {
    draft: TempDir,
    target: PathBuf,
}

impl Output {
    /// Finds out early whether there is something in the way.
    pub(crate) fn check(target: &Path) -> Result<()> {
        match target.symlink_metadata() {
            Ok(_) => Err(Problem::Exists { path: target.to_owned() }).or_exit(Exit::Usage),
            Err(_) => Ok(()),
        }
    }

    /// Begins a directory that is to be called `target`, which must not exist.
    pub(crate) fn begin(target: &Path) -> Result<Self> {
        Self::check(target)?;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |source| Problem::Io { action: "write", path: parent.to_owned(), source };
        let private = Permissions::from_mode(0o700);
        let draft = tempfile::Builder::new().prefix(".kiln-out-").permissions(private).tempdir_in(parent);
        Ok(Self { draft: draft.map_err(failed).or_exit(Exit::Usage)?, target: target.to_owned() })
    }

    /// Where files are put meanwhile: nobody else's.
    pub(crate) fn path(&self) -> &Path {
        self.draft.path()
    }

    /// Takes the artifacts out: they are not to be released.
    pub(crate) fn withhold_artifacts(&self) -> Result<()> {
        let artifacts = self.path().join("artifacts");
        match fs::remove_dir_all(&artifacts) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Problem::Io { action: "remove", path: artifacts, source }).or_exit(Exit::Infrastructure)
            }
            _ => Ok(()),
        }
    }

    /// Gives the directory its name, and hands that out.
    pub(crate) fn release(self) -> Result<PathBuf> {
        let failed = |source| Problem::Io { action: "write", path: self.target.clone(), source };
        fs::set_permissions(self.path(), Permissions::from_mode(0o755))
            .map_err(failed)
            .or_exit(Exit::Infrastructure)?;
        match renameat_with(CWD, self.path(), CWD, &self.target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                // It has moved; there is nothing left to remove under its old name.
                let _moved = self.draft.keep();
                Ok(self.target)
            }
            Err(rustix::io::Errno::EXIST) => Err(Problem::Exists { path: self.target }).or_exit(Exit::Usage),
            Err(error) => Err(failed(error.into())).or_exit(Exit::Infrastructure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_when_it_is_whole() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("out");
        let output = Output::begin(&target).unwrap();
        fs::create_dir_all(output.path().join("artifacts")).unwrap();
        fs::write(output.path().join("artifacts/a"), "x").unwrap();
        assert!(!target.exists());
        output.withhold_artifacts().unwrap();
        assert_eq!(output.release().unwrap(), target);
        assert!(target.is_dir() && !target.join("artifacts").exists());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        assert_eq!(Output::begin(&target).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn nothing_is_left_of_what_was_given_up_or_came_too_late() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("out");
        drop(Output::begin(&target).unwrap());
        let late = Output::begin(&target).unwrap();
        fs::create_dir(&target).unwrap();
        assert_eq!(late.release().unwrap_err().exit, Exit::Usage);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
