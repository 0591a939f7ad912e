//! Archives: the same for the same tree, and the same tree again in other hands.

use std::process::Command;

use proptest::prelude::*;

use super::*;

fn packed(leftovers: &Leftovers) -> (Collected, Vec<u8>) {
    let mut archive = Vec::new();
    let collected = leftovers.pack(Path::new("."), &Bounds::default(), &mut archive).expect("packed");
    (collected, archive)
}

/// Runs the system's tar on an archive.
fn tar(archive: &[u8], arguments: &[&OsStr]) -> String {
    let mut file = tempfile::NamedTempFile::new().expect("file");
    file.write_all(archive).expect("written");
    let ran = Command::new("tar").args(arguments).arg("-f").arg(file.path()).env("TZ", "UTC").output().expect("tar");
    assert!(ran.status.success() && ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("text")
}

#[test]
fn an_archive_says_nothing_of_its_making() {
    let (directory, leftovers) = workspace();
    fs::create_dir(directory.path().join("lib")).expect("directory");
    fs::write(directory.path().join("lib/a.so.1"), b"code").expect("file");
    fs::set_permissions(directory.path().join("lib/a.so.1"), fs::Permissions::from_mode(0o710)).expect("mode");
    symlink("a.so.1", directory.path().join("lib/a.so")).expect("link");
    fs::write(directory.path().join("README"), b"read me").expect("file");
    let (collected, archive) = packed(&leftovers);
    let sha256: [u8; 32] = Sha256::digest(&archive).into();
    assert_eq!(collected, Collected { size_bytes: archive.len() as u64, sha256, executable: false });
    let listed = tar(&archive, &["--numeric-owner".as_ref(), "-tv".as_ref()]);
    let expected = "\
-rw-r--r-- 0/0               7 1970-01-01 00:00 README
drwxr-xr-x 0/0               0 1970-01-01 00:00 lib/
lrwxrwxrwx 0/0               0 1970-01-01 00:00 lib/a.so -> a.so.1
-rwxr-xr-x 0/0               4 1970-01-01 00:00 lib/a.so.1
";
    assert_eq!(listed, expected);
    // Nobody else's software may change these bytes: they are what is signed.
    assert_eq!(hex::encode(sha256), "8cbd0c1c0ada5a05790cbefa53b8213b1008bc645a65c27dd2d5648b7d89c590");
}

#[test]
fn what_a_header_has_no_room_for_is_whole_all_the_same() {
    let (directory, leftovers) = workspace();
    let deep = format!("{}/{}", "d".repeat(200), "é".repeat(100));
    fs::create_dir(directory.path().join("d".repeat(200))).expect("directory");
    fs::write(directory.path().join(&deep), b"found").expect("file");
    symlink(&deep, directory.path().join("link")).expect("link");
    let (_, archive) = packed(&leftovers);
    let to = tempfile::tempdir().expect("directory");
    tar(&archive, &["-x".as_ref(), "-C".as_ref(), to.path().as_ref()]);
    assert_eq!(fs::read(to.path().join("link")).expect("found over the link"), b"found");
    // A size that eleven octal digits cannot say: only the headers are made, nobody writes eight gibibytes here.
    let mut sink = Vec::new();
    let mut large = archive::Archive::new(&mut sink, u64::MAX);
    large.entry(b"large", archive::Kind::File { executable: false, size: 1 << 33 }).expect("begun");
    let text = String::from_utf8_lossy(&sink);
    assert!(text.contains("19 size=8589934592\n"), "{text}");
}

#[test]
fn a_set_is_taken_whole_or_not_at_all() {
    let (directory, leftovers) = workspace();
    fs::create_dir(directory.path().join("tree")).expect("directory");
    fs::write(directory.path().join("tree/file"), b"in a tree").expect("file");
    fs::write(directory.path().join("file"), b"by itself").expect("file");
    let wanted =
        |path: &'static str, kind, bytes_max| Wanted { from: &leftovers, path: Path::new(path), kind, bytes_max };
    let (file, tree) = (wanted("file", Kind::File, 9), wanted("tree", Kind::Tree, 1 << 20));
    let taken = super::super::take(&[file, tree], |_| Ok(Vec::new())).expect("taken");
    assert_eq!(taken.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [9, 512 + 512 + 1024]);
    let refused = |set: &[Wanted<'_>]| {
        let mut sinks = 0;
        let not_taken = super::super::take(set, |_| {
            sinks += 1;
            Ok(Vec::new())
        })
        .expect_err("must be refused");
        assert_eq!(sinks, not_taken.at + 1, "what comes behind the first refusal is not looked at");
        not_taken
    };
    let missing = refused(&[file, tree, wanted("none", Kind::File, 9)]);
    assert!(matches!(missing, NotTaken { at: 2, source: Error::Missing { .. } }), "{missing:?}");
    let too_long = refused(&[wanted("file", Kind::File, 8), tree]);
    assert!(matches!(too_long, NotTaken { at: 0, source: Error::TooLong { .. } }), "{too_long:?}");
    let other_kind = refused(&[file, wanted("tree", Kind::File, 99)]);
    assert!(matches!(other_kind, NotTaken { at: 1, source: Error::Kind { .. } }), "{other_kind:?}");
    let full = super::super::take(&[file], |_| Err::<Vec<u8>, _>(io::Error::other("full"))).expect_err("no sink");
    assert!(!full.source.is_refusal());
}

#[test]
fn what_was_not_declared_is_found() {
    let (directory, leftovers) = workspace();
    fs::create_dir_all(directory.path().join("usr/lib/deep")).expect("directories");
    fs::write(directory.path().join("usr/lib/deep/x"), b"").expect("file");
    fs::write(directory.path().join("usr/file"), b"").expect("file");
    let only = |declared: &[(&str, Kind)]| {
        let declared: Vec<_> = declared.iter().map(|(path, kind)| (Path::new(*path), *kind)).collect();
        leftovers.only(&declared, &Bounds::default())
    };
    only(&[("usr/lib", Kind::Tree), ("usr/file", Kind::File)]).expect("all of it is declared");
    only(&[(".", Kind::Tree)]).expect("all of it is declared");
    let found = |declared| match only(declared) {
        Err(Error::Undeclared { path }) => String::from_utf8(path).expect("text"),
        other => panic!("{other:?}"),
    };
    assert_eq!(found(&[("usr/lib", Kind::Tree)]), "usr/file");
    assert_eq!(found(&[("usr/file", Kind::File)]), "usr/lib");
    assert_eq!(found(&[("usr/li", Kind::Tree), ("usr/file", Kind::File)]), "usr/lib");
    assert_eq!(found(&[]), "usr");
    symlink("usr", directory.path().join("extra")).expect("link");
    assert_eq!(found(&[("usr", Kind::Tree)]), "extra");
}

/// One thing in a tree that is made up.
#[derive(Clone, Debug)]
enum Made {
    Directory,
    File(Vec<u8>, bool),
    Link(String),
}

fn tree() -> impl Strategy<Value = Vec<(String, Made)>> {
    let name = prop_oneof!["[a-cA-C]{1,2}", "[a-z]{90,120}", "[éü漢 .]{1,3}x", "[a-z]{1,3}"];
    let path = proptest::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    let made = prop_oneof![
        Just(Made::Directory),
        (proptest::collection::vec(any::<u8>(), 0..2000), any::<bool>()).prop_map(|(bytes, x)| Made::File(bytes, x)),
        "[a-c]{1,3}(/[a-c]{1,90}){0,2}".prop_map(Made::Link),
    ];
    proptest::collection::vec((path, made), 0..30)
}

/// Makes as much of a tree as is possible: what is in the way of something stays.
fn make<'a>(root: &Path, tree: impl Iterator<Item = &'a (String, Made)>) {
    for (path, made) in tree {
        let at = root.join(path);
        if at.symlink_metadata().is_ok() || at.parent().is_none_or(|parent| fs::create_dir_all(parent).is_err()) {
            continue;
        }
        match made {
            Made::Directory => fs::create_dir(&at).expect("directory"),
            Made::File(bytes, executable) => {
                fs::write(&at, bytes).expect("file");
                let mode = if *executable { 0o700 } else { 0o600 };
                fs::set_permissions(&at, fs::Permissions::from_mode(mode)).expect("mode");
            }
            Made::Link(target) => symlink(target, &at).expect("link"),
        }
    }
}

/// The same tree, made in the order of its names backwards.
fn again(from: &Path, to: &Path) {
    let mut entries: Vec<_> = fs::read_dir(from).expect("list").map(|entry| entry.expect("entry")).collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
    for entry in entries {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().expect("type");
        if kind.is_dir() {
            fs::create_dir(&to).expect("directory");
            again(&from, &to);
        } else if kind.is_symlink() {
            symlink(fs::read_link(&from).expect("link"), &to).expect("link");
        } else {
            fs::copy(&from, &to).map(drop).expect("file");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_survives_and_is_the_same_whoever_packs_it(tree in tree()) {
        let (directory, leftovers) = workspace();
        make(directory.path(), tree.iter());
        let (collected, archive) = packed(&leftovers);
        let digest = leftovers.digest(&Bounds::default()).expect("digest");

        let (other, of_other) = workspace();
        again(directory.path(), other.path());
        prop_assert_eq!(packed(&of_other), (collected, archive.clone()));

        let (unpacked, of_unpacked) = workspace();
        tar(&archive, &["-x".as_ref(), "-C".as_ref(), unpacked.path().as_ref()]);
        prop_assert_eq!(of_unpacked.digest(&Bounds::default()).expect("digest"), digest);

        for (directory, leftovers) in [(directory, leftovers), (other, of_other), (unpacked, of_unpacked)] {
            leftovers.remove().expect("removed");
            prop_assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 0);
        }
    }
}
