//! Secure Boot enforced by the firmware: the site's signed image starts, and nothing else does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_formats::eventlog::{EventLog, EventType};
use kiln_qemu::{SecureBoot, Starts};
use tempfile::TempDir;

use crate::firmware::{Disk, Watched, program, published};
use crate::fixture::{Hello, kiln, scratch, site};

/// What `kiln secure-boot sign` makes of an image at a site.
struct Signed(TempDir);

impl Signed {
    fn of(site: &Path) -> Self {
        let directory = scratch();
        let (uki, out) = (published("uki"), directory.path().join("signed"));
        kiln([
            "secure-boot".as_ref(),
            "sign".as_ref(),
            uki.as_os_str(),
            "--site".as_ref(),
            site.as_os_str(),
            "--out".as_ref(),
            out.as_os_str(),
        ])
        .expect(0);
        Self(directory)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join("signed").join(name)
    }

    fn machine(&self) -> Watched {
        Watched::enforced(&self.file("disk.img"), &self.file("variables.fd"))
    }
}

/// A site of its own: the shared one, or another.
struct Site(TempDir);

impl Site {
    fn copy() -> Self {
        let directory = scratch();
        let copied = Command::new("cp").arg("-a").arg(site()).arg(directory.path().join("site")).status().unwrap();
        assert!(copied.success());
        Self(directory)
    }

    fn other() -> Self {
        let directory = scratch();
        kiln(["keygen".as_ref(), "--site".as_ref(), directory.path().join("site").as_os_str()]).expect(0);
        Self(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("site")
    }

    fn revoke(&self, what: &str, file: &Path) {
        let site = self.path();
        let words = ["secure-boot".as_ref(), "revoke".as_ref(), "--site".as_ref(), site.as_os_str()];
        kiln(words.into_iter().chain([what.as_ref(), file.as_os_str()])).expect(0);
    }
}

/// The signed image builds a job, held against predicted values, and the firmware says that
/// Secure Boot is on with the site's keys, and with which of them it checked the image.
#[test]
fn the_signed_image_starts_and_is_the_published_one() {
    let hello = Hello::new();
    hello.run(&["--secure-boot"]).expect(0);
    let log = fs::read(hello.out().join("evidence/boot/firmware.log")).unwrap();
    let log = EventLog::parse(&log).unwrap();
    let events: Vec<_> = log.events().filter(|event| event.register == 7).collect();
    let measured = |event_type: EventType, end: &[u8]| {
        events.iter().any(|event| event.event_type == event_type && event.data.ends_with(end))
    };
    // The variable's name and then its value, which is one byte.
    let on: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).chain([1]).collect();
    assert!(measured(EventType::VARIABLE_DRIVER_CONFIG, &on));
    let esl = |name: &str| fs::read(site().join("secure-boot").join(name)).unwrap();
    for name in ["PK.esl", "KEK.esl", "db.esl"] {
        assert!(measured(EventType::VARIABLE_DRIVER_CONFIG, &esl(name)), "{name}");
    }
    // The list's header is left out: 28 bytes.
    assert!(measured(EventType::VARIABLE_AUTHORITY, &esl("db.esl")[28..]));
}

#[test]
fn an_unsigned_image_does_not_start() {
    let signed = Signed::of(site());
    Watched::enforced(&published("disk"), &signed.file("variables.fd")).until(&[]).refused();
}

#[test]
fn an_image_signed_by_another_site_does_not_start() {
    let (ours, other) = (Signed::of(site()), Site::other());
    let theirs = Signed::of(&other.path());
    Watched::enforced(&theirs.file("disk.img"), &ours.file("variables.fd")).until(&[]).refused();
}

#[test]
fn a_changed_byte_under_the_signature_does_not_start() {
    let signed = Signed::of(site());
    let mut uki = fs::read(signed.file("kiln.efi")).unwrap();
    let middle = uki.len() / 2;
    uki[middle] ^= 1;
    let disk = Disk::copy(&signed.file("disk.img")).put("EFI/BOOT/BOOTX64.EFI", &uki);
    Watched::enforced(&disk.path(), &signed.file("variables.fd")).until(&[]).refused();
}

#[test]
fn a_revoked_image_does_not_start_whoever_signs_it() {
    let site = Site::copy();
    site.revoke("--image", &published("uki"));
    Signed::of(&site.path()).machine().until(&[]).refused();
}

/// A new key, the old one revoked: what says which image is the oldest that starts.
#[test]
fn nothing_starts_that_a_revoked_key_has_signed() {
    let site = Site::copy();
    let old = Signed::of(&site.path());
    let path = site.path();
    let rotated = kiln(["secure-boot".as_ref(), "rotate".as_ref(), "--site".as_ref(), path.as_os_str()]).expect(0);
    let both = Signed::of(&path);
    site.revoke("--certificate", Path::new(rotated.stdout.trim_end()));
    let new = Signed::of(&path);
    Watched::enforced(&old.file("disk.img"), &both.file("variables.fd")).until(&[]).fault(&["tpm"]);
    Watched::enforced(&old.file("disk.img"), &new.file("variables.fd")).until(&[]).refused();
    new.machine().until(&[]).fault(&["tpm"]);
}

/// From QEMU's `-kernel` the signed image starts and the unsigned one does not. The command line that comes with it is ignored.
#[test]
fn the_same_without_a_disk() {
    let signed = Signed::of(site());
    let secure_boot = || SecureBoot::Enforced { variables: signed.file("variables.fd") };
    let added: Vec<String> = ["-append", "rdinit=/nothing"].map(str::to_owned).into();
    let machine = |path| Watched {
        starts: Starts::Kernel { path },
        secure_boot: secure_boot(),
        tpm: false,
        added: added.clone(),
    };
    machine(signed.file("kiln.efi")).until(&[]).fault(&["tpm"]);
    machine(published("uki")).until(&[]).refused_without_a_disk();
}

/// What this way of starting does not protect against: OVMF starts a bare kernel without asking. Its quote tells.
#[test]
fn an_unsigned_bare_kernel_starts_without_a_disk() {
    let signed = Signed::of(site());
    let machine = Watched {
        starts: Starts::Kernel { path: published("kernel") },
        secure_boot: SecureBoot::Enforced { variables: signed.file("variables.fd") },
        tpm: false,
        added: ["-append", "console=ttyS0"].map(str::to_owned).into(),
    };
    machine.until(&["Linux version"]).said("Linux version");
}

/// Bare metal enrols signed updates. The firmware takes the one that `revoke` makes, and not one with a changed bit.
#[test]
fn firmware_takes_the_signed_update_and_no_other() {
    let site = Site::copy();
    let signed = Signed::of(&site.path());
    site.revoke("--image", &published("uki"));
    let directory = scratch();
    let update = fs::read(site.path().join("secure-boot/dbx.auth")).unwrap();
    fs::write(directory.path().join("good"), &update).unwrap();
    let mut bad = update;
    *bad.last_mut().unwrap() ^= 1;
    fs::write(directory.path().join("bad"), bad).unwrap();
    let unsigned = program(directory.path(), &[("enrol.c", include_str!("enrol.c")), ("files.S", FILES)]);
    let uki = directory.path().join("enrol.efi");
    fs::write(&uki, unsigned).unwrap();
    let keys = site.path().join("secure-boot");
    let tool = Command::new("sbsign")
        .arg("--key")
        .arg(keys.join("db.key"))
        .arg("--cert")
        .arg(keys.join("db.pem"))
        .arg(&uki)
        .output();
    assert!(tool.unwrap().status.success());
    let machine = Watched {
        starts: Starts::Kernel { path: directory.path().join("enrol.efi.signed") },
        secure_boot: SecureBoot::Enforced { variables: signed.file("variables.fd") },
        tpm: false,
        added: Vec::new(),
    };
    // EFI_SECURITY_VIOLATION is 26, EFI_SUCCESS 0. Source: UEFI 2.10, appendix D.
    machine.until(&["enrol: "]).said("enrol: bad 1a good 00");
}

/// The two updates as data of the program.
const FILES: &str = "\
.data\n.globl bad, bad_end, good, good_end\n\
bad: .incbin \"bad\"\nbad_end:\ngood: .incbin \"good\"\ngood_end:\n\
.section .reloc, \"a\"\n.long 0, 8\n";
