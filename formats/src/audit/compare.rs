//! Two boots beside each other: every register, every difference, and the events that the differences are about.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Difference, EventLine, diff, event};
use crate::boot::{Boot, ReadBoot};
use crate::pcr::{Bank, BankDigest, PcrIndex};

/// Two boots beside each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Every register that either boot extends, bank by bank.
    pub registers: Vec<Compared>,
    /// What differs.
    pub differences: Vec<Difference>,
    /// The events of the first boot that the differences name.
    pub events_before: Vec<EventLine>,
    /// The events of the second boot that the differences name.
    pub events_after: Vec<EventLine>,
}

/// One register of both boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// The bank.
    pub bank: Bank,
    /// The register.
    pub register: PcrIndex,
    /// What the events of the first boot lead to; none if no event of it names the register.
    #[serde(serialize_with = "super::as_text_option")]
    pub before: Option<BankDigest>,
    /// What the events of the second boot lead to.
    #[serde(serialize_with = "super::as_text_option")]
    pub after: Option<BankDigest>,
    /// Whether both lead to the same.
    pub same: bool,
}

impl Comparison {
    /// Whether both boots measured the same things in the same order, and said the same of them.
    #[must_use]
    pub fn same(&self) -> bool {
        self.differences.is_empty() && self.registers.iter().all(|register| register.same)
    }
}

/// Lays two boots beside each other: registers, and what differs in words.
#[must_use]
pub fn compare(before: &Boot<'_>, after: &Boot<'_>, command_lines: &[&str]) -> Comparison {
    let (before, after) = (before.read(), after.read());
    let differences = diff::between(&before, &after, command_lines);
    let (of_before, of_after) = (before.replay(), after.replay());
    let touched = of_before.iter().chain(of_after.iter()).map(|(bank, index, _)| (bank, index));
    let registers = touched.collect::<BTreeSet<_>>().into_iter().map(|(bank, register)| {
        let (before, after) = (of_before.get(bank, register).copied(), of_after.get(bank, register).copied());
        Compared { bank, register, before, after, same: before == after }
    });
    let named = |boot: &ReadBoot<'_>, numbers: BTreeSet<usize>| {
        let lines = event::lines(&boot.events, |_, _, _| ()).into_iter();
        lines.filter(|line| numbers.contains(&line.number)).collect()
    };
    let events_before = named(&before, differences.iter().filter_map(|difference| difference.before).collect());
    let events_after = named(&after, differences.iter().filter_map(|difference| difference.after).collect());
    Comparison { registers: registers.collect(), differences, events_before, events_after }
}
