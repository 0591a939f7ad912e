//! Carries one job from signed spec to evidence.
//!
//! In reading order: [`boot`] measures what the machine is told and gets it certified; [`fetch`] takes the job; [`admit`] decides
//! on it; [`run`] runs and records its steps; [`attest`] states what came of them and closes the evidence; [`emit`] hands it out.
//! Each stage consumes what the stage before it made and is the only one that makes what the next one needs, so that a skipped
//! check does not compile. Beside them: [`link`] to the outside, [`partitions`] of a server's disks, [`custody`] towards PID 1, the [`fault`] that ends everything.
//!
//! The builder holds no key and no TPM, and believes nobody: neither the host, nor the job, nor a step.

#![forbid(unsafe_code)]

mod admit;
mod attest;
mod boot;
mod bundle;
mod console;
pub mod custody;
mod emit;
mod fault;
mod fetch;
mod link;
mod machine;
pub mod partitions;
mod run;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use kiln_formats::manifest::Outcome;
use kiln_sandbox::Launcher;

pub use admit::{AdmitError, ImageError, Images};
pub use attest::AttestError;
pub use boot::BootError;
pub use fault::Fault;
pub use link::{Link, LinkError, Port};
pub use machine::Machine;
pub use run::{ObserveError, RunError, TraceError};

use bundle::Bundle;
use custody::Custodian;

/// What the builder process does from its first instruction to its last: `custody` is its socket to PID 1.
///
/// Must be called while the process has one thread. PID 1 hears how it ended and says so on the console; only if it cannot be
/// told is there a line of the builder's own.
pub fn main(custody: UnixStream) -> ExitCode {
    end(custody, None)
}

/// The same on a server, where the link is a stream that somebody else carries: no port is looked for.
pub fn main_over(custody: UnixStream, link: UnixStream) -> ExitCode {
    end(custody, Some(link))
}

fn end(custody: UnixStream, stream: Option<UnixStream>) -> ExitCode {
    console::Console::install();
    let mut custodian = Custodian::new(custody);
    match live(&mut custodian, stream) {
        Ok(outcome) => match custodian.done(outcome) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(fault) => {
            let told = fault.code().parse().is_ok_and(|code| custodian.fault(code, fault.text()).is_ok());
            if !told {
                eprintln!("kiln: builder: {}: {}", fault.code(), fault.text());
            }
            ExitCode::FAILURE
        }
    }
}

fn live(custodian: &mut Custodian<UnixStream>, stream: Option<UnixStream>) -> Result<Outcome, Fault> {
    // No step runs unheard.
    kiln_sandbox::switch_audit_on().map_err(|source| Fault::Start { what: "audit", source: source.into() })?;
    // Before the runtime: the launcher is forked, which only a process with one thread may do.
    let launcher = Launcher::start().map_err(|source| Fault::Start { what: "launcher", source: source.into() })?;
    let failed = |source: std::io::Error| Fault::Start { what: "runtime", source: source.into() };
    let scratch = match stream {
        None => None,
        Some(_) => machine::scratch().map_err(|source| Fault::Start { what: "scratch", source: source.into() })?,
    };
    let mut machine = Machine::booted(launcher).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let ended = runtime.block_on(async {
        let port = match stream {
            None => Port::open().await?,
            Some(stream) => Port::from_stream(stream)?,
        };
        let link = Link::open(port).await?;
        carry(&mut machine, link, custodian).await
    });
    // Its device goes with the machine.
    drop(scratch);
    // A thread that still waits for a step must not keep the reason from being told.
    runtime.shutdown_background();
    ended
}

/// Carries one job from the boot part to the last message, on any machine and over any link.
///
/// # Errors
/// [`Fault`]: there is no evidence, and nothing of the job may be used.
pub async fn carry<S: Read + Write>(
    machine: &mut Machine,
    mut link: Link,
    custodian: &mut Custodian<S>,
) -> Result<Outcome, Fault> {
    let mut bundle = Bundle::default();
    let certified = boot::certify(&mut link, custodian, &mut bundle).await?;
    let received = fetch::job(&mut link, custodian, &certified, &mut bundle).await?;
    let admitted = admit::decide(received, &certified, machine, &mut link, custodian, &mut bundle).await?;
    let outcome = match admitted {
        None => Outcome::Refused,
        Some(admitted) => {
            let finished = run::steps(admitted, &certified, machine, &mut link, custodian, &mut bundle).await?;
            attest::outputs(finished, &certified, custodian, &mut bundle)?
        }
    };
    let evidence = attest::close(outcome, &certified, custodian, bundle)?;
    emit::evidence(evidence, &mut link).await
}
