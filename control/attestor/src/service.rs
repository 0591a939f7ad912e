//! The authority as a service: machines come over a network, one TLS 1.3 connection each, and each gets one job of a list.
//!
//! A job is offered to several machines and belongs to the first that is attested: a machine that connects and never answers keeps
//! no job from anyone. Every connection is served by the same [`Authority`] as the machine of a run; what is different is around
//! it: [`tls`](self), the bounds of [`limits`](Limits), and the [`Metrics`].
//!
//! Promises: no wait, queue or number of connections without a bound; a machine that is not served takes nothing from others; at the
//! end nothing is left running. Deliberately absent: a second process, reloading, and clients that are known by certificate: a
//! machine is known by its attestation, and has no certificate before.

mod limits;
mod metrics;
#[cfg(test)]
mod tests;
mod tls;

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kiln_formats::names::Name;
use kiln_formats::reference::Reference;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::LocalSet;

pub use metrics::Metrics;
pub use tls::{ServerName, TlsError};

use crate::authority::{Authority, Fault, Outcome, Report, Surroundings};
use crate::notice::Notices;
use crate::offer::Offer;
use crate::site::{Signer, Site};
use crate::state::State;
use limits::Limits;
use tls::Identity;

/// How long a handshake may take: two round trips over a slow line.
const HANDSHAKE: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(10) };
/// How long a machine may take from its handshake to its first request: it connects when it has something to ask.
const FIRST_REQUEST: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(10) };
/// How long nothing is accepted after the system refused to accept: it does so when it is out of descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// A job of the list.
#[derive(Debug)]
pub struct Job {
    /// What is offered.
    pub offer: Offer,
    /// Where the machine's files are put: an empty directory, nobody else's.
    pub bundle: PathBuf,
}

/// All that the service serves from.
#[derive(Debug)]
pub struct Service {
    /// In whose name.
    pub site: Arc<Site>,
    /// What that site's authority remembers.
    pub state: State,
    /// Who certifies its machines, and so how they are started.
    pub signer: Signer,
    /// What their image must yield.
    pub reference: Reference,
    /// What is to be done.
    pub jobs: Vec<Job>,
    /// How long a machine may take, from its connection on.
    pub deadline: Duration,
    /// Under which names machines know the service.
    pub names: Vec<ServerName>,
    /// Where what happens is told, of all machines in one chain.
    pub notices: Option<Notices>,
    /// Clock and randomness.
    pub surroundings: Surroundings,
}

/// A job whose machine is gone.
#[derive(Debug)]
pub struct Served {
    /// Which: its place in the list.
    pub job: usize,
    /// The build.
    pub build_id: Name,
    /// What came of it.
    pub outcome: Result<Outcome, Fault>,
}

/// Takes a job back, once for each that was handed to a machine.
pub type Taker = Rc<dyn Fn(Served)>;

/// Why the service cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The server's certificate could not be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// This host's clock is out of range.
    #[error("this host's clock is out of range")]
    Clock,
}

/// How far a job is.
#[derive(Debug, Default)]
struct Progress {
    /// A machine was certified for it.
    taken: AtomicBool,
    /// How many machines are offered it.
    offered: Cell<u32>,
    /// Its machine is gone.
    done: Cell<bool>,
}

/// What all connections have in common.
struct Shared {
    service: Service,
    progress: Vec<Progress>,
    metrics: Metrics,
    taker: Taker,
}

impl Service {
    /// Serves machines until every job is done or `stop` becomes true: then nobody new is served, who has no job is cut off, and who
    /// has one may finish it.
    ///
    /// # Errors
    /// [`ServiceError`] if there is no certificate to be had for the server.
    pub async fn serve(
        self,
        listener: TcpListener,
        metrics: Metrics,
        taker: Taker,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), ServiceError> {
        let progress = self.jobs.iter().map(|_| Progress::default()).collect();
        metrics.jobs(self.jobs.len());
        let shared = Rc::new(Shared { service: self, progress, metrics, taker });
        let (mut identity, mut limits) = (shared.identity()?, Limits::new(Instant::now()));
        let machines = LocalSet::new();
        let (one_done, mut done) = watch::channel(());
        let accepting = async {
            while !shared.all_done() {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    // One that is done may have given its job back, or taken the last.
                    _ = done.changed() => continue,
                    _ = stop.wait_for(|stop| *stop) => break,
                };
                let (stream, peer) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "nothing can be accepted");
                        tokio::time::sleep(BREATH).await;
                        continue;
                    }
                };
                if shared.pick().is_none() {
                    tracing::info!(%peer, "no job is free");
                    shared.metrics.turned_away("no_job");
                    continue;
                }
                let pass = match limits.admit(peer.ip(), Instant::now()) {
                    Ok(pass) => pass,
                    Err(code) => {
                        tracing::info!(%peer, code, "turned away");
                        shared.metrics.turned_away(code);
                        continue;
                    }
                };
                let now = (shared.service.surroundings.now)().ok_or(ServiceError::Clock)?;
                if identity.is_old(now) {
                    identity = shared.identity()?;
                }
                let (shared, tls, stop) = (Rc::clone(&shared), identity.acceptor(), stop.clone());
                let one_done = one_done.clone();
                tokio::task::spawn_local(async move {
                    connection(&shared, stream, peer, tls, stop).await;
                    drop(pass);
                    one_done.send_replace(());
                });
            }
            Ok(())
        };
        let accepted = machines.run_until(accepting).await;
        // Those who are still here have a job, or will be told that there is none.
        machines.await;
        accepted
    }
}

impl Shared {
    fn identity(&self) -> Result<Identity, ServiceError> {
        let Service { site, signer, names, surroundings, .. } = &self.service;
        let now = (surroundings.now)().ok_or(ServiceError::Clock)?;
        Ok(Identity::new(site, signer, names, now, surroundings.random)?)
    }

    /// Whether there is nothing left to serve anybody for.
    fn all_done(&self) -> bool {
        self.progress.iter().all(|job| job.done.get())
    }

    /// The job that is offered to the fewest machines, of those that nobody has.
    fn pick(&self) -> Option<usize> {
        let free = self.progress.iter().enumerate().filter(|(_, job)| !job.taken.load(Ordering::Acquire));
        free.min_by_key(|(_, job)| job.offered.get()).map(|(place, _)| place)
    }
}

/// One machine, from its first byte to its last.
async fn connection(
    shared: &Shared,
    stream: TcpStream,
    peer: SocketAddr,
    tls: tokio_rustls::TlsAcceptor,
    stop: watch::Receiver<bool>,
) {
    shared.metrics.connected();
    let _gone = shared.metrics.present();
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(%peer, %error, "no handshake");
            return shared.metrics.turned_away("handshake");
        }
        Err(_) => {
            tracing::info!(%peer, "too slow to shake hands");
            return shared.metrics.turned_away("handshake_slow");
        }
    };
    let Some((place, progress)) = shared.pick().and_then(|place| Some((place, shared.progress.get(place)?))) else {
        tracing::info!(%peer, "no job is free any more");
        return shared.metrics.turned_away("no_job");
    };
    let Some(job) = shared.service.jobs.get(place) else { return };
    progress.offered.set(progress.offered.get() + 1);
    let seen = Seen::default();
    let outcome = machine(shared, job, progress, stream, &seen, stop).await;
    progress.offered.set(progress.offered.get().saturating_sub(1));
    tell(shared, peer, &outcome);
    let Some(outcome) = outcome else { return };
    match seen.build_id.into_inner() {
        // Only whoever was certified took the job.
        Some(build_id) if seen.has_job.load(Ordering::Acquire) => {
            progress.done.set(true);
            (shared.taker)(Served { job: place, build_id, outcome });
        }
        Some(_) => progress.taken.store(false, Ordering::Release),
        None => {}
    }
}

/// What was seen of a machine.
#[derive(Debug, Default)]
struct Seen {
    build_id: OnceLock<Name>,
    has_job: AtomicBool,
}

/// Serves a machine; `None` if it was cut off because the service stops and it had no job yet.
async fn machine(
    shared: &Shared,
    job: &Job,
    progress: &Progress,
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    seen: &Seen,
    mut stop: watch::Receiver<bool>,
) -> Option<Result<Outcome, Fault>> {
    let Service { site, state, signer, reference, deadline, notices, surroundings, .. } = &shared.service;
    let authority = Authority {
        site,
        state,
        signer,
        reference,
        offer: &job.offer,
        taken: &progress.taken,
        bundle: &job.bundle,
        first_request: FIRST_REQUEST,
        notices: notices.as_ref(),
        host: None,
        surroundings: *surroundings,
    };
    let (begin, metrics) = (Instant::now(), &shared.metrics);
    let mut listener = |report: Report<'_>| match report {
        Report::Attested { build_id, .. } => {
            metrics.attested(begin.elapsed());
            seen.build_id.get_or_init(|| build_id.clone());
            tracing::info!(%build_id, "attested");
        }
        Report::JobTaken => seen.has_job.store(true, Ordering::Release),
        _ => {}
    };
    let served = authority.serve(stream, *deadline, &mut listener);
    tokio::pin!(served);
    let stopped = async {
        // A service whose owner is gone stops too.
        let _gone = stop.wait_for(|stop| *stop).await;
        while seen.has_job.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        outcome = &mut served => Some(outcome),
        () = stopped => None,
    }
}

/// Counts and logs how it ended.
fn tell(shared: &Shared, peer: SocketAddr, outcome: &Option<Result<Outcome, Fault>>) {
    let ended = match outcome {
        None => "stopped",
        Some(Ok(Outcome::Built)) => "built",
        Some(Ok(Outcome::StepFailed)) => "step_failed",
        Some(Ok(Outcome::Refused(_))) => "refused",
        Some(Ok(Outcome::NotAttested(findings))) => {
            let first = findings.first();
            let code = first.map_or("unknown", |finding| finding.code);
            tracing::warn!(%peer, code, object = first.map(|finding| finding.object.as_str()), "not attested");
            shared.metrics.refused(code);
            "not_attested"
        }
        Some(Err(fault)) => {
            tracing::warn!(%peer, code = fault.code(), error = %fault, "failed");
            fault.code()
        }
    };
    tracing::info!(%peer, ended, "gone");
    shared.metrics.ended(ended);
}

/// Serves the metrics until it is dropped.
pub fn tell_metrics(metrics: &Metrics, listener: TcpListener) -> impl Future<Output = ()> + use<> {
    metrics::serve(metrics.clone(), listener)
}
