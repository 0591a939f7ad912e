//! One job on one machine: started, served, judged, and what came of it put in its place. Nothing else is left.

pub(crate) mod guest;
mod machine;
mod story;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use kiln_attestor::site::enrolment::{self, Role};
use kiln_attestor::site::{Signer, Site, path as site_path};
use kiln_attestor::state::State;
use kiln_attestor::teardown;
use kiln_attestor::{Authority, BOOT, Fault, LinkError, Notices, Offer, Outcome};
use kiln_formats::decision::{Refusal, Ruling};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::endorsement::TpmClass;
use kiln_formats::manifest::path;
use kiln_formats::names::Name;
use kiln_formats::reference::Reference;
use kiln_formats::teardown::{TEARDOWN_BYTES_MAX, TornDown};
use kiln_formats::timestamp::Timestamp;
use kiln_image::progress::Progress as _;
use kiln_qemu::{Disk, End, Ended, Machine, RunningMachine, Tpm, TpmCa};
use kiln_verifier::{Finding, Verdict};
use serde::Serialize;

pub(crate) use machine::{Acceleration, BootMode, CPUS, Host, unless_interrupted};
pub(crate) use story::Story;

use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::launch::LaunchableImage;
use crate::output::Output;
use crate::screen::Screen;
use crate::signed::Signed;
use crate::site_host::SiteHost;
use crate::timings::Timings;
use crate::{document, evidence, host, verdict};

/// How long a machine may take from its last word to power-off.
const POWER_OFF: Duration = Duration::from_secs(30);
/// How long a machine whose link broke may take to say why and switch itself off.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// What a machine's life may take beyond the run's deadline: the run ends first, with a better reason.
const GRACE: Duration = Duration::from_secs(60);
/// How a machine says why it cannot go on.
const FAULT: &str = "kiln: fault: ";
/// How many lines of the console are searched for that.
const CONSOLE_LINES: usize = 64;

/// All that is needed to run one job.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub(crate) site: &'a Site,
    /// Who certifies the machine, and so what it is certified as.
    pub(crate) signer: &'a Signer,
    pub(crate) image: LaunchableImage<'a>,
    pub(crate) reference: &'a Reference,
    pub(crate) offer: &'a Offer,
    pub(crate) disks: Vec<Disk>,
    pub(crate) boot: BootMode,
    /// The image with the site's signature; then the firmware insists on it.
    pub(crate) signed: Option<&'a Signed>,
    pub(crate) acceleration: Acceleration,
    pub(crate) memory_mib: u32,
    pub(crate) deadline: Duration,
    /// Where what happens is told to others.
    pub(crate) notices: Option<&'a Notices>,
    /// The TPM of this host, if it is asked what the host booted.
    pub(crate) host: Option<&'a SiteHost>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Finished {
    /// `built`, `step_failed`, `refused`, `not_attested` or `not_verified`.
    pub(crate) outcome: &'static str,
    /// What the process answers.
    pub(crate) exit: u8,
    /// The directory with artifacts and evidence; none if the machine was not attested.
    pub(crate) out: Option<PathBuf>,
    /// How the machine was started.
    pub(crate) boot: BootMode,
    /// With which accelerator, and why.
    pub(crate) accelerator: String,
    /// The build.
    pub(crate) build_id: Option<Name>,
    /// Why the machine refused the job.
    pub(crate) refusal: Option<Refusal>,
    /// Why the authority refused the machine; empty if it did not.
    pub(crate) not_attested: Vec<Finding>,
    /// The verifier's word on the evidence.
    pub(crate) verdict: Option<Verdict>,
    /// What took how long.
    pub(crate) timings: Timings,
}

/// A machine that kept to the protocol and is gone.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) outcome: Outcome,
    pub(crate) story: Story,
    pub(crate) accelerator: String,
    pub(crate) done: Instant,
    pub(crate) off: Instant,
    /// When it was powered on, and when nothing of it was left, by the wall clock.
    pub(crate) life: (Timestamp, Timestamp),
}

impl Order<'_> {
    /// Runs the job and makes the directory `out` of what came of it.
    pub(crate) fn execute(&self, out: &Path, screen: &Screen) -> Result<Finished> {
        let served = unless_interrupted(async {
            // Begun here, where a signal is no sudden death: the draft is taken away.
            let output = Output::begin(out)?;
            let host = Host::probe(self.acceleration, screen).await?;
            let served = self.serve(&host, output.path(), screen).await?;
            Ok((output, served))
        });
        screen.clear();
        let (output, Served { outcome, story, accelerator, done, off, life }) = served?;
        let mut finished = Finished {
            outcome: "not_attested",
            exit: Exit::NotAttested as u8,
            out: None,
            boot: self.boot,
            accelerator,
            build_id: story.build_id().cloned(),
            refusal: None,
            not_attested: Vec::new(),
            verdict: None,
            timings: story.recorder().timings(done, off),
        };
        if let Outcome::NotAttested(findings) = outcome {
            for finding in &findings {
                screen.say(&format!("kiln: not attested: {finding}"));
            }
            finished.not_attested = findings;
            return Ok(finished);
        }
        let judged = judge(self.site, self.reference, &output, &outcome)?;
        // Of the build that was watched, and no other that the evidence might be of.
        if judged.verdict.build_id == finished.build_id {
            self.tear_down(&judged.verdict, &output, life)?;
        }
        finished.outcome = judged.outcome;
        finished.exit = judged.exit as u8;
        finished.refusal = judged.refusal;
        finished.verdict = Some(judged.verdict);
        finished.out = Some(output.release()?);
        Ok(finished)
    }

    /// Signs that the machine of evidence that holds is gone, beside that evidence.
    fn tear_down(&self, verdict: &Verdict, output: &Output, (started, ended): (Timestamp, Timestamp)) -> Result<()> {
        let (Some(build_id), Some(machine), true) = (&verdict.build_id, &verdict.machine, verdict.holds()) else {
            return Ok(());
        };
        let closing = document::read(&output.path().join(path::CLOSING), TEARDOWN_BYTES_MAX)?;
        let seen = TornDown {
            build_id: build_id.clone(),
            closing_sha256: Sha256Digest::of(&closing),
            builder_id: self.signer.builder_id().to_owned(),
            started,
            ended,
        };
        let file =
            teardown::sign(self.site, self.signer, machine, &seen, getrandom::fill).or_exit(Exit::Infrastructure)?;
        document::write_new(&output.path().join(path::TEARDOWN), &file)
    }

    /// Starts the machine, serves it, and sees it off. Emulated firmware hangs now and then before anything of ours runs: a machine
    /// that never asked for anything is replaced by another one, once, and aloud. It had no challenge and no job.
    pub(crate) async fn serve(&self, host: &Host, bundle: &Path, screen: &Screen) -> Result<Served> {
        match self.attempt(host, bundle, screen).await? {
            Ok(served) => Ok(served),
            Err(hung) => {
                screen.say(&format!("kiln: {}; starting another machine, once", hung.report));
                self.attempt(host, bundle, screen).await?
            }
        }
    }

    /// One machine. The inner error is one that never asked for anything.
    async fn attempt(&self, host: &Host, bundle: &Path, screen: &Screen) -> Result<Result<Served>> {
        // First: a machine that could not be remembered is not started.
        let state = State::open(self.site).or_exit(Exit::Infrastructure)?;
        screen.begin("boot");
        let tpm_ca = self.site.directory().join(site_path::TPM_CA);
        let ca = TpmCa::open_or_make(&tpm_ca, &host.tools).await.or_exit(Exit::Infrastructure)?;
        // The site's own TPMs are TPMs to it, of the class that no server's builder id takes.
        let vouching =
            [(Role::Root(TpmClass::Virtual), ca.root_certificate()), (Role::Issuer, ca.issuer_certificate())];
        for (role, file) in vouching {
            enrolment::add_certificate(self.site.directory(), role, site_path::TPM_CA, &file)
                .or_exit(Exit::Infrastructure)?;
        }
        let machine = Machine {
            boot: self.boot.of(self.image.get(), self.signed),
            memory_mib: self.memory_mib,
            cpus: CPUS,
            disks: self.disks.clone(),
            tpm: Tpm::Software { ca },
            life_max: self.deadline + GRACE,
        };
        let started = host::now()?;
        let (mut running, link) = host.start(machine).await?;
        let mut story = Story::new(running.power_on());
        let authority = Authority {
            site: self.site,
            state: &state,
            signer: self.signer,
            reference: self.reference,
            offer: self.offer,
            taken: &AtomicBool::new(false),
            bundle,
            first_request: BOOT,
            notices: self.notices,
            host: self.host.map(|host| host as &dyn kiln_attestor::QuotingHost),
            surroundings: host::surroundings(),
        };
        let mut listener = |report: kiln_attestor::Report<'_>| {
            let memory = || guest::touched_bytes(running.directory(), self.memory_mib);
            story.hear(&report, screen, memory);
        };
        let served = authority.serve(link, self.deadline, &mut listener).await;
        let done = Instant::now();
        let patience = if served.is_ok() { POWER_OFF } else { LAST_WORDS };
        let ended = see_off(&mut running, patience).await;
        let off = Instant::now();
        // Looked at, whatever was said: what is signed is what is seen.
        let gone = running.directory().symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        let left = ended.left.or_else(|| (!gone).then(|| running.directory().to_owned()));
        if let Some(path) = left {
            return Err(Problem::Left { path }).or_exit(Exit::Infrastructure);
        }
        let life = (started, host::now()?);
        match (served, ended.end) {
            (Err(source), end) => {
                let hung = !story.connected() && matches!(source, Fault::Link(LinkError::Silent { .. }));
                let said = last_words(&running);
                let failed = Err(Problem::Machine { end: end.to_string(), said, source }).or_exit(Exit::Infrastructure);
                if hung { Ok(failed) } else { failed.map(Ok) }
            }
            (Ok(outcome), End::PoweredOff) => {
                Ok(Ok(Served { outcome, story, accelerator: host.choice.to_string(), done, off, life }))
            }
            (Ok(_), end) => Err(Problem::NotPoweredOff { end: end.to_string() }).or_exit(Exit::Infrastructure),
        }
    }
}

/// What a machine's word and its evidence come to.
#[derive(Debug)]
pub(crate) struct Judged {
    /// `built`, `step_failed`, `refused` or `not_verified`.
    pub(crate) outcome: &'static str,
    /// What the process answers.
    pub(crate) exit: Exit,
    /// Why the machine refused the job.
    pub(crate) refusal: Option<Refusal>,
    /// The verifier's word.
    pub(crate) verdict: Verdict,
}

/// Verifies what a machine left, and writes the verdict beside it. Artifacts stay only if everything holds.
pub(crate) fn judge(site: &Site, reference: &Reference, output: &Output, said: &Outcome) -> Result<Judged> {
    let bundle = evidence::read(output.path())?;
    let verdict = verdict::with_site(&bundle, site, reference, host::now()?);
    let (outcome, claimed) = match said {
        Outcome::Built => ("built", Exit::Done),
        Outcome::StepFailed => ("step_failed", Exit::StepFailed),
        Outcome::Refused(_) => ("refused", Exit::JobRefused),
        Outcome::NotAttested(_) => ("not_attested", Exit::NotAttested),
    };
    let agrees = verdict::exit(&verdict) == claimed;
    let (outcome, exit) = if agrees { (outcome, claimed) } else { ("not_verified", Exit::NotVerified) };
    if exit != Exit::Done {
        output.withhold_artifacts()?;
    }
    let refusal = match said {
        Outcome::Refused(decision) => match &decision.verdict {
            Ruling::Deny(refusal) => Some(refusal.clone()),
            Ruling::Allow => None,
        },
        Outcome::Built | Outcome::StepFailed | Outcome::NotAttested(_) => None,
    };
    let summary = verdict::summary(&verdict, &bundle, &site.trust().policy)?;
    document::write_new(&output.path().join(path::VERDICT), &summary)?;
    Ok(Judged { outcome, exit, refusal, verdict })
}

/// Waits for the machine's end, and makes one if it does not come.
pub(crate) async fn see_off(running: &mut RunningMachine, patience: Duration) -> Ended {
    match tokio::time::timeout(patience, running.wait()).await {
        Ok(ended) => ended,
        Err(_) => running.stop().await,
    }
}

/// What the machine said on its console before it gave up; its last line if it gave no reason.
fn last_words(running: &RunningMachine) -> String {
    let console = running.console_tail(CONSOLE_LINES);
    let fault = console.iter().rev().find_map(|line| line.text.split_once(FAULT).map(|(_, reason)| reason));
    let said = fault.or_else(|| console.last().map(|line| line.text.as_str()));
    said.map_or_else(String::new, |said| format!("; it said: {said}"))
}

impl Finished {
    /// For a person: what came of it, why, and what took how long.
    pub(crate) fn text(&self) -> String {
        let mut text = self.verdict.as_ref().map(verdict::text).unwrap_or_default();
        if !self.not_attested.is_empty() {
            text.push_str("the machine was not attested and got no job");
        }
        if let Some(out) = &self.out {
            text.push_str(&format!("\n{}", out.display()));
        }
        format!("{text}\n\n{}", self.timings.table().trim_end())
    }

    /// What the process answers.
    pub(crate) fn exit(&self) -> Exit {
        let known = [Exit::Done, Exit::JobRefused, Exit::NotAttested, Exit::StepFailed];
        known.into_iter().find(|exit| *exit as u8 == self.exit).unwrap_or(Exit::NotVerified)
    }
}
