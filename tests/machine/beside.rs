//! What an owner of the host puts beside the image: firmware's stub measures it into PCR 12 or 13, and PID 1 stops for it.
//!
//! Source: systemd-stub(7), "Companion Files" and "TPM PCR Notes".

use kiln_qemu::{SecureBoot, Starts};

use crate::firmware::{Disk, Watched, program, published};
use crate::fixture::scratch;

/// A directory beside the UKI, as the stub looks for it.
const BESIDE: &str = "EFI/BOOT/BOOTX64.EFI.extra.d";

/// The image as published with one more file on its disk is stopped by PID 1, because this register is not zero.
fn stopped_by(register: &str, path: &str, bytes: &[u8]) {
    let disk = Disk::copy(&published("disk")).put(path, bytes);
    Watched::measured(&disk.path()).until(&[]).fault(&[register, "not zero"]);
}

#[test]
fn a_command_line_in_an_smbios_string() {
    let string = "type=11,value=io.systemd.stub.kernel-cmdline-extra=init=/bin/sh";
    let added = ["-smbios", string].map(str::to_owned).into();
    let machine = Watched { added, ..Watched::measured(&published("disk")) };
    machine.until(&[]).fault(&["PCR 12", "not zero"]);
}

#[test]
fn a_command_line_in_an_addon() {
    let directory = scratch();
    let source = "\
        .text\n.globl start\nstart: xor %eax, %eax\nret\n\
        .section .sbat, \"a\"\n.ascii \"sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\\n\"\n\
        .section .cmdline, \"a\"\n.asciz \"init=/bin/sh\"\n\
        .section .reloc, \"a\"\n.long 0, 8\n";
    let addon = program(directory.path(), &[("addon.S", source)]);
    stopped_by("PCR 12", &format!("{BESIDE}/a.addon.efi"), &addon);
}

#[test]
fn a_credential() {
    stopped_by("PCR 12", &format!("{BESIDE}/a.cred"), b"secret");
}

#[test]
fn a_system_extension() {
    stopped_by("PCR 13", &format!("{BESIDE}/a.sysext.raw"), b"extension");
}

/// Without Secure Boot the stub takes a command line from its caller, and measures it.
#[test]
fn a_command_line_from_the_loader() {
    let machine = Watched {
        starts: Starts::Kernel { path: published("uki") },
        secure_boot: SecureBoot::Off,
        tpm: true,
        added: ["-append", "console=ttyS0 quiet loglevel=2"].map(str::to_owned).into(),
    };
    machine.until(&[]).fault(&["PCR 12", "not zero"]);
}
