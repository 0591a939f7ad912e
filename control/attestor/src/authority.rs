//! Serves one machine, over one link, in one order:
//!
//! 1. [`Authority::admit`]: configuration, trust bundle, enrolment, challenge, attestation, certificates;
//! 2. [`Authority::hand_over`]: the job, its inputs, the decision;
//! 3. [`Authority::take_in`]: the steps' logs, the bundle's files, the last message.
//!
//! What it does is recorded in the site's state before anyone is told: a nonce is spent before a certificate leaves, and a build has
//! its job before the job leaves. A state that cannot be written is a fault.
//!
//! A machine that does not follow it is a [`Fault`], and nothing more is said to it. No job leaves before the first quote held.
//! Nothing that a machine sends is believed beyond its own signature, and nothing is larger or later than the bounds say.
//! Deliberately absent: a judgement of the evidence, which is the verifier's.

mod checks;
mod fault;
mod host;
mod owed;
mod report;
mod request;
#[cfg(test)]
pub(crate) mod tests;

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::{Method, StatusCode};
use kiln_formats::challenge::{self, Challenge};
use kiln_formats::decision::{Decision, Ruling};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::enrolment::{ENROLMENT_BYTES_MAX, Enrolled, SECRET_BYTES};
use kiln_formats::image_provenance::VerifiedProvenance;
use kiln_formats::job::check::ITEMS_MAX;
use kiln_formats::link::{Attestation, Certificates, Done, MESSAGE_BYTES_MAX, SILENCE_MS_MAX, path};
use kiln_formats::log::{Order, split_first};
use kiln_formats::manifest::FILES_MAX;
use kiln_formats::names::{BUILDER_METAL, Name};
use kiln_formats::reference::Reference;
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust_list::TrustList;
use kiln_verifier::attestation::Offer as Offered;
use kiln_verifier::enrolment::unreadable;
use kiln_verifier::{Finding, standing};
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

pub use fault::Fault;
pub use host::{HostAnswer, QuotingHost};
pub use report::{Listener, Report, Signed};

use crate::credential::{self, CredentialError};
use crate::intake::Intake;
use crate::ledger::Act;
use crate::link::{Exchange, Link, LinkError};
use crate::notice::{self, Notice, Notices};
use crate::offer::Offer;
use crate::site::{Signer, Site, enrolment};
use crate::state::{Refusal, State};
use crate::{image, input, link};
use owed::{Admitted, Owed};
use request::{decode, encode, expect, out_of_order, refuse};

/// How long a machine may take from power-on to its first request: firmware and kernel take 25 s without hardware virtualization,
/// and several times that on a busy host.
pub const BOOT: Duration = Duration::from_secs(180);
/// How long a machine may take from there to its certificates, however much it says meanwhile: an emulated TPM on a busy host takes
/// half a minute.
const ADMISSION: Duration = Duration::from_secs(180);
const SILENCE: Duration = Duration::from_millis(SILENCE_MS_MAX);

/// Where time and randomness come from.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    /// The wall clock; `None` if it is out of any range.
    pub now: fn() -> Option<Timestamp>,
    /// Fills a buffer with bytes that nobody can guess.
    pub random: fn(&mut [u8]) -> Result<(), getrandom::Error>,
    /// The time on the root's word that `now` counts from, where it is no clock.
    pub reference_time: Option<Timestamp>,
}

/// All that one machine is served from.
#[derive(Debug, Clone, Copy)]
pub struct Authority<'a> {
    /// In whose name.
    pub site: &'a Site,
    /// What that site's authority remembers.
    pub state: &'a State,
    /// Who certifies the machine, and so how it was started.
    pub signer: &'a Signer,
    /// What its image must yield.
    pub reference: &'a Reference,
    /// What it is to do.
    pub offer: &'a Offer,
    /// Whether a machine has the job: those that are offered the same one share this, and the first that is attested gets it.
    pub taken: &'a AtomicBool,
    /// Where the bundle goes: an empty directory that is nobody else's.
    pub bundle: &'a Path,
    /// How long the machine may take to its first request: [`BOOT`] where it is being started.
    pub first_request: Duration,
    /// Where what happens is told, beside the listener.
    pub notices: Option<&'a Notices>,
    /// The TPM of the host that the machine stands on, where it is asked.
    pub host: Option<&'a dyn QuotingHost>,
    /// Clock and randomness.
    pub surroundings: Surroundings,
}

/// How a machine ended that kept to the protocol.
#[derive(Debug)]
pub enum Outcome {
    /// It says that it built everything; the bundle has artifacts.
    Built,
    /// It says that a step failed; the bundle has no artifacts.
    StepFailed,
    /// It refused the job, in a decision signed by its certified key.
    Refused(Box<Decision>),
    /// It was refused: its first quote does not hold, for these reasons. It saw no job.
    NotAttested(Vec<Finding>),
}

/// The right to a job, given back when it is dropped.
struct Claim<'a>(Option<&'a AtomicBool>);

impl<'a> Claim<'a> {
    fn take(taken: &'a AtomicBool) -> Option<Self> {
        (!taken.swap(true, Ordering::AcqRel)).then_some(Self(Some(taken)))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(taken) = self.0 {
            taken.store(false, Ordering::Release);
        }
    }
}

impl Authority<'_> {
    /// Serves the machine at the other end of `stream`, for at most `deadline`.
    ///
    /// # Errors
    /// [`Fault`]: the machine, its link or this host failed, or the machine did not keep to the protocol. What is in the
    /// bundle's directory then is worth nothing.
    pub async fn serve<S>(&self, stream: S, deadline: Duration, listener: Listener<'_>) -> Result<Outcome, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let build_id = OnceLock::new();
        let tell = |notice: Notice<'_>| {
            if let Some(notices) = self.notices {
                notices.tell(build_id.get(), (self.surroundings.now)(), &notice);
            }
        };
        let listener: Listener<'_> = &mut |report: Report<'_>| {
            notice::of(&report, tell);
            listener(report);
        };
        let conversation = link::serve(stream, async |link: &mut Link| {
            let patience = self.first_request + ADMISSION;
            let admitted = tokio::time::timeout(patience, self.admit(link, &build_id, listener)).await;
            let admitted = match admitted.unwrap_or(Err(Fault::Deadline { deadline: patience }))? {
                Ok(admitted) => admitted,
                Err(findings) => return Ok(Outcome::NotAttested(findings)),
            };
            let decision = self.hand_over(link, &admitted, listener).await?;
            self.take_in(link, &admitted, decision, listener).await
        });
        let served = tokio::time::timeout(deadline, conversation).await.unwrap_or(Err(Fault::Deadline { deadline }));
        notice::end(&served, tell);
        let untold = self.notices.and_then(Notices::failure);
        let served = served.and_then(|outcome| untold.map_or(Ok(outcome), |source| Err(Fault::Untold { source })));
        self.end(build_id.get(), served).await
    }

    /// Records an act before it takes effect.
    async fn record(&self, act: Act) -> Result<(), Fault> {
        let now = (self.surroundings.now)().ok_or(Fault::Clock)?;
        self.state.record(act, now).await?.map_err(|refusal| Fault::Forbidden { refusal })
    }

    /// Records how a build ended. One whose end cannot be recorded has not ended well.
    async fn end(&self, build_id: Option<&Name>, served: Result<Outcome, Fault>) -> Result<Outcome, Fault> {
        // That it was refused is recorded already, and so is its end.
        let not_attested = matches!(served, Ok(Outcome::NotAttested(_)));
        let Some(build_id) = build_id.filter(|_| !not_attested) else { return served };
        let outcome = word(&served).to_owned();
        let recorded = self.record(Act::Ended { build_id: build_id.clone(), outcome }).await;
        match (served, recorded) {
            (Ok(outcome), recorded) => recorded.map(|()| outcome),
            (Err(fault), Ok(())) => Err(fault),
            (Err(fault), Err(error)) => {
                tracing::error!(%build_id, %error, "the end of a build was not recorded");
                Err(fault)
            }
        }
    }

    /// From the first request to the certificates. A machine whose quote does not hold is told so, and no more.
    async fn admit(
        &self,
        link: &mut Link,
        build_id: &OnceLock<Name>,
        listener: Listener<'_>,
    ) -> Result<Result<Admitted, Vec<Finding>>, Fault> {
        let exchange = expect(link, &Method::GET, path::CONFIGURATION, self.first_request).await?;
        listener(Report::Connected);
        let configuration = encode(&self.site.configuration(self.signer.builder_id()))?;
        exchange.answer(StatusCode::OK, configuration.clone());
        let exchange = expect(link, &Method::GET, path::TRUST, SILENCE).await?;
        exchange.answer(StatusCode::OK, self.site.trust_bytes().to_vec());
        let mut exchange = expect(link, &Method::POST, path::ENROLMENT, SILENCE).await?;
        let message = match exchange.message(SILENCE, ENROLMENT_BYTES_MAX).await {
            Err(error @ LinkError::TooLarge { .. }) => {
                let fault = Fault::from(error);
                self.record(Act::refused(None, fault.code(), "enrolment")).await?;
                return Err(fault);
            }
            message => message?,
        };
        let now = (self.surroundings.now)().ok_or(Fault::Clock)?;
        let (list, provenance) = match self.trust(now).await? {
            Err(findings) => return self.refuse(exchange, None, findings).await,
            Ok(trusted) => trusted,
        };
        let roots = enrolment::read(self.site.directory())?;
        let machine = match checks::enrolment(&message, &roots, self.signer.builder_id(), now) {
            Err(findings) => return self.refuse(exchange, None, findings).await,
            Ok(machine) => machine,
        };
        if let Err(finding) = standing::machine(&list, &machine.endorsement_key.sha256()) {
            return self.refuse(exchange, None, vec![finding]).await;
        }
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        (self.surroundings.random)(secret.as_mut_slice())?;
        let (key, name) = (&machine.endorsement_key, machine.attestation_key.name());
        let credential = match credential::make(key, &name, &secret, self.surroundings.random) {
            Err(CredentialError::Random { source }) => return Err(source.into()),
            Err(error @ CredentialError::Key) => return self.refuse(exchange, None, unreadable(&error).0).await,
            Ok(credential) => credential,
        };
        let challenge = self.challenge(key.sha256(), now).await?;
        let build_id = build_id.get_or_init(|| challenge.build_id.clone());
        exchange.answer(StatusCode::OK, encode(&Enrolled { challenge: challenge.clone(), credential })?);

        let mut exchange = expect(link, &Method::POST, path::ATTESTATION, SILENCE).await?;
        let attestation: Attestation = decode(&mut exchange).await?;
        let offer =
            Offered { machine: &machine, secret: &secret, challenge: &challenge, configuration: &configuration };
        let attested = match checks::attestation(self, &attestation, &offer)? {
            Ok(attested) => attested,
            Err(findings) => return self.refuse(exchange, Some(build_id), findings).await,
        };
        let hosting = match self.hosting(&attestation.binding, &list).await? {
            Ok(hosting) => hosting,
            Err(findings) => return self.refuse(exchange, Some(build_id), findings).await,
        };
        let Some(claim) = Claim::take(self.taken) else {
            self.record(Act::refused(Some(build_id.clone()), Refusal::JobTaken.code(), "job")).await?;
            return refuse(exchange, checks::refusal(Refusal::JobTaken));
        };
        let (certificates, issuer, certified): (Certificates, _, _) =
            checks::certify(self, &attested, &attestation, &provenance, hosting)?;
        match self.record(certified).await {
            Ok(()) => claim.keep(),
            Err(Fault::Forbidden { refusal }) => return refuse(exchange, checks::refusal(refusal)),
            Err(fault) => return Err(fault),
        }
        listener(Report::Attested {
            build_id,
            init_uptime_us: attestation.init_uptime_us,
            sent_uptime_us: attestation.sent_uptime_us,
        });
        exchange.answer(StatusCode::OK, encode(&certificates)?);
        Ok(Ok(Admitted { challenge, machine: attested, issuer }))
    }

    /// What the site's root says now, if it lets this authority challenge anybody for this job, and whose word it is that made the image. A
    /// newer list is remembered.
    async fn trust(&self, now: Timestamp) -> Result<Result<(TrustList, VerifiedProvenance), Vec<Finding>>, Fault> {
        let (list, act) = match checks::trust(self, now)? {
            Err(findings) => return Ok(Err(findings)),
            Ok(found) => found,
        };
        if let Some(act) = act {
            self.record(act).await?;
        }
        let provenance = image::check(self.site, &list, &self.reference.image_sha256)?;
        Ok(provenance.map(|found| (list, found)).map_err(|finding| vec![finding]))
    }

    /// A challenge of a new build, which the state knows before the machine does.
    async fn challenge(&self, ek_sha256: Sha256Digest, issued: Timestamp) -> Result<Challenge, Fault> {
        let (mut build_id, mut nonce) = ([0; 16], [0; 32]);
        (self.surroundings.random)(&mut build_id)?;
        (self.surroundings.random)(&mut nonce)?;
        let build_id: String = build_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let challenge = Challenge {
            version: challenge::VERSION,
            build_id: build_id.parse().map_err(|_| Fault::BuildId)?,
            nonce: Sha256Digest::from_bytes(nonce),
            job_sha256: self.offer.sha256(),
            image_sha256: self.reference.image_sha256,
            issued,
        };
        self.record(Act::Challenged {
            build_id: challenge.build_id.clone(),
            nonce: challenge.nonce,
            job_sha256: challenge.job_sha256,
            image_sha256: challenge.image_sha256,
            builder_id: self.signer.builder_id().to_owned(),
            ek_sha256,
        })
        .await?;
        Ok(challenge)
    }

    /// Records why a machine is refused, and then tells it.
    async fn refuse(
        &self,
        exchange: Exchange,
        build_id: Option<&Name>,
        findings: Vec<Finding>,
    ) -> Result<Result<Admitted, Vec<Finding>>, Fault> {
        let (code, object) = findings.first().map_or(("unknown", ""), |first| (first.code, &first.object));
        self.record(Act::refused(build_id.cloned(), code, object)).await?;
        refuse(exchange, findings)
    }

    /// From the job to the decision: the document as it is, then the inputs that the machine asks for.
    async fn hand_over(&self, link: &mut Link, admitted: &Admitted, listener: Listener<'_>) -> Result<Decision, Fault> {
        let exchange = expect(link, &Method::GET, path::JOB, SILENCE).await?;
        let Challenge { build_id, job_sha256, .. } = admitted.challenge.clone();
        self.record(Act::HandedOver { build_id, job_sha256 }).await?;
        exchange.answer(StatusCode::OK, self.offer.document().to_vec());
        listener(Report::JobTaken);
        for _ in 0..=ITEMS_MAX {
            let mut exchange = link.next(SILENCE).await?;
            if exchange.method == Method::POST && exchange.path == path::DECISION {
                let bytes = exchange.message(SILENCE, MESSAGE_BYTES_MAX).await?;
                let decision = checks::decision(self, &bytes, &admitted.challenge, &admitted.machine.statement_key.0)?;
                listener(Report::Decided(&decision));
                exchange.answer(StatusCode::NO_CONTENT, Vec::new());
                return Ok(decision.content);
            }
            self.input(exchange, listener).await?;
        }
        Err(Fault::TooMany { what: "inputs", count_max: ITEMS_MAX })
    }

    /// Answers with an input; 404 if there is none with this digest, which makes the machine refuse the job.
    async fn input(&self, exchange: Exchange, listener: Listener<'_>) -> Result<(), Fault> {
        let digest = exchange.path.strip_prefix(path::INPUTS).and_then(|hex| hex.parse::<Sha256Digest>().ok());
        let Some(sha256) = digest.filter(|_| exchange.method == Method::GET && exchange.is_bare()) else {
            return Err(out_of_order(&exchange, "an input or the decision"));
        };
        listener(Report::InputTaken { sha256 });
        match self.offer.input(&sha256) {
            None => exchange.answer(StatusCode::NOT_FOUND, Vec::new()),
            Some(file) => {
                // One byte more than the job says, so that a larger file shows as one.
                let body = input::open(&file.path, file.size.saturating_add(1)).await;
                let body = body.map_err(|source| Fault::Input { path: file.path.clone(), source })?;
                exchange.answer_body(StatusCode::OK, body);
            }
        }
        Ok(())
    }

    /// From the decision to the last message: of each step its log, and what it owes then; then files.
    async fn take_in(
        &self,
        link: &mut Link,
        admitted: &Admitted,
        decision: Decision,
        listener: Listener<'_>,
    ) -> Result<Outcome, Fault> {
        let allowed = decision.verdict == Ruling::Allow;
        let mut intake = Intake::new(self.bundle);
        let (mut logged, mut due): (Vec<Name>, Option<Owed>) = (Vec::new(), None);
        let mut keys = vec![admitted.machine.statement_key.0, admitted.machine.issuer_key.0];
        let (mut files, mut artifacts) = (0, 0);
        while files <= FILES_MAX {
            let mut exchange = link.next(self.patience()).await?;
            let path = exchange.path.clone();
            let posted = |prefix: &str| path.strip_prefix(prefix).filter(|_| exchange.method == Method::POST);
            let done = exchange.method == Method::POST && path == path::DONE;
            // What a step still owes comes before everything else.
            if let Some(owed) = due.take() {
                if posted(&owed.path()) != Some("") {
                    return Err(out_of_order(&exchange, "what is signed of the step that ended"));
                }
                let bytes = exchange.message(SILENCE, MESSAGE_BYTES_MAX).await?;
                due = owed.take(&bytes, admitted, &mut keys, listener)?;
            } else if let Some(file) = path.strip_prefix(path::FILES).filter(|_| exchange.method == Method::PUT) {
                let artifact = self.offer.artifact_bytes_max(file).filter(|_| allowed);
                let bytes_max = artifact.or_else(|| self.offer.evidence_bytes_max(file));
                let bytes_max = bytes_max.ok_or_else(|| out_of_order(&exchange, "a file of the bundle"))?;
                let bytes = intake.take(file, bytes_max, &mut exchange, SILENCE).await?;
                listener(Report::FileTaken { path: file, bytes });
                files += 1;
                artifacts += usize::from(artifact.is_some());
            } else if let Some(step) = posted(path::LOGS) {
                let step = step.parse().ok().filter(|name| allowed && files == 0 && !logged.contains(name));
                let step: Name = step.ok_or_else(|| out_of_order(&exchange, "a file or the last message"))?;
                self.log(&mut exchange, &step, listener).await?;
                logged.push(step.clone());
                due = Some(Owed::by(step));
            } else if done {
                let done: Done = decode(&mut exchange).await?;
                let outcome = checks::outcome(done.outcome, decision, artifacts)?;
                exchange.answer(StatusCode::NO_CONTENT, Vec::new());
                return Ok(outcome);
            } else {
                return Err(out_of_order(&exchange, "a log, a file or the last message"));
            }
            exchange.answer(StatusCode::NO_CONTENT, Vec::new());
        }
        Err(Fault::TooMany { what: "files", count_max: FILES_MAX })
    }

    /// How long a machine may be silent between two requests of its build: a server's network is down while a step runs, so that not
    /// even the step's log is announced before.
    fn patience(&self) -> Duration {
        let longest = if self.signer.builder_id() == BUILDER_METAL { self.offer.step_life_ms_max() } else { 0 };
        SILENCE + Duration::from_millis(longest)
    }

    /// A step's output, frame by frame as it comes. The machine keeps it in the bundle; here it is only shown.
    async fn log(&self, exchange: &mut Exchange, step: &Name, listener: Listener<'_>) -> Result<(), Fault> {
        let bounds = self.offer.step(step).ok_or_else(|| out_of_order(exchange, "a step of the job"))?;
        // A step may be silent as long as it may run.
        let silence = SILENCE + Duration::from_millis(bounds.life_ms);
        let (mut buffer, mut order, mut bytes): (Vec<u8>, _, u64) = (Vec::new(), Order::default(), 0);
        listener(Report::StepBegun(step));
        while let Some(piece) = exchange.piece(silence).await? {
            bytes += piece.len() as u64;
            if bytes > bounds.log_bytes_max {
                return Err(Fault::Log { step: step.clone(), bytes_max: bounds.log_bytes_max });
            }
            buffer.extend_from_slice(&piece);
            let mut rest = buffer.as_slice();
            while let Some((frame, after)) = split_first(rest)? {
                order.take(&frame)?;
                listener(Report::StepWrote(step, frame));
                rest = after;
            }
            buffer.drain(..buffer.len() - rest.len());
        }
        if !buffer.is_empty() {
            return Err(Fault::Log { step: step.clone(), bytes_max: bounds.log_bytes_max });
        }
        listener(Report::StepEnded(step));
        Ok(())
    }
}

/// How a machine ended, in a word that scripts may rely on.
pub(crate) fn word(served: &Result<Outcome, Fault>) -> &'static str {
    match served {
        Ok(Outcome::Built) => "built",
        Ok(Outcome::StepFailed) => "step_failed",
        Ok(Outcome::Refused(_)) => "refused",
        Ok(Outcome::NotAttested(_)) => "not_attested",
        Err(fault) => fault.code(),
    }
}
