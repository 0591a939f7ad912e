//! What differs between two boots: events that came, went, changed or moved, register by register, in words.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Serialize;

use super::align::{Pair, align};
use super::{FINDINGS_MAX, Finding, Severity, Worth, event, words};
use crate::boot::{Boot, BootEvent, ReadBoot};
use crate::pcr::{Bank, BankDigest, PcrIndex};

/// In which order banks are preferred for a comparison.
pub(super) const BANKS: [Bank; 5] = [Bank::Sha256, Bank::Sha384, Bank::Sha512, Bank::Sm3, Bank::Sha1];

/// What happened to an event from the first boot to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is only in the second.
    Inserted,
    /// It is only in the first.
    Removed,
    /// The same thing was measured, with another digest.
    Changed,
    /// The same digest, at another place.
    Reordered,
    /// The same digest at the same place, described otherwise: one of the logs was written by someone else.
    Relabelled,
    /// The boots have no bank in common, or start from another locality.
    Incomparable,
}

impl Change {
    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inserted => "new",
            Self::Removed => "gone",
            Self::Changed => "changed",
            Self::Reordered => "moved",
            Self::Relabelled => "relabelled",
            Self::Incomparable => "incomparable",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What happened.
    pub change: Change,
    /// The register.
    pub register: Option<PcrIndex>,
    /// The event's place among all events of the first boot.
    pub before: Option<usize>,
    /// The event's place among all events of the second boot.
    pub after: Option<usize>,
    /// In words.
    pub words: String,
}

impl Difference {
    pub(super) fn into_finding(self) -> Finding {
        let code = match self.change {
            Change::Inserted => "event_inserted",
            Change::Removed => "event_removed",
            Change::Changed => "event_changed",
            Change::Reordered => "event_reordered",
            Change::Relabelled => "event_relabelled",
            Change::Incomparable => "boots_incomparable",
        };
        Finding::new(Severity::Warning, code, self.words).at(self.register, self.after)
    }
}

/// An event and its place among all events of its boot.
#[derive(Clone, Copy)]
pub(super) struct Placed<'e, 'b> {
    pub(super) number: usize,
    pub(super) event: &'e BootEvent<'b>,
}

/// What differs from `before` to `after`; at most [`FINDINGS_MAX`] differences. Nothing if both measured the same things in the
/// same order.
#[must_use]
pub fn diff(before: &Boot<'_>, after: &Boot<'_>, command_lines: &[&str]) -> Vec<Difference> {
    between(&before.read(), &after.read(), command_lines)
}

/// See [`diff`].
pub(super) fn between(before: &ReadBoot<'_>, after: &ReadBoot<'_>, command_lines: &[&str]) -> Vec<Difference> {
    let Some(bank) = BANKS.into_iter().find(|bank| before.banks.contains(bank) && after.banks.contains(bank)) else {
        let words = "the two boots have no bank in common: nothing of them can be compared".to_owned();
        return vec![Difference { change: Change::Incomparable, register: None, before: None, after: None, words }];
    };
    let (of_before, of_after) = (by_register(&before.events, bank), by_register(&after.events, bank));
    let comparer = Comparer { bank, command_lines, network_devices: event::network_devices(&after.events) };
    let mut differences = Vec::new();
    for register in PcrIndex::all() {
        let before = of_before.get(&register).map(Vec::as_slice).unwrap_or_default();
        let after = of_after.get(&register).map(Vec::as_slice).unwrap_or_default();
        differences.extend(comparer.register(register, before, after));
        differences.truncate(FINDINGS_MAX);
    }
    let (from, to) = (before.locality, after.locality);
    if from != to {
        let locality = |l: Option<u8>| l.map_or_else(|| "no locality".to_owned(), |l| format!("locality {l}"));
        let words = format!("PCR 0 starts from {}, it was {}", locality(to), locality(from));
        let register = PcrIndex::new(0).ok();
        differences.push(Difference { change: Change::Incomparable, register, before: None, after: None, words });
    }
    differences
}

/// The events that extend each register in `bank`.
pub(super) fn by_register<'e, 'b>(events: &'e [BootEvent<'b>], bank: Bank) -> BTreeMap<PcrIndex, Vec<Placed<'e, 'b>>> {
    let mut registers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (number, event) in events.iter().enumerate() {
        if let Some(register) = event.extends().filter(|_| event.digest(bank).is_some()) {
            registers.entry(register).or_default().push(Placed { number, event });
        }
    }
    registers
}

/// What every register's comparison needs.
struct Comparer<'c> {
    bank: Bank,
    command_lines: &'c [&'c str],
    network_devices: Vec<String>,
}

impl Comparer<'_> {
    fn register(&self, register: PcrIndex, before: &[Placed<'_, '_>], after: &[Placed<'_, '_>]) -> Vec<Difference> {
        let digests = |events: &[Placed<'_, '_>]| events.iter().map(|p| p.event.digest(self.bank)).collect::<Vec<_>>();
        let (digests_before, digests_after) = (digests(before), digests(after));
        let pairs = align(&digests_before, &digests_after);
        let (partners, removed) = partners(&pairs, before, after, &digests_before, &digests_after);
        let context = words::Context {
            bank: self.bank,
            command_lines: self.command_lines,
            network_devices: &self.network_devices,
        };
        let difference = |change, a: Option<usize>, b: Option<usize>| {
            let (a, b) = (a.and_then(|a| before.get(a)), b.and_then(|b| after.get(b)));
            Difference {
                change,
                register: Some(register),
                before: a.map(|placed| placed.number),
                after: b.map(|placed| placed.number),
                words: words::difference(change, register, a, b, &context),
            }
        };
        let of_pair = |pair: &Pair| match pair {
            Pair::Same(a, b) => {
                is_relabelled(before.get(*a), after.get(*b)).then(|| difference(Change::Relabelled, Some(*a), Some(*b)))
            }
            Pair::Removed(a) => removed.contains(a).then(|| difference(Change::Removed, Some(*a), None)),
            Pair::Inserted(b) => Some(match partners.get(b) {
                Some((change, a)) => difference(*change, Some(*a), Some(*b)),
                None => difference(Change::Inserted, None, Some(*b)),
            }),
        };
        pairs.iter().filter_map(of_pair).take(FINDINGS_MAX).collect()
    }
}

/// For each inserted event the removed one that it is: moved, or changed in place. And what was removed for good.
///
/// What moved is found first, so that an event is used once.
fn partners(
    pairs: &[Pair],
    before: &[Placed<'_, '_>],
    after: &[Placed<'_, '_>],
    digests_before: &[Option<BankDigest>],
    digests_after: &[Option<BankDigest>],
) -> (BTreeMap<usize, (Change, usize)>, BTreeSet<usize>) {
    let removed_at = |pair: &Pair| if let Pair::Removed(a) = pair { Some(*a) } else { None };
    let inserted_at = |pair: &Pair| if let Pair::Inserted(b) = pair { Some(*b) } else { None };
    let mut removed: BTreeSet<usize> = pairs.iter().filter_map(removed_at).collect();
    let mut partners = BTreeMap::new();
    let mut by_digest: BTreeMap<_, VecDeque<usize>> = BTreeMap::new();
    for a in &removed {
        by_digest.entry(digests_before.get(*a)).or_default().push_back(*a);
    }
    for b in pairs.iter().filter_map(inserted_at) {
        if let Some(a) = by_digest.get_mut(&digests_after.get(b)).and_then(VecDeque::pop_front) {
            removed.remove(&a);
            partners.insert(b, (Change::Reordered, a));
        }
    }
    let mut by_key: BTreeMap<_, VecDeque<usize>> = BTreeMap::new();
    for a in &removed {
        by_key.entry(before.get(*a).map(|placed| event::key(placed.event))).or_default().push_back(*a);
    }
    for b in pairs.iter().filter_map(inserted_at) {
        if partners.contains_key(&b) {
            continue;
        }
        let key = after.get(b).map(|placed| event::key(placed.event));
        if let Some(a) = by_key.get_mut(&key).and_then(VecDeque::pop_front) {
            removed.remove(&a);
            partners.insert(b, (Change::Changed, a));
        }
    }
    (partners, removed)
}

/// One digest, two descriptions.
fn is_relabelled(before: Option<&Placed<'_, '_>>, after: Option<&Placed<'_, '_>>) -> bool {
    let (Some(a), Some(b)) = (before, after) else { return false };
    if event::data(a.event) == event::data(b.event) {
        return false;
    }
    let altered = |placed: &Placed<'_, '_>| event::worth(placed.event) == Worth::Mismatched;
    event::key(a.event) != event::key(b.event) || altered(a) != altered(b)
}

/// The digest as people compare it.
pub(super) fn hex(digest: Option<BankDigest>) -> String {
    digest.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string())
}
