//! Two sequences of digests, laid beside each other.

use crate::pcr::BankDigest;

/// The largest table of the longest common subsequence, in cells. Larger differences are paired by place: a hostile log must not
/// cost more than its size squared up to here.
const CELLS_MAX: usize = 1 << 20;

/// What lies beside what: places in the first and the second sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pair {
    Same(usize, usize),
    Removed(usize),
    Inserted(usize),
}

/// Aligns by a longest common subsequence; removals before insertions at each place.
pub(super) fn align(before: &[Option<BankDigest>], after: &[Option<BankDigest>]) -> Vec<Pair> {
    let same = |(a, b): &(&Option<BankDigest>, &Option<BankDigest>)| a == b;
    let head = before.iter().zip(after).take_while(same).count();
    let (rest_before, rest_after) = (before.get(head..).unwrap_or_default(), after.get(head..).unwrap_or_default());
    let tail = rest_before.iter().rev().zip(rest_after.iter().rev()).take_while(same).count();
    let (rows, columns) = (rest_before.len().saturating_sub(tail), rest_after.len().saturating_sub(tail));
    let mut pairs: Vec<Pair> = (0..head).map(|at| Pair::Same(at, at)).collect();
    let middle = (rest_before.get(..rows).unwrap_or_default(), rest_after.get(..columns).unwrap_or_default());
    pairs.extend(align_middle(middle.0, middle.1).into_iter().map(|pair| match pair {
        Pair::Same(a, b) => Pair::Same(a.saturating_add(head), b.saturating_add(head)),
        Pair::Removed(a) => Pair::Removed(a.saturating_add(head)),
        Pair::Inserted(b) => Pair::Inserted(b.saturating_add(head)),
    }));
    let (from_before, from_after) = (before.len().saturating_sub(tail), after.len().saturating_sub(tail));
    pairs.extend((0..tail).map(|at| Pair::Same(from_before.saturating_add(at), from_after.saturating_add(at))));
    pairs
}

fn align_middle(before: &[Option<BankDigest>], after: &[Option<BankDigest>]) -> Vec<Pair> {
    let (rows, columns) = (before.len(), after.len());
    let width = columns.saturating_add(1);
    let cells = rows.saturating_add(1).saturating_mul(width);
    if rows == 0 || columns == 0 || cells > CELLS_MAX {
        let removed = (0..rows).map(Pair::Removed);
        return removed.chain((0..columns).map(Pair::Inserted)).collect();
    }
    // lengths[a][b]: the longest common subsequence of what is left from a and from b.
    let mut lengths = vec![0_u32; cells];
    let at = |a: usize, b: usize| a.saturating_mul(width).saturating_add(b);
    let read = |lengths: &[u32], a: usize, b: usize| lengths.get(at(a, b)).copied().unwrap_or_default();
    for a in (0..rows).rev() {
        for b in (0..columns).rev() {
            let longest = if before.get(a) == after.get(b) {
                read(&lengths, a.saturating_add(1), b.saturating_add(1)).saturating_add(1)
            } else {
                read(&lengths, a.saturating_add(1), b).max(read(&lengths, a, b.saturating_add(1)))
            };
            if let Some(cell) = lengths.get_mut(at(a, b)) {
                *cell = longest;
            }
        }
    }
    let (mut a, mut b, mut pairs) = (0, 0, Vec::new());
    while a < rows || b < columns {
        let (next_a, next_b) = (a.saturating_add(1), b.saturating_add(1));
        if a < rows && b < columns && before.get(a) == after.get(b) {
            pairs.push(Pair::Same(a, b));
            (a, b) = (next_a, next_b);
        } else if b >= columns || (a < rows && read(&lengths, next_a, b) >= read(&lengths, a, next_b)) {
            pairs.push(Pair::Removed(a));
            a = next_a;
        } else {
            pairs.push(Pair::Inserted(b));
            b = next_b;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pcr::Bank;

    fn digests(letters: &[u8]) -> Vec<Option<BankDigest>> {
        letters.iter().map(|letter| Bank::Sha256.hash(&[*letter])).collect()
    }

    #[test]
    fn the_smallest_difference_is_found() {
        let pairs = align(&digests(b"abcdef"), &digests(b"abxdf"));
        assert_eq!(
            pairs,
            [
                Pair::Same(0, 0),
                Pair::Same(1, 1),
                Pair::Removed(2),
                Pair::Inserted(2),
                Pair::Same(3, 3),
                Pair::Removed(4),
                Pair::Same(5, 4),
            ]
        );
    }

    proptest! {
        #[test]
        fn every_place_is_there_once(a in "[a-d]{0,12}", b in "[a-d]{0,12}") {
            let pairs = align(&digests(a.as_bytes()), &digests(b.as_bytes()));
            let before: Vec<_> = pairs.iter().filter_map(|p| match p { Pair::Same(a, _) | Pair::Removed(a) => Some(*a), Pair::Inserted(_) => None }).collect();
            let after: Vec<_> = pairs.iter().filter_map(|p| match p { Pair::Same(_, b) | Pair::Inserted(b) => Some(*b), Pair::Removed(_) => None }).collect();
            prop_assert_eq!(before, (0..a.len()).collect::<Vec<_>>());
            prop_assert_eq!(after, (0..b.len()).collect::<Vec<_>>());
            for pair in pairs {
                if let Pair::Same(x, y) = pair {
                    prop_assert_eq!(a.as_bytes()[x], b.as_bytes()[y]);
                }
            }
        }
    }
}
