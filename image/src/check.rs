//! Where an image differs from the published one, and why: the parts at fault, apart from those that only contain them.
//!
//! [`compare`] is pure. A difference is a [`Place::Cause`] where nothing smaller explains it; a UKI is another because its initrd
//! is, and the initrd because one program in it is. With both files at hand, [`Bytes`] says where in a part the bytes differ.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::inputs::Input;
use crate::inventory::{Inventory, Part};

/// One part that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The part, such as `uki/.initrd`.
    pub part: String,
    /// What was published; none if the part is new.
    pub published: Option<Part>,
    /// What was made; none if the part is gone.
    pub found: Option<Part>,
    /// Whether it is at fault itself.
    pub place: Place,
}

/// How a difference came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "of")]
pub enum Place {
    /// Nothing smaller differs: this is it.
    Cause,
    /// It is the same thing as another part, or contains it.
    Follows(String),
}

/// How two versions of one part differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// Where the first byte differs, from 0.
    pub first: u64,
    /// How many bytes differ, as far as both go.
    pub differ: u64,
    /// How many bytes one of them has that the other has not.
    pub surplus: u64,
}

/// One input that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputDifference {
    /// As published; none if it is new.
    pub published: Option<Input>,
    /// As used; none if it is gone.
    pub found: Option<Input>,
}

impl Bytes {
    /// How `found` differs from `published`; none if it does not.
    #[must_use]
    pub fn of(published: &[u8], found: &[u8]) -> Option<Self> {
        let differing = || published.iter().zip(found).enumerate().filter(|(_, (one, other))| one != other);
        let both = published.len().min(found.len());
        let surplus = published.len().max(found.len()) - both;
        let first = differing().next().map_or(both, |(at, _)| at);
        let differ = differing().count();
        (differ + surplus > 0).then_some(Self { first: first as u64, differ: differ as u64, surplus: surplus as u64 })
    }
}

/// The parts that differ, causes first.
#[must_use]
pub fn compare(published: &Inventory, found: &Inventory) -> Vec<Difference> {
    let names: BTreeSet<&String> = published.parts.keys().chain(found.parts.keys()).collect();
    let pair = |name: &str| (published.parts.get(name).copied(), found.parts.get(name).copied());
    let differing: Vec<&String> = names.into_iter().filter(|name| pair(name).0 != pair(name).1).collect();
    let place = |name: &str| {
        let inside = format!("{name}/");
        let part_of_it = differing.iter().find(|other| other.starts_with(&inside));
        // `initrd/init` is `init` itself, `uki/.linux` the kernel: the shorter name is the thing, the longer where else it is.
        let same = differing.iter().find(|other| {
            let shorter = (other.matches('/').count(), other.len()) < (name.matches('/').count(), name.len());
            shorter && pair(other) == pair(name)
        });
        match same.or(part_of_it) {
            Some(other) => Place::Follows((*other).clone()),
            None => Place::Cause,
        }
    };
    let difference = |name: &&String| {
        let (published, found) = pair(name);
        Difference { part: (*name).clone(), published, found, place: place(name) }
    };
    let mut differences: Vec<Difference> = differing.iter().map(difference).collect();
    differences.sort_by_key(|difference| difference.place != Place::Cause);
    differences
}

/// The inputs that differ.
#[must_use]
pub fn compare_inputs(published: &[Input], found: &[Input]) -> Vec<InputDifference> {
    let name = |input: &Input| (input.kind, input.name.clone());
    let only = |these: &[Input], others: &[Input]| -> Vec<Input> {
        these.iter().filter(|input| !others.contains(input)).cloned().collect()
    };
    let (gone, mut new) = (only(published, found), only(found, published));
    let mut differences: Vec<InputDifference> = Vec::new();
    for input in gone {
        let at = new.iter().position(|other| name(other) == name(&input));
        differences.push(InputDifference { published: Some(input), found: at.map(|at| new.remove(at)) });
    }
    differences.extend(new.into_iter().map(|input| InputDifference { published: None, found: Some(input) }));
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::InputKind;

    /// An image whose parts contain each other as real ones do.
    fn inventory(init: &str, linux: &str, sbat: &str) -> Inventory {
        let of = |text: &str| Part::of(text.as_bytes());
        let initrd = format!("packed {init}");
        let uki = format!("{linux} {initrd} {sbat}");
        let parts = [
            ("init", of(init)),
            ("initrd", of(&initrd)),
            ("initrd/init", of(init)),
            ("initrd/usr/lib/os-release", of("ID=kiln")),
            ("kernel", of(linux)),
            ("uki", of(&uki)),
            ("uki/.initrd", of(&initrd)),
            ("uki/.linux", of(linux)),
            ("uki/.sbat", of(sbat)),
            ("disk", of(&format!("table {uki}"))),
            ("disk/table", of("table")),
            ("disk/esp", of(&format!("fat {uki}"))),
            ("disk/esp/EFI/BOOT/BOOTX64.EFI", of(&uki)),
        ];
        Inventory { parts: parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect() }
    }

    fn causes(published: &Inventory, found: &Inventory) -> Vec<String> {
        let causes = compare(published, found).into_iter().filter(|difference| difference.place == Place::Cause);
        causes.map(|difference| difference.part).collect()
    }

    #[test]
    fn one_change_has_one_cause() {
        let published = inventory("init", "linux", "sbat");
        assert_eq!(compare(&published, &published), []);
        assert_eq!(causes(&published, &inventory("inix", "linux", "sbat")), ["init"]);
        assert_eq!(causes(&published, &inventory("init", "linuy", "sbat")), ["kernel"]);
        assert_eq!(causes(&published, &inventory("init", "linux", "sbau")), ["uki/.sbat"]);
        assert_eq!(causes(&published, &inventory("inix", "linuy", "sbat")), ["init", "kernel"]);
        let all = compare(&published, &inventory("inix", "linux", "sbat"));
        let follows = |part: &str| all.iter().find(|difference| difference.part == part).unwrap().place.clone();
        assert_eq!(follows("initrd/init"), Place::Follows("init".to_owned()));
        assert_eq!(follows("uki/.initrd"), Place::Follows("initrd".to_owned()));
        assert_eq!(follows("disk/esp/EFI/BOOT/BOOTX64.EFI"), Place::Follows("uki".to_owned()));
        assert!(matches!(follows("disk"), Place::Follows(part) if part == "disk/esp"));
    }

    #[test]
    fn a_container_whose_parts_are_the_same_is_at_fault_itself() {
        let published = inventory("init", "linux", "sbat");
        for name in ["initrd", "uki", "disk/table", "disk"] {
            let mut found = published.clone();
            found.parts.insert(name.to_owned(), Part::of(b"another order"));
            assert_eq!(causes(&published, &found), [name]);
        }
        let mut found = published.clone();
        found.parts.remove("uki/.sbat");
        found.parts.insert("uki/.new".to_owned(), Part::of(b"new"));
        assert_eq!(causes(&published, &found), ["uki/.new", "uki/.sbat"]);
    }

    #[test]
    fn bytes_are_counted() {
        assert_eq!(Bytes::of(b"abc", b"abc"), None);
        assert_eq!(Bytes::of(b"abc", b"axc"), Some(Bytes { first: 1, differ: 1, surplus: 0 }));
        assert_eq!(Bytes::of(b"abc", b"abcde"), Some(Bytes { first: 3, differ: 0, surplus: 2 }));
        assert_eq!(Bytes::of(b"", b"a"), Some(Bytes { first: 0, differ: 0, surplus: 1 }));
    }

    #[test]
    fn inputs_are_compared_by_name() {
        let input = |name: &str, version: &str| Input {
            kind: InputKind::Program,
            name: name.to_owned(),
            version: Some(version.to_owned()),
            sha256: None,
        };
        let (old, new) =
            ([input("gcc", "12"), input("flex", "2")], [input("gcc", "13"), input("make", "4"), input("flex", "2")]);
        let differences = compare_inputs(&old, &new);
        let names: Vec<_> = differences
            .iter()
            .map(|difference| {
                let version = |input: &Option<Input>| input.as_ref().and_then(|input| input.version.clone());
                (version(&difference.published), version(&difference.found))
            })
            .collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(names, [(text("12"), text("13")), (None, text("4"))]);
    }
}
