//! Why a register holds another value than its events lead to: the single change of the log that would explain it.

use crate::boot::BootEvent;
use crate::eventlog::replay::Fold;
use crate::pcr::{Bank, BankDigest, PcrIndex, PcrValues};

use super::diff::Placed;

/// The most events of a register that are searched: the search costs their number squared.
const EVENTS_MAX: usize = 256;

/// What would explain a value. Numbers are places in the register's own sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Explanation {
    /// The value is that of the first so many events.
    Prefix(usize),
    /// This event was logged and not extended.
    Without(usize),
    /// This event and the next were extended the other way round.
    Swapped(usize),
    /// This event was extended twice.
    Twice(usize),
    /// After all events systemd extended so many of these words, which need no log to be known.
    Words(&'static [&'static str]),
}

/// What systemd extends while it starts, as far as it has come; each with nothing but the word.
///
/// Source: systemd `units/systemd-pcrphase*.service.in`, `units/systemd-pcrosseparator.service.in`, `docs/TPM2_PCR_MEASUREMENTS.md`.
const SYSTEMD_WORDS: [&[&str]; 6] = [
    &["os-separator"],
    &["enter-initrd"],
    &["enter-initrd", "leave-initrd"],
    &["enter-initrd", "leave-initrd", "sysinit"],
    &["enter-initrd", "leave-initrd", "sysinit", "ready"],
    &["sysinit", "ready"],
];

/// Looks for the explanation of `found`.
pub(super) fn explain(
    events: &[Placed<'_, '_>],
    bank: Bank,
    index: PcrIndex,
    locality: Option<u8>,
    found: &BankDigest,
) -> Option<Explanation> {
    let count = events.len();
    if count > EVENTS_MAX {
        return None;
    }
    // What every beginning of the sequence leads to, so that a changed sequence is only run from where it changes.
    let mut beginnings = Vec::with_capacity(count.saturating_add(1));
    beginnings.push(start(bank, index, locality));
    for placed in events {
        let next = beginnings.last().map(|value| extended(*value, placed.event, bank))?;
        beginnings.push(next);
    }
    let run = |from: usize, order: &mut dyn Iterator<Item = usize>| {
        let value = beginnings.get(from).copied()?;
        Some(order.filter_map(|at| events.get(at)).fold(value, |value, placed| extended(value, placed.event, bank)))
    };
    let is = |value: Option<BankDigest>| value.as_ref() == Some(found);
    if let Some(prefix) = beginnings.iter().take(count).position(|value| value == found) {
        return Some(Explanation::Prefix(prefix));
    }
    let whole = beginnings.last().copied()?;
    let with = |words: &&&[&str]| {
        words.iter().try_fold(whole, |value, word| value.extend(&bank.hash(word.as_bytes())?)).as_ref() == Some(found)
    };
    if let Some(words) = SYSTEMD_WORDS.iter().find(with) {
        return Some(Explanation::Words(words));
    }
    let next = |at: usize| at.saturating_add(1);
    if let Some(at) = (0..count).find(|at| is(run(*at, &mut (next(*at)..count)))) {
        return Some(Explanation::Without(at));
    }
    if let Some(at) =
        (0..count).find(|at| is(run(*at, &mut [next(*at), *at].into_iter().chain(next(next(*at))..count))))
    {
        return Some(Explanation::Swapped(at));
    }
    (0..count).find(|at| is(run(*at, &mut [*at, *at].into_iter().chain(next(*at)..count)))).map(Explanation::Twice)
}

fn start(bank: Bank, index: PcrIndex, locality: Option<u8>) -> BankDigest {
    let values: PcrValues = Fold::new(&[bank], locality).finish();
    values.get_or_reset(bank, index)
}

fn extended(value: BankDigest, event: &BootEvent<'_>, bank: Bank) -> BankDigest {
    event.digest(bank).and_then(|digest| value.extend(&digest)).unwrap_or(value)
}
