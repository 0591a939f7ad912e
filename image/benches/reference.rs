//! How long it takes to predict the values of a UKI, beside `openssl dgst` on the same file in the same run.
//!
//! `cargo bench -p kiln-image -- [--check] [UKI]`; with `--check` a missed target makes the exit status 1. Without a UKI, one of the
//! same size as ours is made. SHA-256 and SHA-384, as `kiln reference` computes them. Run by `cargo test` it is short.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to say")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_formats::prediction::MachineDescription;
use kiln_image::reference::{Variables, predict};

/// What a person may wait for a prediction. Both banks, on two processors.
const PREDICT_MAX: Duration = Duration::from_millis(50);

fn main() {
    let has = |word: &str| std::env::args().any(|argument| argument == word);
    let rounds = if has("--bench") { 30 } else { 1 };
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).map(PathBuf::from);
    let dir = tempfile::tempdir().expect("a directory");
    let path = named.unwrap_or_else(|| {
        let path = dir.path().join("made.efi");
        std::fs::write(&path, made()).expect("room");
        path
    });
    let uki = std::fs::read(&path).expect("the UKI");
    let machine = MachineDescription::default();
    let (mut ours, mut theirs): (Vec<Duration>, Vec<Duration>) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begin = Instant::now();
        let prediction = predict(&uki, &machine, &Variables::default()).expect("a UKI");
        ours.push(begin.elapsed());
        assert!(prediction.pcrs.contains_key("11"), "nothing was predicted");
        let begin = Instant::now();
        for digest in ["-sha256", "-sha384"] {
            let openssl = Command::new("openssl").args(["dgst", digest]).arg(&path).stdout(Stdio::null()).status();
            assert!(openssl.expect("openssl").success());
        }
        theirs.push(begin.elapsed());
    }
    let best = |times: &[Duration]| times.iter().min().copied().unwrap_or_default();
    let (ours, theirs) = (best(&ours), best(&theirs));
    println!(
        "reference values of {} KiB in two banks, best of {rounds}: {:.1} ms; openssl hashes the file twice in {:.1} ms, ratio {:.2}",
        uki.len() >> 10,
        ours.as_secs_f64() * 1e3,
        theirs.as_secs_f64() * 1e3,
        ours.as_secs_f64() / theirs.as_secs_f64()
    );
    println!("{} at most {} ms", if ours <= PREDICT_MAX { "met   " } else { "MISSED" }, PREDICT_MAX.as_millis());
    if has("--check") && ours > PREDICT_MAX {
        std::process::exit(1);
    }
}

/// A UKI of five sections, as large as ours.
fn made() -> Vec<u8> {
    let bytes = |length: usize| (0..length).map(|at| (at * 7 % 251) as u8).collect::<Vec<u8>>();
    let mut kernel = pe(&[(".text", &bytes(3_500_000))]);
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x20e..0x210].copy_from_slice(&0x700u16.to_le_bytes());
    kernel[0x900..0x906].copy_from_slice(b"7.3.4 ");
    let initrd = bytes(1_200_000);
    pe(&[
        (".sdmagic", b"LoaderInfo: systemd-stub 257"),
        (".osrel", b"ID=kiln\n"),
        (".cmdline", b"quiet"),
        (".linux", &kernel),
        (".initrd", &initrd),
    ])
}

/// A PE32+ file of these sections, in order.
fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    const HEADERS: usize = 0x400;
    const OPTIONAL: usize = 64 + 4 + 20;
    let word = |value: usize| u32::try_from(value).expect("small").to_le_bytes();
    let mut file = vec![0; HEADERS];
    let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(60, &word(64));
    put(64, b"PE\0\0\x64\x86");
    put(70, &word(sections.len())[..2]);
    put(84, &240u16.to_le_bytes());
    put(OPTIONAL, &0x20bu16.to_le_bytes());
    put(OPTIONAL + 60, &word(HEADERS));
    put(OPTIONAL + 108, &word(16));
    let mut end = HEADERS;
    for (at, (name, content)) in sections.iter().enumerate() {
        let header = OPTIONAL + 240 + at * 40;
        put(header, name.as_bytes());
        for (place, value) in [(8, content.len()), (12, 0x1000 * (at + 1)), (16, content.len()), (20, end)] {
            put(header + place, &word(value));
        }
        end += content.len();
    }
    sections.iter().for_each(|(_, content)| file.extend_from_slice(content));
    file
}
