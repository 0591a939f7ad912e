//! What ours is measured against: the same QEMU and kernel with a PID 1 that only powers off.

use std::path::PathBuf;
use std::time::Duration;

use kiln_attestor::site::{Site, path};
use kiln_qemu::{Boot, End, Machine, Tpm, TpmCa};

use super::{Bare, DEADLINE, MEMORY_MIB};
use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::image::Image;
use crate::order::{CPUS, Host, guest};
use crate::timings::millis;
use kiln_image::cpio;

/// How often the bare machine's memory is looked at; what it touched in its last moment is missed.
const LOOK: Duration = Duration::from_millis(50);
/// Where the program is loaded, and where its code begins. Source: ELF-64 Object File Format, version 1.5.
const ADDRESS: u64 = 0x40_0000;
const HEADS_BYTES: u64 = 64 + 56;

/// `reboot(LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF)`. Source: reboot(2).
#[rustfmt::skip]
const POWER_OFF: [u8; 24] = [
    0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, 0xfee1dead
    0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, 0x28121969
    0xba, 0xdc, 0xfe, 0x21, 0x43, // mov edx, 0x4321fedc
    0xb8, 0xa9, 0x00, 0x00, 0x00, // mov eax, 169
    0x0f, 0x05,                   // syscall
    0xeb, 0xfe,                   // jmp to itself
];

/// An initrd with nothing but a program that switches the power off.
pub(super) fn initrd() -> Vec<u8> {
    cpio::pack("init", &program())
}

/// An ELF executable with one segment, which holds its heads and its code.
fn program() -> Vec<u8> {
    let length = HEADS_BYTES + POWER_OFF.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for x86-64, version 1.
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    // Entry point, offset of the program heads, none of section heads, no flags.
    elf.extend([ADDRESS + HEADS_BYTES, 64, 0].map(u64::to_le_bytes).as_flattened());
    elf.extend([0; 4]);
    // Sizes and numbers of heads: this one, one program head, no section head.
    elf.extend([64, 56, 1, 64, 0, 0].map(u16::to_le_bytes).as_flattened());
    // To be loaded, readable and executable; offset, address twice, length twice, alignment.
    elf.extend([1, 5].map(u32::to_le_bytes).as_flattened());
    elf.extend([0, ADDRESS, ADDRESS, length, length, 0x1000].map(u64::to_le_bytes).as_flattened());
    elf.extend(POWER_OFF);
    elf
}

/// Boots the bare machine, with the same TPM as ours.
pub(super) async fn run(host: &Host, site: &Site, image: &Image, initrd: PathBuf) -> Result<Bare> {
    let tpm_ca = site.directory().join(path::TPM_CA);
    let ca = TpmCa::open_or_make(&tpm_ca, &host.tools).await.or_exit(Exit::Infrastructure)?;
    let (kernel, cmdline) = (image.kernel.path.clone(), image.cmdline.clone());
    let boot = Boot::Direct { kernel, initrd, cmdline };
    let machine = Machine {
        boot,
        memory_mib: MEMORY_MIB,
        cpus: CPUS,
        disks: Vec::new(),
        tpm: Tpm::Software { ca },
        life_max: DEADLINE,
    };
    let (mut running, _link) = host.start(machine).await?;
    let mut guest_bytes = 0;
    let ended = loop {
        match tokio::time::timeout(LOOK, running.wait()).await {
            Ok(ended) => break ended,
            Err(_) => {
                let touched = guest::touched_bytes(running.directory(), MEMORY_MIB);
                guest_bytes = guest_bytes.max(touched.unwrap_or(0));
            }
        }
    };
    match ended.end {
        End::PoweredOff => Ok(Bare { powered_off_ms: millis(ended.timings.run), guest_bytes }),
        end => Err(Problem::NotPoweredOff { end: end.to_string() }).or_exit(Exit::Infrastructure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("init");
        std::fs::write(&file, program()).unwrap();
        let read = std::process::Command::new("readelf").args(["-hlW"]).arg(&file).output().unwrap();
        let text = String::from_utf8_lossy(&read.stdout);
        assert!(text.contains("EXEC (Executable file)") && text.contains("0x400078"), "{text}");
        assert!(text.contains("R E"), "{text}");
        assert!(read.stderr.is_empty(), "{}", String::from_utf8_lossy(&read.stderr));
    }
}
