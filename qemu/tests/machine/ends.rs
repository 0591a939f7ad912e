//! Every way in which a machine ends has its own value, and leaves nothing.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::host::{WAIT, left, machine, power_on, processes, tools, tpm};
use kiln_qemu::{
    Accelerator, Boot, Disk, End, Ended, Machine, Part, SecureBoot, Serial, StartError, Starts, Tpm, start,
};
use tokio::io::AsyncReadExt;

/// Writes "kiln" and a line feed to COM1, then switches the power off. The data follow the code at 0x7c1a.
const SPEAK: &[u8] =
    b"\xfa\x31\xc0\x8e\xd8\xbe\x1a\x7c\xba\xf8\x03\xb9\x05\x00\xfc\xf3\x6e\xba\x04\x06\xb8\x00\x20\xef\xeb\xfekiln\n";
/// `lidt [0x7c08]` with a limit of 0, then `int3`: a triple fault.
const TRIPLE_FAULT: &[u8] = &[0xfa, 0x0f, 0x01, 0x1e, 0x08, 0x7c, 0xcc, 0x90, 0, 0, 0, 0, 0, 0];

/// Runs a machine to its end.
async fn run(machine: Machine) -> Ended {
    let (mut machine, link) = power_on(machine).await;
    drop(link);
    let ended = machine.wait().await;
    assert_eq!(left(machine.directory()), Vec::<String>::new());
    assert_eq!(ended.left, None);
    ended
}

#[tokio::test]
async fn a_guest_that_switches_its_power_off() {
    let (mut machine, link) = power_on(machine(SPEAK, Tpm::Absent)).await;
    let ended = machine.wait().await;
    assert!(matches!(ended.end, End::PoweredOff), "{}", ended.end);
    assert!(machine.console_tail(10).iter().any(|line| line.text == "kiln"), "{:?}", machine.console_tail(10));
    assert!(ended.memory.is_some_and(|memory| memory.peak_bytes > 1024 * 1024), "{ended:?}");
    assert!(ended.timings.run > Duration::ZERO && ended.timings.run < Duration::from_secs(30), "{ended:?}");
    drop(link);
    assert_eq!(left(machine.directory()), Vec::<String>::new());
}

#[tokio::test]
async fn a_guest_that_faults_is_not_started_again() {
    let ended = run(machine(TRIPLE_FAULT, Tpm::Absent)).await;
    assert!(matches!(ended.end, End::Reset), "{}", ended.end);
}

#[tokio::test]
async fn a_guest_that_lives_too_long() {
    let ended = run(Machine { life_max: Duration::from_millis(500), ..machine(WAIT, Tpm::Absent) }).await;
    assert!(matches!(ended.end, End::Overdue { .. }), "{}", ended.end);
    assert!(ended.timings.run >= Duration::from_millis(500), "{ended:?}");
}

#[tokio::test]
async fn a_machine_that_its_owner_stops() {
    let (mut machine, mut link) = power_on(machine(WAIT, Tpm::Absent)).await;
    let ended = machine.stop().await;
    assert!(matches!(ended.end, End::Stopped), "{}", ended.end);
    assert!(matches!(link.read(&mut [0]).await, Ok(0) | Err(_)));
    drop(link);
    assert!(matches!(machine.stop().await.end, End::Stopped), "a second stop tells the same");
    assert_eq!(left(machine.directory()), Vec::<String>::new());
}

#[tokio::test]
async fn a_machine_whose_qemu_is_killed() {
    let site = tempfile::tempdir().unwrap();
    let (mut machine, mut link) = power_on(machine(WAIT, tpm(site.path()).await)).await;
    assert_eq!(processes(machine.directory()).len(), 3, "warden, TPM, QEMU");
    machine.break_part(Part::Qemu).await;
    let ended = machine.wait().await;
    assert!(matches!(&ended.end, End::QemuEnded { status, .. } if status.signal() == Some(9)), "{}", ended.end);
    assert!(matches!(link.read(&mut [0]).await, Ok(0) | Err(_)));
    drop(link);
    assert_eq!(left(machine.directory()), Vec::<String>::new());
}

#[tokio::test]
async fn a_machine_whose_tpm_is_killed() {
    let site = tempfile::tempdir().unwrap();
    let (mut machine, link) = power_on(machine(WAIT, tpm(site.path()).await)).await;
    drop(link);
    machine.break_part(Part::Tpm).await;
    let ended = machine.wait().await;
    assert!(matches!(&ended.end, End::TpmEnded { status, .. } if status.signal() == Some(9)), "{}", ended.end);
    assert_eq!(left(machine.directory()), Vec::<String>::new());
}

#[tokio::test]
async fn a_disk_that_is_not_there() {
    let disk = Disk { path: "/nonexistent/image".into(), serial: Serial::new("image").unwrap() };
    let machine = Machine { disks: vec![disk], ..machine(WAIT, Tpm::Absent) };
    let error = start(machine, Accelerator::Tcg, &tools(), None).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, StartError::QemuEnded { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/image"), "{error}");
}

#[tokio::test]
async fn a_qemu_that_does_nothing() {
    let tools = kiln_qemu::Tools { qemu: PathBuf::from("/bin/false"), ..tools() };
    let error = start(machine(WAIT, Tpm::Absent), Accelerator::Tcg, &tools, None).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, StartError::QemuEnded { .. }), "{error}");
}

/// OVMF with a TPM comes to the point where it looks for something to boot, and finds nothing on an empty disk.
#[tokio::test]
async fn firmware_that_finds_nothing_to_boot() {
    let site = tempfile::tempdir().unwrap();
    let esp_disk = site.path().join("a,b.raw");
    std::fs::write(&esp_disk, vec![0; 1024 * 1024]).unwrap();
    let (seen, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let on_line = Box::new(move |line: &kiln_qemu::ConsoleLine| drop(seen.send(line.text.clone())));
    let machine = Machine {
        boot: Boot::Firmware { starts: Starts::Disk { path: esp_disk }, secure_boot: SecureBoot::Off },
        memory_mib: 256,
        life_max: Duration::from_secs(240),
        ..machine(WAIT, tpm(site.path()).await)
    };
    let (mut machine, _link) = start(machine, Accelerator::Tcg, &tools(), Some(on_line)).await.unwrap();
    assert!(!machine.endorsement_certificates().is_empty());
    let mut all = Vec::new();
    while let Some(line) = lines.recv().await {
        let found = line.contains("BdsDxe");
        all.push(line);
        if found {
            let ended = machine.stop().await;
            println!("{:?} {:?}", ended.timings, ended.memory);
            return;
        }
    }
    panic!("the firmware ended without a word of booting: {all:?}");
}
