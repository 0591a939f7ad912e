//! The system call filter of a step: one BPF program, that of the default profile compiled once before the launcher forks.
//!
//! It begins with an allowlist as a balanced tree over ranges of numbers: allowed, known and dangerous (EPERM), not offered
//! (ENOSYS, so that libc falls back), foreign ABI (the process dies). Numbers that are allowed only with some arguments lead to the
//! argument rules behind it. What is denied aloud is asked of the [`Listener`], which counts it and always says no: the kernel
//! itself never lets it pass, and without a listener answers ENOSYS. Source: seccomp(2), seccomp_unotify(2).
//! Absent: anything per job. There is one filter for each [`Profile`], and its digest is in the evidence.

mod arguments;
mod listener;
mod numbers;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use seccompiler::{BackendError, BpfProgram, sock_filter};
use sha2::{Digest, Sha256};

pub(crate) use listener::Listener;
pub(crate) use numbers::name;

use crate::policy::Profile;
use crate::sys;

/// `AUDIT_ARCH_X86_64`. Source: include/uapi/linux/audit.h.
const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
/// First number of the x32 ABI (`__X32_SYSCALL_BIT`). Source: arch/x86/include/uapi/asm/unistd.h.
const X32_BIT: u32 = 0x4000_0000;
/// `offsetof(struct seccomp_data, nr)` and `arch`. Source: include/uapi/linux/seccomp.h.
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;

/// How many programs the kernel must hold for a step, and for a sandbox init.
pub(crate) const PROGRAMS: usize = 1;

/// The program of a profile.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    program: BpfProgram,
    listened: bool,
    digest: [u8; 32],
}

/// What the kernel is to answer to one system call number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Allow,
    /// As the argument rules say.
    Arguments,
    /// The listener is told, and answers.
    Notify,
    Errno(u16),
    Kill,
}

impl Answer {
    /// `SECCOMP_RET_*`. Source: include/uapi/linux/seccomp.h.
    fn value(self) -> u32 {
        match self {
            Self::Allow | Self::Arguments => 0x7FFF_0000,
            Self::Notify => 0x7FC0_0000,
            Self::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Self::Kill => 0x8000_0000,
        }
    }
}

/// The filters of all profiles, each compiled when it is first asked for.
#[derive(Clone, Debug)]
pub(crate) struct StepFilters {
    listened: bool,
    strict: OnceLock<Filter>,
    loopback: OnceLock<Filter>,
    debug: OnceLock<Filter>,
}

impl StepFilters {
    /// With that of the default profile compiled, as [`Filter::compile`]: a process that is forked later need not.
    pub(crate) fn new(listened: bool) -> Result<Self, BackendError> {
        let [strict, loopback, debug] = [const { OnceLock::new() }; 3];
        let filters = Self { listened, strict, loopback, debug };
        filters.of(Profile::default())?;
        Ok(filters)
    }

    /// The filter of a profile.
    pub(crate) fn of(&self, profile: Profile) -> Result<&Filter, BackendError> {
        let place = match profile {
            Profile::Strict => &self.strict,
            Profile::Loopback => &self.loopback,
            Profile::Debug => &self.debug,
        };
        if let Some(filter) = place.get() {
            return Ok(filter);
        }
        let filter = Filter::compile(profile, self.listened)?;
        Ok(place.get_or_init(|| filter))
    }
}

impl Filter {
    /// Compiles the filter of a step. `listened`: denials are told to a listener; otherwise the kernel answers alone.
    pub(crate) fn compile(profile: Profile, listened: bool) -> Result<Self, BackendError> {
        let rules = arguments::rules(profile)?;
        let denied = |errno: i32| if listened { Answer::Notify } else { Answer::Errno(errno as u16) };
        let allowed = |nr: i64| if rules.contains_key(&nr) { Answer::Arguments } else { Answer::Allow };
        let mut answers: Vec<(u32, Answer)> = Vec::new();
        answers.extend(numbers::ALLOWED.iter().map(|(nr, _)| (*nr as u32, allowed(*nr))));
        let debugging = if profile == Profile::Debug { Answer::Allow } else { denied(libc::EPERM) };
        answers.extend(numbers::DEBUGGING.iter().map(|(nr, _)| (*nr as u32, debugging)));
        answers.extend(numbers::DANGEROUS.iter().map(|(nr, _)| (*nr as u32, denied(libc::EPERM))));
        answers.extend(numbers::ATTRIBUTES.iter().map(|(nr, _)| (*nr as u32, denied(libc::ENOTSUP))));
        let mut program = allowlist(&answers, Answer::Errno(libc::ENOSYS as u16));
        append(&mut program, arguments::compile(rules)?, denied(libc::EPERM));
        Ok(Self::of(program, listened))
    }

    /// The filter of the sandbox init: wait, report, exit.
    pub(crate) fn of_init() -> Self {
        let answers: Vec<_> = numbers::INIT.iter().map(|(nr, _)| (*nr as u32, Answer::Allow)).collect();
        Self::of(allowlist(&answers, Answer::Kill), false)
    }

    fn of(program: BpfProgram, listened: bool) -> Self {
        let digest = digest_of(&program);
        Self { program, listened, digest }
    }

    /// SHA-256 over the program as the kernel takes it (`struct sock_filter`, little endian), after its length as u16.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Installs the program for the calling thread, for good, and returns the listener's end if it has one. Also sets
    /// `no_new_privs`.
    pub(crate) fn install(&self) -> io::Result<Option<OwnedFd>> {
        rustix::thread::set_no_new_privs(true)?;
        let instructions = self.program.iter();
        let kernels = |i: &sock_filter| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
        sys::install_filter(&instructions.map(kernels).collect::<Vec<_>>(), self.listened)
    }
}

fn digest_of(program: &BpfProgram) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update((program.len() as u16).to_le_bytes());
    for instruction in program {
        digest.update(instruction.code.to_le_bytes());
        digest.update([instruction.jt, instruction.jf]);
        digest.update(instruction.k.to_le_bytes());
    }
    digest.finalize().into()
}

/// Puts the argument rules behind the tree: what leads to them becomes a jump, and what they deny becomes `denied`.
fn append(program: &mut BpfProgram, rules: BpfProgram, denied: Answer) {
    let end = program.len();
    for (position, instruction) in program.iter_mut().enumerate() {
        if *instruction == answer_to_arguments() {
            *instruction = jump_always((end - position - 1) as u32);
        }
    }
    program.extend(
        rules.into_iter().map(
            |instruction| {
                if instruction == answer(arguments::DENIED) { answer(denied) } else { instruction }
            },
        ),
    );
}

/// Confines the calling thread with a step's filter, for good, and says how long that took: for the benchmark.
///
/// # Errors
/// If the filter does not compile or the kernel does not take it.
#[cfg(feature = "mutation")]
pub fn time_installation(profile: Profile) -> Result<std::time::Duration, Box<dyn std::error::Error>> {
    let filter = Filter::compile(profile, true)?;
    let begin = std::time::Instant::now();
    let listener = filter.install()?;
    let taken = begin.elapsed();
    drop(listener);
    Ok(taken)
}

/// Ranges of numbers with one answer, in order, covering all numbers: `(first, answer)`.
fn ranges(answers: &[(u32, Answer)], unknown: Answer) -> Vec<(u32, Answer)> {
    let mut sorted = answers.to_vec();
    sorted.sort_by_key(|(nr, _)| *nr);
    let mut ranges: Vec<(u32, Answer)> = vec![(0, unknown)];
    let mut push = |first: u32, answer: Answer| match ranges.last_mut() {
        Some(last) if last.0 == first => last.1 = answer,
        Some(last) if last.1 == answer => {}
        _ => ranges.push((first, answer)),
    };
    for (position, (nr, answer)) in sorted.iter().enumerate() {
        push(*nr, *answer);
        if sorted.get(position + 1).is_none_or(|(next, _)| *next != nr + 1) {
            push(nr + 1, unknown);
        }
    }
    push(X32_BIT, Answer::Kill);
    ranges
}

/// The whole program: foreign architectures die, then the tree decides by number.
fn allowlist(answers: &[(u32, Answer)], unknown: Answer) -> BpfProgram {
    let mut program =
        vec![load(OFFSET_ARCH), jump(libc::BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0), answer(Answer::Kill), load(OFFSET_NR)];
    program.extend(tree(&ranges(answers, unknown)));
    program
}

/// A balanced tree of comparisons over `ranges`, which is not empty.
fn tree(ranges: &[(u32, Answer)]) -> BpfProgram {
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let Some((first_high, last)) = high.first() else { return BpfProgram::new() };
    if low.is_empty() {
        return vec![if *last == Answer::Arguments { answer_to_arguments() } else { answer(*last) }];
    }
    let low = tree(low);
    let high = tree(high);
    // At or above: skip the low half. A conditional jump reaches 255 instructions, an unconditional one all of them.
    let mut program = match u8::try_from(low.len()) {
        Ok(skip) => vec![jump(libc::BPF_JGE, *first_high, skip, 0)],
        Err(_) => vec![jump(libc::BPF_JGE, *first_high, 0, 1), jump_always(low.len() as u32)],
    };
    program.extend(low);
    program.extend(high);
    program
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

fn jump(comparison: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16, jt, jf, k }
}

fn jump_always(k: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JA) as u16, jt: 0, jf: 0, k }
}

/// Stands for the jump to the argument rules until it is known how far they are: a jump that no program has.
fn answer_to_arguments() -> sock_filter {
    jump_always(u32::MAX)
}

fn answer(answer: Answer) -> sock_filter {
    sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: answer.value() }
}

#[cfg(test)]
mod tests;
