//! Where the sources come from: Debian's source packages, a crate with its dependencies, a Python source distribution. Fetched
//! once with the ordinary clients, pinned by SHA-256 or by the client's own lock, and laid out as root's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tarball of Debian 12.
pub(crate) struct Debian {
    package: &'static str,
    file: &'static str,
    sha256: &'static str,
}

pub(crate) const ZLIB: Debian = Debian {
    package: "zlib",
    file: "zlib_1.2.13.dfsg.orig.tar.bz2",
    sha256: "71feb7947e3c00ef125f83b79a4e529bde31171e5babe48b391f06758d1ab0a1",
};
pub(crate) const HELLO: Debian = Debian {
    package: "hello",
    file: "hello_2.10.orig.tar.gz",
    sha256: "31e066137a962676e89f69d1b65382de95a7ef7d914b8cb956f41ea72e0f516b",
};
pub(crate) const LUA: Debian = Debian {
    package: "lua5.4",
    file: "lua5.4_5.4.4.orig.tar.gz",
    sha256: "164c7849653b80ae67bec4b7473b884bf5cc8d2dca05653475ec2ed27b9ebf61",
};
/// SHA-256 of the source distribution of MarkupSafe 2.1.5, which has a C extension and builds with Debian 12's setuptools.
const MARKUPSAFE: (&str, &str) =
    ("MarkupSafe-2.1.5.tar.gz", "d283d37a890ba4c1ae73ffadf8046435c76e7bc2247bbb63c00bd1a709c6544b");
/// A program with some forty crates below it, procedural macros and tests among them, and a crate that brings SQLite's amalgamation.
const MANIFEST: &str = "[package]\nname = \"get\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n[dependencies]\n\
    hexyl = \"=0.16.0\"\nlibsqlite3-sys = { version = \"=0.30.1\", features = [\"bundled\"] }\n";

/// Unpacks a Debian source.
pub(crate) fn debian(fetched: &Path, work: &Path, source: &Debian) {
    let tarball = fetched.join("debian").join(source.file);
    if !tarball.exists() {
        fetch_debian(fetched, source.package);
    }
    unpack(&tarball, source.sha256, work);
}

/// Asks the host's own archive, with the host's own keys, without changing the host.
fn fetch_debian(fetched: &Path, package: &str) {
    let (apt, sources) = (fetched.join("apt"), fetched.join("debian"));
    for directory in [&apt.join("state/lists/partial"), &apt.join("cache/archives/partial"), &sources] {
        fs::create_dir_all(directory).expect("a directory");
    }
    let targets = ["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"];
    let targets = said(Command::new("apt-get").args(targets));
    let uri = targets
        .lines()
        .find_map(|line| line.strip_suffix(" bookworm"))
        .expect("an archive of Debian 12 in apt's lists");
    let list = format!(
        "Types: deb-src\nURIs: {uri}\nSuites: bookworm\nComponents: main\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    );
    fs::write(apt.join("debian.sources"), list).expect("a list of sources");
    let apt_get = || {
        let mut command = Command::new("apt-get");
        for (option, value) in [
            ("Dir::Etc::sourcelist", apt.join("debian.sources")),
            ("Dir::Etc::sourceparts", "-".into()),
            ("Dir::State", apt.join("state")),
            ("Dir::Cache", apt.join("cache")),
        ] {
            command.arg("-o").arg(format!("{option}={}", value.display()));
        }
        command
    };
    said(apt_get().args(["-q", "update"]));
    said(apt_get().args(["-q", "source", "--download-only", package]).current_dir(&sources));
}

/// The Rust toolchain that is in use.
pub(crate) fn rust() -> PathBuf {
    said(Command::new("rustc").args(["--print", "sysroot"])).trim().into()
}

/// The crates, vendored.
fn crates(fetched: &Path) -> PathBuf {
    let get = fetched.join("crates");
    if !get.join("vendor").exists() {
        fs::create_dir_all(get.join("src")).expect("a directory");
        fs::write(get.join("src/lib.rs"), "").expect("a file");
        fs::write(get.join("Cargo.toml"), MANIFEST).expect("a manifest");
        said(Command::new("cargo").args(["vendor", "-q", "vendor"]).current_dir(&get));
    }
    get.join("vendor")
}

/// A crate with everything below it, as `cargo vendor` lays it out.
pub(crate) fn rust_crate(fetched: &Path, work: &Path) {
    let crates = crates(fetched);
    copy(&crates.join("hexyl"), work);
    let kept = fetched.join("hexyl-vendor");
    if !kept.exists() {
        said(Command::new("cargo").args(["vendor", "-q", "--locked"]).arg(&kept).current_dir(work));
    }
    copy(&kept, &work.join("vendor"));
    fs::create_dir_all(work.join(".cargo")).expect("a directory");
    let config = "[source.crates-io]\nreplace-with = \"vendored\"\n[source.vendored]\ndirectory = \"vendor\"\n";
    fs::write(work.join(".cargo/config.toml"), config).expect("a configuration");
}

/// SQLite's amalgamation and a program that checks it.
pub(crate) fn sqlite(fetched: &Path, work: &Path) {
    copy(&crates(fetched).join("libsqlite3-sys/sqlite3"), work);
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/software/check.c");
    fs::copy(check, work.join("check.c")).expect("the check");
}

/// A Python source distribution, packed.
pub(crate) fn python(fetched: &Path, work: &Path) {
    let (directory, (file, sha256)) = (fetched.join("python"), MARKUPSAFE);
    if !directory.join(file).exists() {
        let pip = [
            "-m",
            "pip",
            "download",
            "-q",
            "--no-binary",
            ":all:",
            "--no-deps",
            "--no-build-isolation",
            "MarkupSafe==2.1.5",
        ];
        said(Command::new("/usr/bin/python3").args(pip).arg("-d").arg(&directory));
    }
    check(&directory.join(file), sha256);
    fs::copy(directory.join(file), work.join(file)).expect("a copy");
}

fn unpack(tarball: &Path, sha256: &str, into: &Path) {
    check(tarball, sha256);
    let flags = ["--strip-components=1", "--no-same-owner", "-xf"];
    said(Command::new("tar").args(flags).arg(tarball).arg("-C").arg(into));
}

fn check(file: &Path, sha256: &str) {
    let found = said(Command::new("sha256sum").arg(file));
    assert!(found.starts_with(sha256), "{} is not the one that was pinned: {found}", file.display());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    said(Command::new("cp").args(["-a", "--no-preserve=ownership"]).arg(from.join(".")).arg(to));
}

/// Runs a client of the host and returns what it said.
fn said(command: &mut Command) -> String {
    let output = command.output().expect("a program of the host");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
