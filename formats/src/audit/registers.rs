//! Registers held against what a TPM holds and what a quote signs.

use std::collections::BTreeSet;

use super::diff::{BANKS, Placed, by_register, hex};
use super::search::{Explanation, explain};
use super::{Against, Finding, Register, Severity, Verdict, expected, words};
use crate::boot::ReadBoot;
use crate::pcr::{Bank, BankDigest, PcrIndex, PcrValues};

/// What the kernel's integrity measurement extends, with a log of its own.
const IMA: u8 = 10;

/// Every register that an event names or a value was given for.
pub(super) fn check(
    boot: &ReadBoot<'_>,
    replayed: &PcrValues,
    against: &Against<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<Register> {
    let (mut registers, mut reported) = (Vec::new(), BTreeSet::new());
    let context = words::Context { bank: Bank::Sha256, command_lines: against.command_lines, network_devices: &[] };
    let quote = quote_verdict(replayed, against, findings);
    for bank in BANKS {
        let of_bank = by_register(&boot.events, bank);
        let is_active = against.values.is_none_or(|values| values.iter().any(|(of, _, _)| of == bank));
        for index in PcrIndex::all() {
            let placed = of_bank.get(&index).map(Vec::as_slice).unwrap_or_default();
            let found = against.values.and_then(|values| values.get(bank, index)).copied();
            if placed.is_empty() && found.is_none() && replayed.get(bank, index).is_none() {
                continue;
            }
            let value = replayed.get_or_reset(bank, index);
            let verdict = match found {
                Some(found) if found == value => Verdict::Holds,
                Some(found) => {
                    // Once is enough: what is wrong with a register is wrong in every bank, or the table of registers shows it.
                    if reported.insert(index) {
                        findings.extend(foreign(against, bank, index, &found));
                        findings.push(mismatch(bank, index, placed, boot.locality, &value, &found, &context));
                    }
                    Verdict::Fails
                }
                None if against.quoted.is_some_and(|quoted| quoted.covers(bank, index)) => quote,
                None => Verdict::Unproven,
            };
            registers.push(Register {
                bank,
                register: index,
                events: placed.len(),
                replayed: value,
                found,
                expected: expected::value(against.reference, bank, index),
                verdict,
            });
        }
        if !is_active && !of_bank.is_empty() {
            let words =
                format!("the log has events in the {bank} bank, and no {bank} value was given: they are not proven");
            findings.push(Finding::new(Severity::Warning, "bank_unproven", words));
        }
    }
    if against.values.is_none() && against.quoted.is_none() {
        let words = "nothing was given to hold the logs against: no event in them is proven to have been extended";
        findings.push(Finding::new(Severity::Warning, "unproven", words));
    }
    unproven_registers(&registers, against, findings);
    another_boot(&registers, findings);
    registers
}

/// Registers with events that no value was given for, though values were given for others.
fn unproven_registers(registers: &[Register], against: &Against<'_>, findings: &mut Vec<Finding>) {
    let of = |verdict| registers.iter().filter(move |r| r.events > 0 && r.verdict == verdict).map(|r| r.register);
    let judged: BTreeSet<_> = of(Verdict::Holds).chain(of(Verdict::Fails)).collect();
    let left: BTreeSet<_> = of(Verdict::Unproven).filter(|index| !judged.contains(index)).collect();
    if left.is_empty() || (against.values.is_none() && against.quoted.is_none()) {
        return;
    }
    let names: Vec<_> = left.iter().map(ToString::to_string).collect();
    let words = format!("no value was given for {}: their events are not proven", names.join(", "));
    findings.push(Finding::new(Severity::Warning, "registers_unproven", words));
}

/// Most registers with events fail at once: no single change explains that.
fn another_boot(registers: &[Register], findings: &mut Vec<Finding>) {
    let compared = registers.iter().filter(|register| register.found.is_some() && register.events > 0);
    let (failed, all) = compared.fold((0_usize, 0_usize), |(failed, all), register| {
        (failed.saturating_add(usize::from(register.verdict == Verdict::Fails)), all.saturating_add(1))
    });
    if failed >= 3 && failed.saturating_mul(2) > all {
        let words = format!(
            "{failed} of {all} registers differ: the logs are of another boot or another machine than the values"
        );
        findings.push(Finding::new(Severity::Failure, "another_boot", words));
    }
}

/// A quote signs one digest over all its registers: it proves all of them or none.
fn quote_verdict(replayed: &PcrValues, against: &Against<'_>, findings: &mut Vec<Finding>) -> Verdict {
    let Some(quoted) = against.quoted else { return Verdict::Unproven };
    let (signed, replayed) = (Some(quoted.digest()), quoted.digest_of(replayed));
    if let Some(given) = against.values.map(|values| quoted.digest_of(values)).filter(|given| *given != signed) {
        let words = "the register values that were given are not those that the TPM quoted";
        findings.push(Finding::new(Severity::Failure, "values_not_quoted", words).values(hex(signed), hex(given)));
    }
    if replayed == signed {
        return Verdict::Holds;
    }
    let words = "the logs do not lead to what the TPM quoted: an event is missing, was added or altered, or the log is of another boot";
    findings.push(Finding::new(Severity::Failure, "quote_differs", words).values(hex(signed), hex(replayed)));
    Verdict::Fails
}

/// The value may be one that we know from elsewhere: then it is the log that is wrong.
fn foreign(against: &Against<'_>, bank: Bank, index: PcrIndex, found: &BankDigest) -> Option<Finding> {
    let words = if expected::value(against.reference, bank, index).as_ref() == Some(found) {
        format!(
            "{index} holds the value that the reference values say, and the log says otherwise: the log was altered"
        )
    } else if against.other.is_some_and(|other| other.replay().get(bank, index) == Some(found)) {
        format!(
            "{index} holds the value of the other boot, and the log says otherwise: the log was altered or is of another boot"
        )
    } else {
        return None;
    };
    Some(Finding::new(Severity::Failure, "log_altered", words).at(Some(index), None))
}

/// A register holds another value than its events lead to.
fn mismatch(
    bank: Bank,
    index: PcrIndex,
    placed: &[Placed<'_, '_>],
    locality: Option<u8>,
    value: &BankDigest,
    found: &BankDigest,
    context: &words::Context<'_>,
) -> Finding {
    let failure = |code, words: String, event| {
        Finding::new(Severity::Failure, code, words).at(Some(index), event).values(value, found)
    };
    let explained = explain(placed, bank, index, locality, found);
    if let Some(Explanation::Words(said)) = explained {
        let words = format!(
            "{index} holds what its events and systemd's words {} lead to: the running system extended them, and its log was not given or lacks them",
            said.join(", ")
        );
        return failure("os_words_missing", words, None);
    }
    if placed.is_empty() {
        let by = if index.get() == IMA {
            "by the kernel's integrity measurement (IMA), whose own log is needed, or "
        } else {
            ""
        };
        let words = format!(
            "{index} holds a value in the {bank} bank and no event explains it: it was extended {by}by the OS after boot and is missing from this log"
        );
        return failure("value_without_events", words, None);
    }
    let at = |place: usize| placed.get(place);
    let name = |place: usize| {
        at(place).map_or_else(String::new, |p| format!("event {}, {}", p.number, words::name(p.event, context)))
    };
    let number = |place: usize| at(place).map(|p| p.number);
    match explained {
        Some(Explanation::Prefix(0)) => {
            let words = format!(
                "the log has events for {index} and the TPM says that it was never extended: the log is of another boot"
            );
            failure("never_extended", words, number(0))
        }
        Some(Explanation::Prefix(events)) => {
            let words = format!(
                "{index} holds the value of its first {events} events: {} and all after it were added to the log, or came after the value was read",
                name(events)
            );
            failure("events_added", words, number(events))
        }
        Some(Explanation::Without(place)) => {
            let words = format!(
                "{index} holds the value that its events lead to without {}: it is in the log and was never extended",
                name(place)
            );
            failure("event_added", words, number(place))
        }
        Some(Explanation::Swapped(place)) => {
            let words = format!(
                "{index} holds the value that its events lead to in another order: {} was extended after the event behind it in the log",
                name(place)
            );
            failure("events_swapped", words, number(place))
        }
        Some(Explanation::Twice(place)) => {
            let words = format!(
                "{index} holds the value that its events lead to if {} was extended twice: one event is missing from the log",
                name(place)
            );
            failure("event_dropped", words, number(place))
        }
        Some(Explanation::Words(_)) | None => {
            let words = format!(
                "the events of {index} do not lead to its value in the {bank} bank: it was extended by the OS after boot and that is missing from this log, or an event of it was dropped, added or altered"
            );
            failure("value_differs", words, None)
        }
    }
}
