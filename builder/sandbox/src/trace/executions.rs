//! Which files a step executes, and what is in them.
//!
//! The kernel asks before each execution and waits for the answer (fanotify, on the step's own mounts, so nobody else is asked).
//! The answer is yes once the file has a read lease, which it has only while nobody has it open for writing; whoever would write
//! it then waits. The lease is kept until the kernel has told how the call ended and, if the file then runs, until it is hashed.
//! So what was hashed is what was executed. Interpreters and loaders raise events of their own: they are part of the execution.
//! Source: fanotify(7), fcntl(2) F_SETLEASE.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};
use rustix::fs::CWD;
use sha2::{Digest, Sha256};

use super::Execution;
use super::call::Call;
use super::record::escape;
use crate::sys;

/// Executions listed of one step; the rest is counted.
const EXECUTIONS_MAX: usize = 4096;
/// Files that may wait for the end of their call: each is an open descriptor. Beyond this, who executes waits.
const PENDING_MAX: usize = 192;
/// Files that may wait for being hashed, likewise. Beyond this, hashing goes first.
const JOBS_MAX: usize = 64;
/// Files whose digest is remembered for as long as the step lives.
const KNOWN_MAX: usize = 4096;
/// Bytes hashed between two looks at what else there is to do.
const CHUNK_BYTES: usize = 256 * 1024;
/// Bytes of what the kernel says of a group that marks some mounts.
const INFO_BYTES_USUAL: usize = 4096;
/// A file that changed longer ago than this has another time of change after it changes again: a tick is 10 ms at most.
const SETTLED: Duration = Duration::from_secs(2);
/// The kernel takes a lease away this long after somebody wants to write (`fs.lease-break-time`, 45 s unless it was set).
const LEASE_MAX: Duration = Duration::from_secs(30);
/// `FAN_DENY` with an error of its own: the error's place in the answer. Source: include/uapi/linux/fanotify.h.
const DENY_ERRNO_SHIFT: u32 = 24;

/// What tells one state of one file from any other, while its file system stays mounted.
type State = (u64, u64, u64, i64, i64, i64, i64);

/// A file that the kernel asked about.
#[derive(Debug)]
struct Asked {
    time_us: u64,
    device: (u32, u32),
    inode: u64,
    path: String,
    /// With its lease; `None`: it was not allowed.
    leased: Option<Leased>,
}

#[derive(Debug)]
struct Leased {
    file: File,
    since: Instant,
}

/// A file that is being hashed.
struct Job {
    leased: Leased,
    digest: usize,
    hash: Sha256,
    at: u64,
}

/// Why what was executed is not known.
#[derive(Debug)]
pub(super) enum Failure {
    /// The kernel said so.
    Io { operation: &'static str, source: io::Error },
    /// Questions were dropped.
    Overflow,
    /// Something was executed that the kernel had not asked about.
    Unasked { path: String },
    /// A lease was held for longer than the kernel grants.
    Lease { path: String },
}

/// A fanotify group: the kernel's questions about executions.
#[derive(Debug)]
pub(crate) struct Group(Fanotify);

impl Group {
    pub(super) fn new() -> io::Result<Self> {
        // The class that may answer with an error of its own. The queue is bounded by the step's processes: each asks one thing.
        let class = InitFlags::FAN_CLASS_PRE_CONTENT;
        let flags = class | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK | InitFlags::FAN_UNLIMITED_QUEUE;
        let files = EventFFlags::O_RDONLY | EventFFlags::O_LARGEFILE | EventFFlags::O_CLOEXEC;
        Ok(Self(Fanotify::init(flags, files)?))
    }

    /// Asks from here on about executions from the mount at `at`, its root.
    fn mark(&self, at: BorrowedFd<'_>) -> nix::Result<()> {
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT;
        match self.0.mark(flags, MaskFlags::FAN_OPEN_EXEC_PERM, at, Some(".")) {
            // What is no directory is named by the descriptor that we have of it.
            Err(nix::errno::Errno::ENOTDIR) => {
                let path = format!("/proc/self/fd/{}", at.as_raw_fd());
                self.0.mark(flags, MaskFlags::FAN_OPEN_EXEC_PERM, CWD, Some(path.as_str()))
            }
            marked => marked,
        }
    }

    /// How many mounts it marks, by the kernel's own word.
    fn marks(&self) -> io::Result<usize> {
        let mut info = String::with_capacity(INFO_BYTES_USUAL);
        File::open(format!("/proc/self/fdinfo/{}", self.0.as_fd().as_raw_fd()))?.read_to_string(&mut info)?;
        Ok(info.lines().filter(|line| line.starts_with("fanotify mnt_id:")).count())
    }

    /// Takes all marks off. Whether the kernel did.
    pub(super) fn clear(&self) -> bool {
        let flags = MarkFlags::FAN_MARK_FLUSH | MarkFlags::FAN_MARK_MOUNT;
        self.0.mark(flags, MaskFlags::empty(), CWD, None::<&str>).is_ok()
    }

    /// Whether it marks nothing and asks nothing.
    pub(super) fn is_clear(&self) -> bool {
        let asks_nothing = self.0.read_events() == Err(nix::errno::Errno::EAGAIN);
        asks_nothing && self.marks().is_ok_and(|marks| marks == 0)
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One step's executions.
pub(super) struct Executions {
    group: Group,
    started: Instant,
    pending: BTreeMap<i32, VecDeque<Asked>>,
    waiting: usize,
    jobs: VecDeque<Job>,
    known: BTreeMap<State, usize>,
    digests: Vec<Option<String>>,
    listed: Vec<(Execution, Option<usize>)>,
    unlisted: u64,
    /// Whether a file that is on no mount of the step may run: only if the layer against it was given up.
    anonymous: bool,
    marks: usize,
    /// Room to read into, once there is something to hash.
    chunk: Vec<u8>,
}

impl std::fmt::Debug for Executions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executions").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Executions {
    pub(super) fn start(group: Group, anonymous: bool) -> Self {
        Self {
            group,
            started: Instant::now(),
            pending: BTreeMap::new(),
            waiting: 0,
            jobs: VecDeque::new(),
            known: BTreeMap::new(),
            digests: Vec::new(),
            listed: Vec::new(),
            unlisted: 0,
            anonymous,
            marks: 0,
            chunk: Vec::new(),
        }
    }

    /// Has the kernel ask about executions from these mounts of a step that has executed nothing.
    pub(super) fn mark<'a>(&mut self, mounts: impl Iterator<Item = BorrowedFd<'a>>) -> io::Result<()> {
        for mount in mounts {
            self.group.mark(mount)?;
            self.marks += 1;
        }
        Ok(())
    }

    /// Whether the kernel holds every mark that was made, by its own word.
    pub(super) fn is_marked(&self) -> io::Result<bool> {
        Ok(self.marks > 0 && self.group.marks()? == self.marks)
    }

    /// From here on the step runs.
    pub(super) fn begin(&mut self) {
        self.started = Instant::now();
    }

    /// Whether questions are taken just now.
    pub(super) fn is_open(&self) -> bool {
        self.waiting < PENDING_MAX
    }

    /// Whether the end of each call that was asked about is known.
    pub(super) fn all_ended(&self) -> bool {
        self.waiting == 0
    }

    /// Whether there is something to hash.
    pub(super) fn is_busy(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Answers what the kernel asks.
    pub(super) fn answer(&mut self) -> Result<(), Failure> {
        let events = match self.group.0.read_events() {
            Err(nix::errno::Errno::EAGAIN) => return Ok(()),
            events => events.map_err(|error| io_failure("read of fanotify")(error.into()))?,
        };
        for event in &events {
            if event.mask().contains(MaskFlags::FAN_Q_OVERFLOW) || !event.check_version() {
                return Err(Failure::Overflow);
            }
            let Some(fd) = event.fd() else { continue };
            let asked = self.look(fd, event)?;
            let response = match asked.leased {
                Some(_) => Response::FAN_ALLOW,
                // What execve itself would say.
                None => {
                    Response::from_bits_retain(Response::FAN_DENY.bits() | (libc::ETXTBSY as u32) << DENY_ERRNO_SHIFT)
                }
            };
            let answered = self.group.0.write_response(FanotifyResponse::new(fd, response));
            match answered {
                // Whoever waited was killed.
                Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
                Err(error) => return Err(io_failure("answer to fanotify")(error.into())),
            }
            self.pending.entry(event.pid()).or_default().push_back(asked);
            self.waiting += 1;
        }
        Ok(())
    }

    fn look(&self, fd: BorrowedFd<'_>, event: &FanotifyEvent) -> Result<Asked, Failure> {
        let file = File::from(fd.try_clone_to_owned().map_err(io_failure("dup of an executed file"))?);
        let since = Instant::now();
        let is_leased = sys::lease(fd).map_err(io_failure("lease on an executed file"))?;
        let status = file.metadata().map_err(io_failure("fstat of an executed file"))?;
        let path = std::fs::read_link(format!("/proc/self/fd/{}", event.fd().map_or(-1, |fd| fd.as_raw_fd())));
        let path = path.map_err(io_failure("path of an executed file"))?;
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
        let name = if status.nlink() == 0 { bytes.strip_suffix(b" (deleted)").unwrap_or(bytes) } else { bytes };
        let device = (rustix::fs::major(status.dev()), rustix::fs::minor(status.dev()));
        Ok(Asked {
            time_us: self.started.elapsed().as_micros() as u64,
            device,
            inode: status.ino(),
            path: escape(name),
            leased: is_leased.then_some(Leased { file, since }),
        })
    }

    /// Takes in how a call that executes has ended: lets go of its files, and lists what runs now.
    pub(super) fn ended(&mut self, call: &Call) -> Result<(), Failure> {
        let mut program = None;
        for (position, item) in call.paths.iter().enumerate() {
            let Some((major, minor, inode)) = item.file else { continue };
            let asked = self.take(call.pid, (major, minor), inode)?;
            if position == 0 {
                program = asked;
            }
        }
        // What was only looked at (`AT_EXECVE_CHECK`) is no execution, and has no arguments.
        if !call.executed || call.exit != Some(0) {
            return Ok(());
        }
        // From here on no other call of the process can have asked earlier: its other threads are gone.
        let name = call.paths.first().map_or("", |item| item.name.as_str());
        match program {
            Some(Asked { leased: Some(leased), time_us, path, .. }) => self.list(call, time_us, path, Some(leased)),
            None if self.anonymous => self.list(call, self.started.elapsed().as_micros() as u64, name.to_owned(), None),
            _ => Err(Failure::Unasked { path: name.to_owned() }),
        }
    }

    /// The first file of that number that `pid` asked about. A file system may show another device than the kernel's records
    /// have (btrfs, overlayfs); then the inode alone must decide, and more than one of them decides nothing.
    fn take(&mut self, pid: i32, device: (u32, u32), inode: u64) -> Result<Option<Asked>, Failure> {
        let Some(pending) = self.pending.get_mut(&pid) else { return Ok(None) };
        let same = |asked: &&Asked| asked.inode == inode;
        let exact = pending.iter().position(|asked| asked.inode == inode && asked.device == device);
        let position = match (exact, pending.iter().filter(same).count()) {
            (None, 1) => pending.iter().position(|asked| asked.inode == inode),
            (None, 2..) => return Err(Failure::Unasked { path: format!("one of the files with inode {inode}") }),
            (exact, _) => exact,
        };
        let asked = position.and_then(|position| pending.remove(position));
        if pending.is_empty() {
            self.pending.remove(&pid);
        }
        self.waiting -= usize::from(asked.is_some());
        Ok(asked)
    }

    fn list(&mut self, call: &Call, time_us: u64, path: String, leased: Option<Leased>) -> Result<(), Failure> {
        if self.listed.len() >= EXECUTIONS_MAX {
            self.unlisted += 1;
            return Ok(());
        }
        let digest = leased.map(|leased| self.digest(leased, &path)).transpose()?;
        let execution = Execution {
            time_us,
            pid: call.pid,
            parent: call.parent,
            path,
            sha256: String::new(),
            argv: call.argv.clone(),
            argv_cut: call.argv_cut,
        };
        self.listed.push((execution, digest));
        while self.jobs.len() > JOBS_MAX {
            self.work()?;
        }
        Ok(())
    }

    /// Where the digest of a leased file will be.
    fn digest(&mut self, leased: Leased, path: &str) -> Result<usize, Failure> {
        leased.check(path)?;
        let status = leased.file.metadata().map_err(io_failure("fstat of an executed file"))?;
        let state = (
            status.dev(),
            status.ino(),
            status.size(),
            status.mtime(),
            status.mtime_nsec(),
            status.ctime(),
            status.ctime_nsec(),
        );
        if let Some(known) = self.known.get(&state) {
            return Ok(*known);
        }
        self.digests.push(None);
        let digest = self.digests.len() - 1;
        // The lease says that nobody can be writing, so a change from here on has a time of its own.
        let changed = Duration::new(u64::try_from(status.ctime()).unwrap_or(0), status.ctime_nsec() as u32);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if changed.saturating_add(SETTLED) < now {
            if self.known.len() >= KNOWN_MAX {
                self.known.clear();
            }
            self.known.insert(state, digest);
        }
        self.jobs.push_back(Job { leased, digest, hash: Sha256::new(), at: 0 });
        Ok(digest)
    }

    /// Hashes a little.
    pub(super) fn work(&mut self) -> Result<(), Failure> {
        let Some(job) = self.jobs.front_mut() else { return Ok(()) };
        if self.chunk.is_empty() {
            // Zeros of the kernel's, which cost nothing until something is read into them.
            self.chunk = vec![0; CHUNK_BYTES];
        }
        let length =
            job.leased.file.read_at(&mut self.chunk, job.at).map_err(io_failure("read of an executed file"))?;
        if length > 0 {
            job.hash.update(self.chunk.get(..length).unwrap_or_default());
            job.at += length as u64;
            return Ok(());
        }
        let Some(Job { leased, digest, hash, .. }) = self.jobs.pop_front() else { return Ok(()) };
        leased.check("an executed file")?;
        if let Some(place) = self.digests.get_mut(digest) {
            *place = Some(hex::encode(hash.finalize()));
        }
        Ok(())
    }

    /// Everything that ran, and how much more; and the group, of a step that is gone.
    pub(super) fn finish(mut self) -> Result<(Vec<Execution>, u64, Group), Failure> {
        while self.is_busy() {
            self.work()?;
        }
        let digests = self.digests;
        let with_digest = |(execution, digest): (Execution, Option<usize>)| {
            let sha256 = digest.and_then(|digest| digests.get(digest)?.clone()).unwrap_or_default();
            Execution { sha256, ..execution }
        };
        Ok((self.listed.into_iter().map(with_digest).collect(), self.unlisted, self.group))
    }
}

impl Leased {
    /// A lease that somebody waits for is ours only for so long.
    fn check(&self, path: &str) -> Result<(), Failure> {
        let is_held = sys::is_leased(self.file.as_fd()).map_err(io_failure("lease on an executed file"))?;
        if is_held || self.since.elapsed() < LEASE_MAX { Ok(()) } else { Err(Failure::Lease { path: path.to_owned() }) }
    }
}

impl AsFd for Executions {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.group.0.as_fd()
    }
}

fn io_failure(operation: &'static str) -> impl Fn(io::Error) -> Failure {
    move |source| Failure::Io { operation, source }
}
