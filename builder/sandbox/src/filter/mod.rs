//! The system call filter of a step: two BPF programs, compiled once before the launcher forks.
//!
//! The first is an allowlist as a balanced tree over ranges of numbers: allowed, known and dangerous (EPERM), not offered
//! (ENOSYS, so that libc falls back), foreign ABI (the process dies). The second holds the argument rules. The kernel runs both
//! and takes the stricter answer. Source: seccomp(2), Documentation/userspace-api/seccomp_filter.rst.
//! Absent: anything per job. There is one filter for each [`Profile`], and its digest is in the evidence.

mod arguments;
mod numbers;

use seccompiler::{BackendError, BpfProgram, sock_filter};
use sha2::{Digest, Sha256};

use crate::policy::Profile;

/// `AUDIT_ARCH_X86_64`. Source: include/uapi/linux/audit.h.
const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
/// First number of the x32 ABI (`__X32_SYSCALL_BIT`). Source: arch/x86/include/uapi/asm/unistd.h.
const X32_BIT: u32 = 0x4000_0000;
/// `offsetof(struct seccomp_data, nr)` and `arch`. Source: include/uapi/linux/seccomp.h.
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;

/// Both programs of a profile.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    programs: Vec<BpfProgram>,
}

/// What the kernel is to answer to one system call number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Allow,
    Errno(u16),
    Kill,
}

impl Answer {
    /// `SECCOMP_RET_*`. Source: include/uapi/linux/seccomp.h.
    fn value(self) -> u32 {
        match self {
            Self::Allow => 0x7FFF_0000,
            Self::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Self::Kill => 0x8000_0000,
        }
    }
}

/// The filters of all profiles.
#[derive(Clone, Debug)]
pub(crate) struct StepFilters {
    strict: Filter,
    loopback: Filter,
    debug: Filter,
}

impl StepFilters {
    /// Compiles all of them.
    pub(crate) fn compile() -> Result<Self, BackendError> {
        let [strict, loopback, debug] = [Profile::Strict, Profile::Loopback, Profile::Debug].map(Filter::compile);
        Ok(Self { strict: strict?, loopback: loopback?, debug: debug? })
    }

    /// The filter of a profile.
    pub(crate) fn of(&self, profile: Profile) -> &Filter {
        match profile {
            Profile::Strict => &self.strict,
            Profile::Loopback => &self.loopback,
            Profile::Debug => &self.debug,
        }
    }
}

impl Filter {
    /// Compiles the filter of a step.
    pub(crate) fn compile(profile: Profile) -> Result<Self, BackendError> {
        let mut answers: Vec<(u32, Answer)> = Vec::new();
        let debugging = if profile == Profile::Debug { Answer::Allow } else { Answer::Errno(libc::EPERM as u16) };
        answers.extend(numbers::ALLOWED.iter().map(|nr| (*nr as u32, Answer::Allow)));
        answers.extend(numbers::DEBUGGING.iter().map(|nr| (*nr as u32, debugging)));
        answers.extend(numbers::DANGEROUS.iter().map(|nr| (*nr as u32, Answer::Errno(libc::EPERM as u16))));
        answers.extend(numbers::ATTRIBUTES.iter().map(|nr| (*nr as u32, Answer::Errno(libc::ENOTSUP as u16))));
        let tree = allowlist(&answers, Answer::Errno(libc::ENOSYS as u16));
        Ok(Self { programs: vec![tree, arguments::compile(profile)?] })
    }

    /// The filter of the sandbox init: wait, report, exit.
    pub(crate) fn of_init() -> Self {
        let answers: Vec<_> = numbers::INIT.iter().map(|nr| (*nr as u32, Answer::Allow)).collect();
        Self { programs: vec![allowlist(&answers, Answer::Kill)] }
    }

    /// How many programs the kernel must hold for a step.
    pub(crate) fn count(&self) -> usize {
        self.programs.len()
    }

    /// SHA-256 over the programs as the kernel takes them (`struct sock_filter`, little endian), each after its length as u16.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for program in &self.programs {
            digest.update((program.len() as u16).to_le_bytes());
            for instruction in program {
                digest.update(instruction.code.to_le_bytes());
                digest.update([instruction.jt, instruction.jf]);
                digest.update(instruction.k.to_le_bytes());
            }
        }
        digest.finalize().into()
    }

    /// Installs the programs for the calling thread, for good. Also sets `no_new_privs`.
    pub(crate) fn install(&self) -> seccompiler::Result<()> {
        self.programs.iter().try_for_each(|program| seccompiler::apply_filter(program))
    }
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
        return vec![answer(*last)];
    }
    let low = tree(low);
    let high = tree(high);
    // At or above: skip the low half. A conditional jump reaches 255 instructions, an unconditional one all of them.
    let mut program = match u8::try_from(low.len()) {
        Ok(skip) => vec![jump(libc::BPF_JGE, *first_high, skip, 0)],
        Err(_) => vec![
            jump(libc::BPF_JGE, *first_high, 0, 1),
            sock_filter { code: (libc::BPF_JMP | libc::BPF_JA) as u16, jt: 0, jf: 0, k: low.len() as u32 },
        ],
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

fn answer(answer: Answer) -> sock_filter {
    sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: answer.value() }
}

#[cfg(test)]
mod tests;
