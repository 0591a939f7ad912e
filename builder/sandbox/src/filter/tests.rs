//! Runs the compiled allowlist in a small BPF interpreter against every number, and holds the lists to each other.

use std::collections::BTreeSet;

use super::*;

/// Interprets the instructions that filters are made of, with `arguments` that are all the same.
fn run_with(program: &[sock_filter], arch: u32, nr: u32, argument: u32) -> u32 {
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let instruction = &program[at];
        at += 1;
        match u32::from(instruction.code) {
            0x20 => {
                accumulator = match instruction.k {
                    OFFSET_NR => nr,
                    OFFSET_ARCH => arch,
                    // Low halves of the arguments: `struct seccomp_data` has them from 16 on, 8 bytes each.
                    offset if offset >= 16 && offset % 8 == 0 => argument,
                    _ => 0,
                };
            }
            0x54 => accumulator &= instruction.k,
            0x06 => return instruction.k,
            0x05 => at += instruction.k as usize,
            0x15 => at += usize::from(if accumulator == instruction.k { instruction.jt } else { instruction.jf }),
            0x35 => at += usize::from(if accumulator >= instruction.k { instruction.jt } else { instruction.jf }),
            0x25 => at += usize::from(if accumulator > instruction.k { instruction.jt } else { instruction.jf }),
            code => panic!("unexpected code {code:#x}"),
        }
    }
}

fn run(program: &[sock_filter], arch: u32, nr: u32) -> u32 {
    run_with(program, arch, nr, 0)
}

fn has(list: &[numbers::Named], nr: u32) -> bool {
    list.iter().any(|(listed, _)| *listed == i64::from(nr))
}

#[test]
fn every_number_gets_the_answer_of_the_lists() {
    for listened in [true, false] {
        let filter = Filter::compile(Profile::Strict, listened).expect("compiles");
        let denied = |errno| if listened { Answer::Notify } else { Answer::Errno(errno) };
        for nr in 0..1024_u32 {
            let rules = arguments::rules(Profile::Strict).expect("rules");
            let expected = if rules.contains_key(&i64::from(nr)) {
                // Its answer depends on the arguments, which the next test is about.
                continue;
            } else if has(numbers::ALLOWED, nr) {
                Answer::Allow
            } else if has(numbers::DANGEROUS, nr) || has(numbers::DEBUGGING, nr) {
                denied(1)
            } else if has(numbers::ATTRIBUTES, nr) {
                denied(95)
            } else {
                Answer::Errno(38)
            };
            assert_eq!(run(&filter.program, AUDIT_ARCH_X86_64, nr), expected.value(), "number {nr}");
            assert_eq!(run(&filter.program, 0x4000_0003, nr), Answer::Kill.value(), "i386 number {nr}");
            assert_eq!(run(&filter.program, AUDIT_ARCH_X86_64, nr | X32_BIT), Answer::Kill.value(), "x32 number {nr}");
        }
    }
}

#[test]
fn arguments_decide_where_rules_exist() {
    for (listened, denied) in [(true, Answer::Notify), (false, Answer::Errno(1))] {
        let filter = Filter::compile(Profile::Strict, listened).expect("compiles");
        let ask = |nr: i64, argument| run_with(&filter.program, AUDIT_ARCH_X86_64, nr as u32, argument);
        let cases = [
            (libc::SYS_clone, 17, false),
            (libc::SYS_clone, libc::CLONE_NEWUSER as u32 | 17, true),
            (libc::SYS_ioctl, 0x5413, false),
            (libc::SYS_ioctl, 0x5412, true),
            (libc::SYS_socket, 1, false),
            (libc::SYS_socket, 2, true),
            (libc::SYS_socketpair, 40, true),
            (libc::SYS_personality, 0, false),
            (libc::SYS_personality, 0x0400_0000, true),
            (libc::SYS_chmod, 0o755, false),
            (libc::SYS_chmod, 0o4755, true),
            (libc::SYS_mknodat, 0o2000, true),
            (libc::SYS_prctl, 38, false),
            (libc::SYS_prctl, 67, true),
            (libc::SYS_madvise, 4, false),
            (libc::SYS_madvise, 12, true),
            (libc::SYS_seccomp, 8, true),
            (libc::SYS_seccomp, 1, false),
        ];
        for (nr, argument, is_denied) in cases {
            let expected = if is_denied { denied } else { Answer::Allow };
            assert_eq!(ask(nr, argument), expected.value(), "number {nr}, argument {argument:#x}");
        }
        // Every number with rules leads somewhere that ends.
        let rules = arguments::rules(Profile::Strict).expect("rules");
        assert!(rules.keys().all(|nr| [Answer::Allow.value(), denied.value()].contains(&ask(*nr, u32::MAX))));
    }
}

#[test]
fn debugging_is_allowed_in_its_profile_and_nothing_else_changes() {
    let of = |profile| Filter::compile(profile, true).expect("compiles").program;
    let (strict, debug) = (of(Profile::Strict), of(Profile::Debug));
    for nr in 0..1024_u32 {
        let answers = [&strict, &debug].map(|program| run(program, AUDIT_ARCH_X86_64, nr));
        let debugging = has(numbers::DEBUGGING, nr);
        assert_eq!(answers[0] != answers[1], debugging, "number {nr}");
        assert!(!debugging || answers[1] == Answer::Allow.value(), "number {nr}");
    }
}

#[test]
fn no_number_is_in_two_lists() {
    let all: Vec<_> = [numbers::ALLOWED, numbers::DEBUGGING, numbers::DANGEROUS, numbers::ATTRIBUTES].concat();
    assert_eq!(all.iter().map(|(nr, _)| nr).collect::<BTreeSet<_>>().len(), all.len());
}

#[test]
fn no_step_brings_a_domain_of_its_own() {
    let domains = [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];
    let filter = Filter::compile(Profile::Strict, true).expect("compiles");
    for nr in domains {
        assert_eq!(run(&filter.program, AUDIT_ARCH_X86_64, nr as u32), Answer::Errno(38).value());
    }
}

#[test]
fn the_whole_filter_is_small_and_stable() {
    let strict = Filter::compile(Profile::Strict, true).expect("compiles");
    assert!(strict.program.len() < 800, "{}", strict.program.len());
    assert!(!strict.program.contains(&answer_to_arguments()), "every jump has a goal");
    assert_eq!(strict.digest(), Filter::compile(Profile::Strict, true).expect("compiles").digest());
    assert_ne!(strict.digest(), Filter::compile(Profile::Loopback, true).expect("compiles").digest());
    assert_ne!(strict.digest(), Filter::compile(Profile::Strict, false).expect("compiles").digest());
}

#[test]
fn long_jumps_reach() {
    let answers: Vec<(u32, Answer)> = (0..2000).map(|nr| (nr * 2, Answer::Allow)).collect();
    let program = allowlist(&answers, Answer::Kill);
    for nr in 0..4000 {
        let expected = if nr % 2 == 0 { Answer::Allow } else { Answer::Kill };
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, nr), expected.value(), "number {nr}");
    }
}
