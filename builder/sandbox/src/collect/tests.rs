//! A hostile workspace for each refusal.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

mod pack;
mod rules;

fn workspace() -> (tempfile::TempDir, Leftovers) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().canonicalize().expect("path");
    (directory, Leftovers::in_directory(&path).expect("a workspace"))
}

fn take(leftovers: &Leftovers, path: &str, bytes_max: u64) -> Result<(Collected, Vec<u8>), Error> {
    let mut sink = Vec::new();
    leftovers.copy(Path::new(path), bytes_max, &mut sink).map(|collected| (collected, sink))
}

#[test]
fn a_regular_file_is_copied_and_hashed() {
    let (directory, leftovers) = workspace();
    fs::create_dir(directory.path().join("lib")).expect("directory");
    fs::write(directory.path().join("lib/libz.a"), b"abc").expect("file");
    let (collected, bytes) = take(&leftovers, "lib/libz.a", 3).expect("collected");
    assert_eq!(bytes, b"abc");
    let sha256: [u8; 32] = Sha256::digest(b"abc").into();
    assert_eq!(collected, Collected { size_bytes: 3, sha256, executable: false });
}

#[test]
fn links_do_not_lead_anywhere() {
    let (directory, leftovers) = workspace();
    let at = |name: &str| directory.path().join(name);
    symlink("/etc/passwd", at("absolute")).expect("link");
    symlink("../../../etc", at("up")).expect("link");
    symlink("absolute", at("inner")).expect("link");
    symlink("loop", at("loop")).expect("link");
    symlink("/proc/self/root", at("magic")).expect("link");
    for path in ["absolute", "up/passwd", "inner", "loop", "magic/etc/passwd"] {
        assert!(matches!(take(&leftovers, path, 1 << 20), Err(Error::Link { .. })), "{path}");
    }
    for path in ["../x", "/etc/passwd", "a/../b", "", ".", "a//b", "./a", "a/"] {
        assert!(matches!(take(&leftovers, path, 1 << 20), Err(Error::Path { .. })), "{path:?}");
    }
}

#[test]
fn only_regular_files_with_one_name_are_outputs() {
    let (directory, leftovers) = workspace();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("directory")).expect("directory");
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("socket");
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(CWD, at("null"), FileType::CharacterDevice, Mode::RWXU, device).expect("device");
    for path in ["directory", "fifo", "socket", "null"] {
        assert!(matches!(take(&leftovers, path, 1 << 20), Err(Error::Kind { .. })), "{path}");
    }
    fs::write(at("one"), b"1").expect("file");
    fs::hard_link(at("one"), at("two")).expect("link");
    assert!(matches!(take(&leftovers, "one", 10), Err(Error::Names { count: 2, .. })));
    fs::write(at("setid"), b"1").expect("file");
    fs::set_permissions(at("setid"), fs::Permissions::from_mode(0o4755)).expect("mode");
    assert!(matches!(take(&leftovers, "setid", 10), Err(Error::SpecialMode { mode: 0o4000, .. })));
    assert!(matches!(take(&leftovers, "missing", 10), Err(Error::Missing { .. })));
    assert!(matches!(take(&leftovers, "one/more", 10), Err(Error::Missing { .. })));
}

#[test]
fn size_is_limited_by_what_is_stated_and_by_what_is_read() {
    let (directory, leftovers) = workspace();
    let file = fs::File::create(directory.path().join("sparse")).expect("file");
    file.set_len(1 << 40).expect("length");
    assert!(matches!(take(&leftovers, "sparse", 1 << 20), Err(Error::TooLong { found, .. }) if found == 1 << 40));
    fs::write(directory.path().join("four"), b"1234").expect("file");
    assert!(matches!(take(&leftovers, "four", 3), Err(Error::TooLong { .. })));
    assert_eq!(take(&leftovers, "four", 4).expect("fits").0.size_bytes, 4);
    // A file that states less than it gives.
    let lying = fs::File::open(directory.path().join("four")).expect("file");
    let error = Copier::new().copy(b"four", &lying, 2, 100, &mut |_| Ok(())).expect_err("must be refused");
    assert!(matches!(error, Error::Changed { stated: 2, found: 4, .. }));
}

#[test]
fn a_mount_inside_is_not_entered() {
    let (directory, leftovers) = workspace();
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).expect("directory");
    let mounted = rustix::mount::mount("none", &inner, "tmpfs", rustix::mount::MountFlags::empty(), None);
    mounted.expect("mounting needs root");
    fs::write(inner.join("file"), b"x").expect("file");
    let taken = take(&leftovers, "inner/file", 10);
    let digested = leftovers.digest(&Bounds::default());
    rustix::mount::unmount(&inner, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    assert!(matches!(taken, Err(Error::Outside { .. })), "{taken:?}");
    assert!(matches!(digested, Err(Error::Outside { .. })), "{digested:?}");
}

#[test]
fn a_tree_digest_depends_on_content_and_on_nothing_else() {
    let make = |names: &[&str]| {
        let (directory, leftovers) = workspace();
        for name in names {
            fs::write(directory.path().join(name), name).expect("file");
        }
        fs::create_dir(directory.path().join("d")).expect("directory");
        symlink("/anywhere", directory.path().join("l")).expect("link");
        (directory, leftovers)
    };
    let digest = |leftovers: &Leftovers| leftovers.digest(&Bounds::default()).expect("digest");
    let (one, first) = make(&["a", "b"]);
    let (two, second) = make(&["b", "a"]);
    assert_eq!(digest(&first), digest(&second));
    assert_eq!((digest(&first).entries, digest(&first).bytes), (4, 2));
    let changed = |change: &dyn Fn(&Path), undo: &dyn Fn(&Path)| {
        let before = digest(&second);
        change(two.path());
        assert_ne!(digest(&second).sha256, before.sha256);
        undo(two.path());
        assert_eq!(digest(&second).sha256, before.sha256);
    };
    let mode = |path: &Path, bits| fs::set_permissions(path.join("a"), fs::Permissions::from_mode(bits)).expect("mode");
    changed(&|p| fs::write(p.join("a"), "A").expect("file"), &|p| fs::write(p.join("a"), "a").expect("file"));
    changed(&|p| mode(p, 0o755), &|p| mode(p, 0o644));
    changed(&|p| fs::write(p.join("d/x"), "").expect("file"), &|p| fs::remove_file(p.join("d/x")).expect("file"));
    changed(&|p| fs::rename(p.join("a"), p.join("a2")).expect("name"), &|p| {
        fs::rename(p.join("a2"), p.join("a")).expect("name")
    });
    assert_eq!(digest(&first), digest(&second));
    fs::write(one.path().join(OsStr::from_bytes(b"\xFF\n")), "").expect("any bytes are a name");
    assert_ne!(digest(&first), digest(&second));
}

#[test]
fn a_digest_is_bounded() {
    let (directory, leftovers) = workspace();
    fs::create_dir_all(directory.path().join("a/b/c")).expect("directories");
    fs::write(directory.path().join("a/file"), b"12345").expect("file");
    let digest = |entries_max, bytes_max, depth_max| leftovers.digest(&Bounds { entries_max, bytes_max, depth_max });
    assert!(digest(4, 5, 4).is_ok());
    assert!(matches!(digest(3, 5, 4), Err(Error::TooMany { .. })));
    assert!(matches!(digest(4, 4, 4), Err(Error::TooLong { .. })));
    assert!(matches!(digest(4, 5, 3), Err(Error::TooDeep { .. })));
    nix::unistd::mkfifo(&directory.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    assert!(matches!(digest(9, 9, 9), Err(Error::Kind { .. })));
}

#[test]
fn a_deep_and_wide_tree_is_removed_without_touching_what_links_point_at() {
    let (directory, leftovers) = workspace();
    let outside = tempfile::tempdir().expect("directory");
    fs::write(outside.path().join("kept"), b"kept").expect("file");
    symlink(outside.path(), directory.path().join("link")).expect("link");
    // Deeper than PATH_MAX.
    let mut at = rustix::fs::open(directory.path(), OFlags::PATH, Mode::empty()).expect("open");
    let name = "d".repeat(200);
    for _ in 0..100 {
        rustix::fs::mkdirat(&at, name.as_str(), Mode::RWXU).expect("directory");
        at = rustix::fs::openat(&at, name.as_str(), OFlags::PATH, Mode::empty()).expect("open");
        rustix::fs::symlinkat(outside.path(), &at, "link").expect("link");
    }
    for number in 0..5000 {
        fs::write(directory.path().join(format!("file-{number}")), b"").expect("file");
    }
    fs::write(directory.path().join(".removing-1"), b"in the way").expect("file");
    leftovers.remove().expect("removed");
    assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 0);
    assert_eq!(fs::metadata(outside.path().join("kept")).expect("kept").size(), 4);
}
