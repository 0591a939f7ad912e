//! Each rule of the table in `rules.rs`, against a tree made by hand, as root and on a real file system.

use std::os::fd::AsFd as _;

use rustix::fs::{XattrFlags, setxattr};

use super::*;

/// What packing the whole workspace answers.
fn packed(leftovers: &Leftovers) -> Result<Collected, Error> {
    leftovers.pack(Path::new("."), &Bounds::default(), &mut io::sink())
}

/// A workspace with `make` done to it is refused, and the same without is not.
fn refuses(make: impl FnOnce(&Path), expected: impl Fn(&Error) -> bool) {
    let (directory, leftovers) = workspace();
    fs::create_dir(directory.path().join("d")).expect("directory");
    fs::write(directory.path().join("d/good"), b"good").expect("file");
    packed(&leftovers).expect("nothing is wrong yet");
    make(directory.path());
    let error = packed(&leftovers).expect_err("must be refused");
    assert!(expected(&error) && error.is_refusal(), "{error}");
}

#[test]
fn hard_links_are_refused() {
    let two = |error: &Error| matches!(error, Error::Names { count: 2, .. });
    refuses(|at| fs::hard_link(at.join("d/good"), at.join("again")).expect("link"), two);
    // To an input that lies elsewhere on the same file system.
    let input = tempfile::tempdir().expect("directory");
    fs::write(input.path().join("input"), b"secret").expect("file");
    refuses(|at| fs::hard_link(input.path().join("input"), at.join("mine")).expect("link"), two);
}

#[test]
fn only_relative_links_that_stay_inside_are_taken() {
    for (place, target) in [
        ("l", "/etc/passwd"),
        ("l", ".."),
        ("l", "../x"),
        ("d/l", "../.."),
        ("d/l", "../../d/good"),
        // Where `x` leads is not known here: upwards behind it could be anywhere.
        ("l", "x/.."),
        ("l", "x/../../etc/passwd"),
        ("d/l", "./../x/../.."),
        ("l", "/"),
    ] {
        refuses(|at| symlink(target, at.join(place)).expect("link"), |error| matches!(error, Error::Target { .. }));
    }
    for target in ["-rf", "a\nb", "a\u{202e}b"] {
        refuses(|at| symlink(target, at.join("l")).expect("link"), |error| matches!(error, Error::Name { .. }));
    }
    let (directory, leftovers) = workspace();
    fs::create_dir_all(directory.path().join("d/e")).expect("directory");
    for (place, target) in [("l", "d"), ("d/l", "../d/e/"), ("d/e/l", ".././../none"), ("d/up", ".."), ("loop", "loop")]
    {
        symlink(target, directory.path().join(place)).expect("link");
    }
    packed(&leftovers).expect("all of them stay inside");
}

#[test]
fn devices_fifos_and_sockets_are_refused() {
    let is = |wanted: &'static str| move |error: &Error| matches!(error, Error::Kind { kind, .. } if *kind == wanted);
    refuses(|at| nix::unistd::mkfifo(&at.join("d/x"), nix::sys::stat::Mode::S_IRWXU).expect("fifo"), is("fifo"));
    refuses(|at| drop(std::os::unix::net::UnixListener::bind(at.join("d/x")).expect("socket")), is("socket"));
    for kind in [FileType::CharacterDevice, FileType::BlockDevice] {
        let make = |at: &Path| {
            rustix::fs::mknodat(CWD, at.join("d/x"), kind, Mode::RWXU, rustix::fs::makedev(1, 3)).expect("device");
        };
        refuses(make, is("device"));
    }
}

#[test]
fn a_mount_inside_is_refused() {
    let (directory, leftovers) = workspace();
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).expect("directory");
    rustix::mount::mount("none", &inner, "tmpfs", rustix::mount::MountFlags::empty(), c"mode=0755")
        .expect("needs root");
    let found = packed(&leftovers);
    rustix::mount::unmount(&inner, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    assert!(matches!(found, Err(Error::Outside { .. })), "{found:?}");
}

#[test]
fn special_bits_are_refused() {
    for (name, mode) in [("d/good", 0o4755), ("d/good", 0o2755), ("d/good", 0o1644), ("d", 0o2755), ("d", 0o1777)] {
        refuses(
            |at| fs::set_permissions(at.join(name), fs::Permissions::from_mode(mode)).expect("mode"),
            |error| matches!(error, Error::SpecialMode { mode: found, .. } if *found == mode & 0o7000),
        );
    }
}

#[test]
fn extended_attributes_are_refused() {
    // cap_net_raw=ep. Source: struct vfs_cap_data, linux/capability.h, revision 2.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // One entry for user 1. Source: posix_acl_xattr.h, version 2: owner, user 1, group, mask, others.
    let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &7_u16.to_le_bytes(), &id.to_le_bytes()].concat();
    let list = [2_u32.to_le_bytes().to_vec(), entry(1, !0), entry(2, 1), entry(4, !0), entry(16, !0), entry(32, !0)];
    for (at, name, value) in [
        ("d/good", "user.comment", b"x".as_slice()),
        ("d", "user.comment", b"x"),
        ("", "user.comment", b"x"),
        ("d/good", "security.capability", &capability),
        ("d/good", "trusted.overlay.opaque", b"y"),
        ("d/good", "system.posix_acl_access", &list.concat()),
    ] {
        refuses(
            |root| setxattr(root.join(at), name, value, XattrFlags::empty()).expect(name),
            |error| matches!(error, Error::Attribute { name: found, .. } if found == name.as_bytes()),
        );
    }
    // A single file obeys the same rule.
    let (directory, leftovers) = workspace();
    fs::write(directory.path().join("one"), b"1").expect("file");
    setxattr(directory.path().join("one"), "security.capability", &capability, XattrFlags::empty()).expect("attribute");
    assert!(matches!(take(&leftovers, "one", 9), Err(Error::Attribute { .. })));
}

#[test]
fn sizes_are_bounded_before_anything_is_read() {
    let sparse = |at: &Path, size| fs::File::create(at.join("sparse")).expect("file").set_len(size).expect("length");
    refuses(|at| sparse(at, 8 << 40), |error| matches!(error, Error::TooLong { found, .. } if *found > 8 << 40));
    // Within the bound it is as large as it says.
    let (directory, leftovers) = workspace();
    sparse(directory.path(), 3000);
    let bounds = |bytes_max| Bounds { bytes_max, ..Bounds::default() };
    let pack = |bytes_max| leftovers.pack(Path::new("."), &bounds(bytes_max), &mut io::sink());
    assert_eq!(pack(512 + 3072 + 1024).expect("fits").size_bytes, 512 + 3072 + 1024);
    assert!(matches!(pack(512 + 3072 + 1023), Err(Error::TooLong { .. })));
    // What has come so far counts.
    fs::write(directory.path().join("a"), b"").expect("file");
    assert!(matches!(pack(512 + 3072 + 1024), Err(Error::TooLong { .. })));
}

/// Does something the first time that it is written to.
struct Meddling<F: FnMut()>(F, usize);

impl<F: FnMut()> Write for Meddling<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The first is the header of the first file.
        if self.1 == 1 {
            (self.0)();
        }
        self.1 += 1;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_changes_its_size_is_refused() {
    for size in [100_u64, 1 << 20, 0] {
        let (directory, leftovers) = workspace();
        let file = fs::File::create(directory.path().join("file")).expect("file");
        file.set_len(500_000).expect("length");
        let meddling = || file.set_len(size).expect("length");
        let error = leftovers
            .pack(Path::new("."), &Bounds::default(), &mut Meddling(meddling, 0))
            .expect_err("must be refused");
        assert!(matches!(error, Error::Changed { stated: 500_000, .. }), "{error}");
    }
}

#[test]
fn entries_levels_and_paths_are_bounded() {
    let (directory, leftovers) = workspace();
    fs::create_dir_all(directory.path().join("a/b/c")).expect("directories");
    let pack = |entries_max, depth_max| {
        leftovers.pack(Path::new("."), &Bounds { entries_max, depth_max, ..Bounds::default() }, &mut io::sink())
    };
    assert!(pack(3, 4).is_ok());
    assert!(matches!(pack(2, 4), Err(Error::TooMany { limit: 2 })));
    assert!(matches!(pack(3, 3), Err(Error::TooDeep { limit: 3, .. })));

    let nest = |name: &str, levels| {
        let (directory, leftovers) = workspace();
        let mut at = rustix::fs::open(directory.path(), OFlags::PATH, Mode::empty()).expect("open");
        for _ in 0..levels {
            rustix::fs::mkdirat(&at, name, Mode::RWXU).expect("directory");
            at = rustix::fs::openat(&at, name, OFlags::PATH, Mode::empty()).expect("open");
        }
        let found = (packed(&leftovers), leftovers.digest(&Bounds::default()));
        leftovers.remove().expect("any depth is removed");
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 0);
        found
    };
    let found = nest("d", 200);
    assert!(matches!(found, (Err(Error::TooDeep { .. }), Err(Error::TooDeep { .. }))), "{found:?}");
    let found = nest(&"n".repeat(255), 20);
    assert!(matches!(found, (Err(Error::Path { .. }), Err(Error::Path { .. }))), "{found:?}");
    let found = nest(&"n".repeat(255), 15);
    assert!(matches!(found, (Ok(_), Ok(_))), "{found:?}");
}

#[test]
fn a_hundred_thousand_entries_are_bounded_and_removed() {
    let (directory, leftovers) = workspace();
    let root = rustix::fs::open(directory.path(), OFlags::PATH, Mode::empty()).expect("open");
    for number in 0..100_000 {
        rustix::fs::mknodat(&root, format!("{number:06}"), FileType::RegularFile, Mode::RUSR, 0).expect("file");
    }
    assert_eq!(leftovers.digest(&Bounds::default()).expect("digest").entries, 100_000);
    assert_eq!(packed(&leftovers).expect("packed").size_bytes, 100_000 * 512 + 1024);
    let bounds = Bounds { entries_max: 99_999, ..Bounds::default() };
    let found = leftovers.pack(Path::new("."), &bounds, &mut io::sink());
    assert!(matches!(found, Err(Error::TooMany { .. })));
    leftovers.remove().expect("removed");
    assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 0);
}

#[test]
fn names_show_what_they_are() {
    for name in [
        b"\xff".as_slice(),
        b"a\xed\xa0\x80",
        b"a\nb",
        b"a\x1b[2J",
        b"\x7f",
        b"-rf",
        "a\u{85}".as_bytes(),
        "a\u{202e}txt.exe".as_bytes(),
        "a\u{200b}b".as_bytes(),
        "a\u{feff}".as_bytes(),
        "\u{2028}".as_bytes(),
    ] {
        let make = |at: &Path| fs::write(at.join("d").join(OsStr::from_bytes(name)), b"").expect("file");
        refuses(make, |error| matches!(error, Error::Name { .. }));
    }
    let (directory, leftovers) = workspace();
    let long = "n".repeat(255);
    for name in ["a-b", "a b", "größer", "漢字", "...", "a\\b", "*", "'\"", long.as_str()] {
        fs::write(directory.path().join(name), b"").expect("file");
    }
    packed(&leftovers).expect("all of them are seen as they are");
}

#[test]
fn twins_are_refused() {
    // The same text: composed and decomposed; a sign and the letter that it is.
    for (one, two) in
        [("\u{e9}", "e\u{301}"), ("\u{212b}", "\u{c5}"), ("\u{212a}", "K"), ("o\u{323}\u{302}", "o\u{302}\u{323}")]
    {
        for (first, second) in [(one, two), (two, one)] {
            let make = |at: &Path| {
                fs::write(at.join(first), b"1").expect("file");
                fs::write(at.join(second), b"2").expect("file");
            };
            refuses(make, |error| matches!(error, Error::Twin { .. }));
        }
    }
    let (directory, leftovers) = workspace();
    fs::create_dir(directory.path().join("d")).expect("directory");
    // Only upper and lower case; the same name in two directories; a name that is not in normal form and has no twin.
    for name in ["xt_MARK.h", "xt_mark.h", "e\u{301}", "d/e\u{301}", "d/E", "d/e"] {
        fs::write(directory.path().join(name), b"").expect("file");
    }
    packed(&leftovers).expect("none of them is another");
}

#[test]
fn only_a_directory_is_packed() {
    let (directory, leftovers) = workspace();
    fs::create_dir(directory.path().join("real")).expect("directory");
    fs::write(directory.path().join("file"), b"").expect("file");
    symlink("real", directory.path().join("planted")).expect("link");
    symlink("/etc", directory.path().join("outside")).expect("link");
    let pack = |path: &str| leftovers.pack(Path::new(path), &Bounds::default(), &mut io::sink());
    assert!(pack("real").is_ok());
    assert!(matches!(pack("planted"), Err(Error::Link { .. })));
    assert!(matches!(pack("outside/ssl"), Err(Error::Link { .. })));
    assert!(matches!(pack("file"), Err(Error::Kind { kind: "regular file", .. })));
    assert!(matches!(pack("none"), Err(Error::Missing { .. })));
    for path in ["..", "/", "", "./real", "real/", "real/..", "a//b"] {
        assert!(matches!(pack(path), Err(Error::Path { .. })), "{path:?}");
    }
    let opened = rustix::fs::open(directory.path().join("real"), OFlags::PATH, Mode::empty()).expect("open");
    assert!(
        crate::collect::rules::no_attributes(b"real", opened.as_fd()).is_err(),
        "a descriptor that cannot be asked is no proof"
    );
}
