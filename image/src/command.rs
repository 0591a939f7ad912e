//! Runs an external program: a fixed environment, a fixed umask, a bound on its time, its lines shown as they come.
//!
//! The program gets SIGTERM when we end, however that is: a compiler does not outlive the tool that started it.
//!
//! What the caller's shell exports does not reach the program unless it is named here, so that a build does not depend on it.
//! Deliberately absent: shell syntax. (`sh` appears once, to set the umask before `setpriv`, with the program and its arguments as words.)

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::progress::Progress;

/// The search path of every program: where Debian puts its own, and nobody else.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Ways to the network, which a site may need and which change no result: downloads are checked against signatures.
const NETWORK: [&str; 6] = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
/// The longest line that is passed on whole; a longer one is cut into pieces.
const LINE_BYTES_MAX: u64 = 16 << 10;
/// How many of the last lines an error shows: enough for a compiler's complaint.
const TAIL_LINES_MAX: usize = 40;
/// The longest standard output that is collected: the archive's list of package names has 2 MB.
const OUTPUT_BYTES_MAX: usize = 32 << 20;
/// Lines that may wait for the watcher before the program has to wait.
const WAITING_LINES_MAX: usize = 256;
/// How long a program runs if its caller names no bound: anything but a compiler is done by then.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How long an ended program may take to be reaped after it closed its output.
const POLL: Duration = Duration::from_millis(5);

/// An external program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended with a failure.
    #[error("{program} failed ({status}); its last lines:\n{tail}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it printed.
        tail: String,
    },
    /// It took longer than its bound and was killed.
    #[error("{program} did not end within {timeout_s} s and was killed")]
    TimedOut {
        /// The program.
        program: String,
        /// The bound.
        timeout_s: u64,
    },
    /// It printed more than is collected.
    #[error("{program} printed more than {bytes_max} bytes")]
    TooMuchOutput {
        /// The program.
        program: String,
        /// The bound.
        bytes_max: usize,
    },
}

/// One run of an external program.
pub(crate) struct Tool {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
    timeout: Duration,
}

/// A piece of what the program prints.
enum Piece {
    Output(String),
    Complaint(String),
}

impl Tool {
    /// The program `program`, found on the fixed search path unless it is a path itself.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let tool = Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: PathBuf::from("/"),
            timeout: TIMEOUT,
        };
        let tool = tool.env("PATH", PATH).env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env("HOME", "/nonexistent");
        tool.inherit(|name| NETWORK.contains(&name))
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Adds one argument made of a text and a path, such as `--output=` and a file.
    pub(crate) fn arg_path(self, prefix: &str, path: &Path) -> Self {
        let mut arg = OsString::from(prefix);
        arg.push(path);
        self.arg(arg)
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Passes on those of our own environment variables that `wanted` names.
    pub(crate) fn inherit(mut self, wanted: impl Fn(&str) -> bool) -> Self {
        let ours = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(&wanted));
        self.env.extend(ours);
        self
    }

    /// Runs it in that directory.
    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.dir = dir.to_path_buf();
        self
    }

    /// Kills it after that time.
    pub(crate) fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it to its end; every line goes to `progress`.
    pub(crate) fn run(self, progress: &dyn Progress) -> Result<(), CommandError> {
        self.collect(progress, false).map(drop)
    }

    /// Runs it to its end and returns its standard output; its complaints go to `progress`.
    pub(crate) fn output(self, progress: &dyn Progress) -> Result<String, CommandError> {
        self.collect(progress, true)
    }

    fn collect(&self, progress: &dyn Progress, keep: bool) -> Result<String, CommandError> {
        let mut child = self.start()?;
        let pieces = self.listen(&mut child);
        let ended = self.follow(&mut child, &pieces, progress, keep);
        if ended.is_err() {
            // It may have ended by itself in this moment; either way nothing is left to reap after `wait`.
            drop(child.kill());
            drop(child.wait());
        }
        ended
    }

    fn start(&self) -> Result<Child, CommandError> {
        std::process::Command::new("/bin/sh")
            .args(["-c", "umask 022 && exec setpriv --pdeathsig TERM -- \"$@\"", "sh"])
            .arg(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| CommandError::Start { program: self.name(), source })
    }

    fn listen(&self, child: &mut Child) -> Receiver<Piece> {
        let (sender, receiver) = sync_channel(WAITING_LINES_MAX);
        if let Some(output) = child.stdout.take() {
            let sender = sender.clone();
            std::thread::spawn(move || pass_on(output, &sender, Piece::Output));
        }
        if let Some(complaints) = child.stderr.take() {
            std::thread::spawn(move || pass_on(complaints, &sender, Piece::Complaint));
        }
        receiver
    }

    fn follow(
        &self,
        child: &mut Child,
        pieces: &Receiver<Piece>,
        progress: &dyn Progress,
        keep: bool,
    ) -> Result<String, CommandError> {
        let deadline = Instant::now() + self.timeout;
        let mut kept = String::new();
        let mut tail: VecDeque<String> = VecDeque::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match pieces.recv_timeout(left) {
                Ok(Piece::Output(line)) if keep => {
                    kept.push_str(&line);
                    kept.push('\n');
                    if kept.len() > OUTPUT_BYTES_MAX {
                        return Err(CommandError::TooMuchOutput { program: self.name(), bytes_max: OUTPUT_BYTES_MAX });
                    }
                    continue;
                }
                Ok(Piece::Output(line) | Piece::Complaint(line)) => line,
                Err(RecvTimeoutError::Timeout) => return Err(self.timed_out()),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            progress.line(&line);
            if tail.len() == TAIL_LINES_MAX {
                tail.pop_front();
            }
            tail.push_back(line);
        }
        let status = self.reap(child, deadline)?;
        if status.success() {
            return Ok(kept);
        }
        let tail = tail.make_contiguous().join("\n");
        Err(CommandError::Failed { program: self.name(), status, tail })
    }

    fn reap(&self, child: &mut Child, deadline: Instant) -> Result<ExitStatus, CommandError> {
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() >= deadline => return Err(self.timed_out()),
                Ok(None) => std::thread::sleep(POLL),
                Err(source) => return Err(CommandError::Start { program: self.name(), source }),
            }
        }
    }

    fn timed_out(&self) -> CommandError {
        CommandError::TimedOut { program: self.name(), timeout_s: self.timeout.as_secs() }
    }

    /// What a person would call this run: the program and its first argument.
    fn name(&self) -> String {
        let program = Path::new(&self.program).file_name().unwrap_or(&self.program).to_string_lossy().into_owned();
        match self.args.first() {
            Some(first) => format!("{program} {}", first.to_string_lossy()),
            None => program,
        }
    }
}

/// Sends what comes from `stream` line by line until it ends or nobody listens.
fn pass_on(stream: impl Read, sender: &SyncSender<Piece>, piece: impl Fn(String) -> Piece) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(count) if count > 0 => {
                let text = String::from_utf8_lossy(&line);
                if sender.send(piece(text.trim_end_matches(['\n', '\r']).to_owned())).is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn passes_only_what_is_named_and_sets_the_umask() {
        let seen =
            Tool::new("sh").args(["-c", "umask; echo $CARGO_MANIFEST_DIR-$KILN"]).env("KILN", "yes").output(&Silent);
        assert_eq!(seen.unwrap(), "0022\n-yes\n");
    }

    #[test]
    fn shows_the_last_lines_of_a_failure() {
        let failed = Tool::new("sh").args(["-c", "seq 100; exit 3"]).run(&Silent).unwrap_err();
        let CommandError::Failed { status, tail, .. } = failed else { panic!("{failed}") };
        assert_eq!(status.code(), Some(3));
        assert!(tail.starts_with("61\n") && tail.ends_with("100"), "{tail}");
    }

    #[test]
    fn kills_what_takes_too_long() {
        let start = Instant::now();
        let late = Tool::new("sleep").arg("60").within(Duration::from_millis(50)).run(&Silent);
        assert!(matches!(late, Err(CommandError::TimedOut { .. })), "{late:?}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_program_does_not_outlive_whoever_started_it() {
        // The signal comes when the thread that started the program ends, which is what the end of the tool is.
        let started = std::thread::spawn(|| {
            let mut child = Tool::new("sh").args(["-c", "echo; exec sleep 60"]).start().unwrap();
            let running = child.stdout.as_mut().unwrap().read(&mut [0]).unwrap();
            assert_eq!(running, 1);
            child
        });
        let mut orphan = started.join().unwrap();
        let start = Instant::now();
        let status = orphan.wait().unwrap();
        assert!(!status.success() && start.elapsed() < Duration::from_secs(30), "{status}");
    }

    #[test]
    fn says_which_program_is_missing() {
        let missing = Tool::new("no-such-program-of-kiln").run(&Silent).unwrap_err();
        assert!(missing.to_string().contains("no-such-program-of-kiln"), "{missing}");
    }
}
