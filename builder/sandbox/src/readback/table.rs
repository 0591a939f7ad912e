//! The mount table of another namespace as the kernel has it, by `listmount` and `statmount`: ids that are never used twice, no
//! text to take apart. Source: include/uapi/linux/mount.h, `struct statmount`, Linux 6.15.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns, unshare};

use crate::sys;

/// Mounts of one namespace: the policy's, a scaffold for each, the covers, our own, and then some.
const LISTED_MAX: usize = 2 * crate::MOUNTS_MAX + crate::view::COVERS_MAX + 32;
/// Bytes of one answer: the fixed part, two paths and a line of options.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Bytes before the strings.
const FIXED_BYTES: usize = 512;
/// Ranges of one owner map. Source: UID_GID_MAP_MAX_EXTENTS in include/linux/user_namespace.h.
const RANGES_MAX: u32 = 340;

/// `STATMOUNT_*`: superblock, mount, root, mount point, type; options and user map are not there for every mount.
const SB_BASIC: u64 = 0x1;
const MNT_BASIC: u64 = 0x2;
const MNT_ROOT: u64 = 0x8;
const MNT_POINT: u64 = 0x10;
const FS_TYPE: u64 = 0x20;
const MNT_OPTS: u64 = 0x80;
const SUPPORTED: u64 = 0x1000;
const UIDMAP: u64 = 0x2000;
const GIDMAP: u64 = 0x4000;
const ALWAYS: u64 = SB_BASIC | MNT_BASIC | MNT_ROOT | MNT_POINT | FS_TYPE | SUPPORTED;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) id: u64,
    /// On which it is mounted.
    pub(super) parent: u64,
    /// What of its file system it shows.
    pub(super) root: String,
    /// Relative to the root of the namespace.
    pub(super) target: String,
    /// `MOUNT_ATTR_*`.
    pub(super) attributes: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`.
    pub(super) propagation: u64,
    /// Type of the file system.
    pub(super) kind: String,
    /// Its device number.
    pub(super) device: (u32, u32),
    /// `SB_RDONLY` and the like.
    pub(super) superblock: u32,
    /// The file system's own options.
    pub(super) options: String,
    /// Ranges of the owner map, of users and of groups; empty: as on disk.
    pub(super) owners: Vec<String>,
    pub(super) groups: Vec<String>,
}

/// Whether this kernel tells what is needed here, about the caller's own mounts.
pub(crate) fn is_told() -> io::Result<()> {
    let mut first = [0];
    sys::list_mounts(sys::LSMT_ROOT, &mut first)?;
    first.iter().try_for_each(|id| stat(*id, &mut vec![0; ANSWER_BYTES_MAX]).map(drop))
}

/// What is asked of the thread, and where the answer goes.
type Question = (File, SyncSender<io::Result<Vec<Mounted>>>);

/// Reads the mount tables of other namespaces.
///
/// Asks by a thread that enters the namespace and comes back; it is started with the first question at the latest. From outside, the kernel
/// looks for the namespace's root among the mounts that are newer than its first, and a step's image was detached before.
/// Source: grab_requested_root in fs/namespace.c, Linux 6.18.
#[derive(Debug, Default)]
pub(crate) struct MountReader {
    thread: Mutex<Option<Thread>>,
}

#[derive(Debug)]
struct Thread {
    questions: SyncSender<Question>,
    handle: JoinHandle<()>,
}

impl MountReader {
    /// Asks for every mount of a namespace, given as its file in `/proc/PID/ns`.
    ///
    /// # Errors
    /// If nobody is there to answer. What the kernel says is the answer: `E2BIG` for more mounts than any step has.
    pub(super) fn ask(&self, namespace: File) -> io::Result<Receiver<io::Result<Vec<Mounted>>>> {
        let (answer, answers) = sync_channel(1);
        self.put((namespace, answer)).map(|()| answers)
    }

    /// Starts the thread, for who has a question soon.
    pub(crate) fn prepare(&self) {
        // Who asks tries again, and is told why it cannot be had.
        drop(self.thread());
    }

    fn thread(&self) -> io::Result<MutexGuard<'_, Option<Thread>>> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            *thread = Some(Thread::start()?);
        }
        Ok(thread)
    }

    fn put(&self, question: Question) -> io::Result<()> {
        let thread = self.thread()?;
        let asked = thread.as_ref().is_some_and(|thread| thread.questions.send(question).is_ok());
        if asked { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPIPE)) }
    }
}

impl Drop for MountReader {
    fn drop(&mut self) {
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(Thread { questions, handle }) = thread.take() {
            drop(questions);
            // It has ended, or panicked, of which whoever asked heard.
            let _ = handle.join();
        }
    }
}

impl Thread {
    fn start() -> io::Result<Self> {
        // Nobody waits for room: a question is asked by somebody who waits for its answer.
        let (questions, asked) = sync_channel::<Question>(crate::SLOTS as usize);
        let handle = std::thread::Builder::new().name("mounts".into()).spawn(move || answer_all(&asked))?;
        Ok(Self { questions, handle })
    }
}

/// Answers until nobody can ask any more. Ends if it cannot come back: then no question is answered.
fn answer_all(asked: &Receiver<Question>) {
    // Root and working directory of this thread alone.
    let (Ok(home), Ok(())) = (File::open("/proc/thread-self/ns/mnt"), unshare(CloneFlags::CLONE_FS)) else { return };
    while let Ok((namespace, answer)) = asked.recv() {
        let mounts = setns(&namespace, CloneFlags::CLONE_NEWNS).map_err(io::Error::from).and_then(|()| reachable());
        drop(namespace);
        let back = setns(&home, CloneFlags::CLONE_NEWNS);
        // Who asked is gone only if it panicked.
        let _ = answer.send(mounts);
        if back.is_err() {
            return;
        }
    }
}

/// The mounts that the calling thread can reach.
fn reachable() -> io::Result<Vec<Mounted>> {
    let mut ids = [0; LISTED_MAX];
    let count = sys::list_mounts(sys::LSMT_ROOT, &mut ids)?;
    let listed = ids.get(..count).filter(|listed| listed.len() < LISTED_MAX);
    let listed = listed.ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    listed.iter().map(|id| stat(*id, &mut answer)).collect()
}

/// `answer`: room, with whatever is in it from before: the kernel says what is its own.
fn stat(id: u64, answer: &mut [u8]) -> io::Result<Mounted> {
    sys::stat_mount(id, ALWAYS | MNT_OPTS | UIDMAP | GIDMAP, answer)?;
    parse(answer).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADMSG))
}

/// `None`: a part is missing, or the kernel does not know owner maps at all, or a string is beyond the answer.
fn parse(answer: &[u8]) -> Option<Mounted> {
    let word = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(answer.get(at..at + 8)?.try_into().ok()?));
    let given = long(8)?;
    let maps = UIDMAP | GIDMAP;
    if given & ALWAYS != ALWAYS || long(144)? & maps != maps {
        return None;
    }
    let options = if given & MNT_OPTS == 0 { String::new() } else { text(answer, word(4)?)? };
    let owners = if given & UIDMAP == 0 { Vec::new() } else { texts(answer, word(156)?, word(152)?)? };
    let groups = if given & GIDMAP == 0 { Vec::new() } else { texts(answer, word(164)?, word(160)?)? };
    Some(Mounted {
        device: (word(16)?, word(20)?),
        superblock: word(32)?,
        kind: text(answer, word(36)?)?,
        id: long(40)?,
        parent: long(48)?,
        attributes: long(64)?,
        propagation: long(72)?,
        root: text(answer, word(104)?)?,
        target: text(answer, word(108)?)?,
        options,
        owners,
        groups,
    })
}

/// The string that starts `offset` bytes after the fixed part and ends with a NUL.
fn text(answer: &[u8], offset: u32) -> Option<String> {
    let rest = answer.get(FIXED_BYTES.checked_add(offset as usize)?..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(rest.get(..end)?).into_owned())
}

/// `count` strings, one after another.
fn texts(answer: &[u8], offset: u32, count: u32) -> Option<Vec<String>> {
    let mut next = offset;
    let mut texts = Vec::new();
    for _ in 0..count.min(RANGES_MAX) {
        let found = text(answer, next)?;
        next = next.checked_add(found.len() as u32 + 1)?;
        texts.push(found);
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_own_table_is_that_of_mountinfo() {
        let namespace = File::open("/proc/self/ns/mnt").expect("namespace");
        is_told().expect("a kernel that tells");
        let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let mut expected: Vec<_> = text.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        let reader = MountReader::default();
        let read = |namespace| reader.ask(namespace).expect("a reader").recv().expect("an answer").expect("mounts");
        let mounts = read(namespace.try_clone().expect("dup"));
        assert_eq!(read(namespace), mounts);
        let mut found: Vec<_> = mounts.iter().map(|mount| mount.target.as_str()).collect();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
        assert!(mounts.iter().all(|mount| mount.id != 0 && !mount.kind.is_empty()));
    }

    #[test]
    fn an_answer_cut_anywhere_is_none_or_the_same() {
        let mut answer = vec![0; FIXED_BYTES + 16];
        answer[8..16].copy_from_slice(&(ALWAYS | MNT_OPTS | UIDMAP).to_ne_bytes());
        answer[144..152].copy_from_slice(&(UIDMAP | GIDMAP).to_ne_bytes());
        answer[152..156].copy_from_slice(&2_u32.to_ne_bytes());
        answer[156..160].copy_from_slice(&4_u32.to_ne_bytes());
        answer[FIXED_BYTES..FIXED_BYTES + 12].copy_from_slice(b"abc\0x 1\0y 2\0");
        let whole = parse(&answer).expect("whole");
        assert_eq!(
            (whole.options.as_str(), whole.owners.as_slice()),
            ("abc", &["x 1".to_owned(), "y 2".to_owned()][..])
        );
        for length in 0..answer.len() {
            assert!(parse(&answer[..length]).is_none_or(|cut| cut == whole), "{length} bytes");
        }
        for beyond in [u32::MAX, 17] {
            answer[108..112].copy_from_slice(&beyond.to_ne_bytes());
            assert_eq!(parse(&answer), None);
        }
        answer[144..152].copy_from_slice(&0_u64.to_ne_bytes());
        assert_eq!(parse(&answer), None, "a kernel that does not know owner maps");
    }
}
