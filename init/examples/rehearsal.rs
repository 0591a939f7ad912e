//! A whole life of a machine without a link: the appliance's PID 1, and a builder that asks for everything once, tries what it
//! must not get, and prints what came. Boot it as `/init` with `rehearsal=` on the kernel's command line, which gets into the
//! environment of `/init` and chooses how it goes: `touched` (PCR 15 is not zero), `die` (without a last word), `order` (out of
//! order), `fault`, `panic`, `wait` (five seconds, in which the host can take the TPM away); or well.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a rehearsal that goes wrong ends, and speaks on the console"
)]
#![forbid(unsafe_code)]

use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use kiln_builder::custody::{Custodian, CustodyError, Label, Measurement, Refusal, WhichQuote};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::event::Event;
use kiln_formats::link::Blob;
use kiln_formats::manifest::Outcome;
use kiln_formats::names::Name;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("parent") => drop(again("orphan")),
        Some("orphan") => std::thread::sleep(Duration::from_millis(50)),
        _ => {
            if std::env::var("rehearsal").is_ok_and(|ending| ending == "touched") {
                touch();
            }
            return kiln_init::start(builder);
        }
    }
    ExitCode::SUCCESS
}

/// Extends PCR 15 before PID 1 looks at it, as a boot loader of somebody else's would.
fn touch() {
    rustix::mount::mount("dev", "/dev", "devtmpfs", rustix::mount::MountFlags::empty(), c"").expect("devices");
    let mut tpm = kiln_tpm::Tpm::open("/dev/tpmrm0".as_ref()).expect("a TPM");
    let digests: Vec<_> = tpm.banks().iter().filter_map(|bank| bank.hash(b"somebody else")).collect();
    tpm.extend(&digests).expect("an extended register");
}

/// This program once more, in a part of its own.
fn again(part: &str) -> Child {
    Command::new("/proc/self/exe").arg(part).spawn().expect("a process")
}

fn builder(socket: UnixStream) -> ExitCode {
    let command_line = std::fs::read_to_string("/proc/cmdline").expect("a command line");
    let ending = command_line.split_whitespace().find_map(|word| word.strip_prefix("rehearsal="));
    surroundings();
    let mut custodian = Custodian::new(socket);
    let identity = custodian.hello().expect("an identity");
    say("ak_public", &identity.ak_public.0);
    say("statement_key", &identity.statement_key.0);
    println!("rehearsal: firmware_log {} bytes", identity.firmware_log.0.len());
    println!("rehearsal: init_uptime_us {}", identity.init_uptime_us);
    match ending {
        Some("die") => return ExitCode::from(7),
        Some("panic") => panic!("as rehearsed"),
        Some("order") => drop(custodian.quote(WhichQuote::First, Sha256Digest::of(b"too early"))),
        Some("fault") => return gives_up(custodian),
        Some("wait") => {
            std::thread::sleep(Duration::from_secs(5));
            lives(custodian).expect("a whole life");
        }
        _ => lives(custodian).expect("a whole life"),
    }
    ExitCode::SUCCESS
}

/// What the builder must not reach, and what it must find.
fn surroundings() {
    println!("rehearsal: environment {:?}", std::env::vars_os().collect::<Vec<_>>());
    println!("rehearsal: open /proc/1/mem {:?}", std::fs::File::open("/proc/1/mem").map(drop));
    println!("rehearsal: open /dev/tpmrm0 {:?}", std::fs::File::open("/dev/tpmrm0").map(drop));
    println!("rehearsal: write / {:?}", std::fs::write("/x", ""));
    let restart = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    println!("rehearsal: restart {restart:?}");
    for path in ["/proc/self/mountinfo", "/proc/meminfo", "/proc/self/status"] {
        print!("{}", std::fs::read_to_string(path).expect("a file of the kernel's"));
    }
    let descriptors: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .expect("descriptors")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .collect();
    println!("rehearsal: descriptors {descriptors:?}");
    reaping();
}

/// An orphan dies; PID 1 reaps it, or it stays a zombie.
fn reaping() {
    again("parent").wait().expect("an end");
    std::thread::sleep(Duration::from_millis(500));
    let left = std::fs::read_dir("/proc").expect("processes").filter_map(|entry| {
        let status = std::fs::read_to_string(entry.ok()?.path().join("status")).ok()?;
        let zombie = status.contains("State:\tZ") && status.contains("PPid:\t1\n");
        zombie.then_some(status)
    });
    println!("rehearsal: zombies {:?}", left.collect::<Vec<_>>());
}

fn gives_up(custodian: Custodian<UnixStream>) -> ExitCode {
    let code = "rehearsed".parse().expect("a name");
    custodian.fault(code, "the builder gave up\nas rehearsed".to_owned()).expect("a message");
    ExitCode::FAILURE
}

fn lives(mut custodian: Custodian<UnixStream>) -> Result<(), CustodyError> {
    let job = Sha256Digest::of(b"job");
    let step: Name = "make".parse().expect("a name");
    custodian.measure(Measurement::Configuration { bytes: Blob(b"{}".to_vec()) })?;
    custodian.measure(Measurement::Trust { bytes: Blob(b"{}".to_vec()) })?;
    quote(&mut custodian, WhichQuote::First, b"binding")?;
    event(&mut custodian, Event::Job(job))?;
    custodian.allow(job)?;
    let again = custodian.allow(job);
    assert!(matches!(again, Err(CustodyError::Refused { refusal: Refusal::OneShot })));
    let early = custodian.sign(Label::Record { step: step.clone() }, b"record");
    assert!(matches!(early, Err(CustodyError::Refused { refusal: Refusal::NoAdmissionLabel })));
    event(&mut custodian, Event::Decision(Sha256Digest::of(b"decision")))?;
    say("decision", &custodian.sign(Label::Decision, b"decision")?);
    event(&mut custodian, Event::StepBegin(step.clone(), Sha256Digest::of(b"spec")))?;
    event(&mut custodian, Event::StepTrace(step.clone(), Sha256Digest::of(b"trace")))?;
    custodian.sign(Label::Trace { step: step.clone() }, b"trace")?;
    event(&mut custodian, Event::StepEnd(step.clone(), Sha256Digest::of(b"record")))?;
    custodian.sign(Label::Record { step }, b"record")?;
    event(&mut custodian, Event::Provenance(Sha256Digest::of(b"provenance")))?;
    custodian.sign(Label::Provenance, b"provenance")?;
    event(&mut custodian, Event::Manifest(Sha256Digest::of(b"manifest")))?;
    custodian.sign(Label::Manifest, b"manifest")?;
    event(&mut custodian, Event::Final)?;
    let log = custodian.runtime_log()?;
    assert_eq!(quote(&mut custodian, WhichQuote::Last, b"closing")?, log);
    println!("{}", String::from_utf8_lossy(&log));
    custodian.done(Outcome::Built)
}

fn event(custodian: &mut Custodian<UnixStream>, event: Event) -> Result<(), CustodyError> {
    custodian.measure(Measurement::Event { event })
}

fn quote(custodian: &mut Custodian<UnixStream>, which: WhichQuote, qualifying: &[u8]) -> Result<Vec<u8>, CustodyError> {
    let quote = custodian.quote(which, Sha256Digest::of(qualifying))?;
    say(&format!("{which:?}.attest"), &quote.attest.0);
    say(&format!("{which:?}.signature"), &quote.signature.0);
    Ok(quote.runtime_log.0)
}

/// `rehearsal: NAME HEX` on the console.
fn say(name: &str, bytes: &[u8]) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("rehearsal: {name} {hex}");
}
