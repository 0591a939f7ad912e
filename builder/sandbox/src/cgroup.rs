//! cgroup v2: the limits of a step, its accounts, and the one sure way to kill all of it.
//!
//! Limits exist before the sandbox init, which is cloned into the cgroup, has its order. Every file written is read back.
//! Source: Documentation/admin-guide/cgroup-v2.rst.
//!
//! Absent: `memory.high`, under which a step crawls until its time is over instead of being told that its memory is; and
//! `cpu.weight`, because all steps of a caller are one cgroup to the scheduler beside the caller's own and weigh as much as one
//! process of it, however many they start.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open, openat};
use thiserror::Error;

use crate::enforced::CgroupFacts;
use crate::outcome::Usage;
use crate::policy::Limits;

/// Controllers that the limits of a step need.
pub(crate) const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];
/// Block devices of one machine that a limit is set for.
const DEVICES_MAX: usize = 256;
/// The machine's whole block devices, each with a file `dev`. Source: Documentation/ABI/stable/sysfs-block.
const DEVICES: &str = "/sys/block";
/// Period of `cpu.max` in microseconds (the kernel's default).
const CPU_PERIOD_US: u64 = 100_000;
/// How long a killed step may take to be gone: long enough for the kernel to free the memory of the largest one.
const GONE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between looks at `cgroup.events`, the first and the longest: the last process may still be on its way out. The kernel's
/// own notice is no faster, it sends at most one in 10 ms. Source: `CGROUP_FILE_NOTIFY_MIN_INTV` in kernel/cgroup/cgroup.c.
const GONE_PAUSE_MIN: Duration = Duration::from_micros(50);
const GONE_PAUSE_MAX: Duration = Duration::from_millis(1);
/// Bytes of one interface file: the longest, `memory.stat`, is not read here.
const FILE_BYTES_MAX: u64 = 4096;

/// What went wrong with a cgroup.
#[derive(Debug, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what its fields are")]
pub enum Error {
    #[error("no cgroup2 file system is mounted")]
    NotMounted,
    #[error("cgroup v2 lacks the controller {controller:?}; this kernel cannot limit a step")]
    NoController { controller: &'static str },
    #[error("cgroup: cannot {operation} {file}")]
    File { operation: &'static str, file: String, source: io::Error },
    #[error("the machine has more than {DEVICES_MAX} block devices")]
    Devices,
    #[error("cgroup: {file} was set to {set:?} and reads {read:?}")]
    Differs { file: String, set: String, read: String },
    #[error("cgroup {path} still has processes {waited_ms} ms after it was killed")]
    Survivors { path: String, waited_ms: u64 },
}

/// The parent of all steps' cgroups of this caller. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    directory: PathBuf,
    path: String,
}

/// Number of the next step of this process: its launchers share one parent.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Hierarchy {
    /// Makes the parent below the root of the cgroup2 mount, with controllers if `limits`.
    pub(crate) fn prepare(limits: bool) -> Result<Self, Error> {
        let mount = mount_point()?;
        let path = parent_of(std::process::id());
        let directory = mount.join(path.trim_start_matches('/'));
        make(&directory)?;
        let hierarchy = Self { directory, path };
        if limits {
            let available = read_file(&mount.join("cgroup.controllers"))?;
            for controller in CONTROLLERS {
                if !available.split_whitespace().any(|word| word == controller) {
                    return Err(Error::NoController { controller });
                }
                for directory in [&mount, &hierarchy.directory] {
                    write_file(&directory.join("cgroup.subtree_control"), &format!("+{controller}"))?;
                }
            }
        }
        Ok(hierarchy)
    }

    /// Makes the cgroup of one step, without limits.
    pub(crate) fn create(&self) -> Result<Cgroup, Error> {
        let name = format!("step-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = self.directory.join(&name);
        make_own(&directory)?;
        let cgroup = Cgroup {
            fd: open_directory(&directory)?,
            directory,
            path: format!("{}/{name}", self.path),
            empty: AtomicBool::new(false),
        };
        cgroup.set("cgroup.max.descendants", "0")?;
        Ok(cgroup)
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        // Fails only while a step lives, whose own cgroup then stays as well.
        let _ = fs::remove_dir(&self.directory);
    }
}

/// One step's cgroup. Killed and removed when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    fd: OwnedFd,
    directory: PathBuf,
    path: String,
    /// Seen to have no member, after which it gets no other: only the launcher puts one in, once.
    empty: AtomicBool,
}

impl Cgroup {
    /// Sets the limits of its step, before that has its order.
    pub(crate) fn limit(&self, limits: &Limits) -> Result<(), Error> {
        for (file, value) in expected(limits) {
            self.set(file, &value)?;
        }
        // Without swap support there is no such file, and nowhere to swap to.
        for file in ["memory.swap.max", "memory.zswap.max"] {
            if self.directory.join(file).exists() {
                self.set(file, "0")?;
            }
        }
        match limits.io_bytes_per_second {
            Some(bytes) => devices()?.iter().try_for_each(|device| self.limit_device(device, bytes)),
            None => Ok(()),
        }
    }

    /// Limits both directions of one device, `major:minor`.
    fn limit_device(&self, device: &str, bytes: u64) -> Result<(), Error> {
        let path = self.directory.join("io.max");
        let set = format!("{device} rbps={bytes} wbps={bytes}");
        write_file(&path, &set)?;
        let read = read_file(&path)?;
        if read.lines().any(|line| line.starts_with(&format!("{set} "))) {
            return Ok(());
        }
        Err(Error::Differs { file: "io.max".into(), set, read })
    }

    fn set(&self, file: &str, value: &str) -> Result<(), Error> {
        write_at(&self.fd, file, value)?;
        let read = self.read(file)?;
        if read == value {
            return Ok(());
        }
        Err(Error::Differs { file: file.into(), set: value.into(), read })
    }

    /// What `/proc/PID/cgroup` shows after `0::` for its members.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The limits as the kernel holds them now.
    pub(crate) fn facts(&self) -> Result<CgroupFacts, Error> {
        let names = [
            "cgroup.max.descendants",
            "cpu.max",
            "io.max",
            "memory.max",
            "memory.oom.group",
            "memory.swap.max",
            "memory.zswap.max",
            "pids.max",
        ];
        let mut files = BTreeMap::new();
        for name in names {
            files.extend(present(self.read(name))?.map(|text| (name.to_owned(), text)));
        }
        Ok(CgroupFacts { path: self.path.clone(), files })
    }

    /// Kills every member at once, frozen and stopped ones as well.
    pub(crate) fn kill(&self) -> Result<(), Error> {
        if self.empty.load(Ordering::SeqCst) { Ok(()) } else { write_at(&self.fd, "cgroup.kill", "1") }
    }

    /// Kills every member, and waits for the sandbox init, with which the kernel ends all others. If that is gone, so are they.
    pub(crate) fn end(&self, init: BorrowedFd<'_>) -> Result<(), Error> {
        let mut init = [PollFd::new(&init, PollFlags::IN)];
        // However this ends, `clear` has the last word.
        if poll(&mut init, Some(&Timespec::default())) != Ok(1) {
            self.kill()?;
            let timeout = Timespec { tv_sec: GONE_TIMEOUT.as_secs() as i64, tv_nsec: 0 };
            let _ = poll(&mut init, Some(&timeout));
        }
        Ok(())
    }

    /// Kills until no member is left. Whether there was one.
    pub(crate) fn clear(&self) -> Result<bool, Error> {
        let (begin, mut pause, mut had_members) = (Instant::now(), GONE_PAUSE_MIN, false);
        while !self.empty.load(Ordering::SeqCst) {
            if self.flat("cgroup.events")?.get("populated") == Some(&0) {
                self.empty.store(true, Ordering::SeqCst);
                break;
            }
            if begin.elapsed() > GONE_TIMEOUT {
                let waited_ms = begin.elapsed().as_millis() as u64;
                return Err(Error::Survivors { path: self.path.clone(), waited_ms });
            }
            had_members = true;
            self.kill()?;
            std::thread::sleep(pause);
            pause = (2 * pause).min(GONE_PAUSE_MAX);
        }
        Ok(had_members)
    }

    /// What the step used; complete once it is gone.
    pub(crate) fn usage(&self, wall_ms: u64) -> Result<Usage, Error> {
        let number = |file: &str| -> Result<Option<u64>, Error> {
            Ok(present(self.read(file))?.and_then(|text| text.parse().ok()))
        };
        let cpu = self.flat("cpu.stat")?;
        let event = |file: &str, name: &str| -> Result<u64, Error> {
            Ok(present(self.flat(file))?.and_then(|counts| counts.get(name).copied()).unwrap_or(0))
        };
        // One account for each device; none if nobody counts.
        let io = present(self.read("io.stat"))?;
        Ok(Usage {
            wall_ms,
            cpu_us: cpu.get("usage_usec").copied().unwrap_or(0),
            memory_peak_bytes: number("memory.peak")?,
            pids_peak: number("pids.peak")?,
            oom_kills: event("memory.events", "oom_kill")?,
            pids_refused: event("pids.events", "max")?,
            io_read_bytes: io.as_ref().map(|text| io_sum(text, "rbytes")),
            io_written_bytes: io.as_ref().map(|text| io_sum(text, "wbytes")),
        })
    }

    /// One of its interface files.
    fn read(&self, file: &str) -> Result<String, Error> {
        let failed = |source| file_error("read", &self.directory.join(file), source);
        let opened = openat(&self.fd, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        text_of(opened.map_err(|source| failed(source.into()))?.into()).map_err(failed)
    }

    /// A file of `name number` lines.
    fn flat(&self, file: &str) -> Result<BTreeMap<String, u64>, Error> {
        let text = self.read(file)?;
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Best effort is right here only because `Step::wait` already killed, waited and said if that failed.
        let _ = self.clear();
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Kills and removes what is left of the steps of a caller that was killed itself, by its process id.
///
/// The caller of this function knows by other means, a lock for example, that no such process starts steps any more.
///
/// # Errors
/// If something survives, or the kernel refuses to remove it.
pub fn remove_abandoned(pid: u32) -> Result<(), Error> {
    let path = parent_of(pid);
    let parent = mount_point()?.join(path.trim_start_matches('/'));
    let entries = match fs::read_dir(&parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|source| file_error("list", &parent, source))?,
    };
    for entry in entries {
        let entry = entry.map_err(|source| file_error("list", &parent, source))?;
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = format!("{path}/{}", entry.file_name().to_string_lossy());
        let cgroup =
            Cgroup { fd: open_directory(&entry.path())?, directory: entry.path(), path, empty: AtomicBool::new(false) };
        cgroup.clear()?;
        fs::remove_dir(entry.path()).map_err(|source| file_error("remove", &entry.path(), source))?;
    }
    fs::remove_dir(&parent).map_err(|source| file_error("remove", &parent, source))
}

/// The controllers that cgroup v2 has on this machine, in one line.
pub(crate) fn controllers() -> Result<String, Error> {
    read_file(&mount_point()?.join("cgroup.controllers"))
}

/// The cgroup of all steps of the caller with this process id.
fn parent_of(pid: u32) -> String {
    format!("/kiln-{pid}")
}

fn open_directory(directory: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(directory, flags, Mode::empty()).map_err(|source| file_error("open", directory, source.into()))
}

/// Where cgroup2 is mounted, from `/proc/self/mountinfo`.
fn mount_point() -> Result<PathBuf, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(|source| file_error("read", path, source))?;
    text.lines()
        .find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            (right.split(' ').next() == Some("cgroup2")).then(|| left.split(' ').nth(4).map(PathBuf::from))?
        })
        .ok_or(Error::NotMounted)
}

/// What the interface files of every step hold, beside swap and `io.max`.
pub(crate) fn expected(limits: &Limits) -> Vec<(&'static str, String)> {
    let quota = limits.cpu_percent.map(|percent| (u64::from(percent) * CPU_PERIOD_US / 100).to_string());
    vec![
        ("memory.max", limits.memory_bytes.to_string()),
        ("memory.oom.group", "1".to_owned()),
        ("pids.max", limits.pids.to_string()),
        ("cpu.max", format!("{} {CPU_PERIOD_US}", quota.as_deref().unwrap_or("max"))),
    ]
}

/// Whether `io.max` holds this limit for every device that it names, or names none if there is no limit. That it names every
/// device of the machine was seen when it was written.
pub(crate) fn limited_to(io_max: &str, bytes: Option<u64>) -> bool {
    let Some(bytes) = bytes else { return io_max.is_empty() };
    let limit = [format!("rbps={bytes}"), format!("wbps={bytes}")];
    io_max.lines().all(|line| limit.iter().all(|wanted| line.split_whitespace().any(|word| word == wanted)))
}

/// The whole block devices of the machine, as `major:minor`.
fn devices() -> Result<Vec<String>, Error> {
    let directory = Path::new(DEVICES);
    let failed = |source| file_error("list", directory, source);
    let entries = fs::read_dir(directory).map_err(failed)?.take(DEVICES_MAX + 1);
    let paths =
        entries.map(|entry| Ok(entry.map_err(failed)?.path().join("dev"))).collect::<Result<Vec<_>, Error>>()?;
    if paths.len() > DEVICES_MAX {
        return Err(Error::Devices);
    }
    // A path of a device with several has no number of its own and no queue.
    paths.iter().filter(|path| path.exists()).map(|path| read_file(path)).collect()
}

/// Adds up one account of `io.stat`: lines of `major:minor name=number ...`.
fn io_sum(text: &str, name: &str) -> u64 {
    let words = text.lines().flat_map(str::split_whitespace).filter_map(|word| word.split_once('='));
    words
        .filter(|(key, _)| *key == name)
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

fn make(directory: &Path) -> Result<(), Error> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(file_error("make", directory, error)),
        _ => Ok(()),
    }
}

/// Makes a cgroup that is nobody else's: it is killed as a whole. What a killed process with our id left is removed; if it still has
/// processes, the kernel refuses.
fn make_own(directory: &Path) -> Result<(), Error> {
    let made = match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_dir(directory).and_then(|()| fs::create_dir(directory))
        }
        made => made,
    };
    made.map_err(|source| file_error("make", directory, source))
}

fn read_file(path: &Path) -> Result<String, Error> {
    fs::File::open(path).and_then(text_of).map_err(|source| file_error("read", path, source))
}

fn text_of(file: fs::File) -> io::Result<String> {
    let mut text = String::with_capacity(FILE_BYTES_MAX as usize);
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text.trim_end().to_owned())
}

fn write_file(path: &Path, value: &str) -> Result<(), Error> {
    let write = || fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes());
    write().map_err(|source| file_error("write", path, source))
}

fn write_at(directory: &OwnedFd, file: &str, value: &str) -> Result<(), Error> {
    let write = || {
        let fd = openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&fd, value.as_bytes())
    };
    match write() {
        Ok(_) => Ok(()),
        Err(source) => Err(file_error("write", Path::new(file), source.into())),
    }
}

/// `None` in place of the error that says that this kernel has no such file.
fn present<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

fn file_error(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { operation, file: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_process_left_is_no_obstacle() {
        let directory = mount_point().expect("cgroup2").join(format!("kiln-test-{}", std::process::id()));
        fs::create_dir(&directory).expect("a cgroup (needs root)");
        make_own(&directory).expect("an empty one is made again");
        let within = directory.join("in-use");
        fs::create_dir(&within).expect("a cgroup");
        assert!(make_own(&directory).is_err(), "one that is in use is not ours");
        fs::remove_dir(&within).expect("removed");
        fs::remove_dir(&directory).expect("removed");
    }

    #[test]
    fn io_is_added_up_over_devices() {
        let text = "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=50331648\n\
            8:0 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=50331648 dios=3021\n7:0 \n";
        assert_eq!((io_sum(text, "rbytes"), io_sum(text, "wbytes")), (91_889_664, 613_781_504));
        assert_eq!(io_sum("", "rbytes"), 0);
    }

    #[test]
    fn a_device_without_its_limit_is_noticed() {
        let one = "254:0 rbps=1000 wbps=1000 riops=max wiops=max";
        assert!(limited_to(one, Some(1000)) && limited_to("", None) && limited_to("", Some(1000)));
        assert!(!limited_to(one, Some(100)) && !limited_to(one, None));
        assert!(!limited_to(&format!("{one}\n7:0 rbps=1000 wbps=max riops=max wiops=max"), Some(1000)));
    }

    #[test]
    fn devices_have_numbers() {
        let number = |text: &String| {
            text.split_once(':').is_some_and(|(a, b)| a.parse::<u32>().is_ok() && b.parse::<u32>().is_ok())
        };
        assert!(devices().expect("sysfs").iter().all(number));
    }
}
