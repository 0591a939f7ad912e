//! The image built twice, from another path, with another clock, user mask and locale, is the same to the last bit.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::{build, scratch, tool};

/// What is taken over from the cache: downloads, checked by digest, and the two parts that take longest and have locks and tests
/// of their own. Everything else is made again.
const TAKEN_OVER: [&str; 6] = ["apt", "packages", "image-tools", "kernel", "tpm2-tss", "toolchain"];

#[test]
fn from_another_checkout_with_another_clock_and_umask() {
    let published = build("image");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = Command::new("git").arg("-C").arg(&root).args(["diff", "--quiet", "HEAD"]).status().unwrap();
    assert!(status.success(), "the checkout has changes that are not committed: a clone of it is another source");
    let dir = scratch();
    let checkout = dir.path().join("a path of another length").join("kiln");
    assert!(Command::new("git").args(["clone", "--quiet"]).arg(&root).arg(&checkout).status().unwrap().success());
    let kept = std::env::var_os("XDG_CACHE_HOME").map(Into::into);
    let kept = kept.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(".cache")).join("kiln");
    let cache = dir.path().join("cache/kiln");
    fs::create_dir_all(&cache).unwrap();
    for part in TAKEN_OVER.map(|part| kept.join(part)).iter().filter(|part| part.exists()) {
        assert!(Command::new("cp").arg("-a").arg(part).arg(&cache).status().unwrap().success(), "{}", part.display());
    }
    let script = "umask 077; exec faketime '2031-05-06 07:08:09' \"$0\" build image --json";
    let output = Command::new("bash")
        .args(["-c", script])
        .arg(tool())
        .current_dir(&checkout)
        .env("XDG_CACHE_HOME", dir.path().join("cache"))
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "Pacific/Chatham")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for part in ["init", "initrd", "uki", "disk"] {
        let (first, second) = (&published[part], &again[part]);
        assert_ne!(first["path"], second["path"], "{part} was not made again");
        assert_eq!(first["sha256"], second["sha256"], "{part}");
        assert_eq!(
            fs::read(first["path"].as_str().unwrap()).unwrap(),
            fs::read(second["path"].as_str().unwrap()).unwrap(),
            "{part}"
        );
    }
}
