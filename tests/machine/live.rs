//! Predicted is what a TPM was told: our image through OVMF from a disk and with `-kernel`, Secure Boot off and on, with one and two
//! processors and other memory, in every bank that swtpm has.
//!
//! No job is offered: PID 1 gives up, and that is the end. What the TPM was told is in swtpm's own log, command by command, and counts
//! only where the TPM answered that it has done it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_formats::pcr::{Bank, BankDigest, PcrIndex, PcrValues};
use kiln_formats::prediction::Predictions;
use kiln_formats::statement::Statement;
use tempfile::TempDir;

use crate::fixture::{build, kiln, scratch, site};

/// Bound of a machine's life, emulated and beside other tests: far more than the half minute that it takes.
const LIFE_MAX: Duration = Duration::from_secs(400);
/// How PID 1 says that it has given up: it has measured by then.
const GAVE_UP: &[u8] = b"kiln: fault: ";
/// The banks that swtpm has.
const BANKS: [Bank; 4] = [Bank::Sha1, Bank::Sha256, Bank::Sha384, Bank::Sha512];
/// Source: TPM 2.0 Library part 2, section 6.5.2, TPM_CC_PCR_Extend.
const EXTEND: [u8; 4] = [0, 0, 1, 0x82];
const FIRMWARE: &str = "/usr/share/OVMF";

/// A program that goes with its owner.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a machine is started.
struct Start<'a> {
    starts: [&'a str; 2],
    cpus: u8,
    memory_mib: u16,
    /// The variables that enforce Secure Boot.
    variables: Option<&'a Path>,
}

impl Start<'_> {
    /// Boots until PID 1 gives up; returns what the TPM was told.
    fn boot(&self) -> PcrValues {
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("tpm")).unwrap();
        let banks = BANKS.map(Bank::name).join(",");
        let made = Command::new("swtpm_setup")
            .args(["--tpm2", "--pcr-banks", &banks, "--tpmstate"])
            .arg(format!("dir://{}", at("tpm").display()))
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success(), "swtpm_setup");
        let _tpm = Owned(
            Command::new("swtpm")
                .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
                .arg(format!("dir={}", at("tpm").display()))
                .arg("--ctrl")
                .arg(format!("type=unixio,path={}", at("sock").display()))
                .arg("--log")
                .arg(format!("file={},level=20", at("log").display()))
                .spawn()
                .unwrap(),
        );
        let begun = Instant::now();
        while !at("sock").exists() {
            assert!(begun.elapsed() < LIFE_MAX, "swtpm made no socket");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut machine = Owned(self.qemu(&dir).spawn().unwrap());
        let console = || fs::read(at("console")).unwrap_or_default();
        let gave_up = || console().windows(GAVE_UP.len()).any(|window| window == GAVE_UP);
        while machine.0.try_wait().unwrap().is_none() && !gave_up() {
            assert!(begun.elapsed() < LIFE_MAX, "{}", String::from_utf8_lossy(&console()));
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(gave_up(), "{}", String::from_utf8_lossy(&console()));
        told(&fs::read_to_string(at("log")).unwrap())
    }

    fn qemu(&self, dir: &TempDir) -> Command {
        let at = |name: &str| dir.path().join(name).display().to_string();
        let secure = self.variables.is_some();
        let code = if secure { "OVMF_CODE_4M.secboot.fd" } else { "OVMF_CODE_4M.fd" };
        let template = PathBuf::from(FIRMWARE).join("OVMF_VARS_4M.fd");
        fs::copy(self.variables.unwrap_or(&template), at("variables")).unwrap();
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot"])
            .args(["-machine", if secure { "q35,smm=on" } else { "q35" }, "-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", &self.cpus.to_string(), "-m", &self.memory_mib.to_string()])
            .args(["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE}/{code}")])
            .args(["-drive", &format!("if=pflash,unit=1,format=raw,file={}", at("variables"))])
            .args(["-chardev", &format!("socket,id=tpm,path={}", at("sock"))])
            .args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"])
            .args(["-serial", &format!("file:{}", at("console"))])
            .stdin(Stdio::null());
        match self.starts {
            ["kernel", path] => qemu.args(["-kernel", path]),
            [_, path] => qemu
                .args(["-drive", &format!("if=none,id=boot,format=raw,readonly=on,file={path}")])
                .args(["-device", "virtio-blk-pci,drive=boot,bootindex=0"]),
        };
        if secure {
            qemu.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        qemu
    }
}

/// The registers after every extend in swtpm's log that the TPM answered with success.
fn told(log: &str) -> PcrValues {
    let mut messages: Vec<(bool, Vec<u8>)> = Vec::new();
    for line in log.lines().map(str::trim) {
        if line.starts_with("SWTPM_IO_") {
            messages.push((line.starts_with("SWTPM_IO_Read"), Vec::new()));
        } else if let (Some((_, message)), Some(bytes)) = (messages.last_mut(), hex(line)) {
            message.extend(bytes);
        }
    }
    let mut values = PcrValues::new();
    for pair in messages.windows(2) {
        let [(true, command), (false, answer)] = pair else { continue };
        if command.get(6..10) == Some(&EXTEND) {
            assert_eq!(answer.get(6..10), Some(&[0; 4][..]), "the TPM refused to extend");
            extend(&mut values, command);
        }
    }
    values
}

/// Bytes as swtpm writes them.
fn hex(line: &str) -> Option<Vec<u8>> {
    line.split_whitespace().map(|word| u8::from_str_radix(word, 16).ok().filter(|_| word.len() == 2)).collect()
}

/// Source: TPM 2.0 Library part 3, section 22.2: register, authorizations, then a digest for each bank.
fn extend(values: &mut PcrValues, command: &[u8]) {
    let number = |at: usize, bytes: usize| command[at..at + bytes].iter().fold(0, |n, b| n << 8 | usize::from(*b));
    let index = PcrIndex::new(u32::try_from(number(10, 4)).unwrap()).unwrap();
    let mut at = 18 + number(14, 4);
    let count = number(at, 4);
    at += 4;
    for _ in 0..count {
        let bank = Bank::from_algorithm(u16::try_from(number(at, 2)).unwrap()).unwrap();
        let digest = &command[at + 2..at + 2 + bank.digest_bytes()];
        values.extend(index, &BankDigest::new(bank, digest).unwrap());
        at += 2 + bank.digest_bytes();
    }
}

/// What `kiln reference` says of one machine, by register and bank.
fn predicted(uki: &str, more: &[&str]) -> BTreeMap<(u8, Bank), BankDigest> {
    let banks = BANKS.iter().flat_map(|bank| ["--bank", bank.name()]);
    let arguments: Vec<&str> =
        ["reference", uki, "--json"].into_iter().chain(banks).chain(more.iter().copied()).collect();
    let said = kiln(arguments).expect(0).json();
    let statement: Statement<Predictions> = serde_json::from_value(said).unwrap();
    let [machine] = statement.predicate.machines.as_slice() else { panic!("not one machine") };
    assert!(machine.not_predicted.is_empty(), "{:?}", machine.not_predicted);
    let mut values = BTreeMap::new();
    for (register, expected) in &machine.pcrs {
        let register: u8 = register.parse().unwrap();
        values.extend(BANKS.map(|bank| ((register, bank), *expected.values.get(bank).unwrap())));
    }
    assert_eq!(values.len(), 9 * BANKS.len(), "PCR 2, 4, 7, 8, 9 and 11 to 14");
    values
}

fn assert_same(predicted: &BTreeMap<(u8, Bank), BankDigest>, live: &PcrValues) {
    for ((register, bank), value) in predicted {
        let found = live.get_or_reset(*bank, PcrIndex::new((*register).into()).unwrap());
        assert_eq!(*value, found, "PCR {register}, {bank}");
    }
    for bank in BANKS {
        assert!(live.get(bank, PcrIndex::RUNTIME).is_some(), "PID 1 did not measure into {bank}");
    }
}

fn path(image: &serde_json::Value, part: &str) -> String {
    image[part]["path"].as_str().unwrap().to_owned()
}

#[test]
fn from_a_disk_and_from_the_monitor() {
    let image = build("image");
    let (uki, disk) = (path(&image, "uki"), path(&image, "disk"));
    let from_disk = Start { starts: ["disk", &disk], cpus: 1, memory_mib: 512, variables: None }.boot();
    assert_same(&predicted(&uki, &[]), &from_disk);
    let dir = scratch();
    let machine = dir.path().join("kernel.toml");
    fs::write(&machine, "boot = \"kernel\"\n").unwrap();
    let given = Start { starts: ["kernel", &uki], cpus: 2, memory_mib: 1024, variables: None }.boot();
    assert_same(&predicted(&uki, &["--machine", machine.to_str().unwrap()]), &given);
}

#[test]
fn with_secure_boot() {
    let dir = scratch();
    let signed = dir.path().join("signed");
    let uki = path(&build("image"), "uki");
    let [site, out] = [site(), &signed].map(|path| path.to_str().unwrap());
    let arguments = ["secure-boot", "sign", &uki, "--site", site, "--out", out];
    kiln(arguments).expect(0);
    let at = |name: &str| signed.join(name).display().to_string();
    let variables = signed.join("variables.fd");
    let live =
        Start { starts: ["disk", &at("disk.img")], cpus: 2, memory_mib: 768, variables: Some(&variables) }.boot();
    let keys = Path::new(site).join("secure-boot").display().to_string();
    assert_same(&predicted(&at("kiln.efi"), &["--secure-boot", &keys]), &live);
}
