//! A machine's description as QEMU's command line. Pure.
//!
//! What is not named here is not in the machine: `-nodefaults` and `-no-user-config` remove all that QEMU would add, and
//! there is no network back end. QEMU itself runs under its system call filter. Source: QEMU 7.2, `qemu-system-x86_64(1)`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::accelerator::Accelerator;
use crate::machine::{Boot, Machine, SecureBoot, Starts};
use crate::tools::Tools;

/// The name of the virtio-serial port in the guest: `/sys/class/virtio-ports/*/name`.
const LINK_PORT: &str = "org.kiln.link";

/// The files that a machine's own directory holds for QEMU.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Socket that QEMU connects the link's port to.
    pub(crate) link: PathBuf,
    /// Socket that QEMU connects its monitor to.
    pub(crate) monitor: PathBuf,
    /// Control socket of the TPM.
    pub(crate) tpm: PathBuf,
    /// The private copy of the firmware's variables.
    pub(crate) variables: PathBuf,
    /// The boot sector's disk.
    pub(crate) sector: PathBuf,
}

/// QEMU's arguments for `machine`, which starts paused and waits for its monitor.
pub(crate) fn arguments(
    machine: &Machine,
    has_tpm: bool,
    accelerator: Accelerator,
    tools: &Tools,
    places: &Places,
) -> Vec<OsString> {
    let mut line = Line::default();
    line.words(&["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"]);
    line.words(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    line.words(&["-machine", if enforced(&machine.boot) { "q35,smm=on" } else { "q35" }]);
    line.words(match accelerator {
        Accelerator::Kvm => &["-accel", "kvm", "-cpu", "host"],
        Accelerator::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max"],
    });
    line.word("-m").word(format!("{}M", machine.memory_mib));
    line.word("-smp").word(machine.cpus.to_string());
    // A machine that stops stays there until its owner has seen why: power off, reset and panic are told apart.
    line.words(&["-S", "-action", "reboot=shutdown,shutdown=pause,panic=shutdown"]);
    line.word("-chardev").option("socket,id=monitor,path=", &places.monitor, "");
    line.words(&["-mon", "chardev=monitor,mode=control"]);
    line.words(&["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
    line.word("-chardev").option("socket,id=link,path=", &places.link, "");
    line.words(&["-device", "virtio-serial-pci", "-device"]);
    line.word(format!("virtserialport,chardev=link,name={LINK_PORT}"));
    if has_tpm {
        line.word("-chardev").option("socket,id=tpm,path=", &places.tpm, "");
        line.words(&["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"]);
    }
    match &machine.boot {
        Boot::Firmware { starts, secure_boot } => {
            let code = match secure_boot {
                SecureBoot::Off => &tools.firmware_code,
                SecureBoot::Enforced { .. } => {
                    // Source: edk2, OvmfPkg/README, "SMM support": the flash is written in system management mode only, and a
                    // machine that sleeps would wake up outside of it.
                    line.words(&["-global", "driver=cfi.pflash01,property=secure,value=on"]);
                    line.words(&["-global", "ICH9-LPC.disable_s3=1"]);
                    &tools.secure_firmware_code
                }
            };
            line.word("-drive").option("if=pflash,unit=0,format=raw,readonly=on,file=", code, "");
            line.word("-drive").option("if=pflash,unit=1,format=raw,file=", &places.variables, "");
            match starts {
                Starts::Disk { path } => line.disk("boot", path, "serial=esp,bootindex=0"),
                Starts::Kernel { path } => {
                    line.word("-kernel").word(path);
                }
            }
        }
        Boot::Direct { kernel, initrd, cmdline } => {
            line.word("-kernel").word(kernel).word("-initrd").word(initrd).word("-append").word(cmdline);
        }
        Boot::Sector(_) => line.disk("boot", &places.sector, "bootindex=0"),
    }
    for (index, disk) in machine.disks.iter().enumerate() {
        line.disk(&format!("disk{index}"), &disk.path, &format!("serial={}", disk.serial.as_str()));
    }
    line.0
}

fn enforced(boot: &Boot) -> bool {
    matches!(boot, Boot::Firmware { secure_boot: SecureBoot::Enforced { .. }, .. })
}

/// A command line in the making.
#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn words(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(OsString::from));
    }

    fn word(&mut self, word: impl Into<OsString>) -> &mut Line {
        self.0.push(word.into());
        self
    }

    /// One option string with a path in it. QEMU splits it at commas, so a path's own are doubled.
    fn option(&mut self, before: &str, path: &Path, after: &str) {
        let mut option = before.as_bytes().to_vec();
        for byte in path.as_os_str().as_bytes() {
            option.extend(std::iter::repeat_n(*byte, if *byte == b',' { 2 } else { 1 }));
        }
        option.extend(OsStr::new(after).as_bytes());
        self.0.push(OsString::from_vec(option));
    }

    /// A read-only virtio-blk disk.
    fn disk(&mut self, id: &str, path: &Path, properties: &str) {
        self.word("-drive").option(&format!("if=none,id={id},format=raw,readonly=on,file="), path, "");
        self.word("-device").word(format!("virtio-blk-pci,drive={id},{properties}"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::machine::{Disk, Serial, Tpm};

    fn line(machine: &Machine, has_tpm: bool) -> Vec<String> {
        let places = Places {
            link: "/run/k/link".into(),
            monitor: "/run/k/monitor".into(),
            tpm: "/run/k/tpm".into(),
            variables: "/run/k/variables".into(),
            sector: "/run/k/sector".into(),
        };
        let tools = Tools {
            qemu: "/bin/qemu".into(),
            swtpm: "/bin/swtpm".into(),
            swtpm_setup: "/bin/swtpm_setup".into(),
            swtpm_localca: "/bin/swtpm_localca".into(),
            sh: "/bin/sh".into(),
            firmware_code: "/fw/code".into(),
            secure_firmware_code: "/fw/secure".into(),
            firmware_variables: "/fw/variables".into(),
        };
        let line = arguments(machine, has_tpm, Accelerator::Tcg, &tools, &places);
        line.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    fn machine() -> Machine {
        Machine {
            boot: Boot::Firmware {
                starts: Starts::Disk { path: "/images/a,readonly=off".into() },
                secure_boot: SecureBoot::Off,
            },
            memory_mib: 512,
            cpus: 2,
            disks: vec![Disk { path: "/images/c".into(), serial: Serial::new("c0ffee").unwrap() }],
            tpm: Tpm::Absent,
            life_max: Duration::from_secs(1),
        }
    }

    #[test]
    fn every_disk_is_read_only_and_a_path_adds_no_option() {
        let line = line(&machine(), true);
        let drives: Vec<_> = line.windows(2).filter(|pair| pair[0] == "-drive").map(|pair| &pair[1]).collect();
        assert_eq!(drives.len(), 4);
        for drive in &drives {
            assert!(drive.contains(",readonly=on,") || drive.ends_with("file=/run/k/variables"), "{drive}");
        }
        assert!(drives[2].ends_with("file=/images/a,,readonly=off"), "{drives:?}");
        assert!(line.contains(&"virtio-blk-pci,drive=disk0,serial=c0ffee".to_owned()), "{line:?}");
    }

    #[test]
    fn there_is_no_network_and_no_default_device() {
        let line = line(&machine(), true);
        assert!(line.windows(2).any(|pair| pair == ["-nic", "none"]));
        assert!(line.iter().any(|word| word == "-nodefaults"));
        assert!(!line.iter().any(|word| word.contains("net") || word.contains("fsdev") || word.contains("usb")));
    }

    #[test]
    fn secure_boot_is_enforced_by_the_machine_as_well() {
        let words = ["smm=on", "property=secure,value=on", "ICH9-LPC.disable_s3=1", "/fw/secure"];
        let count = |machine: &Machine| {
            let line = line(machine, true).join(" ");
            words.iter().filter(|word| line.contains(*word)).count()
        };
        let off = machine();
        let secure_boot = SecureBoot::Enforced { variables: "/site/variables".into() };
        let on = Machine {
            boot: Boot::Firmware { starts: Starts::Kernel { path: "/uki".into() }, secure_boot },
            ..machine()
        };
        assert_eq!((count(&off), count(&on)), (0, words.len()));
        assert!(line(&on, true).windows(2).any(|pair| pair == ["-kernel", "/uki"]));
    }

    #[test]
    fn a_machine_without_a_tpm_has_none() {
        let count = |has_tpm| line(&machine(), has_tpm).iter().filter(|word| word.contains("tpm")).count();
        assert_eq!((count(false), count(true)), (0, 4));
    }
}
