//! Runs the compiled allowlist in a small BPF interpreter against every number, and holds the lists to each other.

use std::collections::BTreeSet;

use super::*;

/// Interprets the instructions that `allowlist` emits.
fn run(program: &[sock_filter], arch: u32, nr: u32) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let instruction = &program[at];
        at += 1;
        match u32::from(instruction.code) {
            0x20 => accumulator = if instruction.k == OFFSET_ARCH { arch } else { nr },
            0x06 => return instruction.k,
            0x05 => at += instruction.k as usize,
            0x15 => at += usize::from(if accumulator == instruction.k { instruction.jt } else { instruction.jf }),
            0x35 => at += usize::from(if accumulator >= instruction.k { instruction.jt } else { instruction.jf }),
            code => panic!("unexpected code {code:#x}"),
        }
    }
}

#[test]
fn every_number_gets_the_answer_of_the_lists() {
    let filter = Filter::compile(Profile::Strict).expect("compiles");
    let tree = &filter.programs[0];
    for nr in 0..1024_u32 {
        let expected = if numbers::ALLOWED.contains(&i64::from(nr)) {
            Answer::Allow
        } else if [numbers::DANGEROUS, numbers::DEBUGGING].concat().contains(&i64::from(nr)) {
            Answer::Errno(1)
        } else if numbers::ATTRIBUTES.contains(&i64::from(nr)) {
            Answer::Errno(95)
        } else {
            Answer::Errno(38)
        };
        assert_eq!(run(tree, AUDIT_ARCH_X86_64, nr), expected.value(), "number {nr}");
        assert_eq!(run(tree, 0x4000_0003, nr), Answer::Kill.value(), "i386 number {nr}");
        assert_eq!(run(tree, AUDIT_ARCH_X86_64, nr | X32_BIT), Answer::Kill.value(), "x32 number {nr}");
    }
}

#[test]
fn debugging_is_allowed_in_its_profile_and_nothing_else_changes() {
    let of = |profile| Filter::compile(profile).expect("compiles").programs;
    let (strict, debug) = (of(Profile::Strict), of(Profile::Debug));
    for nr in 0..1024_u32 {
        let answers = [&strict, &debug].map(|programs| run(&programs[0], AUDIT_ARCH_X86_64, nr));
        let debugging = numbers::DEBUGGING.contains(&i64::from(nr));
        assert_eq!(answers[0] != answers[1], debugging, "number {nr}");
        assert!(!debugging || answers[1] == Answer::Allow.value(), "number {nr}");
    }
    assert_eq!(strict[1].len(), debug[1].len());
}

#[test]
fn no_number_is_in_two_lists() {
    let all: Vec<i64> = [numbers::ALLOWED, numbers::DEBUGGING, numbers::DANGEROUS, numbers::ATTRIBUTES].concat();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
}

#[test]
fn the_whole_filter_is_small_and_stable() {
    let strict = Filter::compile(Profile::Strict).expect("compiles");
    let instructions: Vec<usize> = strict.programs.iter().map(Vec::len).collect();
    assert!(instructions[0] < 300, "{instructions:?}");
    assert!(instructions[1] < 500, "{instructions:?}");
    assert_eq!(strict.digest(), Filter::compile(Profile::Strict).expect("compiles").digest());
    assert_ne!(strict.digest(), Filter::compile(Profile::Loopback).expect("compiles").digest());
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
