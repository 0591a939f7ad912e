//! Many boots at a glance: how many distinct ones, which stand out, and by what.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Verdict, diff};
use crate::boot::Boot;
use crate::pcr::{Bank, BankDigest, PcrIndex, PcrValues};

/// How many groups of boots are explained by their differences from the usual boot: a comparison costs more than an audit.
const EXPLAINED_MAX: usize = 32;
/// How many differences of a group are listed.
const CHANGES_MAX: usize = 12;

/// One boot of many.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// What it is called, inert.
    pub name: String,
    /// Its logs.
    pub boot: Boot<'a>,
    /// What its own audit came to.
    pub verdict: Verdict,
    /// What its logs lead to ([`super::Audit::replayed`]).
    pub values: PcrValues,
    /// What failed in its audit, in words.
    pub failures: Vec<String>,
}

/// What many boots have in common and where they differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many boots there are.
    pub boots: usize,
    /// Boots with the same values in every register, the largest group first. The first group is the usual boot.
    pub groups: Vec<Group>,
    /// Registers in which no value is shared by more than half of the boots: there is nothing usual to differ from.
    pub varying: Vec<Differing>,
    /// What could not be read, and why.
    pub unread: Vec<Unread>,
}

/// What is no boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// What it is called, inert.
    pub name: String,
    /// Why it could not be read.
    pub reason: String,
}

/// Boots with the same values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// What the boots are called, in the order given.
    pub members: Vec<String>,
    /// The worst verdict of their audits.
    pub verdict: Verdict,
    /// What failed in them, each once.
    pub failures: Vec<String>,
    /// The registers in which they hold another value than more than half of all boots.
    pub differs_in: Vec<Differing>,
    /// What changed from the usual boot, in words.
    pub changes: Vec<String>,
    /// Changes beyond those listed; every change of a group that is not explained.
    pub changes_unlisted: usize,
}

/// A register of a bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Differing {
    /// The bank.
    pub bank: Bank,
    /// The register.
    pub register: PcrIndex,
}

impl Group {
    /// Whether its boots need a look: they fail, or differ from what is usual.
    #[must_use]
    pub fn stands_out(&self) -> bool {
        self.verdict == Verdict::Fails || !self.differs_in.is_empty()
    }
}

impl Summary {
    /// Whether nothing stands out and everything was read.
    #[must_use]
    pub fn is_even(&self) -> bool {
        self.unread.is_empty() && !self.groups.iter().any(Group::stands_out)
    }
}

/// Groups boots by the values that their logs lead to, and says in which registers each group differs from what is usual.
#[must_use]
pub fn summarise(members: &[Member<'_>], unread: Vec<Unread>) -> Summary {
    let mut groups: BTreeMap<&PcrValues, Vec<&Member<'_>>> = BTreeMap::new();
    for member in members {
        groups.entry(&member.values).or_default().push(member);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
    let (usual, varying) = usual(&groups, members.len());
    let first = groups.first().and_then(|(_, members)| members.first()).map(|member| &member.boot);
    let group = |(at, (values, members)): (usize, &(&PcrValues, Vec<&Member<'_>>))| {
        let differs = |of: &&Differing| values.get(of.bank, of.register).copied() != usual.get(of).copied().flatten();
        let differs_in: Vec<_> = usual.keys().filter(differs).copied().collect();
        let is_explained = at > 0 && at <= EXPLAINED_MAX;
        let other = members.first().filter(|_| is_explained).zip(first);
        let changes = other.map_or_else(Vec::new, |(member, first)| diff(first, &member.boot, &[]));
        let failures: BTreeSet<_> = members.iter().flat_map(|member| member.failures.iter().cloned()).collect();
        Group {
            members: members.iter().map(|member| member.name.clone()).collect(),
            verdict: members.iter().map(|member| member.verdict).min().unwrap_or(Verdict::Unproven),
            failures: failures.into_iter().take(CHANGES_MAX).collect(),
            differs_in,
            changes_unlisted: changes.len().saturating_sub(CHANGES_MAX),
            changes: changes.into_iter().take(CHANGES_MAX).map(|change| change.words).collect(),
        }
    };
    let groups = groups.iter().enumerate().map(group).collect();
    Summary { boots: members.len(), groups, varying, unread }
}

/// For each register the value that more than half of the boots have (none if they leave it alone), and the registers in which
/// there is no such value.
fn usual(
    groups: &[(&PcrValues, Vec<&Member<'_>>)],
    boots: usize,
) -> (BTreeMap<Differing, Option<BankDigest>>, Vec<Differing>) {
    let mut counts: BTreeMap<Differing, BTreeMap<Option<BankDigest>, usize>> = BTreeMap::new();
    for (values, members) in groups {
        for (bank, register, value) in values.iter() {
            let of = Differing { bank, register };
            let count = counts.entry(of).or_default().entry(Some(*value)).or_default();
            *count = count.saturating_add(members.len());
        }
    }
    let (mut usual, mut varying) = (BTreeMap::new(), Vec::new());
    for (register, mut values) in counts {
        let named = values.values().fold(0_usize, |sum, count| sum.saturating_add(*count));
        values.insert(None, boots.saturating_sub(named));
        match values.into_iter().find(|(_, count)| count.saturating_mul(2) > boots) {
            Some((value, _)) => drop(usual.insert(register, value)),
            None => varying.push(register),
        }
    }
    (usual, varying)
}

#[cfg(test)]
mod tests {
    use super::super::tests::log::{boot_of, made_here, runtime_log};
    use super::*;

    #[test]
    fn the_odd_one_out_is_named_with_its_registers_and_its_change() {
        let usual = made_here().encode();
        let mut odd = made_here();
        odd.variable("SecureBoot", &[0]);
        let odd = odd.encode();
        let runtimes: Vec<_> = (0..4).map(|trust| runtime_log(trust, false)).collect();
        let member = |name: &str, firmware, at: usize| {
            let boot = boot_of(firmware, &runtimes[at]);
            let (values, failures) = (boot.replay(), Vec::new());
            Member { name: name.to_owned(), boot, verdict: Verdict::Unproven, values, failures }
        };
        let same = [member("odd", &odd, 0), member("a", &usual, 0), member("b", &usual, 0)];
        let summary = summarise(&same, Vec::new());
        assert_eq!((summary.boots, summary.groups.len(), summary.is_even()), (3, 2, false));
        assert_eq!((summary.groups[0].members.join(" ").as_str(), summary.groups[0].stands_out()), ("a b", false));
        assert_eq!(summary.groups[1].members, ["odd"]);
        assert_eq!(summary.groups[1].differs_in.iter().map(|d| d.register.get()).collect::<Vec<_>>(), [7]);
        assert_eq!(summary.groups[1].changes, ["Secure Boot is off, it was on"]);
        // Registers in which every machine has its own value hide nothing.
        let own = [member("a", &usual, 0), member("b", &usual, 1), member("c", &usual, 2), member("odd", &odd, 3)];
        let summary = summarise(&own, Vec::new());
        assert_eq!((summary.groups.len(), summary.varying.len()), (4, 1));
        let standing: Vec<_> = summary.groups.iter().filter(|g| g.stands_out()).map(|g| g.members.concat()).collect();
        assert_eq!(standing, ["odd"]);
        assert!(summarise(&[], Vec::new()).is_even());
        let unread = vec![Unread { name: "x".to_owned(), reason: "empty".to_owned() }];
        assert!(!summarise(&[], unread).is_even());
    }
}
