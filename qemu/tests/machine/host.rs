//! What a test needs of the host: tools, guests of a few instructions, and what is left of a machine.

use std::path::Path;
use std::time::{Duration, Instant};

use kiln_qemu::{Accelerator, Boot, Machine, RunningMachine, Sector, Tools, Tpm, TpmCa, start};
use tokio::net::UnixStream;

/// `hlt; jmp`: a guest that waits for ever.
pub(crate) const WAIT: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];

/// The tools, or the command that installs them.
pub(crate) fn tools() -> Tools {
    Tools::find(&std::env::var_os("PATH").expect("PATH")).unwrap_or_else(|error| panic!("{error}"))
}

/// A machine that runs `code`.
pub(crate) fn machine(code: &[u8], tpm: Tpm) -> Machine {
    Machine {
        boot: Boot::Sector(Sector::new(code).unwrap()),
        memory_mib: 64,
        cpus: 1,
        disks: Vec::new(),
        tpm,
        life_max: Duration::from_secs(60),
    }
}

/// A certificate authority in `directory`, and a TPM of it.
pub(crate) async fn tpm(directory: &Path) -> Tpm {
    Tpm::Software { ca: TpmCa::open_or_make(&directory.join("ca"), &tools()).await.unwrap() }
}

/// Powers `machine` on under TCG.
pub(crate) async fn power_on(machine: Machine) -> (RunningMachine, UnixStream) {
    start(machine, Accelerator::Tcg, &tools(), None).await.unwrap()
}

/// Command lines of living processes that name `directory`.
pub(crate) fn processes(directory: &Path) -> Vec<String> {
    let directory = directory.to_str().unwrap();
    let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok());
    let lines = numbers.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(directory))
        .collect()
}

/// What is left of a machine whose files were in `directory`: processes, sockets (an end of the link that the caller
/// still holds is one), the directory.
pub(crate) fn left(directory: &Path) -> Vec<String> {
    let mut left = processes(directory);
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    left.extend(sockets.lines().filter(|line| line.contains(directory.to_str().unwrap())).map(str::to_owned));
    left.extend(directory.exists().then(|| directory.display().to_string()));
    left
}

/// Children of this process that ended and were not waited for.
pub(crate) fn zombies() -> Vec<String> {
    let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok());
    let stats = numbers.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let ours = format!(") Z {} ", std::process::id());
    stats.filter(|stat| stat.contains(&ours)).collect()
}

/// Waits until `done`, for `bound` at most; tells whether it was done.
pub(crate) fn within(bound: Duration, done: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > bound {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}
