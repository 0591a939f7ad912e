//! Reference values: predicted without booting, equal to what the TPM holds, and different for any other boot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_formats::canonical;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::eventlog::EventLog;
use kiln_formats::names::BUILDER_FIRMWARE;
use kiln_formats::pcr::{Bank, PcrIndex};
use kiln_formats::reference::Reference;
use serde_json::{Value, json};

use crate::fixture::{Hello, build, files, good, kiln, scratch, site};

fn uki() -> PathBuf {
    PathBuf::from(build("image")["uki"]["path"].as_str().unwrap())
}

fn predicted() -> Vec<u8> {
    let ran = kiln(["reference".as_ref(), uki().as_os_str(), "--site".as_ref(), site().as_os_str()]).expect(0);
    ran.stdout.trim_end().as_bytes().to_vec()
}

#[test]
fn what_was_predicted_is_what_the_firmware_measured() {
    let reference: Reference = canonical::from_slice_exact(&predicted()).unwrap();
    let machine = reference.machines.iter().find(|machine| machine.builder_id == BUILDER_FIRMWARE).unwrap();
    let log = fs::read(good().join("evidence/boot/firmware.log")).unwrap();
    let values = EventLog::parse(&log).unwrap().replay();
    for pcr in [4, 9, 11] {
        let value = values.get(Bank::Sha256, PcrIndex::new(pcr).unwrap()).unwrap();
        assert_eq!(machine.pcrs[&pcr.to_string()].value.to_string(), value.to_string(), "PCR {pcr}");
    }
    assert!(machine.pcrs.contains_key("15"));
}

/// Who knows nothing but the producer's public key accepts the evidence of a real machine, and no other producer's word.
#[test]
fn the_producers_word_is_taken_and_no_other_producers() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let openssl = |arguments: &[&str]| {
        let made = Command::new("openssl").args(arguments).stderr(Stdio::null()).status().unwrap();
        assert!(made.success(), "openssl {arguments:?}");
    };
    for name in ["image", "other"] {
        let (key, public) = (at(&format!("{name}.key")), at(&format!("{name}.pub")));
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", &key]);
        openssl(&["pkey", "-in", &key, "-pubout", "-out", &public]);
    }
    let uki = uki();
    let banks = ["--bank", "sha256", "--bank", "sha384"];
    let sign = ["reference", uki.to_str().unwrap(), "--sign", &at("image.key"), "--out", &at("published")];
    kiln([&sign[..], &banks].concat()).expect(0);
    let published = at("published/reference.intoto.json");
    let (out, site) = (good().to_str().unwrap(), site().to_str().unwrap());
    let verify =
        |publisher: &str| kiln(["verify", out, "--site", site, "--reference", &published, "--publisher", publisher]);
    verify(&at("image.pub")).expect(0);
    let refused = verify(&at("other.pub")).expect(13);
    assert!(refused.stderr.contains("publisher_refused"), "{}", refused.stderr);
    let unnamed = kiln(["verify", out, "--site", site, "--reference", &published]).expect(2);
    assert!(unnamed.stderr.contains("--publisher"), "{}", unnamed.stderr);

    // An audit holds the same evidence against the same values, event by event.
    let audit = ["audit", out, "--reference", &published, "--publisher", &at("image.pub"), "--json"];
    let audit = kiln(audit).expect(0).json();
    let expected = |event: &&Value| event["expected"].is_string() && event["expected"] == event["digests"]["sha256"];
    let names: Vec<_> = audit["events"].as_array().unwrap().iter().filter(expected).collect();
    assert!(names.len() > 20, "only {} events were expected: {audit:#}", names.len());
    let other = kiln(["audit", out, "--reference", &published, "--publisher", &at("other.pub")]).expect(13);
    assert!(other.stderr.contains("publisher_refused"), "{}", other.stderr);
}

/// The published image with a changed UKI on its boot disk, described as the tool wants it.
struct Altered {
    dir: tempfile::TempDir,
}

impl Altered {
    fn new(uki: &[u8]) -> Self {
        let dir = scratch();
        let path = |name: &str| dir.path().join(name);
        let mut image = build("image");
        fs::write(path("kiln.efi"), uki).unwrap();
        fs::copy(image["disk"]["path"].as_str().unwrap(), path("disk.img")).unwrap();
        let copied = Command::new("mcopy")
            .args(["-o", "-i"])
            .arg(format!("{}@@1M", path("disk.img").display()))
            .arg(path("kiln.efi"))
            .arg("::EFI/BOOT/BOOTX64.EFI")
            .status()
            .unwrap();
        assert!(copied.success(), "mcopy");
        for (part, file) in [("uki", "kiln.efi"), ("disk", "disk.img")] {
            let bytes = fs::read(path(file)).unwrap();
            image[part] = json!({ "path": path(file), "bytes": bytes.len(), "sha256": Sha256Digest::of(&bytes) });
        }
        fs::write(path("image.json"), image.to_string()).unwrap();
        fs::write(path("reference.json"), predicted()).unwrap();
        Self { dir }
    }

    /// Nobody made it, so it is not started. Vouched for by the site's own producer it is, and against the reference values of the
    /// published image it gets no job; the events that differ are named.
    fn gets_no_job(&self, events: &[&str]) {
        let path = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        let hello = Hello::new();
        fs::write(hello.path("job.toml"), &hello.draft).unwrap();
        // What the site learns of this image is not for other tests.
        let copy = copied_site(self.dir.path());
        let image = ["--boot", "firmware", "--image", &path("image.json"), "--reference", &path("reference.json")];
        let mut arguments = hello.arguments("job.toml", &image);
        let at = arguments.iter().position(|argument| argument == "--site").unwrap();
        arguments[at + 1] = copy.clone().into();
        let refused = kiln(&arguments).expect(15);
        assert!(refused.stderr.contains("image_provenance_missing"), "{}", refused.stderr);
        let left = files(&hello.out());
        assert_eq!(left.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["image.dsse.json"]);
        fs::remove_dir_all(hello.out()).unwrap();

        let vouch = ["--save", "--built", &path("image.json")];
        kiln([&["reference", &path("kiln.efi"), "--site", copy.to_str().unwrap()][..], &vouch].concat()).expect(0);
        let ran = kiln(arguments).expect(11);
        for event in events {
            assert!(
                ran.stderr.contains(event) || ran.stdout.contains(event),
                "{event} is not named:\n{}\n{}",
                ran.stdout,
                ran.stderr
            );
        }
        assert!(!hello.out().join("artifacts").exists());
        assert!(hello.leftovers().is_empty(), "{:?}", hello.leftovers());
    }
}

/// A copy of the tests' site, below `dir`.
fn copied_site(dir: &Path) -> PathBuf {
    let copy = dir.join("site");
    assert!(Command::new("cp").arg("-a").args([site(), &copy]).status().unwrap().success());
    copy
}

/// Another producer's published provenance counts where the policy names that producer, for the image that it is of.
#[test]
fn a_published_provenance_is_taken_from_a_producer_whom_the_policy_names() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (uki, site) = (uki().to_str().unwrap().to_owned(), copied_site(dir.path()).to_str().unwrap().to_owned());
    fs::write(at("image.json"), build("image").to_string()).unwrap();
    let publish = |key: &str, out: &str| {
        kiln(["reference", &uki, "--sign", key, "--built", &at("image.json"), "--out", out]).expect(0);
    };
    kiln(["keygen", "--site", &at("other")]).expect(0);
    publish(&at("other/image.key"), &at("theirs"));
    publish(&at("site/image.key"), &at("ours"));
    let take = |out: &str| {
        let published = at(&format!("{out}/provenance.intoto.json"));
        kiln(["reference", &uki, "--site", &site, "--save", "--provenance", &published])
    };
    let refused = take("theirs").expect(13);
    assert!(refused.stderr.contains("no producer of images whom the policy names"), "{}", refused.stderr);
    take("ours").expect(0);
    let kept = at(&format!("site/provenance/{}.intoto.json", Sha256Digest::of(&fs::read(&uki).unwrap())));
    assert_eq!(fs::read(kept).unwrap(), fs::read(at("ours/provenance.intoto.json")).unwrap());
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
        .unwrap_or_else(|| panic!("{} is not there", String::from_utf8_lossy(wanted)))
}

#[test]
fn one_letter_of_the_command_line() {
    let mut uki = fs::read(uki()).unwrap();
    // How much the kernel prints: the machine boots as before.
    let at = find(&uki, b"loglevel=3") + b"loglevel=".len();
    uki[at] = b'2';
    Altered::new(&uki).gets_no_job(&["PCR 9", "PCR 11", "command line", ".cmdline"]);
}

/// Where a section of a PE file lies: its header, and its bytes in the file.
fn section(pe: &[u8], name: &[u8; 8]) -> (usize, std::ops::Range<usize>) {
    let header = find(&pe[..4096], name);
    let word = |at: usize| u32::from_le_bytes(pe[at..at + 4].try_into().unwrap()) as usize;
    let start = word(header + 20);
    (header, start..start + word(header + 16))
}

/// Gives the last section of a PE file other bytes, as many as there may be.
/// Source: PE Format, section table and optional header (`SizeOfImage` is 56 bytes into it).
fn replace_last(pe: &mut Vec<u8>, header: usize, bytes: &[u8]) {
    let word = |pe: &[u8], at: usize| u32::from_le_bytes(pe[at..at + 4].try_into().unwrap()) as usize;
    let (address, start) = (word(pe, header + 12), word(pe, header + 20));
    assert_eq!(start + word(pe, header + 16), pe.len(), "a section or a signature comes behind it");
    let filled = bytes.len().next_multiple_of(512);
    pe.truncate(start);
    pe.extend_from_slice(bytes);
    pe.resize(start + filled, 0);
    let optional = word(pe, 0x3c) + 24;
    let image = address + bytes.len();
    for (at, value) in [(header + 8, bytes.len()), (header + 16, filled), (optional + 56, image.next_multiple_of(4096))]
    {
        pe[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
    }
}

fn filter(program: &str, arguments: &[&str], input: &Path) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .arg(input)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(!output.stdout.is_empty(), "{program}");
    output.stdout
}

#[test]
fn one_byte_of_init() {
    let mut uki = fs::read(uki()).unwrap();
    let (header, range) = section(&uki, b".initrd\0");
    let dir = scratch();
    let packed = dir.path().join("initrd.zst");
    let size = u32::from_le_bytes(uki[header + 8..header + 12].try_into().unwrap()) as usize;
    let mut content = uki[range.start..range.start + size].to_vec();
    while content.last() == Some(&0) {
        content.pop();
    }
    fs::write(&packed, &content).unwrap();
    let mut archive = filter("zstd", &["-dcq"], &packed);
    // One letter of a message: the program still runs, and is another.
    let at = find(&archive, b"kiln: fault");
    archive[at] = b'K';
    let plain = dir.path().join("initrd");
    fs::write(&plain, &archive).unwrap();
    let mut again = filter("zstd", &["-cq", "--ultra", "-22", "--single-thread"], &plain);
    again.resize(again.len().next_multiple_of(4), 0);
    replace_last(&mut uki, header, &again);
    Altered::new(&uki).gets_no_job(&["PCR 9", "PCR 11", "initrd", "init"]);
}

/// A site whose trust bundle names one signer more than the reference values were made for.
#[test]
fn another_trust_bundle() {
    let dir = scratch();
    let copy = copied_site(dir.path());
    let other = dir.path().join("other");
    kiln(["keygen", "--site", other.to_str().unwrap()]).expect(0);
    let read = |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let stranger = read(other.join("policy.json"))["job_signers"][0].clone();
    let mut policy = read(copy.join("policy.json"));
    policy["job_signers"].as_array_mut().unwrap().push(stranger);
    let mut trust = read(copy.join("trust.json"));
    trust["policy"] = policy.clone();
    fs::write(copy.join("policy.json"), canonical::to_vec(&policy).unwrap()).unwrap();
    fs::write(copy.join("trust.json"), canonical::to_vec(&trust).unwrap()).unwrap();
    let hello = Hello::new();
    fs::write(hello.path("job.toml"), &hello.draft).unwrap();
    let published = dir.path().join("published.json");
    fs::write(&published, predicted()).unwrap();
    let mut arguments =
        hello.arguments("job.toml", &["--boot", "firmware", "--reference", published.to_str().unwrap()]);
    let at = arguments.iter().position(|argument| argument == "--site").unwrap();
    arguments[at + 1] = copy.into();
    let ran = kiln(arguments).expect(11);
    assert!(ran.stderr.contains("PCR 15") && ran.stderr.contains("trust"), "{}", ran.stderr);
}
