//! A step that runs: wait for it, kill it, account for it. However it ends, all of it is gone before anyone looks at its files.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstatvfs;
use rustix::process::{Signal, pidfd_send_signal};
use thiserror::Error;

use crate::cgroup::{self, Cgroup};
use crate::enforced::Enforced;
use crate::launcher::channel::Channel;
use crate::launcher::order::{REPORT_BYTES_MAX, Report};
use crate::outcome::{Exit, Outcome, Usage};
use crate::policy::Limits;
use crate::trace::{self, Watch};

/// Why there is no outcome. The step is dead all the same, unless the cgroup says that it has survivors.
#[derive(Debug, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what its fields are")]
pub enum Error {
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    #[error("the trace of the step is not whole")]
    Trace(#[from] trace::Error),
    #[error("cannot wait for the step")]
    Wait { source: io::Error },
    #[error("the sandbox init was killed from outside: neither a limit nor the caller did it")]
    Lost,
}

/// A running step. Dropped, it is killed.
#[derive(Debug)]
pub struct Step {
    control: Channel,
    init: OwnedFd,
    main: OwnedFd,
    cgroup: Arc<Cgroup>,
    killed: Arc<AtomicBool>,
    started: Instant,
    limits: Limits,
    enforced: Enforced,
    pid: i32,
    spaces: Vec<Space>,
    watch: Option<Watch>,
}

/// A file system that a step can fill. Held open, because the step's own mounts are gone before they are asked.
#[derive(Debug)]
pub(crate) struct Space {
    /// Where in the step's view.
    pub(crate) target: String,
    /// What is mounted there.
    pub(crate) at: OwnedFd,
}

impl Space {
    /// Whether no block or no file is left for a step.
    fn is_full(&self) -> io::Result<bool> {
        let space = fstatvfs(&self.at)?;
        // Where files are not counted, there are 0 of 0.
        Ok(space.f_bavail == 0 || (space.f_files > 0 && space.f_favail == 0))
    }
}

/// What a step is when it has just been let go.
pub(crate) struct Started {
    /// The socket of the sandbox init and, until execve, of the step.
    pub(crate) control: Channel,
    /// The sandbox init, as a pidfd.
    pub(crate) init: OwnedFd,
    /// The step's main process, as a pidfd.
    pub(crate) main: OwnedFd,
    pub(crate) cgroup: Cgroup,
    pub(crate) limits: Limits,
    pub(crate) enforced: Enforced,
    /// The main process's id.
    pub(crate) pid: i32,
    pub(crate) spaces: Vec<Space>,
    /// `None` if the trace was given up.
    pub(crate) watch: Option<Watch>,
}

/// Kills a step from any thread.
#[derive(Clone, Debug)]
pub struct Killer {
    cgroup: Arc<Cgroup>,
    killed: Arc<AtomicBool>,
}

impl Killer {
    /// Kills every process of the step; [`Step::wait`] then returns [`Exit::Killed`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill(&self) -> Result<(), cgroup::Error> {
        self.killed.store(true, Ordering::SeqCst);
        self.cgroup.kill()
    }
}

/// What was heard until the sandbox init was gone.
#[derive(Default)]
struct Heard {
    status: Option<i32>,
    not_executed: Option<i32>,
    timeout: bool,
}

impl Step {
    pub(crate) fn new(started: Started) -> Self {
        let Started { control, init, main, cgroup, limits, enforced, pid, spaces, watch } = started;
        Self {
            control,
            init,
            main,
            cgroup: Arc::new(cgroup),
            killed: Arc::new(AtomicBool::new(false)),
            started: Instant::now(),
            limits,
            enforced,
            pid,
            spaces,
            watch,
        }
    }

    /// Process id of its main process in the caller's pid namespace; another's once the step has been waited for.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// How the step is confined, as the kernel confirmed.
    #[must_use]
    pub fn enforced(&self) -> &Enforced {
        &self.enforced
    }

    /// A handle by which another thread can kill the step.
    #[must_use]
    pub fn killer(&self) -> Killer {
        Killer { cgroup: Arc::clone(&self.cgroup), killed: Arc::clone(&self.killed) }
    }

    /// Waits until the step has ended or its time is over (then asks its main process to end, and waits for the grace), kills
    /// what is left, and accounts for it. Blocks.
    ///
    /// # Errors
    /// [`Error::Lost`] if the step was killed by nobody who should; [`Error::Cgroup`] if it cannot be killed or accounted for;
    /// [`Error::Trace`] if its trace is not whole.
    pub fn wait(mut self) -> Result<Outcome, Error> {
        let heard = self.listen();
        self.cgroup.end(self.init.as_fd())?;
        // With its init the kernel has ended all of it, so nobody can have a record made any more. The cgroup has the last word.
        self.watch.as_mut().map(Watch::over).transpose()?;
        if self.cgroup.clear()? {
            self.watch.as_mut().map(Watch::over).transpose()?;
        }
        let heard = heard?;
        let usage = self.cgroup.usage(self.started.elapsed().as_millis() as u64)?;
        let full = self.full().map_err(|source| Error::Wait { source })?;
        let exit = judge(&heard, self.killed.load(Ordering::SeqCst), &usage, full).ok_or(Error::Lost)?;
        let trace = self.watch.take().map(|watch| watch.finish(&usage)).transpose()?;
        Ok(Outcome { exit, usage, enforced: self.enforced.clone(), trace })
    }

    /// Where no block or no file is left, now that the step is dead and has closed what it had removed.
    fn full(&self) -> io::Result<Option<&str>> {
        for space in &self.spaces {
            if space.is_full()? {
                return Ok(Some(&space.target));
            }
        }
        Ok(None)
    }

    /// Takes in reports until the sandbox init is gone or the time is over.
    fn listen(&mut self) -> Result<Heard, Error> {
        let failed = |source: io::Error| Error::Wait { source };
        let mut heard = Heard::default();
        let wall = Duration::from_millis(self.limits.wall_ms);
        let grace = Duration::from_millis(self.limits.grace_ms);
        loop {
            let over = if heard.timeout { wall.saturating_add(grace) } else { wall };
            let left = over.saturating_sub(self.started.elapsed());
            // Asked here and not of poll: a step that floods its watch must not outlive its time.
            if left.is_zero() {
                if heard.timeout || grace.is_zero() {
                    return Ok(Heard { timeout: true, ..heard });
                }
                heard.timeout = true;
                match pidfd_send_signal(&self.main, Signal::TERM) {
                    // Gone: its init is about to say so.
                    Ok(()) | Err(rustix::io::Errno::SRCH) => continue,
                    Err(error) => return Err(failed(error.into())),
                }
            }
            let left = if self.watch.as_ref().is_some_and(Watch::is_busy) { Duration::ZERO } else { left };
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut polled = vec![PollFd::new(&self.control, PollFlags::IN), PollFd::new(&self.init, PollFlags::IN)];
            polled.extend(self.watch.iter().flat_map(Watch::polled));
            match poll(&mut polled, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(failed(error.into())),
                Ok(_) => {}
            }
            let ready: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
            let [control, init, sources @ ..] = ready.as_slice() else { return Ok(heard) };
            if let Some(watch) = &mut self.watch {
                watch.hear(sources)?;
            }
            // Whatever was said before the end is read first.
            if control.contains(PollFlags::IN) {
                match self.control.receive::<Report>(&mut [0; REPORT_BYTES_MAX]) {
                    // Said once, of a step that was killed before it read our last word; what was said before still comes.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                    Err(error) => return Err(failed(error)),
                    Ok(Some(received)) => match received.message {
                        Report::Exited { status } => heard.status = Some(status),
                        Report::NotExecuted { errno } => heard.not_executed = Some(errno),
                        _ => {}
                    },
                    Ok(None) => return Ok(heard),
                }
            } else if !init.is_empty() || !control.is_empty() {
                return Ok(heard);
            }
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // After `wait` there is nobody left to kill; before it, this is the kill. The cgroup's own drop waits.
        let _ = self.cgroup.kill();
    }
}

/// Names the end. `None`: no cause that we know of.
fn judge(heard: &Heard, killed: bool, usage: &Usage, full: Option<&str>) -> Option<Exit> {
    if heard.timeout {
        return Some(Exit::Timeout { in_grace: heard.status.is_some() });
    }
    // What had exited before was not killed.
    if killed && !heard.status.is_some_and(|status| libc::WIFEXITED(status)) {
        return Some(Exit::Killed);
    }
    if let Some(errno) = heard.not_executed {
        return Some(Exit::NotExecutable { errno });
    }
    let Some(status) = heard.status else { return (usage.oom_kills > 0).then_some(Exit::OutOfMemory) };
    let (code, signal) = (libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)), libc::WTERMSIG(status));
    Some(match code {
        Some(0) => Exit::Code { code: 0 },
        None if signal == libc::SIGSYS => Exit::PolicyViolation,
        None if signal == libc::SIGXFSZ => Exit::FileLimit,
        _ if usage.oom_kills > 0 => Exit::OutOfMemory,
        _ if usage.pids_refused > 0 => Exit::PidLimit { code },
        _ if let Some(target) = full => Exit::DiskLimit { target: target.to_owned(), code },
        Some(code) => Exit::Code { code },
        None => Exit::Signal { signal },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(oom_kills: u64, pids_refused: u64) -> Usage {
        Usage {
            wall_ms: 0,
            cpu_us: 0,
            memory_peak_bytes: None,
            pids_peak: None,
            oom_kills,
            pids_refused,
            io_read_bytes: None,
            io_written_bytes: None,
        }
    }

    fn ended(status: i32) -> Heard {
        Heard { status: Some(status), ..Heard::default() }
    }

    #[test]
    fn every_end_has_its_name() {
        let judge = |heard: &Heard, killed, usage: &Usage| judge(heard, killed, usage, None);
        let code = |code| Some(Exit::Code { code });
        let none = usage(0, 0);
        assert_eq!(judge(&ended(0), false, &usage(0, 5)), code(0));
        assert_eq!(judge(&ended(3 << 8), false, &none), code(3));
        assert_eq!(judge(&ended(3 << 8), false, &usage(0, 1)), Some(Exit::PidLimit { code: Some(3) }));
        assert_eq!(judge(&ended(9), false, &usage(1, 0)), Some(Exit::OutOfMemory));
        assert_eq!(judge(&ended(11), false, &none), Some(Exit::Signal { signal: 11 }));
        assert_eq!(judge(&ended(31), false, &usage(0, 1)), Some(Exit::PolicyViolation));
        assert_eq!(judge(&ended(25), false, &none), Some(Exit::FileLimit));
        assert_eq!(judge(&Heard::default(), false, &usage(1, 0)), Some(Exit::OutOfMemory));
        assert_eq!(judge(&Heard::default(), false, &none), None);
        let missing = Heard { not_executed: Some(2), ..ended(1 << 8) };
        assert_eq!(judge(&missing, false, &none), Some(Exit::NotExecutable { errno: 2 }));
    }

    #[test]
    fn a_timeout_says_whether_the_step_took_the_grace() {
        let late = |heard| Heard { timeout: true, ..heard };
        let timeout = |in_grace| Some(Exit::Timeout { in_grace });
        assert_eq!(judge(&late(ended(0)), false, &usage(0, 0), None), timeout(true));
        assert_eq!(judge(&late(Heard::default()), true, &usage(1, 0), None), timeout(false));
    }

    #[test]
    fn what_had_exited_was_not_killed() {
        let none = usage(0, 0);
        assert_eq!(judge(&Heard::default(), true, &none, None), Some(Exit::Killed));
        assert_eq!(judge(&ended(9), true, &none, None), Some(Exit::Killed));
        assert_eq!(judge(&ended(0), true, &none, None), Some(Exit::Code { code: 0 }));
    }

    #[test]
    fn a_full_disk_is_the_cause_only_of_a_failure() {
        let judge = |status, usage: &Usage| judge(&ended(status), false, usage, Some("/tmp"));
        let full = |code| Some(Exit::DiskLimit { target: "/tmp".into(), code });
        assert_eq!(judge(0, &usage(0, 0)), Some(Exit::Code { code: 0 }));
        assert_eq!(judge(1 << 8, &usage(0, 0)), full(Some(1)));
        // A mapped file that has no block left.
        assert_eq!(judge(7, &usage(0, 0)), full(None));
        assert_eq!(judge(1 << 8, &usage(1, 0)), Some(Exit::OutOfMemory));
        assert_eq!(judge(1 << 8, &usage(0, 1)), Some(Exit::PidLimit { code: Some(1) }));
    }
}
