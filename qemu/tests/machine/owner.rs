//! However the owner of a machine ends, nothing of the machine is left.
//!
//! Owners that die do so in a process of their own: the test's program runs itself again, for the same test, with `OWNER`
//! set, and that half of the test is the owner.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::host::{WAIT, left, machine, power_on, processes, tools, tpm, within, zombies};
use kiln_qemu::{Accelerator, Tpm, start};

const OWNER: &str = "KILN_TEST_OWNER";
/// The warden and the kernel need milliseconds; this is for an overloaded host.
const GONE_MAX: Duration = Duration::from_secs(10);

#[tokio::test]
async fn an_owner_that_drops_its_machine() {
    let site = tempfile::tempdir().unwrap();
    let (machine, link) = power_on(machine(WAIT, tpm(site.path()).await)).await;
    let directory = machine.directory().to_owned();
    assert_eq!(processes(&directory).len(), 3, "warden, TPM, QEMU");
    drop((machine, link));
    assert_eq!(left(&directory), Vec::<String>::new());
}

#[tokio::test]
async fn an_owner_that_panics() {
    let (say, said) = tokio::sync::oneshot::channel();
    let owner = tokio::spawn(async {
        let (machine, _link) = power_on(machine(WAIT, Tpm::Absent)).await;
        say.send(machine.directory().to_owned()).unwrap();
        panic!("an owner that panics, on purpose");
    });
    let directory = said.await.unwrap();
    assert!(owner.await.unwrap_err().is_panic());
    assert_eq!(left(&directory), Vec::<String>::new());
}

/// The future of `start` is dropped at every stage: while the TPM is made, while QEMU starts, and after.
#[test]
fn an_owner_that_changes_its_mind() {
    let name = "an_owner_that_changes_its_mind";
    if std::env::var_os(OWNER).is_some() {
        let site = tempfile::tempdir_in("/tmp").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (tpm, tools) = (tpm(site.path()).await, tools());
            for delay_ms in (0..1500).step_by(75) {
                let starting = start(machine(WAIT, tpm.clone()), Accelerator::Tcg, &tools, None);
                let given_up = tokio::time::timeout(Duration::from_millis(delay_ms), starting).await;
                drop(given_up);
                let entries = std::fs::read_dir(std::env::temp_dir()).unwrap().count();
                assert_eq!((entries, zombies()), (0, Vec::new()), "after {delay_ms} ms");
            }
        });
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let output = owner(name, temporary.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // What swtpm_setup had started is killed with it, but is not this process's child to wait for.
    assert!(within(GONE_MAX, || processes(temporary.path()).is_empty()), "{:?}", processes(temporary.path()));
}

#[test]
fn an_owner_that_is_killed() {
    ends("an_owner_that_is_killed", |owner| owner.kill().unwrap(), || std::thread::sleep(Duration::MAX));
}

#[test]
fn an_owner_that_exits_without_dropping() {
    ends("an_owner_that_exits_without_dropping", |_| {}, || std::process::exit(0));
}

#[test]
fn an_owner_that_aborts() {
    ends("an_owner_that_aborts", |_| {}, || std::process::abort());
}

/// A terminal's Ctrl-C reaches only the owner, which selects on it and drops the machine.
#[test]
fn an_owner_that_is_interrupted() {
    let name = "an_owner_that_is_interrupted";
    if std::env::var_os(OWNER).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).unwrap();
            let (mut machine, link) = power_on(machine(WAIT, Tpm::Absent)).await;
            say(machine.directory());
            tokio::select! {
                ended = machine.wait() => panic!("the machine ended first: {}", ended.end),
                _ = interrupt.recv() => {}
            }
            let directory = machine.directory().to_owned();
            drop((machine, link));
            assert_eq!(left(&directory), Vec::<String>::new());
        });
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let mut child = spawn(name, temporary.path());
    let directory = heard(&mut child);
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    assert_eq!(left(&directory), Vec::<String>::new());
}

/// The test `name` in two halves: a process that owns a machine and then does `end`, and this one, which does `hasten`
/// when it knows the machine, and looks.
fn ends(name: &str, hasten: impl Fn(&mut Child), end: impl Fn()) {
    if std::env::var_os(OWNER).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let site = std::env::temp_dir();
        let machine = runtime.block_on(async { power_on(machine(WAIT, tpm(&site).await)).await });
        say(machine.0.directory());
        end();
        panic!("the owner did not end");
    }
    let temporary = tempfile::tempdir().unwrap();
    let mut child = spawn(name, temporary.path());
    let directory = heard(&mut child);
    hasten(&mut child);
    child.wait().unwrap();
    assert!(within(GONE_MAX, || left(&directory).is_empty()), "{:?}", left(&directory));
    let entries: Vec<_> =
        std::fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(entries, ["ca"], "the owner's temporary directory");
}

/// The owner's half of test `name`, with its temporary files in `temporary` and a process group of its own.
fn owner(name: &str, temporary: &Path) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("owner::{name}"), "--nocapture"])
        .env(OWNER, "1")
        .env("TMPDIR", temporary)
        .process_group(0);
    command
}

fn spawn(name: &str, temporary: &Path) -> Child {
    owner(name, temporary).stdout(Stdio::piped()).spawn().unwrap()
}

fn say(directory: &Path) {
    println!("\nmachine {}", directory.display());
    std::io::stdout().flush().unwrap();
}

/// The machine's directory, as its owner says it, after seeing that the machine is there.
fn heard(child: &mut Child) -> PathBuf {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let said = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("machine ").map(PathBuf::from));
    let directory = said.expect("an owner with a machine");
    assert!(processes(&directory).len() >= 2, "{:?}", processes(&directory));
    directory
}
