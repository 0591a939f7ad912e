//! What a machine has on the host, and the promise that it goes: one directory and one process group.
//!
//! All files of a machine are in one private directory, and all its processes in one process group. The group's leader is
//! the *warden*: a shell that waits on a pipe whose other end only the owner holds. However the owner ends, the kernel
//! closes that pipe; then the warden ends the group and removes the directory. So a killed owner leaves nothing, without
//! the owner's help. An owner that lives does the same itself, at once, when [`Custody`] is dropped.
//!
//! What is not covered: somebody kills warden and owner both.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpgid};
use tempfile::TempDir;

use crate::tools::Tools;

/// Room that a socket's name needs after the directory's path.
const SOCKET_NAME_BYTES_MAX: usize = 16;
/// Source: `unix(7)`, `sun_path` holds 108 bytes with the terminating zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Killed processes end at once, unless they have much memory to give back or the kernel holds them in a device's hands;
/// one that ends last may write its last file while the directory is being removed. Both are waited for this long.
const LET_GO_MAX: Duration = Duration::from_secs(10);
const LET_GO_PAUSE: Duration = Duration::from_millis(2);

/// The warden's program; `$0` is the directory. It does not heed a terminal's signals, nor its own `kill -TERM`.
const WARDEN: &str = r#"trap '' HUP INT TERM
read -r _
kill -TERM 0
tries=50
while [ -e "$0" ] && [ "$tries" -gt 0 ]; do
    rm -rf -- "$0" || sleep 0.1
    tries=$((tries - 1))
done
kill -KILL 0"#;

/// A private directory and a process group, both gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Custody {
    /// `None` once it has been removed.
    directory: Option<TempDir>,
    path: PathBuf,
    /// Its end of the pipe is what tells the warden that the owner lives.
    _warden: std::process::Child,
    group: Pid,
    /// Programs call others by name.
    search: OsString,
}

/// Why there is no custody, or why it left something.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// The private directory could not be made.
    #[error("cannot make a private directory in {}", parent.display())]
    Directory {
        /// Where it was to be made.
        parent: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The directory's path cannot be that of a socket, or a program's option parser would split it.
    #[error("{} is too long for sockets or has a comma in it: set TMPDIR to another directory", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The warden could not be started.
    #[error("cannot start the warden")]
    Warden {
        /// The system's reason.
        source: io::Error,
    },
    /// The directory could not be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A killed process did not end in time: the kernel holds it.
    #[error("a process that used {} does not end", path.display())]
    Alive {
        /// The directory's path, whether it is still there or not.
        path: PathBuf,
    },
}

impl Custody {
    /// Makes a directory in `parent`, for its owner only, and starts the warden.
    pub(crate) fn take(parent: &Path, tools: &Tools) -> Result<Custody, CustodyError> {
        let made = |source| CustodyError::Directory { parent: parent.to_owned(), source };
        let parent = parent.canonicalize().map_err(made)?;
        let private = std::fs::Permissions::from_mode(0o700);
        let directory =
            tempfile::Builder::new().prefix("kiln-").permissions(private).tempdir_in(&parent).map_err(made)?;
        let path = directory.path().to_owned();
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() + SOCKET_NAME_BYTES_MAX > SOCKET_PATH_BYTES_MAX || bytes.contains(&b',') {
            return Err(CustodyError::Path { path });
        }
        let warden = std::process::Command::new(&tools.sh)
            .arg("-c")
            .arg(WARDEN)
            .arg(&path)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|source| CustodyError::Warden { source })?;
        let group = Pid::from_child(&warden);
        let mut search = tools.swtpm.parent().unwrap_or(Path::new("/usr/bin")).as_os_str().to_owned();
        search.push(":/usr/bin:/bin");
        Ok(Custody { directory: Some(directory), path, _warden: warden, group, search })
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A command in the group, with an empty environment but for what it needs to find programs and leave no files.
    pub(crate) fn command(&self, program: &Path) -> tokio::process::Command {
        let mut command = std::process::Command::new(program);
        command
            .env_clear()
            .env("PATH", &self.search)
            .env("LC_ALL", "C")
            .env("TMPDIR", &self.path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(self.group.as_raw_nonzero().get());
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        command
    }

    /// Kills every process of the group, the warden too; it stays the group's leader until it is waited for, so the
    /// group's number cannot have become another's.
    pub(crate) fn kill_all(&self) {
        if self.directory.is_some() {
            // Fails only if no process of the group is left, which is what is wanted.
            let _none_left = kill_process_group(self.group, Signal::KILL);
        }
    }

    /// Kills the group and removes the directory.
    ///
    /// # Errors
    /// [`CustodyError::Remove`], [`CustodyError::Alive`]: something is left.
    pub(crate) fn release(mut self) -> Result<(), CustodyError> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<(), CustodyError> {
        self.kill_all();
        let Some(directory) = self.directory.take() else { return Ok(()) };
        let begun = Instant::now();
        let all_ended = children_end(self.group, LET_GO_MAX);
        let path = directory.keep();
        loop {
            match std::fs::remove_dir_all(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    if begun.elapsed() > LET_GO_MAX {
                        return Err(CustodyError::Remove { path, source });
                    }
                    std::thread::sleep(LET_GO_PAUSE);
                }
                _ if all_ended => return Ok(()),
                _ => return Err(CustodyError::Alive { path }),
            }
        }
    }
}

/// Waits for the owner's children in the group that nobody waited for, the warden among them; says whether all have ended in time.
fn children_end(group: Pid, patience: Duration) -> bool {
    let begun = Instant::now();
    // An error says that there are none.
    while let Ok(ended) = waitpgid(group, WaitOptions::NOHANG) {
        match ended {
            None if begun.elapsed() > patience => return false,
            None => std::thread::sleep(LET_GO_PAUSE),
            Some(_) => {}
        }
    }
    true
}

impl Drop for Custody {
    fn drop(&mut self) {
        // The last line, for early errors and panics; who wants to know calls `release`.
        let _removed = self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is signed of a machine's end rests on this: a process that lives is not one that ended.
    #[test]
    fn a_child_that_lives_is_seen() {
        let mut child = std::process::Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let group = Pid::from_child(&child);
        assert!(!children_end(group, LET_GO_PAUSE));
        kill_process_group(group, Signal::KILL).unwrap();
        assert!(children_end(group, LET_GO_MAX));
        // It was waited for already.
        assert!(child.wait().is_err());
    }
}
