//! System calls of a step, put together from the audit records that have one serial.
//!
//! Pure: takes records, gives calls. Bounded in open calls, in paths of one call and in bytes of arguments.

use std::collections::BTreeMap;

use super::record::{Record, escape};

/// Record types. Source: include/uapi/linux/audit.h.
const SYSCALL: u16 = 1300;
const PATH: u16 = 1302;
const CWD: u16 = 1307;
const EXECVE: u16 = 1309;
const EOE: u16 = 1320;
const LANDLOCK_ACCESS: u16 = 1423;
/// Calls whose records have begun and not ended: one for each thread that is just leaving the kernel, of at most this many.
const OPEN_MAX: usize = 4096;
/// Paths kept of one call: an execution has its file, its interpreters and their loader.
const PATHS_MAX: usize = 16;
/// Bytes of the arguments that are kept of one execution.
const ARGV_BYTES_MAX: usize = 4096;
/// Arguments that are kept of one execution, so that empty ones are bounded as well.
const ARGV_MAX: usize = 1024;

/// One path of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Item {
    /// As the step gave it, escaped.
    pub(super) name: String,
    /// Major and minor number of the file system's device, and the file's inode; `None`: there is no such file.
    pub(super) file: Option<(u32, u32, u64)>,
    /// Whether it only is the directory that something was looked up in.
    pub(super) parent: bool,
}

/// One system call that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) number: i64,
    /// Its result; `None`: the process was killed in it.
    pub(super) exit: Option<i64>,
    pub(super) pid: i32,
    pub(super) parent: i32,
    /// Its first argument.
    pub(super) first: u64,
    pub(super) paths: Vec<Item>,
    /// Working directory, escaped.
    pub(super) directory: String,
    /// Whether the process has become another program.
    pub(super) executed: bool,
    pub(super) argv: Vec<String>,
    pub(super) argv_cut: bool,
    /// Whether Landlock had a part in it, which is then told by a record of its own.
    pub(super) landlock: bool,
    /// Bytes that `argv` was made of.
    pub(super) argv_bytes: usize,
    /// Whether its own record was heard.
    pub(super) begun: bool,
}

/// More calls are open than can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// Calls of one audit session that are not told to their end yet.
#[derive(Debug)]
pub(super) struct Calls {
    session: i64,
    open: BTreeMap<u64, Call>,
}

impl Calls {
    pub(super) fn of(session: u32) -> Self {
        Self { session: session.into(), open: BTreeMap::new() }
    }

    /// Takes one record in; gives the call that it ends.
    pub(super) fn take(&mut self, kind: u16, record: &Record<'_>) -> Result<Option<Call>, TooMany> {
        match kind {
            SYSCALL if record.number("ses") == Some(self.session) => self.open(record.serial)?.begin(record),
            // Told before its call, and only to whose domain it is.
            LANDLOCK_ACCESS => self.open(record.serial)?.landlock = true,
            EOE => return Ok(self.open.remove(&record.serial).filter(|call| call.begun)),
            _ => {
                let Some(call) = self.open.get_mut(&record.serial) else { return Ok(None) };
                match kind {
                    PATH => call.path(record),
                    CWD => call.directory = record.bytes("cwd").map(|cwd| escape(&cwd)).unwrap_or_default(),
                    EXECVE => call.arguments(record),
                    // Another session's after all.
                    SYSCALL => drop(self.open.remove(&record.serial)),
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// Whether a call has begun that has no end yet.
    pub(super) fn has_open(&self) -> bool {
        self.open.values().any(|call| call.begun)
    }

    fn open(&mut self, serial: u64) -> Result<&mut Call, TooMany> {
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&serial) {
            return Err(TooMany);
        }
        Ok(self.open.entry(serial).or_default())
    }
}

impl Call {
    fn begin(&mut self, record: &Record<'_>) {
        let id = |key| record.number(key).and_then(|id| i32::try_from(id).ok()).unwrap_or(0);
        self.begun = true;
        self.number = record.number("syscall").unwrap_or(-1);
        self.exit = record.number("exit");
        (self.pid, self.parent) = (id("pid"), id("ppid"));
        self.first = record.hexadecimal("a0").unwrap_or(0);
    }

    fn path(&mut self, record: &Record<'_>) {
        if self.paths.len() >= PATHS_MAX {
            return;
        }
        let device = record.word("dev").and_then(|device| device.split_once(':'));
        let part = |digits| u32::from_str_radix(digits, 16).ok();
        let device = device.and_then(|(major, minor)| Some((part(major)?, part(minor)?)));
        let inode = record.number("inode").and_then(|inode| u64::try_from(inode).ok());
        self.paths.push(Item {
            name: record.bytes("name").map(|name| escape(&name)).unwrap_or_default(),
            file: device.zip(inode).map(|((major, minor), inode)| (major, minor, inode)),
            parent: record.word("nametype") == Some("PARENT"),
        });
    }

    /// One of the records with arguments: `argc=N a0=.. a1=..`; a long argument comes in parts, `aN_len=L aN[0]=.. aN[1]=..`.
    fn arguments(&mut self, record: &Record<'_>) {
        self.executed = true;
        for (key, value) in record.fields() {
            let Ok(key) = std::str::from_utf8(key) else { continue };
            if key == "argc" {
                self.argv_cut |= record.number("argc").is_none_or(|argc| argc > ARGV_MAX as i64);
                continue;
            }
            let Some(digits) = key.strip_prefix('a').filter(|digits| !digits.ends_with("_len")) else { continue };
            let digits = digits.split_once('[').map_or(digits, |(digits, _)| digits);
            let (Ok(position), Some(bytes)) = (digits.parse::<usize>(), value.bytes()) else { continue };
            self.argument(position, &bytes);
        }
    }

    /// Adds to the argument at `position`, within the bounds.
    fn argument(&mut self, position: usize, bytes: &[u8]) {
        let taken = bytes.get(..bytes.len().min(ARGV_BYTES_MAX - self.argv_bytes)).unwrap_or_default();
        self.argv_cut |= taken.len() < bytes.len();
        if position >= ARGV_MAX || (taken.is_empty() && self.argv_cut) {
            return;
        }
        self.argv_bytes += taken.len();
        while self.argv.len() <= position {
            self.argv.push(String::new());
        }
        if let Some(argument) = self.argv.get_mut(position) {
            argument.push_str(&escape(taken));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(calls: &mut Calls, kind: u16, body: &str) -> Option<Call> {
        let text = format!("audit(1.000:9): {body}");
        calls.take(kind, &Record::parse(text.as_bytes()).expect("a record")).expect("few")
    }

    #[test]
    fn an_execution_is_put_together() {
        let mut calls = Calls::of(7);
        let call =
            "arch=c000003e syscall=59 success=yes exit=0 a0=7f items=2 ppid=3 pid=4 auid=1 uid=100007 gid=7 ses=7";
        assert_eq!(take(&mut calls, SYSCALL, call), None);
        assert_eq!(take(&mut calls, EXECVE, "argc=3 a0=\"cc\" a1=612062 a2_len=4 a2[0]=6162"), None);
        assert_eq!(take(&mut calls, EXECVE, " a2[1]=630A"), None);
        assert_eq!(take(&mut calls, CWD, "cwd=\"/work\""), None);
        assert_eq!(
            take(&mut calls, PATH, "item=0 name=\"./cc\" inode=77 dev=fe:01 mode=0100755 nametype=NORMAL"),
            None
        );
        assert_eq!(take(&mut calls, PATH, "item=1 name=\"x\" nametype=UNKNOWN"), None);
        assert!(calls.has_open());
        let call = take(&mut calls, EOE, "").expect("whole");
        assert!(call.executed && !call.argv_cut && !call.landlock);
        assert_eq!((call.pid, call.parent, call.exit), (4, 3, Some(0)));
        assert_eq!(call.argv, ["cc", "a b", "abc\\x0a"]);
        assert_eq!(call.paths[0].file, Some((0xfe, 1, 77)));
        assert_eq!((call.paths[1].file, call.directory.as_str()), (None, "/work"));
        assert!(!calls.has_open());
    }

    #[test]
    fn another_sessions_calls_are_not_ours() {
        let mut calls = Calls::of(7);
        assert_eq!(take(&mut calls, LANDLOCK_ACCESS, "domain=1"), None);
        take(&mut calls, SYSCALL, "syscall=59 uid=100007 pid=1 ses=8");
        assert_eq!(take(&mut calls, EOE, ""), None);
        assert!(calls.open.is_empty());
    }

    #[test]
    fn long_arguments_are_cut_aloud() {
        let mut calls = Calls::of(1);
        take(&mut calls, SYSCALL, "syscall=59 ses=1 pid=1");
        take(&mut calls, EXECVE, &format!("argc=3 a0=\"x\" a1=\"{}\" a2=\"y\"", "a".repeat(2 * ARGV_BYTES_MAX)));
        let call = take(&mut calls, EOE, "").expect("whole");
        assert!(call.argv_cut);
        assert_eq!(call.argv.iter().map(String::len).sum::<usize>(), ARGV_BYTES_MAX);
        assert_eq!(call.argv.len(), 2);
    }

    #[test]
    fn open_calls_are_bounded() {
        let mut calls = Calls::of(1);
        let opened = (0..=OPEN_MAX).map(|serial| {
            let text = format!("audit(1.0:{serial}): syscall=1 ses=1");
            calls.take(SYSCALL, &Record::parse(text.as_bytes()).expect("a record")).is_ok()
        });
        assert_eq!(opened.filter(|ok| *ok).count(), OPEN_MAX);
    }

    proptest! {
        #[test]
        fn any_records_are_taken(records in proptest::collection::vec((1300_u16..1325, "[ -~]{0,80}"), 0..20)) {
            let mut calls = Calls::of(1);
            for (kind, body) in records {
                let text = format!("audit(1.0:1): ses=1 argc=2 {body}");
                let call = calls.take(kind, &Record::parse(text.as_bytes()).expect("a record")).expect("few");
                if let Some(call) = call {
                    prop_assert!(call.argv_bytes <= ARGV_BYTES_MAX && call.argv.len() <= ARGV_MAX);
                }
            }
        }
    }
}
