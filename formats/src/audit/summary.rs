//! Many boots at a glance: how many distinct ones, and which stand out by which registers.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::pcr::{Bank, BankDigest, PcrIndex, PcrValues};

/// What many boots have in common and where they differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many boots there are.
    pub boots: usize,
    /// Boots with the same values in every register, the largest group first. The first group is the usual boot.
    pub groups: Vec<Group>,
}

/// Boots with the same values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// What the boots are called, in the order given.
    pub members: Vec<String>,
    /// The registers in which they differ from the usual boot; none for the usual boot itself.
    pub differs_in: Vec<Differing>,
}

/// A register that differs from the usual boot's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Differing {
    /// The bank.
    pub bank: Bank,
    /// The register.
    pub register: PcrIndex,
}

/// Groups boots by the values that their logs lead to (or that their TPMs hold), each with a name to call it by.
#[must_use]
pub fn summarise(boots: &[(String, PcrValues)]) -> Summary {
    let mut groups: BTreeMap<Vec<(Bank, PcrIndex, BankDigest)>, Vec<String>> = BTreeMap::new();
    for (name, values) in boots {
        let key = values.iter().map(|(bank, index, value)| (bank, index, *value)).collect();
        groups.entry(key).or_default().push(name.clone());
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
    let usual: BTreeSet<_> = groups.first().map(|(values, _)| values.iter().copied().collect()).unwrap_or_default();
    let group = |(values, members): (Vec<_>, Vec<String>)| {
        let values: BTreeSet<_> = values.into_iter().collect();
        let differing: BTreeSet<_> = values
            .symmetric_difference(&usual)
            .map(|(bank, register, _)| Differing { bank: *bank, register: *register })
            .collect();
        Group { members, differs_in: differing.into_iter().collect() }
    };
    Summary { boots: boots.len(), groups: groups.into_iter().map(group).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odd_one_out_is_named_with_its_registers() {
        let boot = |name: &str, words: &[(u32, &[u8])]| {
            let mut values = PcrValues::new();
            for (register, word) in words {
                values.extend(PcrIndex::new(*register).unwrap(), &Bank::Sha256.hash(word).unwrap());
            }
            (name.to_owned(), values)
        };
        let boots = [
            boot("odd", &[(4, b"loader"), (7, b"off"), (8, b"x")]),
            boot("a", &[(4, b"loader"), (7, b"on")]),
            boot("b", &[(4, b"loader"), (7, b"on")]),
        ];
        let summary = summarise(&boots);
        assert_eq!((summary.boots, summary.groups.len()), (3, 2));
        assert_eq!(summary.groups[0].members, ["a", "b"]);
        assert_eq!(summary.groups[0].differs_in, []);
        assert_eq!(summary.groups[1].members, ["odd"]);
        let registers: Vec<u8> = summary.groups[1].differs_in.iter().map(|d| d.register.get()).collect();
        assert_eq!(registers, [7, 8]);
        assert_eq!(summarise(&[]).groups, []);
    }
}
