//! The plug of a server is pulled: nobody can read on its disk what it did, and there is no artifact without its evidence.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::process::Command;
use std::time::{Duration, SystemTime};

use kiln_formats::digest::Sha256Digest;

use crate::fixture::{Hello, kiln};
use crate::metal::{Attestor, LIFE_MAX, Server, attestor_at, free_port};

/// What is read and written at once.
const PAGE_BYTES: usize = 4096;
/// A text of the job's that is nowhere else, all through an input that has to make room for what the step writes.
const SECRET: &[u8; 33] = b"this text is nobody's but a job's";
/// How much of it there is, in bytes, and how much memory the server has, in MiB.
const SECRETS_BYTES: usize = 24 << 20;
const SMALL_MEMORY_MIB: u32 = 208;
/// What a step writes, so that its input has to go, before it looks at the input; for ever, or once.
const GREEDY: &str = "cc -o hello /inputs/hello.c; head -c 112M /dev/zero > big";
const FOR_EVER: &str = "while :; do cksum /inputs/large; done";
const ONCE: &str = "cksum /inputs/large; rm big";
/// What a server with scratch says in its life, one after the other.
const LIFE: [&str; 9] = [
    "scratch, encrypted",
    "challenged",
    "attested",
    "received",
    "fetched",
    "decided",
    "network down",
    "network up",
    "done: Built",
];
/// How long after such a word at most the plug is pulled, in ms: some two times the longest way from one to the next.
const MOMENT_MS_MAX: u64 = 8000;
/// Scratch of the test's disk, and how much of it must have been written for the test to say anything, in bytes.
const SCRATCH_BYTES: usize = 512 << 20;
const WRITTEN_BYTES_MIN: usize = 1 << 20;

/// The small job with a large input, which a step forces out of memory.
fn greedy_job(then: &str) -> Hello {
    let page: Vec<u8> = SECRET.iter().copied().cycle().take(PAGE_BYTES).collect();
    let input = page.repeat(SECRETS_BYTES / page.len());
    let large = format!(
        "[[input]]\nname = \"large\"\nuri = \"https://downloads.example/large\"\nsha256 = \"{}\"\nsize = {SECRETS_BYTES}\n\n[[workspace]]",
        Sha256Digest::of(&input)
    );
    let hello =
        Hello::new().with("[[workspace]]", &large).with("inputs = [\"hello.c\"]", "inputs = [\"hello.c\", \"large\"]");
    let argv = format!("argv = [\"sh\", \"-c\", \"{GREEDY}; {then}\"]");
    let hello = hello.with("argv = [\"cc\", \"-O1\", \"-o\", \"hello\", \"/inputs/hello.c\"]", &argv);
    let hello = hello.with("size_bytes_max = 4194304", "size_bytes_max = 134217728");
    let hello = hello.with("wall_ms = 120000", "wall_ms = 600000, memory_bytes = 167772160");
    fs::write(hello.path("large"), input).unwrap();
    hello
}

/// How much of the scratch partition, the last of the disk, is not as it was made.
fn written(disk: &[u8]) -> usize {
    let end = disk.len() - (1 << 20);
    let pages = disk[end - SCRATCH_BYTES..end].chunks(PAGE_BYTES);
    pages.filter(|page| *page != [0; PAGE_BYTES]).count() * PAGE_BYTES
}

/// The plug is pulled while a step works on what had to go to the disk: nobody reads it there, and there is no artifact.
#[test]
fn a_power_cut_leaves_nothing_to_read_and_no_artifact() {
    let (hello, port) = (greedy_job(FOR_EVER), free_port());
    let mut server = Server::new(&attestor_at(port), &["--scratch-mib", "512"]);
    let attestor = Attestor::serve(&server, &hello, port);
    let mut console = server.switch_on(SMALL_MEMORY_MIB);
    console.until("scratch, encrypted");
    console.until("kiln: network down");
    let begin = SystemTime::now();
    while written(&fs::read(server.disk()).unwrap()) < WRITTEN_BYTES_MIN {
        assert!(begin.elapsed().unwrap() < LIFE_MAX, "nothing went to the disk: nothing is proved");
        std::thread::sleep(Duration::from_secs(1));
    }
    // Whatever the moment, the same must hold.
    std::thread::sleep(Duration::from_millis(u64::from(std::process::id()) % 3000));
    server.pull_the_plug();

    assert!(written(&fs::read(server.disk()).unwrap()) >= WRITTEN_BYTES_MIN);
    assert!(!can_be_read(&server));
    drop(attestor);
    assert!(!hello.out().join("01-job").exists());
}

/// Whether the job's text stands anywhere on the disk.
fn can_be_read(server: &Server) -> bool {
    let text = str::from_utf8(SECRET).unwrap();
    let grep = Command::new("grep").args(["--quiet", "--text", "--fixed-strings", text]).arg(server.disk()).status();
    match grep.unwrap().code() {
        Some(0) => true,
        Some(1) => false,
        other => panic!("grep: {other:?}"),
    }
}

/// The plug is pulled at any moment of a life, each time another: nothing can be read, and there is no artifact, or all of its evidence.
#[test]
fn whenever_the_power_is_cut_there_is_no_artifact_without_evidence() {
    let random = RandomState::new().hash_one(0);
    let (word, wait) = (LIFE[random as usize % LIFE.len()], Duration::from_millis((random >> 32) % MOMENT_MS_MAX));
    eprintln!("the power is cut {wait:?} after {word:?}");
    let (hello, port) = (greedy_job(ONCE), free_port());
    let mut server = Server::new(&attestor_at(port), &["--scratch-mib", "512"]);
    let attestor = Attestor::serve(&server, &hello, port);
    let mut console = server.switch_on(SMALL_MEMORY_MIB);
    console.until(word);
    std::thread::sleep(wait);
    server.pull_the_plug();

    assert!(!can_be_read(&server), "{wait:?} after {word:?}");
    let out = hello.out().join("01-job");
    // If it had no job yet, the attestor would wait for another server.
    let (code, said) = attestor.told_to_end();
    if out.exists() {
        assert_eq!(code, 0, "{wait:?} after {word:?}: {said}");
        let site = server.path("site");
        kiln(["verify".as_ref(), out.as_os_str(), "--site".as_ref(), site.as_os_str()]).expect(0);
    } else {
        assert_ne!(code, 0, "{wait:?} after {word:?}: {said}");
    }
}
