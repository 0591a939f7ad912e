//! Registers held against what a TPM holds, what a quote signs, and what an image must yield.

use std::collections::{BTreeMap, BTreeSet};

use super::align::{Pair, align};
use super::diff::{BANKS, Placed, by_register, hex};
use super::search::{Explanation, explain};
use super::{Against, Finding, Register, Severity, Verdict, event, words};
use crate::boot::{Boot, BootEvent};
use crate::pcr::{Bank, BankDigest, PcrIndex, PcrValues};
use crate::reference::{MachineReference, PcrReference};

/// What the kernel's integrity measurement extends, with a log of its own.
const IMA: u8 = 10;

/// Every register that an event names or a value was given for.
pub(super) fn check(
    boot: &Boot<'_>,
    events: &[BootEvent<'_>],
    replayed: &PcrValues,
    against: &Against<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<Register> {
    let (mut registers, mut reported) = (Vec::new(), BTreeSet::new());
    let locality = boot.locality();
    let context = words::Context { bank: Bank::Sha256, command_lines: against.command_lines, network_devices: &[] };
    let quote = quote_verdict(replayed, against, findings);
    for bank in BANKS {
        let of_bank = by_register(events, bank);
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
                        findings.push(mismatch(bank, index, placed, locality, &value, &found, &context));
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
                expected: expected(against.reference, bank, index),
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

fn expected(reference: Option<&MachineReference>, bank: Bank, index: PcrIndex) -> Option<BankDigest> {
    let expected = reference?.pcrs.get(&index.get().to_string())?;
    if bank == Bank::Sha256 { BankDigest::new(bank, expected.value.as_bytes()) } else { None }
}

/// The value may be one that we know from elsewhere: then it is the log that is wrong.
fn foreign(against: &Against<'_>, bank: Bank, index: PcrIndex, found: &BankDigest) -> Option<Finding> {
    let words = if expected(against.reference, bank, index).as_ref() == Some(found) {
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

/// Every register that the reference values name, event by event.
pub(super) fn check_reference(
    reference: &MachineReference,
    events: &[BootEvent<'_>],
    replayed: &PcrValues,
    against: &Against<'_>,
    findings: &mut Vec<Finding>,
    known: &mut BTreeMap<usize, String>,
) {
    let of_bank = by_register(events, Bank::Sha256);
    let network_devices = event::network_devices(events);
    let context =
        words::Context { bank: Bank::Sha256, command_lines: against.command_lines, network_devices: &network_devices };
    for (register, expected) in &reference.pcrs {
        let index = register.parse().ok().and_then(|number: u32| PcrIndex::new(number).ok());
        let Some(index) = index.filter(|index| index.get().to_string() == *register) else {
            let words = format!("the reference values name a register {register:?}, which does not exist");
            findings.push(Finding::new(Severity::Failure, "reference_malformed", words));
            continue;
        };
        let mut placed = of_bank.get(&index).cloned().unwrap_or_default();
        if index == PcrIndex::RUNTIME {
            // The reference values end with the first quote; what the job does comes after.
            placed.truncate(expected.events.len());
        }
        let before = findings.len();
        compare(index, expected, &placed, &context, findings, known);
        let found = (index != PcrIndex::RUNTIME).then(|| replayed.get_or_reset(Bank::Sha256, index));
        let wanted = BankDigest::new(Bank::Sha256, expected.value.as_bytes());
        if findings.len() == before && found.is_some() && found != wanted {
            let words = format!(
                "{index} has every expected event and not the expected value: the reference values contradict themselves"
            );
            findings.push(
                Finding::new(Severity::Failure, "reference_contradicts", words)
                    .at(Some(index), None)
                    .values(hex(wanted), hex(found)),
            );
        }
    }
}

fn compare(
    index: PcrIndex,
    expected: &PcrReference,
    placed: &[Placed<'_, '_>],
    context: &words::Context<'_>,
    findings: &mut Vec<Finding>,
    known: &mut BTreeMap<usize, String>,
) {
    let wanted: Vec<_> = expected.events.iter().map(|e| BankDigest::new(Bank::Sha256, e.sha256.as_bytes())).collect();
    let found: Vec<_> = placed.iter().map(|p| p.event.digest(Bank::Sha256)).collect();
    let pairs = align(&wanted, &found);
    let mut at = 0;
    while let Some(pair) = pairs.get(at) {
        at = at.saturating_add(1);
        let (finding, number) = match (pair, pairs.get(at)) {
            (Pair::Same(a, b), _) => {
                let number = placed.get(*b).map(|event| event.number);
                known.extend(number.zip(wanted.get(*a).copied().flatten().map(|digest| digest.to_string())));
                continue;
            }
            (Pair::Removed(a), Some(Pair::Inserted(b))) => {
                at = at.saturating_add(1);
                let (what, event) = (expected.events.get(*a), placed.get(*b));
                let (what, is) = what
                    .zip(event)
                    .map_or_else(Default::default, |(what, p)| (what.name.as_str(), words::name(p.event, context)));
                let words = format!("{index}: {what} is not the expected one; the log has {is} in its place");
                let finding = Finding::new(Severity::Failure, "event_differs", words);
                (
                    finding.values(hex(wanted.get(*a).copied().flatten()), hex(found.get(*b).copied().flatten())),
                    event.map(|p| p.number),
                )
            }
            (Pair::Removed(a), _) => {
                let what = expected.events.get(*a).map_or("", |event| event.name.as_str());
                let words = format!("{index}: {what} is expected and was not measured");
                let finding = Finding::new(Severity::Failure, "event_missing", words);
                (finding.values(hex(wanted.get(*a).copied().flatten()), "nothing"), None)
            }
            (Pair::Inserted(b), _) => {
                let event = placed.get(*b);
                let is = event.map_or_else(String::new, |p| words::name(p.event, context));
                let words = format!("{index}: {is} was measured and nothing is expected there");
                let finding = Finding::new(Severity::Failure, "event_unexpected", words);
                (finding.values("nothing", hex(found.get(*b).copied().flatten())), event.map(|p| p.number))
            }
        };
        known.extend(number.zip(finding.expected.clone()));
        findings.push(finding.at(Some(index), number));
    }
}
