//! A child process of the machine: what it said is kept within bounds, and how it ended is told with it.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::console::{Console, ConsoleLine};

/// How long the pipes of an ended process are read on: it is gone, only its children could still hold them.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// A killed process ends at once unless the kernel holds it in a device's hands.
const END_MAX: Duration = Duration::from_secs(10);
/// Lines of a program's own messages that an error carries.
const SAID_LINES_MAX: usize = 12;
const CHUNK_BYTES: usize = 4096;

/// Why a program of the host did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It could not be waited for.
    #[error("cannot wait for {program}")]
    Wait {
        /// The program.
        program: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// It ended otherwise than with success.
    #[error("{program} ended with {status}{}", quoted(said))]
    Failed {
        /// The program.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it wrote.
        said: Vec<String>,
    },
    /// It took too long and was killed.
    #[error("{program} took more than {} s{}", bound.as_secs(), quoted(said))]
    Overdue {
        /// The program.
        program: &'static str,
        /// The bound.
        bound: Duration,
        /// The last lines that it wrote.
        said: Vec<String>,
    },
}

/// A running program and its messages.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    messages: Arc<Mutex<Console>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command`; its standard error is read from now on.
    pub(crate) fn spawn(name: &'static str, command: &mut Command) -> Result<Process, ChildError> {
        let program = PathBuf::from(command.as_std().get_program());
        let mut child = command.spawn().map_err(|source| ChildError::Spawn { program, source })?;
        let messages = Arc::default();
        let reader = child.stderr.take().map(|pipe| read_lines(pipe, Arc::clone(&messages), || Duration::ZERO, |_| {}));
        Ok(Process { name, child, messages, reader })
    }

    /// The child's standard output, once.
    pub(crate) fn take_stdout(&mut self) -> Option<tokio::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// The process id, until it has been waited for.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Kills it, without waiting.
    pub(crate) fn kill(&mut self) {
        // Fails only if it has ended already.
        let _ended = self.child.start_kill();
    }

    /// Waits for its end; may be dropped and called again.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, ChildError> {
        self.child.wait().await.map_err(|source| ChildError::Wait { program: self.name, source })
    }

    /// Kills it and waits for its end, within bounds.
    pub(crate) async fn end(&mut self) -> Result<ExitStatus, ChildError> {
        self.kill();
        match timeout(END_MAX, self.wait()).await {
            Ok(status) => status,
            Err(_) => Err(ChildError::Overdue { program: self.name, bound: END_MAX, said: self.said().await }),
        }
    }

    /// The last lines of its messages; to be called when it has ended.
    pub(crate) async fn said(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            drain(reader).await;
        }
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut said: Vec<_> = messages.lines().rev().take(SAID_LINES_MAX).map(|line| line.text.clone()).collect();
        said.reverse();
        said
    }
}

/// Runs `command` to its successful end within `bound`.
pub(crate) async fn run(name: &'static str, command: &mut Command, bound: Duration) -> Result<(), ChildError> {
    let mut process = Process::spawn(name, command.stdout(Stdio::null()))?;
    match timeout(bound, process.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(ChildError::Failed { program: name, status, said: process.said().await }),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            process.end().await?;
            Err(ChildError::Overdue { program: name, bound, said: process.said().await })
        }
    }
}

/// Reads `pipe` to its end into `console`; `on_line` sees each line after it was kept.
pub(crate) fn read_lines(
    mut pipe: impl AsyncRead + Send + Unpin + 'static,
    console: Arc<Mutex<Console>>,
    clock: impl Fn() -> Duration + Send + 'static,
    mut on_line: impl FnMut(&ConsoleLine) + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = pipe.read(&mut chunk).await.unwrap_or(0);
            let mut kept = console.lock().unwrap_or_else(PoisonError::into_inner);
            let completed = match chunk.get(..read) {
                Some(bytes) if read > 0 => kept.take(bytes, clock()),
                _ => kept.finish(clock()).into_iter().collect(),
            };
            drop(kept);
            completed.iter().for_each(&mut on_line);
            if read == 0 {
                return;
            }
        }
    })
}

/// Lets a reader come to its pipe's end, within bounds.
pub(crate) async fn drain(mut reader: JoinHandle<()>) {
    if timeout(DRAIN_MAX, &mut reader).await.is_err() {
        reader.abort();
    }
}

/// What a program said, for the end of a message.
pub(crate) fn quoted(said: &[String]) -> String {
    if said.is_empty() { String::new() } else { format!(": {}", said.join(" / ")) }
}
