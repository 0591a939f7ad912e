//! The image built twice, from another path, with another clock, user mask and locale, is the same to the last bit.
//!
//! Deliberately absent: another user. mkosi, which packs the initrd, wants a user with a name and subordinate ids.

use std::fs;
use std::path::Path;
use std::process::Command;

use kiln_formats::digest::Sha256Digest;
use serde_json::json;

use crate::fixture::{build, kiln, scratch, tool};

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
    TAKEN_OVER.iter().for_each(|part| take_over(&kept.join(part), &cache.join(part)));
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

/// Copies a part of the cache, if it is there, without what other tests are just making in it.
fn take_over(part: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(part) else { return };
    fs::create_dir(to).unwrap();
    for entry in entries.map(|entry| entry.unwrap().path()) {
        if entry.extension().is_none_or(|extension| extension != "making") {
            assert!(
                Command::new("cp").arg("-a").arg(&entry).arg(to).status().unwrap().success(),
                "{}",
                entry.display()
            );
        }
    }
}

/// A published image whose program has one other byte: what differs is that, and all else because of it.
#[test]
fn one_byte_of_the_program_is_named_and_nothing_else() {
    let made = build("image");
    let dir = scratch();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("image.json"), made.to_string()).unwrap();
    let same = kiln(["build", "image", "--check", &at("image.json")]).expect(0);
    assert!(same.stdout.starts_with("the same"), "{}", same.stdout);

    let program = Path::new(made["init"]["path"].as_str().unwrap());
    let mut bytes = fs::read(program).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(dir.path().join(program.file_name().unwrap()), &bytes).unwrap();
    let mut published = made;
    let other = |text: &[u8], bytes: usize| json!({ "bytes": bytes, "sha256": Sha256Digest::of(text) });
    published["init"]["sha256"] = json!(Sha256Digest::of(&bytes));
    for (things, part) in [
        (&["init", "initrd/init"][..], other(&bytes, bytes.len())),
        (&["initrd", "uki/.initrd"], other(b"initrd", 1)),
        (&["uki", "disk/esp/EFI/BOOT/BOOTX64.EFI"], other(b"uki", 1)),
        (&["disk/esp"], other(b"esp", 1)),
        (&["disk"], other(b"disk", 1)),
    ] {
        for thing in things {
            assert!(!published["parts"][thing].is_null(), "{thing}");
            published["parts"][thing] = part.clone();
        }
    }
    published["inputs"][0]["version"] = json!("0-other");
    fs::write(at("image.json"), published.to_string()).unwrap();
    let ran = kiln(["build", "image", "--check", dir.path().to_str().unwrap()]).expect(13);
    let causes: Vec<&str> = ran.stdout.lines().filter(|line| !line.starts_with("  ")).collect();
    let expected = format!("init  differs in 1 of its bytes, the first at {middle:#x}; {} bytes long", bytes.len());
    assert_eq!(causes[0], expected, "{}", ran.stdout);
    assert!(
        causes[1].starts_with("made from another ") && causes[1].contains("published was 0-other"),
        "{}",
        ran.stdout
    );
    assert_eq!(causes.len(), 2, "{}", ran.stdout);
    assert!(ran.stdout.contains("  uki/.initrd differs because initrd does"), "{}", ran.stdout);
    let said = kiln(["build", "image", "--check", &at("image.json"), "--json"]).expect(13).json();
    assert_eq!(said["differences"][0]["part"], "init");
    assert_eq!(said["differences"][0]["bytes"]["differ"], 1);
}
