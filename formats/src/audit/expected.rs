//! Registers held against what an image must yield, event by event, in every bank that both the log and the reference values have.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::align::{Pair, align};
use super::diff::{BANKS, Placed, by_register, hex};
use super::{Finding, Severity, words};
use crate::boot::ReadBoot;
use crate::pcr::{Bank, BankDigest, PcrIndex, PcrValues};
use crate::prediction::{PcrPrediction, Registers};

/// What an event should extend, by its place among all events.
pub(super) type Digests = BTreeMap<usize, String>;

/// What the reference values say of a register.
pub(super) fn value(reference: Option<&Registers>, bank: Bank, index: PcrIndex) -> Option<BankDigest> {
    reference?.get(&index.get().to_string())?.values.get(bank).copied()
}

/// Every register that the reference values name. Returns what they say of the log's events.
pub(super) fn check(
    reference: &Registers,
    boot: &ReadBoot<'_>,
    replayed: &PcrValues,
    context: &words::Context<'_>,
    findings: &mut Vec<Finding>,
) -> Digests {
    let mut known = Digests::new();
    let logged: Vec<_> = BANKS.into_iter().filter(|bank| boot.banks.contains(bank)).collect();
    let by_bank: Vec<_> = logged.iter().map(|bank| (*bank, by_register(&boot.events, *bank))).collect();
    for (register, expected) in reference {
        let index = register.parse().ok().and_then(|number: u32| PcrIndex::new(number).ok());
        let Some(index) = index.filter(|index| index.get().to_string() == *register) else {
            let words = format!("the reference values name a register {register:?}, which does not exist");
            findings.push(Finding::new(Severity::Failure, "reference_malformed", words));
            continue;
        };
        let mut banks = by_bank.iter().filter(|(bank, _)| expected.values.get(*bank).is_some()).peekable();
        if banks.peek().is_none() {
            let words = format!("{index} was not held against the reference values: the log has none of their banks");
            findings.push(Finding::new(Severity::Failure, "reference_bank", words).at(Some(index), None));
        }
        let before = findings.len();
        for (at, (bank, registers)) in banks.enumerate() {
            let mut placed = registers.get(&index).cloned().unwrap_or_default();
            // A log whose first bank holds events of a register need not have them in every bank.
            if at > 0 && placed.is_empty() {
                continue;
            }
            if index == PcrIndex::RUNTIME {
                // The reference values end with the first quote; what the job does comes after.
                placed.truncate(expected.events.len());
            }
            let register = Expected { index, bank: *bank, expected, context };
            register.check(&placed, replayed, findings, &mut known);
            // What is wrong in one bank is wrong in the others.
            if findings.len() > before {
                break;
            }
        }
    }
    known
}

/// One register in one bank.
struct Expected<'c> {
    index: PcrIndex,
    bank: Bank,
    expected: &'c PcrPrediction,
    context: &'c words::Context<'c>,
}

impl Expected<'_> {
    fn check(&self, placed: &[Placed<'_, '_>], replayed: &PcrValues, findings: &mut Vec<Finding>, known: &mut Digests) {
        let (index, before) = (self.index, findings.len());
        self.compare(placed, findings, known);
        if index == PcrIndex::RUNTIME || findings.len() > before {
            return;
        }
        let (found, wanted) = (replayed.get_or_reset(self.bank, index), self.expected.values.get(self.bank).copied());
        if wanted != Some(found) {
            let words = format!(
                "{index} has every expected event and not the expected value: the reference values contradict themselves"
            );
            let finding = Finding::new(Severity::Failure, "reference_contradicts", words).at(Some(index), None);
            findings.push(finding.values(hex(wanted), hex(Some(found))));
        }
    }

    fn compare(&self, placed: &[Placed<'_, '_>], findings: &mut Vec<Finding>, known: &mut Digests) {
        let (index, context) = (self.index, self.context);
        let wanted: Vec<_> = self.expected.events.iter().map(|event| event.digests.get(self.bank).copied()).collect();
        let found: Vec<_> = placed.iter().map(|placed| placed.event.digest(self.bank)).collect();
        let (wanted_at, found_at) =
            (|a: usize| hex(wanted.get(a).copied().flatten()), |b: usize| hex(found.get(b).copied().flatten()));
        let what = |a: usize| self.expected.events.get(a).map_or("", |event| event.name.as_str());
        let is = |b: usize| placed.get(b).map_or_else(String::new, |placed| words::name(placed.event, context));
        let number = |b: usize| placed.get(b).map(|placed| placed.number);
        let failure = |code, words| Finding::new(Severity::Failure, code, words);
        let pairs = align(&wanted, &found);
        let mut at = 0;
        while let Some(pair) = pairs.get(at) {
            at = at.saturating_add(1);
            let (finding, number) = match (*pair, pairs.get(at).copied()) {
                (Pair::Same(a, b), _) => {
                    known.extend(number(b).map(|number| (number, wanted_at(a))));
                    continue;
                }
                (Pair::Removed(a), Some(Pair::Inserted(b))) => {
                    at = at.saturating_add(1);
                    let words =
                        format!("{index}: {} is not the expected one; the log has {} in its place", what(a), is(b));
                    (failure("event_differs", words).values(wanted_at(a), found_at(b)), number(b))
                }
                (Pair::Removed(a), _) => {
                    let words = format!("{index}: {} is expected and was not measured", what(a));
                    (failure("event_missing", words).values(wanted_at(a), "nothing"), None)
                }
                (Pair::Inserted(b), _) => {
                    let words = format!("{index}: {} was measured and nothing is expected there", is(b));
                    (failure("event_unexpected", words).values("nothing", found_at(b)), number(b))
                }
            };
            known.extend(number.zip(finding.expected.clone()));
            findings.push(finding.at(Some(index), number));
        }
    }
}
