//! Stores made by hand, and those of the host's firmware.

use proptest::prelude::*;

use super::*;

/// An empty store of `room` bytes, and flash behind it.
fn empty(room: usize) -> Vec<u8> {
    let mut bytes = vec![0; VOLUME_KIND_OFFSET];
    bytes.extend(VOLUME);
    let all = 72 + STORE_HEADER_BYTES + room + 64;
    bytes.extend((all as u64).to_le_bytes());
    bytes.resize(VOLUME_HEADER_LENGTH_OFFSET, 0);
    bytes.extend(72_u16.to_le_bytes());
    bytes.resize(72, 0);
    bytes.extend(STORE);
    bytes.extend(u32::try_from(STORE_HEADER_BYTES + room).unwrap().to_le_bytes());
    bytes.extend(STORE_READY);
    bytes.resize(72 + STORE_HEADER_BYTES, 0);
    bytes.resize(all, EMPTY);
    bytes
}

fn noon() -> Timestamp {
    "2026-01-02T12:34:56Z".parse().unwrap()
}

fn databases(contents: [&[u8]; 4]) -> Vec<(Variable, Database)> {
    let database = |content: &[u8]| match content {
        [] => Database::default(),
        content => Database::of_certificate(content).unwrap(),
    };
    Variable::ALL.into_iter().zip(contents.map(database)).collect()
}

proptest! {
    #[test]
    fn what_is_enrolled_is_read_back(
        contents in proptest::array::uniform4(proptest::collection::vec(any::<u8>(), 0..200)),
    ) {
        let databases = databases([&contents[0], &contents[1], &contents[2], &contents[3]]);
        let store = Store::parse(enrolled(&empty(4096), &databases, noon()).unwrap()).unwrap();
        let found = store.variables();
        let expected: Vec<_> = databases.iter().filter(|(_, database)| !database.is_empty()).collect();
        prop_assert_eq!(found.len(), expected.len());
        for (found, (variable, database)) in found.iter().zip(expected) {
            prop_assert_eq!((found.vendor, found.name.to_vec()), (variable.vendor(), utf16(variable.name())));
            prop_assert_eq!(found.attributes, 0x27);
            prop_assert_eq!(Database::parse(found.content), Ok(database.clone()));
        }
    }

    #[test]
    fn a_damaged_store_is_refused_or_whole(at in 0_usize..600, bit in 0_u8..8, cut in 0_usize..600) {
        let mut bytes = enrolled(&empty(512), &databases([b"a", b"bc", b"def", b""]), noon()).unwrap();
        bytes[at] ^= 1 << bit;
        if let Ok(store) = Store::parse(bytes.clone()) {
            prop_assert!(store.variables().len() <= 3 && store.free <= store.end && store.end <= store.bytes.len());
        }
        bytes.truncate(cut);
        prop_assert!(Store::parse(bytes).is_err());
    }
}

#[test]
fn a_variable_is_written_once_and_only_where_there_is_room() {
    let twice = [(Variable::Allowed, Database::of_certificate(b"a").unwrap())];
    let once = enrolled(&empty(512), &twice, noon()).unwrap();
    assert_eq!(enrolled(&once, &twice, noon()), Err(StoreError::Exists { name: "db" }));
    assert_eq!(enrolled(&empty(64), &twice, noon()), Err(StoreError::Full { name: "db" }));
}

#[test]
fn what_is_no_store_is_refused() {
    for (at, why) in [(VOLUME_KIND_OFFSET, "volume"), (VOLUME_LENGTH_OFFSET, "length"), (72, "authenticated")] {
        let mut bytes = empty(64);
        bytes[at] ^= 1;
        let error = Store::parse(bytes).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let mut long = empty(64);
    long[72 + 16..72 + 20].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(Store::parse(long).is_err());
    let mut replaced = enrolled(&empty(512), &databases([b"a", b"b", b"c", b"d"]), noon()).unwrap();
    replaced[72 + STORE_HEADER_BYTES + 2] = 0x3c;
    assert_eq!(Store::parse(replaced).unwrap().variables().len(), 3);
}

/// OVMF as Debian has it takes what we write, and another program's store is read by us.
#[test]
fn the_stores_of_the_host_s_firmware() {
    let read = |name: &str| std::fs::read(format!("/usr/share/OVMF/{name}")).expect("package ovmf");
    let template = read("OVMF_VARS_4M.fd");
    assert!(Store::parse(template.clone()).unwrap().variables().is_empty());
    let databases = databases([b"pk", b"kek", b"db", b"dbx"]);
    let made = enrolled(&template, &databases, noon()).unwrap();
    assert_eq!(made, enrolled(&template, &databases, noon()).unwrap());
    assert_eq!(made.len(), template.len());
    assert_eq!(Store::parse(made).unwrap().variables().len(), 4);
    // Made by OVMF itself, with other people's keys.
    let theirs = Store::parse(read("OVMF_VARS_4M.ms.fd")).unwrap();
    for variable in Variable::ALL {
        let is_it = |found: &&Stored<'_>| found.vendor == variable.vendor() && found.name == utf16(variable.name());
        let found: Vec<_> = theirs.variables().into_iter().filter(|found| is_it(&found)).collect();
        assert_eq!(found.len(), 1, "{}", variable.name());
        assert_eq!(found[0].attributes, ATTRIBUTES);
    }
}
