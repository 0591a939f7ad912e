//! Denials by layer, operation and object, each with its count: bounded, and exact even where it is cut.

use std::collections::BTreeMap;

use super::Denial;
use crate::layer::Layer;

/// Entries of one step. A build that is denied more different things is not a build; the rest is counted.
const DENIALS_MAX: usize = 1024;
/// Bytes of one object: a longer path is cut, with `...` at its end.
const OBJECT_BYTES_MAX: usize = 1024;

/// The denials of one step so far.
#[derive(Debug, Default)]
pub(super) struct Denials {
    counts: BTreeMap<(Layer, String, String), u64>,
    unlisted: u64,
}

impl Denials {
    /// Counts `count` denials of one kind, of which there may be none.
    pub(super) fn add(&mut self, layer: Layer, operation: &str, object: &str, count: u64) {
        if count == 0 {
            return;
        }
        let key = (layer, operation.to_owned(), cut(object));
        let full = self.counts.len() >= DENIALS_MAX;
        match self.counts.get_mut(&key) {
            Some(counted) => *counted += count,
            None if full => self.unlisted += count,
            None => drop(self.counts.insert(key, count)),
        }
    }

    /// The list, and how many denials are not in it.
    pub(super) fn into_list(self) -> (Vec<Denial>, u64) {
        let denial = |((layer, operation, object), count)| Denial { layer, operation, object, count };
        (self.counts.into_iter().map(denial).collect(), self.unlisted)
    }
}

/// Within [`OBJECT_BYTES_MAX`], on a character's boundary.
fn cut(object: &str) -> String {
    if object.len() <= OBJECT_BYTES_MAX {
        return object.to_owned();
    }
    let end = (0..=OBJECT_BYTES_MAX - 3).rev().find(|end| object.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", object.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_counted() {
        let mut denials = Denials::default();
        for round in 0..3 {
            for object in 0..DENIALS_MAX + 5 {
                denials.add(Layer::Seccomp, "mount", &object.to_string(), 1 + round);
            }
        }
        denials.add(Layer::View, "open", "/x", 0);
        let (list, unlisted) = denials.into_list();
        assert_eq!((list.len(), unlisted), (DENIALS_MAX, 5 * (1 + 2 + 3)));
        assert!(list.iter().all(|denial| denial.count == 6));
    }

    #[test]
    fn a_long_object_is_cut_aloud() {
        let mut denials = Denials::default();
        denials.add(Layer::View, "open", &"ä".repeat(OBJECT_BYTES_MAX), 1);
        let (list, _) = denials.into_list();
        assert!(list[0].object.len() <= OBJECT_BYTES_MAX && list[0].object.ends_with("ä..."));
    }
}
