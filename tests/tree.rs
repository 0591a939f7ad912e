//! The tree keeps its promises: small files that say what they are, `unsafe` in few places, nothing of the machine it was
//! written on.

#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// No source file is longer, in lines.
const LINES_MAX: usize = 500;
/// Where `unsafe` may stand.
const UNSAFE: [&str; 3] = ["builder/sandbox/src/sys.rs", "builder/sandbox/src/sys/mount.rs", "init/src/sys.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Every file that git tracks, with its path below the root.
fn tracked() -> Vec<String> {
    let listed = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output().unwrap();
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<_> = names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    assert!(names.iter().any(|name| name == "Cargo.toml"), "not the project's repository");
    names.into_iter().filter(|name| root().join(name).exists()).collect()
}

fn sources() -> Vec<(String, String)> {
    let rust = tracked().into_iter().filter(|name| name.ends_with(".rs"));
    let sources: Vec<_> = rust.map(|name| (name.clone(), fs::read_to_string(root().join(&name)).unwrap())).collect();
    assert!(sources.len() > 20, "only {} sources", sources.len());
    sources
}

/// Whether a line of code, comments and strings apart, uses the word `unsafe`.
fn uses_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let outside_strings: String = code.split('"').step_by(2).collect();
    outside_strings.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
}

#[test]
fn files_are_small_and_say_what_they_are() {
    for (name, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{name} has {lines} lines");
        let opening = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!"));
        assert!(opening.is_some_and(|line| line.starts_with("//!")), "{name} does not open with what it is");
    }
}

#[test]
fn unsafe_stands_in_few_files_only() {
    for (name, text) in sources() {
        let used = text.lines().any(uses_unsafe);
        assert!(!used || UNSAFE.contains(&name.as_str()), "{name} uses unsafe");
    }
    for name in UNSAFE {
        let text = fs::read_to_string(root().join(name)).unwrap();
        assert!(text.lines().any(uses_unsafe), "{name} is listed and uses none: take it off the list");
    }
}

#[test]
fn the_word_is_found_where_it_is_used() {
    assert!(uses_unsafe("    unsafe { libc::fork() };") && uses_unsafe("unsafe fn f() {}"));
    assert!(!uses_unsafe("// unsafe") && !uses_unsafe("#![forbid(unsafe_code)]") && !uses_unsafe("\"unsafe\""));
}

#[test]
fn every_other_crate_forbids_it() {
    for (name, text) in sources() {
        let outline = name.ends_with("/src/lib.rs") || name.ends_with("/src/main.rs");
        let exempt = name.starts_with("builder/sandbox/") || name.starts_with("init/src/");
        assert!(!outline || exempt || text.contains("#![forbid(unsafe_code)]"), "{name} does not forbid unsafe code");
    }
}

#[test]
fn the_top_level_is_the_architectures() {
    let mut found: Vec<_> = tracked().iter().filter_map(|name| name.split('/').next().map(str::to_owned)).collect();
    found.dedup();
    let mut expected = vec![
        ".cargo",
        ".ci",
        ".github",
        ".gitignore",
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "builder",
        "clippy.toml",
        "control",
        "deny.toml",
        "docs",
        "formats",
        "image",
        "init",
        "kernel-config",
        "mkosi.conf",
        "qemu",
        "rust-toolchain.toml",
        "rustfmt.toml",
        "tests",
    ];
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn the_readmes_links_lead_somewhere() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let links: Vec<_> = text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    for link in links.iter().filter(|link| !link.starts_with("http") && !link.starts_with('#')) {
        let path = link.split('#').next().unwrap_or_default();
        assert!(root().join(path).exists(), "README.md links to {path}, which is not there");
    }
    assert!(!links.is_empty());
}
