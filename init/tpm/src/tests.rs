//! The commands against a real software TPM (swtpm) over the host's shared TSS; the appliance links the same TSS statically.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_formats::endorsement::{EkKind, EkPublic};
use kiln_formats::enrolment::{Credential, SECRET_BYTES};
use kiln_formats::link::Blob;
use kiln_formats::quote::AkPublic;

use super::*;

/// How long a software TPM may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A software TPM with fresh state; ends when dropped.
struct Swtpm {
    process: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Swtpm {
    fn start(banks: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().display().to_string();
        let setup = ["--tpm2", "--tpmstate", &state, "--pcr-banks", banks];
        let made = Command::new("swtpm_setup").args(setup).output().expect("swtpm_setup is in package swtpm-tools");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        // The TSS wants the control port to be the one above the server's.
        let port = (0..100)
            .find_map(|_| {
                let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
                TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok().map(|_| port)
            })
            .unwrap();
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={state}")])
            .args(["--server", &format!("type=tcp,bindaddr=127.0.0.1,port={port}")])
            .args(["--ctrl", &format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1)])
            .stdin(Stdio::null())
            .spawn()
            .expect("swtpm is in package swtpm");
        Self { process, port, directory }
    }

    fn open(&self) -> Tpm {
        let start = Instant::now();
        loop {
            let way = TctiNameConf::from_str(&format!("swtpm:host=127.0.0.1,port={}", self.port)).unwrap();
            match Tpm::connect(way) {
                Ok(tpm) => return tpm,
                Err(error) => assert!(start.elapsed() < START_TIMEOUT, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
        path
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn digests(tpm: &Tpm) -> Vec<BankDigest> {
    tpm.banks().iter().map(|bank| bank.hash(b"event").unwrap()).collect()
}

#[test]
fn extends_every_active_bank_and_no_other() {
    let swtpm = Swtpm::start("sha1,sha256,sha384");
    let mut tpm = swtpm.open();
    assert_eq!(tpm.banks(), [Bank::Sha1, Bank::Sha256, Bank::Sha384]);
    assert!(tpm.pcr(PcrIndex::RUNTIME).unwrap().as_bytes().iter().all(|byte| *byte == 0));

    let digests = digests(&tpm);
    assert!(matches!(tpm.extend(digests.get(1..).unwrap()), Err(TpmError::Banks)));
    tpm.extend(&digests).unwrap();
    let sha256 = BankDigest::zero(Bank::Sha256).extend(digests.get(1).unwrap()).unwrap();
    assert_eq!(tpm.pcr(PcrIndex::RUNTIME).unwrap().as_bytes().as_slice(), sha256.as_bytes());
    // The other banks as another program reads them.
    let read = Command::new("tpm2_pcrread")
        .args(["-T", &format!("swtpm:host=127.0.0.1,port={}", swtpm.port), "sha1:15+sha384:15"])
        .output()
        .expect("tpm2_pcrread is in package tpm2-tools");
    let read = String::from_utf8(read.stdout).unwrap().to_lowercase();
    for digest in digests.iter().filter(|digest| digest.bank() != Bank::Sha256) {
        let value = BankDigest::zero(digest.bank()).extend(digest).unwrap().to_string();
        assert!(read.contains(&value), "{value} is not in {read}");
    }
}

#[test]
fn checkquote_believes_the_quote_and_nothing_else() {
    let swtpm = Swtpm::start("sha256");
    let mut tpm = swtpm.open();
    let digests = digests(&tpm);
    tpm.extend(&digests).unwrap();
    let key = tpm.create_attestation_key(&[7; 32]).unwrap();
    let qualifying = Sha256Digest::of(b"binding");
    let quote = tpm.quote(&key, &qualifying).unwrap();
    // tpm2_checkquote reads a TPM2B_PUBLIC: the TPMT_PUBLIC behind its length.
    let length = u16::try_from(key.public().len()).unwrap().to_be_bytes();
    let key_file = swtpm.file("ak.pub", &[&length, key.public()].concat());
    let attest_file = swtpm.file("quote.attest", &quote.attest);
    let check = |signature: &[u8], qualifying: &str| {
        let signature_file = swtpm.file("quote.sig", signature);
        let checked = Command::new("tpm2_checkquote")
            .args(["-u", &key_file.display().to_string(), "-m", &attest_file.display().to_string()])
            .args(["-s", &signature_file.display().to_string(), "-g", "sha256", "-q", qualifying])
            .output()
            .expect("tpm2_checkquote is in package tpm2-tools");
        checked.status.success()
    };
    assert!(check(&quote.signature, &qualifying.to_string()));
    assert!(!check(&quote.signature, &Sha256Digest::of(b"other").to_string()));
    let mut other = quote.signature.clone();
    *other.last_mut().unwrap() ^= 1;
    assert!(!check(&other, &qualifying.to_string()));
}

#[test]
fn a_key_belongs_to_one_boot() {
    let swtpm = Swtpm::start("sha256");
    let mut tpm = swtpm.open();
    let first = tpm.create_attestation_key(&[1; 32]).unwrap();
    let second = tpm.create_attestation_key(&[2; 32]).unwrap();
    assert_ne!(first.public(), second.public());
}

#[test]
fn every_signature_has_the_smaller_s() {
    let swtpm = Swtpm::start("sha256");
    let mut tpm = swtpm.open();
    let key = tpm.create_attestation_key(&[1; 32]).unwrap();
    // A TPM picks either s at random: of 32 signatures one at least would be high, but for a chance of 2^-32.
    for round in 0..32_u8 {
        let quote = tpm.quote(&key, &Sha256Digest::of(&[round])).unwrap();
        // TPMT_SIGNATURE: algorithm, hash, then r and s, each behind its length.
        let s = quote.signature.get(quote.signature.len() - 32..).unwrap();
        assert!(s.first().unwrap() <= &0x7f, "{s:02x?}");
    }
}

#[test]
fn a_missing_tpm_is_an_error() {
    assert!(matches!(Tpm::open(Path::new("/dev/there-is-none")), Err(TpmError::Open { .. })));
}

#[test]
fn a_tpm_without_our_bank_is_an_error() {
    let swtpm = Swtpm::start("sha1");
    let start = Instant::now();
    loop {
        let way = TctiNameConf::from_str(&format!("swtpm:host=127.0.0.1,port={}", swtpm.port)).unwrap();
        match Tpm::connect(way) {
            Err(TpmError::NoSha256Bank) => return,
            Err(TpmError::Open { .. }) if start.elapsed() < START_TIMEOUT => {}
            other => panic!("{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What `tpm2_makecredential` makes without a TPM, for the key of this name.
fn peers_credential(swtpm: &Swtpm, endorsement: &EndorsementKey, name: &[u8], secret: &[u8]) -> Credential {
    let length = u16::try_from(endorsement.public().len()).unwrap().to_be_bytes();
    let public = swtpm.file("ek.pub", &[&length, endorsement.public()].concat());
    let (secret, made) = (swtpm.file("secret", secret), swtpm.directory.path().join("credential"));
    let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    let ran = Command::new("tpm2_makecredential")
        .args(["-T", "none", "-n", &hex, "-u", &public.display().to_string(), "-s", &secret.display().to_string()])
        .args(["-o", &made.display().to_string()])
        .output()
        .expect("tpm2_makecredential is in package tpm2-tools");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    // A magic number and a version, then the two structures. Source: tpm2-tools, lib/files.c.
    let bytes = std::fs::read(made).unwrap();
    let structures = bytes.get(8..).unwrap();
    let first = 2 + usize::from(u16::from_be_bytes([structures[0], structures[1]]));
    let (id_object, encrypted_secret) = structures.split_at(first);
    Credential { id_object: Blob(id_object.to_vec()), encrypted_secret: Blob(encrypted_secret.to_vec()) }
}

#[test]
fn what_another_program_made_for_our_keys_is_opened_and_nothing_else() {
    let swtpm = Swtpm::start("sha256");
    let mut tpm = swtpm.open();
    let key = tpm.create_attestation_key(&[1; 32]).unwrap();
    let name = AkPublic::parse(key.public()).unwrap().name();
    for kind in EkKind::ALL {
        let load = |tpm: &mut Tpm| tpm.load_endorsement_key(kind, Vec::new(), Vec::new()).unwrap();
        let endorsement = load(&mut tpm);
        assert_eq!(EkPublic::parse(endorsement.public()).unwrap().kind(), kind);
        let credential = peers_credential(&swtpm, &endorsement, &name, &[9; SECRET_BYTES]);
        assert_eq!(*tpm.activate(&key, &endorsement, &credential).unwrap(), [9; SECRET_BYTES], "{kind:?}");
        // For a key of another name, and not of the length that we use.
        let endorsement = load(&mut tpm);
        let other = peers_credential(&swtpm, &endorsement, &[&name[..33], &[!name[33]]].concat(), &[9; SECRET_BYTES]);
        let opened = tpm.activate(&key, &endorsement, &other);
        assert!(matches!(opened, Err(TpmError::Command { .. })), "{kind:?}: {opened:?}");
        // Unloaded all the same, so that a third has room.
        let endorsement = load(&mut tpm);
        let short = peers_credential(&swtpm, &endorsement, &name, &[9; 16]);
        let opened = tpm.activate(&key, &endorsement, &short);
        assert!(matches!(opened, Err(TpmError::Answer { .. })), "{kind:?}: {opened:?}");
    }
}

#[test]
fn a_tpm_without_certificates_has_a_key_all_the_same() {
    let swtpm = Swtpm::start("sha256");
    let endorsement = swtpm.open().endorsement_key().unwrap();
    assert_eq!(EkPublic::parse(endorsement.public()).unwrap().kind(), EkKind::Rsa2048);
    assert!(endorsement.certificates().is_empty() && endorsement.chain().is_empty());
}
