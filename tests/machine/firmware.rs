//! Machines that are watched from power-on to the first line of the console that says what became of them.
//!
//! No job is offered: what firmware starts, and whether PID 1 goes on, is all that is looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kiln_qemu::{Accelerator, Boot, Machine, SecureBoot, Starts, Tools, Tpm, TpmCa, start};
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;

use crate::fixture::{build, scratch};

/// Bound of a machine's life, emulated and beside other tests: far more than the half minute that it takes.
const LIFE_MAX: Duration = Duration::from_secs(240);
/// What PID 1 says first, whatever it says.
const OURS: &str = "kiln: ";
/// How OVMF says that it did not start something. Source: edk2, MdeModulePkg/Library/UefiBootManagerLib/BmBoot.c.
const REFUSED: &str = "BdsDxe: failed to load Boot0001";

/// The console of a machine, up to the line that decided.
pub(crate) struct Console(Vec<String>);

impl Console {
    /// The firmware said no to what is on the disk, and nothing of ours ran.
    pub(crate) fn refused(&self) {
        self.nothing_started(&[": Access Denied", ": Security Violation"]);
    }

    /// The firmware had nothing to start when it had refused what QEMU gave it, and nothing of ours ran.
    pub(crate) fn refused_without_a_disk(&self) {
        self.nothing_started(&[": Not Found"]);
    }

    fn nothing_started(&self, reasons: &[&str]) {
        let last = self.0.last().map_or("", String::as_str);
        assert!(last.contains(REFUSED) && reasons.iter().any(|reason| last.ends_with(reason)), "{:#?}", self.0);
        assert!(!self.0.iter().any(|line| line.contains(OURS) || line.contains("Linux version")), "{:#?}", self.0);
    }

    /// PID 1 ran, and ended with this fault.
    pub(crate) fn fault(&self, words: &[&str]) {
        let last = self.0.last().map_or("", String::as_str);
        assert!(last.contains("kiln: fault: ") && words.iter().all(|word| last.contains(word)), "{:#?}", self.0);
    }

    /// The machine said this.
    pub(crate) fn said(&self, words: &str) {
        assert!(self.0.iter().any(|line| line.contains(words)), "{words}: {:#?}", self.0);
    }
}

/// A machine that is to be watched.
pub(crate) struct Watched {
    pub(crate) starts: Starts,
    pub(crate) secure_boot: SecureBoot,
    /// Whether it has a TPM. PID 1 ends without one, which is the quickest sign that it ran.
    pub(crate) tpm: bool,
    /// What whoever owns the host adds to QEMU's arguments.
    pub(crate) added: Vec<String>,
}

impl Watched {
    /// A machine that starts what is on the disk, if the variables allow it.
    pub(crate) fn enforced(disk: &Path, variables: &Path) -> Self {
        Self {
            starts: Starts::Disk { path: disk.to_owned() },
            secure_boot: SecureBoot::Enforced { variables: variables.to_owned() },
            tpm: false,
            added: Vec::new(),
        }
    }

    /// A machine with a TPM that starts whatever is on the disk.
    pub(crate) fn measured(disk: &Path) -> Self {
        let starts = Starts::Disk { path: disk.to_owned() };
        Self { starts, secure_boot: SecureBoot::Off, tpm: true, added: Vec::new() }
    }

    /// Runs it until a line has one of these words, or PID 1 or the firmware's refusal decides. A machine that says nothing
    /// is started again, once: emulated firmware hangs now and then.
    pub(crate) fn until(&self, words: &[&str]) -> Console {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let attempt = || runtime.block_on(self.attempt(words));
        let console = attempt();
        if console.0.is_empty() { attempt() } else { console }
    }

    async fn attempt(&self, words: &[&str]) -> Console {
        let directory = scratch();
        let mut tools = Tools::find(&std::env::var_os("PATH").unwrap()).unwrap();
        if !self.added.is_empty() {
            tools.qemu = owner(directory.path(), &tools.qemu, &self.added);
        }
        let tpm = match self.tpm {
            false => Tpm::Absent,
            true => Tpm::Software { ca: TpmCa::open_or_make(&directory.path().join("ca"), &tools).await.unwrap() },
        };
        let machine = Machine {
            boot: Boot::Firmware { starts: self.starts.clone(), secure_boot: self.secure_boot.clone() },
            memory_mib: 512,
            cpus: 2,
            disks: Vec::new(),
            tpm,
            life_max: LIFE_MAX,
        };
        let (seen, mut lines) = unbounded_channel();
        let on_line = Box::new(move |line: &kiln_qemu::ConsoleLine| drop(seen.send(line.text.clone())));
        let (mut running, _link) = start(machine, Accelerator::Tcg, &tools, Some(on_line)).await.unwrap();
        let mut console = Vec::new();
        while let Some(line) = lines.recv().await {
            let decided = [OURS, REFUSED].iter().chain(words).any(|word| line.contains(word));
            console.push(line);
            if decided {
                break;
            }
        }
        running.stop().await;
        Console(console)
    }
}

/// The host's owner, who adds arguments of their own to QEMU's.
fn owner(directory: &Path, qemu: &Path, added: &[String]) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = directory.join("qemu-system-x86_64");
    let added: Vec<String> = added.iter().map(|word| format!("'{word}'")).collect();
    fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\" {}\n", qemu.display(), added.join(" "))).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A file of the published image.
pub(crate) fn published(part: &str) -> PathBuf {
    PathBuf::from(build("image")[part]["path"].as_str().unwrap())
}

/// A copy of a boot disk that its owner has changed.
pub(crate) struct Disk {
    pub(crate) directory: TempDir,
}

impl Disk {
    pub(crate) fn copy(disk: &Path) -> Self {
        let directory = scratch();
        fs::copy(disk, directory.path().join("disk.img")).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("disk.img")
    }

    /// Puts a file on the EFI system partition, making its directories.
    pub(crate) fn put(self, path: &str, bytes: &[u8]) -> Self {
        let file = self.directory.path().join("file");
        fs::write(&file, bytes).unwrap();
        let steps: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        for end in steps {
            // Those that are there are left as they are.
            let _made = self.mtool("mmd", &["-D", "s"]).arg(format!("::{}", &path[..end])).output().unwrap();
        }
        let copied = self.mtool("mcopy", &["-o"]).arg(&file).arg(format!("::{path}")).output().unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        self
    }

    fn mtool(&self, program: &str, options: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(options).arg("-i").arg(format!("{}@@1M", self.path().display()));
        command
    }
}

/// A program for firmware from assembly or C files of the directory, which are linked with entry point `start`.
pub(crate) fn program(directory: &Path, sources: &[(&str, &str)]) -> Vec<u8> {
    let run = |program: &str, arguments: &[&str]| {
        let ran = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
        assert!(ran.status.success(), "{program}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    let mut objects = Vec::new();
    for (name, text) in sources {
        fs::write(directory.join(name), text).unwrap();
        let object = format!("{name}.o");
        let code = ["-O1", "-fno-ident", "-ffreestanding", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"];
        let machine = ["-mno-red-zone", "-mgeneral-regs-only", "-fpic", "-c", name, "-o", &object];
        run("gcc", &[code.as_slice(), &machine].concat());
        objects.push(object);
    }
    let mut link = vec!["-m", "i386pep", "--subsystem", "10", "--image-base", "0", "-e", "start", "-o", "program.efi"];
    link.extend(objects.iter().map(String::as_str));
    run("ld", &link);
    fs::read(directory.join("program.efi")).unwrap()
}
