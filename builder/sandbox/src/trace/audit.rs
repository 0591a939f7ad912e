//! The kernel's audit subsystem over netlink: whether it is on, which records it makes for one step, and reading them.
//!
//! Each step has a socket of its own. All launchers of a process have one set of rules, unless the machine has a standing one, which
//! nobody removes: to remove a rule takes the kernel 10 ms. An audit daemon that is there as well is not disturbed. Records come
//! in the order of the kernel's one queue, so a record of our own ([`Audit::mark`]) is a barrier: once it is heard, so is
//! everything before. Source: include/uapi/linux/audit.h, kernel/audit.c. Absent: what a record means.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use crate::policy::{HOST_ID_BASE, SLOTS};

/// Message types. Source: include/uapi/linux/audit.h, include/uapi/linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const AUDIT_GET: u16 = 1000;
const AUDIT_SET: u16 = 1001;
const AUDIT_USER: u16 = 1005;
const AUDIT_ADD_RULE: u16 = 1011;
const AUDIT_DEL_RULE: u16 = 1012;
const AUDIT_LIST_RULES: u16 = 1013;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST: u16 = 0x1 | 0x4;
/// The group `AUDIT_NLGRP_READLOG`, as a mask.
const READLOG: u32 = 1;
/// `AUDIT_STATUS_ENABLED` and `AUDIT_STATUS_BACKLOG_LIMIT`.
const STATUS_ENABLED: u32 = 0x1;
const STATUS_BACKLOG_LIMIT: u32 = 0x10;
/// Bytes of a netlink header.
const HEADER_BYTES: usize = 16;
/// Bytes of one message: a record has at most 8970 (`MAX_AUDIT_MESSAGE_LENGTH`).
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Bytes that may wait for us: tens of thousands of records. A step that fills it has no whole trace, and no good end.
const QUEUE_BYTES: usize = 64 << 20;
/// Records that may wait in the kernel's queue before who makes them waits. Source: what auditd's own rules recommend.
const BACKLOG_LIMIT: u32 = 8192;
/// Answers that are read before ours: none but our own can come.
const ANSWERS_MAX: usize = 16;
/// Rules that a machine may have: where there are more, the standing ones are not looked for.
const RULES_MAX: usize = 4096;
/// The key of the standing rules.
const STANDING: &str = "kiln";
/// What the key of a launcher's rules begins with; its pid follows.
const LAUNCHER: &str = "kiln-launcher-";
/// Where a rule says how long its strings are, of which the key is the only one, counted in words. Source: `struct audit_rule_data`.
const KEY_LENGTH: usize = 3 + 4 * 64;

/// What audit is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// 0: off, 1: on, 2: on and its rules are fixed until the machine stops.
    pub(super) enabled: u32,
    backlog_limit: u32,
    /// Records that were lost since the machine started.
    pub(super) lost: u32,
}

/// A request socket.
#[derive(Debug)]
struct Control(OwnedFd);

impl Control {
    fn open() -> io::Result<Self> {
        let socket = netlink_socket()?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends one request and waits for the kernel's word on it: it answers before `sendto` returns.
    fn request(&self, kind: u16, payload: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut message = Vec::with_capacity(HEADER_BYTES + payload.len());
        message.extend(((HEADER_BYTES + payload.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(REQUEST.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(payload);
        rustix::net::sendto(&self.0, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = None;
        let mut acknowledged = false;
        for _ in 0..ANSWERS_MAX {
            let mut buffer = vec![0; MESSAGE_BYTES_MAX];
            let (kind_heard, body) = split(receive(&self.0, &mut buffer, RecvFlags::empty())?);
            match kind_heard {
                NLMSG_ERROR => {
                    let code = word(body, 0).map_or(-libc::EPROTO, |code| code as i32);
                    if code != 0 {
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    acknowledged = true;
                }
                // The end of an empty list.
                NLMSG_DONE => return Ok(None),
                heard if heard == kind => answer = Some(body.to_vec()),
                _ => {}
            }
            // What was asked for comes after its acknowledgement; of a list, the rest is for the caller.
            if acknowledged && (![AUDIT_GET, AUDIT_LIST_RULES].contains(&kind) || answer.is_some()) {
                return Ok(answer);
            }
        }
        Err(Errno::PROTO.into())
    }

    /// The rules of the machine, as they were added: the kernel's padding is cut off.
    fn rules(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut rules = Vec::new();
        let mut answer = self.request(AUDIT_LIST_RULES, &[])?;
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        while let Some(rule) = answer.take() {
            if rules.len() >= RULES_MAX {
                return Err(Errno::TOOBIG.into());
            }
            rules.push(rule.get(..rule_bytes(&rule)).unwrap_or(&rule).to_vec());
            let (kind, body) = split(receive(&self.0, &mut buffer, RecvFlags::empty())?);
            answer = (kind == AUDIT_LIST_RULES).then(|| body.to_vec());
        }
        Ok(rules)
    }

    fn status(&self) -> io::Result<Status> {
        let answer = self.request(AUDIT_GET, &[])?.ok_or(Errno::PROTO)?;
        let field = |position| word(&answer, position).ok_or(Errno::PROTO);
        Ok(Status { enabled: field(1)?, backlog_limit: field(5)?, lost: field(6)? })
    }

    fn set(&self, status: Status) -> io::Result<()> {
        let mask = STATUS_ENABLED | STATUS_BACKLOG_LIMIT;
        let words = [mask, status.enabled, 0, 0, 0, status.backlog_limit, 0, 0, 0, 0, 0];
        self.request(AUDIT_SET, &words.map(u32::to_ne_bytes).concat()).map(drop)
    }
}

/// What audit was like before [`switch_on`].
#[derive(Clone, Debug)]
pub struct AuditBefore {
    status: Status,
    /// Standing rules that were not there.
    added: Vec<Vec<u8>>,
}

/// Switches audit on for the whole machine, as a trace needs it, with standing rules for what steps execute and are refused:
/// launchers then need none of their own. Needs `CAP_AUDIT_CONTROL` in the initial namespaces.
///
/// # Errors
/// If this kernel has no audit, or its rules are fixed.
pub fn switch_on() -> io::Result<AuditBefore> {
    let control = Control::open()?;
    let mut before = AuditBefore { status: control.status()?, added: Vec::new() };
    for rule in all_rules(STANDING) {
        match control.request(AUDIT_ADD_RULE, &rule) {
            Ok(_) => before.added.push(rule),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let backlog_limit = match before.status.backlog_limit {
        // No limit.
        0 => 0,
        limit => limit.max(BACKLOG_LIMIT),
    };
    control.set(Status { enabled: before.status.enabled.max(1), backlog_limit, lost: 0 })?;
    Ok(before)
}

impl AuditBefore {
    /// Makes audit as it was.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn restore(self) -> io::Result<()> {
        let control = Control::open()?;
        for rule in &self.added {
            control.request(AUDIT_DEL_RULE, rule)?;
        }
        control.set(self.status)
    }
}

/// Whether audit is on, and so a trace can be had.
pub(super) fn status() -> io::Result<Status> {
    Control::open()?.status()
}

/// How many sockets on this machine hear audit's records, ours among them. Source: net/netlink/af_netlink.c, netlink_native_seq_show.
pub(super) fn hearers() -> io::Result<usize> {
    let table = std::fs::read_to_string("/proc/net/netlink")?;
    let hears = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let (protocol, groups) = (fields.next(), fields.nth(1).and_then(|groups| u32::from_str_radix(groups, 16).ok()));
        protocol == Some("9") && groups.is_some_and(|groups| groups & READLOG != 0)
    };
    Ok(table.lines().filter(hears).count())
}

/// The rules of one launcher process: they have records made for what steps execute and are refused.
#[derive(Debug)]
pub(crate) struct Rules {
    launcher: u32,
}

impl Rules {
    /// Those of a launcher, whether they are made or not.
    pub(crate) fn of(launcher: u32) -> Self {
        Self { launcher }
    }

    /// Makes them, unless the machine has standing ones.
    ///
    /// # Errors
    /// If the kernel refuses. What was made all the same goes with [`Rules::remove`].
    pub(crate) fn make(&self) -> io::Result<()> {
        let control = Control::open()?;
        let there = control.rules()?;
        if all_rules(STANDING).iter().all(|standing| there.contains(standing)) {
            return Ok(());
        }
        for rule in all_rules(&format!("{LAUNCHER}{}", self.launcher)) {
            control.request(AUDIT_ADD_RULE, &rule)?;
        }
        Ok(())
    }

    /// Takes away the rules of the launcher that this was made for, and those of every launcher that was killed before it could do so.
    /// A rule that stays costs a little time and harms nothing; there is nobody to tell.
    pub(crate) fn remove(&self, lives: impl Fn(u32) -> bool) {
        let Ok(control) = Control::open() else { return };
        for rule in control.rules().unwrap_or_default() {
            if launcher_of(&rule).is_some_and(|launcher| launcher == self.launcher || !lives(launcher)) {
                let _ = control.request(AUDIT_DEL_RULE, &rule);
            }
        }
    }
}

/// How long a rule says that it is.
fn rule_bytes(rule: &[u8]) -> usize {
    (KEY_LENGTH + 1) * 4 + word(rule, KEY_LENGTH).unwrap_or(0) as usize
}

/// Whose rule it is: a launcher's pid, in the one pid namespace in which rules can be made.
fn launcher_of(rule: &[u8]) -> Option<u32> {
    let key = rule.get((KEY_LENGTH + 1) * 4..rule_bytes(rule))?;
    std::str::from_utf8(key.strip_prefix(LAUNCHER.as_bytes())?).ok()?.parse().ok()
}

/// One step's records.
#[derive(Debug)]
pub(super) struct Audit {
    control: Control,
    records: OwnedFd,
    /// What the latest barrier says.
    token: String,
    buffer: Vec<u8>,
}

impl Audit {
    /// Listens from here on.
    pub(super) fn start() -> io::Result<Self> {
        let records = netlink_socket()?;
        sockopt::set_socket_recv_buffer_size_force(&records, QUEUE_BYTES)?;
        rustix::net::bind(&records, &SocketAddrNetlink::new(0, READLOG))?;
        let buffer = vec![0; MESSAGE_BYTES_MAX];
        Ok(Self { control: Control::open()?, records, token: token(), buffer })
    }

    /// Puts a barrier at the end of the kernel's queue.
    pub(super) fn mark(&mut self) -> io::Result<()> {
        self.token = token();
        self.control.request(AUDIT_USER, format!("{}\0", self.token).as_bytes()).map(drop)
    }

    /// What the latest barrier says.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn status(&self) -> io::Result<Status> {
        self.control.status()
    }

    /// The next record that has come: its type and text. `Ok(None)`: none. ENOBUFS: some were lost.
    pub(super) fn next(&mut self) -> io::Result<Option<(u16, &[u8])>> {
        match receive(&self.records, &mut self.buffer, RecvFlags::DONTWAIT) {
            Ok(message) => {
                let (kind, text) = split(message);
                // Some records end with a NUL, which is no part of them.
                Ok(Some((kind, text.strip_suffix(b"\0").unwrap_or(text))))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Audit {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.records.as_fd()
    }
}

fn netlink_socket() -> io::Result<OwnedFd> {
    let protocol = Some(netlink::AUDIT);
    Ok(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?)
}

fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8], flags: RecvFlags) -> io::Result<&'a [u8]> {
    loop {
        match rustix::net::recv(socket, &mut *buffer, flags) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok((_, length)) => return Ok(buffer.get(..length).unwrap_or_default()),
        }
    }
}

/// The type and the payload of a message. The datagram's length counts: the header's is another for multicast records.
fn split(message: &[u8]) -> (u16, &[u8]) {
    let kind = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
    (kind, message.get(HEADER_BYTES..).unwrap_or_default())
}

/// The 32 bits at `position`, counted in such words.
fn word(bytes: &[u8], position: usize) -> Option<u32> {
    let bytes = bytes.get(position * 4..position * 4 + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// A text that no other step and no other barrier has.
fn token() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("kiln-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The rules for all users of steps.
fn all_rules(key: &str) -> Vec<Vec<u8>> {
    rules_for(HOST_ID_BASE..=HOST_ID_BASE + u32::from(SLOTS) - 1, key)
}

/// Rules, as `struct audit_rule_data`: executions whatever they end in, and whatever ends in EROFS, EACCES or EPERM.
fn rules_for(uids: RangeInclusive<u32>, key: &str) -> Vec<Vec<u8>> {
    // The last word is for classes of calls. What `auditctl -S all` says.
    let mut everything = [u32::MAX; 64];
    if let Some(classes) = everything.last_mut() {
        *classes = 0;
    }
    let mut executions = [0_u32; 64];
    for number in [libc::SYS_execve, libc::SYS_execveat] {
        if let Some(word) = executions.get_mut(number as usize / 32) {
            *word |= 1 << (number % 32);
        }
    }
    vec![rule(executions, &[], &uids, key), rule(everything, &refusals(), &uids, key)]
}

/// What a call ends in that is refused, as conditions that must all hold: a rule knows no "or". What almost no call meets stands
/// first, then what almost no failed call meets.
fn refusals() -> Vec<Condition> {
    let ends = |operator, errno: i32| (EXIT, operator, errno.wrapping_neg() as u32);
    let most = REFUSALS.iter().copied().max().unwrap_or(0);
    // Compared without a sign: a failed call's end is larger than any other's.
    let failed = ends(AT_LEAST, most);
    let others = (1..most).filter(|errno| !REFUSALS.contains(errno));
    // A file that is not there is the commonest of all.
    let others = std::iter::once(libc::ENOENT).chain(others.filter(|errno| *errno != libc::ENOENT));
    std::iter::once(failed).chain(others.map(|errno| ends(NOT_EQUAL, errno))).collect()
}

/// Field, operator, value.
type Condition = (u32, u32, u32);

/// Errors that a denial ends in.
const REFUSALS: [i32; 3] = [libc::EPERM, libc::EACCES, libc::EROFS];
/// `AUDIT_EQUAL`, `AUDIT_NOT_EQUAL`, at least and at most; `AUDIT_EXIT`.
const EQUAL: u32 = 0x4000_0000;
const NOT_EQUAL: u32 = 0x3000_0000;
const AT_LEAST: u32 = 0x6000_0000;
const AT_MOST: u32 = 0x5000_0000;
const EXIT: u32 = 103;

/// One rule: the first of the conditions is asked before the user.
fn rule(mask: [u32; 64], conditions: &[Condition], uids: &RangeInclusive<u32>, key: &str) -> Vec<u8> {
    /// `AUDIT_FILTER_EXIT`, `AUDIT_ALWAYS`, `AUDIT_UID`, `AUDIT_FILTERKEY`.
    const FILTER_EXIT: u32 = 4;
    const ALWAYS: u32 = 2;
    const UID: u32 = 1;
    const FILTERKEY: u32 = 210;
    let users = [(UID, AT_LEAST, *uids.start()), (UID, AT_MOST, *uids.end())];
    let first = conditions.iter().take(1).copied();
    let rest = conditions.iter().skip(1).copied();
    let fields: Vec<Condition> = first.chain(users).chain(rest).chain([(FILTERKEY, EQUAL, key.len() as u32)]).collect();
    let column = |values: Vec<u32>| {
        let mut column = [0; 64];
        column.iter_mut().zip(values).for_each(|(to, from)| *to = from);
        column
    };
    let numbers = column(fields.iter().map(|(field, ..)| *field).collect());
    let values = column(fields.iter().map(|(.., value)| *value).collect());
    let operators = column(fields.iter().map(|(_, operator, _)| *operator).collect());
    let head = [FILTER_EXIT, ALWAYS, fields.len() as u32];
    let words = head.into_iter().chain(mask).chain(numbers).chain(values).chain(operators).chain([key.len() as u32]);
    words.flat_map(u32::to_ne_bytes).chain(key.bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel compares: without a sign. Source: kernel/auditfilter.c, audit_comparator.
    fn meets(end: i64, (field, operator, value): Condition) -> bool {
        assert_eq!(field, EXIT);
        match operator {
            AT_LEAST => end as u32 >= value,
            NOT_EQUAL => end as u32 != value,
            other => panic!("operator {other:#x}"),
        }
    }

    #[test]
    fn one_rule_picks_the_refusals_and_nothing_else() {
        let picked = |end: i64| refusals().into_iter().all(|condition| meets(end, condition));
        let found: Vec<i32> = (1..4096).filter(|errno| picked(-i64::from(*errno))).collect();
        assert_eq!(found, REFUSALS);
        // Addresses are whole pages, also the highest one.
        for end in [0, 1, 4096, i64::from(u32::MAX - 0xfff), 0x7fff_ffff_f000] {
            assert!(!picked(end), "{end:#x}");
        }
        assert!(refusals().len() + 3 <= 64, "a rule has at most AUDIT_MAX_FIELDS conditions");
    }

    #[test]
    fn a_rule_says_whose_it_is() {
        let owner = |key: &str| all_rules(key).iter().map(|rule| launcher_of(rule)).collect::<Vec<_>>();
        assert_eq!(owner("kiln-launcher-77"), [Some(77), Some(77)]);
        for other in [STANDING, "kiln-launcher-", "kiln-launcher-7x", "kiln-launcher--7", "somebody's"] {
            assert_eq!(owner(other), [None, None], "{other}");
        }
        assert_eq!(launcher_of(&[0; 100]), None);
        assert_eq!(launcher_of(&[0xff; 1044]), None);
    }
}
