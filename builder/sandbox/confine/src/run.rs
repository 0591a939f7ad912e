//! One run: from arguments to the process's answer.

use std::ffi::OsString;
use std::process::ExitCode;

use kiln_sandbox::{Launcher, Outcome, Policy};

use crate::arguments::Arguments;
use crate::document::Document;
use crate::effective::{Effective, effective};
use crate::end::{self, End};
use crate::place::Place;
use crate::refusal::Refusal;
use crate::relay::Relay;
use crate::report::{About, Report};
use crate::say::{print, say};
use crate::signals::{Blocked, Signals};
use crate::slot::Slot;
use crate::status::{Line, Status};

/// What is known of a run so far, for the report.
#[derive(Debug, Default)]
struct Known {
    /// Where the report goes; `None`: none was asked for, or none can be written.
    place: Option<Place>,
    command: Vec<String>,
    policy: Option<Document>,
    slot: Option<u16>,
}

/// A command that has ended, and whose output may still be on its way.
struct Ended {
    outcome: Outcome,
    end: End,
    relay: Relay,
}

/// Does what the arguments say.
pub(crate) fn main(arguments: Arguments) -> ExitCode {
    let mut status = match Status::open(arguments.status_fd) {
        Ok(status) => status,
        Err(error) => return refuse(&error.into()).into(),
    };
    let mut known = Known::default();
    let number = match confine(&arguments, &mut known, &mut status) {
        Ok(None) => 0,
        Ok(Some(ended)) => finish(&known, &mut status, ended),
        Err(refusal) => {
            let (number, end) = (refuse(&refusal), End::refused(&refusal));
            let message = refusal.causes().join(": ");
            let told = tell(&known, &mut status, (number, &end, Some(&message)), None);
            told.map_or_else(|refusal| refuse(&refusal), |()| number)
        }
    };
    number.into()
}

/// Everything up to the end of the command. `None`: nothing was to be run.
fn confine(arguments: &Arguments, known: &mut Known, status: &mut Status) -> Result<Option<Ended>, Refusal> {
    if arguments.switch_audit_on {
        must_be_root()?;
        kiln_sandbox::switch_audit_on().map_err(|source| Refusal::Audit { source })?;
        return Ok(None);
    }
    known.place = arguments.report.as_deref().map(Place::open).transpose()?;
    let effective = read(arguments)?;
    known.policy = Some(effective.document().clone());
    if arguments.print_policy {
        let text = toml::to_string(effective.document()).map_err(|source| Refusal::Print { source })?;
        print(&text).map_err(|source| Refusal::Say { source })?;
        return Ok(None);
    }
    known.command = texts(&arguments.command)?;
    must_be_root()?;
    // Both before anything is taken or started: a mistake costs nothing.
    let requirements = effective.requirements()?;
    Policy::new(effective.draft(known.command.clone(), 0))?;
    let signals = Blocked::block()?;
    // Forks, so it comes before the first thread. It settles while we go on.
    let launcher = Launcher::start_with(requirements)?;
    // Threads may exist from here on.
    let signals = signals.take()?;
    let slot = Slot::take()?;
    known.slot = Some(slot.number);
    let policy = Policy::new(effective.draft(known.command.clone(), slot.number))?;
    launcher.announce(&policy);
    for layer in &effective.document().without {
        say(format_args!("given up: {layer}"));
    }
    let ended = run(&launcher, &policy, &signals, status);
    signals.release();
    // The cgroup goes with the launcher, the slot's file with the slot; both before a slow reader is waited for.
    drop((launcher, slot));
    signals.over();
    ended.map(Some)
}

fn must_be_root() -> Result<(), Refusal> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(Refusal::NotRoot) }
}

/// The policy that file and flags add up to here.
fn read(arguments: &Arguments) -> Result<Effective, Refusal> {
    let here = std::env::current_dir().map_err(|source| Refusal::Here { source })?;
    let file =
        arguments.policy.as_deref().map(|path| Document::read(path).map(|document| (path, document))).transpose()?;
    Ok(effective(file, arguments.document(), &here)?)
}

fn texts(command: &[OsString]) -> Result<Vec<String>, Refusal> {
    let text = |(number, text): (usize, &OsString)| {
        text.to_str().map(str::to_owned).ok_or_else(|| Refusal::NotText { number, text: text.clone() })
    };
    command.iter().enumerate().map(text).collect()
}

/// Starts the command and waits until nothing of it is left.
fn run(launcher: &Launcher, policy: &Policy, signals: &Signals, status: &mut Status) -> Result<Ended, Refusal> {
    let (relay, stdout, stderr) = Relay::start()?;
    let step = launcher.spawn(policy, stdout, stderr)?;
    signals.kill_with(step.killer());
    let namespaces = &step.enforced().namespaces;
    status.tell(&Line::Started { pid: step.pid(), slot: policy.slot, user: policy.host_id(), namespaces })?;
    let outcome = step.wait()?;
    let end = End::of(&outcome.exit, signals.first());
    Ok(Ended { outcome, end, relay })
}

/// Tells everybody how it ended.
fn finish(known: &Known, status: &mut Status, ended: Ended) -> u8 {
    let Ended { outcome, end, relay } = ended;
    let command = known.command.first().map_or("", String::as_str);
    let message = known.policy.as_ref().and_then(|policy| end.message(command, policy));
    let message = message.map(|message| format!("{message} ({})", end::used(&outcome.usage)));
    let told = tell(known, status, (end.status(), &end, message.as_deref()), Some(&outcome));
    // Ours stands below the command's own last words.
    let passed = relay.finish();
    if let Some(message) = &message {
        say(message);
    }
    match told.and(passed) {
        Ok(()) => end.status(),
        Err(refusal) => refuse(&refusal),
    }
}

/// Writes the report and the last status line.
fn tell(
    known: &Known,
    status: &mut Status,
    (number, end, message): (u8, &End, Option<&str>),
    outcome: Option<&Outcome>,
) -> Result<(), Refusal> {
    if let Known { place: Some(place), command, policy, slot } = known {
        let about = About { command, policy: policy.as_ref(), slot: *slot, status: number, end, message };
        let report = Report::new(&about, outcome).bytes().map_err(|source| Refusal::Report { source })?;
        place.put(&report)?;
    }
    status.tell(&Line::Ended { status: number, end })?;
    Ok(())
}

/// Says why not, and what to do about it. Returns what the process answers.
fn refuse(refusal: &Refusal) -> u8 {
    say(refusal.causes().join(": "));
    if let Some(help) = refusal.help() {
        say(format_args!("help: {help}"));
    }
    refusal.status()
}
