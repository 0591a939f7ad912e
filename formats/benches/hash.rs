//! How fast bytes are hashed, beside OpenSSL on the same file in the same run.
//!
//! `cargo bench -p kiln-formats -- [--check]`; with `--check` a missed target makes the exit status 1. Inputs, outputs, logs and
//! executed programs are all hashed while a build waits, so this must use what the processor has for it.
//! Run by `cargo test` it is short. Deliberately absent: absolute targets.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to say")]

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_formats::digest::{Digester, Sha256Digest};

/// Ours against OpenSSL's, best of each.
const RATIO_MAX: f64 = 1.2;
/// What is read at once.
const PIECE_BYTES: usize = 128 * 1024;

fn main() {
    let has = |word: &str| std::env::args().any(|argument| argument == word);
    let (mib, rounds) = if has("--bench") { (256, 10) } else { (4, 1) };
    let directory = ["/dev/shm", "/tmp"].into_iter().find(|path| Path::new(path).is_dir()).unwrap_or(".");
    let path = Path::new(directory).join(format!("kiln-hash-{}", std::process::id()));
    let mut file = File::create_new(&path).expect("a file in memory");
    let piece: Vec<u8> = (0..1 << 20).map(|position: u32| (position * 7) as u8).collect();
    for _ in 0..mib {
        file.write_all(&piece).expect("room in memory");
    }
    let (mut ours, mut theirs): (Vec<Duration>, Vec<Duration>) = (Vec::new(), Vec::new());
    let mut digests = Vec::new();
    for _ in 0..rounds {
        let begin = Instant::now();
        let own = hash(&path);
        ours.push(begin.elapsed());
        let begin = Instant::now();
        let other = openssl(&path);
        theirs.push(begin.elapsed());
        digests.push((own, other));
    }
    std::fs::remove_file(&path).expect("the file is ours");
    assert!(digests.iter().all(|(own, other)| Some(own.to_string()) == *other), "digests differ: {digests:?}");
    let best = |times: &[Duration]| times.iter().min().map_or(0.0, Duration::as_secs_f64);
    let rate = |times: &[Duration]| f64::from(mib) / best(times);
    let ratio = best(&ours) / best(&theirs);
    println!(
        "sha-256 of {mib} MiB, {rounds} rounds: ours {:.0} MiB/s, openssl {:.0} MiB/s",
        rate(&ours),
        rate(&theirs)
    );
    println!(
        "{} ours / openssl: {ratio:.3}, at most {RATIO_MAX}",
        if ratio <= RATIO_MAX { "met   " } else { "MISSED" }
    );
    if has("--check") && ratio > RATIO_MAX {
        std::process::exit(1);
    }
}

fn hash(path: &Path) -> Sha256Digest {
    let mut file = File::open(path).expect("the file");
    let (mut digester, mut piece) = (Digester::default(), vec![0; PIECE_BYTES]);
    loop {
        let length = file.read(&mut piece).expect("its bytes");
        let Some(bytes) = piece.get(..length).filter(|bytes| !bytes.is_empty()) else { return digester.finish() };
        digester.update(bytes);
    }
}

/// The start of a process is part of it: about a hundredth.
fn openssl(path: &Path) -> Option<String> {
    let output = Command::new("openssl").args(["dgst", "-sha256", "-r"]).arg(path).stderr(Stdio::inherit()).output();
    let text = String::from_utf8(output.expect("openssl").stdout).ok()?;
    text.split(' ').next().map(str::to_owned)
}
