//! `kiln attestor serve`: machines come over a network and fetch their jobs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use kiln_attestor::Offer;
use kiln_attestor::service::{self, Job, Metrics, Served, ServerName, Service};
use kiln_attestor::site::{Signer, Site};
use kiln_attestor::state::State;
use kiln_formats::names::{BUILDER_METAL, Name};
use kiln_formats::reference::{REFERENCE_BYTES_MAX, Reference};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::super::run::{self, DEADLINE_S, pair};
use super::{OfSite, of_state};
use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::order::{BootMode, Judged, judge};
use crate::output::Output;
use crate::{document, host, launch, notices};

/// The most jobs of one list: each has a directory and waits for a machine.
const JOBS_MAX: usize = 1024;

/// Serve machines that come over a network: attest each, hand it one job of the list, take in its evidence, and verify it.
///
/// Machines connect with TLS 1.3, check the server's certificate against the site's root, and speak the protocol of the link. Each
/// job goes to the first machine that is attested for it. OUT/NN-NAME is made of each, as `kiln run` makes its OUT. The command ends
/// when every job is done; its exit code is the worst of theirs. Of the authorities' keys only that of the mode that is served is read.
/// It does not begin for an image that no producer made whom the site trusts: OUT then holds image.dsse.json, which says so, and nothing
/// else.
///
/// Ctrl-C ends it in order: nobody new is served, who has a job may finish it. A second Ctrl-C ends it at once. Logs are one JSON
/// object a line, on standard error (KILN_LOG=debug says more).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln attestor serve --site site --listen 0.0.0.0:8443 --name attestor.example --job a.toml --job b.toml --out out
  kiln attestor serve --site site --listen [::1]:8443 --job a.json --out out --metrics 127.0.0.1:9100
  kiln attestor serve --site site --listen 0.0.0.0:8443 --name attestor.example --metal --job a.toml --out out
  curl -s http://127.0.0.1:9100/metrics")]
pub(super) struct Serve {
    #[command(flatten)]
    of: OfSite,
    /// Where machines connect
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// A name or an address that machines know the service by; without one, the address of --listen
    #[arg(long, value_name = "NAME")]
    name: Vec<ServerName>,
    /// A draft (*.toml) or a signed job document
    #[arg(long, value_name = "FILE", required = true)]
    job: Vec<PathBuf>,
    /// The file that is the input NAME of every job that has one of this name
    #[arg(long, value_name = "NAME=FILE", value_parser = pair::<Name>)]
    input: Vec<(Name, PathBuf)>,
    /// The directory to make, with a directory for each job
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What the machines' image must yield; without it, the site's one reference document
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// How the machines start
    #[arg(long, value_enum, default_value = "firmware")]
    boot: BootMode,
    /// They enforce Secure Boot
    #[arg(long)]
    secure_boot: bool,
    /// They are servers that boot from a disk of `kiln metal`
    #[arg(long, conflicts_with_all = ["boot", "secure_boot"])]
    metal: bool,
    /// Go by this time, on the root's word (`kiln trust time`), and not by this host's clock
    #[arg(long, value_name = "FILE")]
    reference_time: Option<PathBuf>,
    /// How long a build may take, in seconds
    #[arg(long, value_name = "S", default_value_t = DEADLINE_S, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    deadline: u32,
    /// Where numbers are read, as OpenMetrics text at /metrics; plain HTTP, for this host or a private network
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Append a line of JSON for each thing that happens, as it happens (docs/notices.md)
    #[arg(long, value_name = "FILE")]
    notices: Option<PathBuf>,
    /// Print what came of each job as a line of JSON
    #[arg(long)]
    json: bool,
}

/// A job and the directory that is made of it.
#[derive(Debug)]
struct Place {
    job: PathBuf,
    output: Option<Output>,
}

/// What came of one job.
#[derive(Debug, Serialize)]
struct Told {
    job: PathBuf,
    build_id: Name,
    outcome: &'static str,
    exit: u8,
    out: Option<PathBuf>,
    reason: Option<String>,
}

impl Serve {
    pub(super) fn run(self) -> Result {
        Output::check(&self.out)?;
        if self.job.len() > JOBS_MAX {
            return Err(Problem::TooManyJobs { jobs_max: JOBS_MAX }).or_exit(Exit::Usage);
        }
        host::go_by(self.reference_time.as_deref(), &self.of.site)?;
        let site = Arc::new(self.of.open()?);
        let signer = site.signer(self.builder_id(), host::now()?).or_exit(Exit::Usage)?;
        let reference = self.reference(&site)?;
        if let Err(refused) = launch::admit_named(&site, &signer, &reference.image_sha256, &self.out)? {
            return Err(refused.problem()).or_exit(Exit::ImageRefused);
        }
        let offers = self.offers(&site)?;
        let state = of_state(State::open(&site))?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().or_exit(Exit::Infrastructure)?;
        runtime.block_on(self.serve(site, signer, state, reference, offers))
    }

    async fn serve(
        &self,
        site: Arc<Site>,
        signer: Signer,
        state: State,
        reference: Reference,
        offers: Vec<Offer>,
    ) -> Result {
        let listener = bind(self.listen).await?;
        let metrics = Metrics::default();
        if let Some(address) = self.metrics {
            let listener = bind(address).await?;
            tracing::info!(address = %listener.local_addr().or_exit(Exit::Infrastructure)?, "telling numbers");
            // Ends with the runtime.
            let _told = tokio::spawn(service::tell_metrics(&metrics, listener));
        }
        let address = listener.local_addr().or_exit(Exit::Infrastructure)?;
        let failed = |source| Problem::Io { action: "write", path: self.out.clone(), source };
        std::fs::create_dir(&self.out).map_err(failed).or_exit(Exit::Usage)?;
        let places = self.places()?;
        let jobs = offers
            .into_iter()
            .zip(&places)
            .filter_map(|(offer, place)| Some(Job { offer, bundle: place.output.as_ref()?.path().to_owned() }));
        let service = Service {
            site: Arc::clone(&site),
            state,
            signer,
            reference: reference.clone(),
            jobs: jobs.collect(),
            deadline: Duration::from_secs(self.deadline.into()),
            names: if self.name.is_empty() { vec![ServerName::Ip(address.ip())] } else { self.name.clone() },
            notices: self.notices.as_deref().map(notices::open).transpose()?,
            surroundings: host::surroundings(),
        };
        tracing::info!(%address, jobs = self.job.len(), "serving");
        let (worst, places) = (Rc::new(RefCell::new(Exit::Done)), Rc::new(RefCell::new(places)));
        let taker = {
            let (worst, places, json) = (Rc::clone(&worst), Rc::clone(&places), self.json);
            Rc::new(move |served: Served| {
                let mut places = places.borrow_mut();
                let Some(place) = places.get_mut(served.job) else { return };
                let exit = match place.finish(served, &site, &reference, json) {
                    Ok(exit) => exit,
                    Err(failure) => {
                        tracing::error!(error = ?failure.report, "a job's output was not made");
                        failure.exit
                    }
                };
                let mut worst = worst.borrow_mut();
                *worst = if (exit as u8) > (*worst as u8) { exit } else { *worst };
            })
        };
        let interrupted = self.until_interrupted(service, listener, metrics, taker).await?;
        let left = places.borrow().iter().filter(|place| place.output.is_some()).count();
        let worst = *worst.borrow();
        if interrupted && left > 0 {
            tracing::warn!(left, "jobs that no machine had");
            return Ok(Exit::Interrupted);
        }
        Ok(worst)
    }

    /// Serves until every job is done, or until the person has had enough. Says which.
    async fn until_interrupted(
        &self,
        service: Service,
        listener: TcpListener,
        metrics: Metrics,
        taker: service::Taker,
    ) -> Result<bool> {
        let mut interrupt = signal(SignalKind::interrupt()).or_exit(Exit::Infrastructure)?;
        let mut terminate = signal(SignalKind::terminate()).or_exit(Exit::Infrastructure)?;
        let (stop, stopped) = watch::channel(false);
        let serving = service.serve(listener, metrics, taker, stopped);
        tokio::pin!(serving);
        let mut interrupted = false;
        loop {
            tokio::select! {
                served = &mut serving => return served.map(|()| interrupted).or_exit(Exit::Infrastructure),
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if interrupted {
                return Ok(true);
            }
            interrupted = true;
            tracing::info!("ending: nobody new is served; once more to end at once");
            stop.send_replace(true);
        }
    }

    /// How the machines start.
    fn builder_id(&self) -> &'static str {
        if self.metal { BUILDER_METAL } else { self.boot.builder_id(self.secure_boot) }
    }

    /// The document that was named, or the site's only one for machines of this kind.
    fn reference(&self, site: &Site) -> Result<Reference> {
        if let Some(file) = &self.reference {
            return document::read_canonical(file, REFERENCE_BYTES_MAX);
        }
        let mut references = site.references().or_exit(Exit::Usage)?;
        references.retain(|known| known.machines.iter().any(|machine| machine.builder_id == self.builder_id()));
        match (references.pop(), references.len()) {
            (Some(reference), 0) => Ok(reference),
            (None, _) => Err(Problem::NoReference { path: site.directory().to_owned() }).or_exit(Exit::Usage),
            (Some(_), _) => Err(Problem::WhichReference { path: site.directory().to_owned() }).or_exit(Exit::Usage),
        }
    }

    fn offers(&self, site: &Site) -> Result<Vec<Offer>> {
        for (_, file) in &self.input {
            run::plain_file(file)?;
        }
        let mut unused: BTreeMap<&Name, &PathBuf> = self.input.iter().map(|(name, file)| (name, file)).collect();
        let mut offers = Vec::new();
        for job in &self.job {
            let document = run::document(job, site)?;
            let declared = Offer::declared(&document);
            let inputs = self.input.iter().filter(|(name, _)| declared.contains(name)).cloned().collect();
            unused.retain(|name, _| !declared.contains(name));
            offers.push(Offer::new(document, &inputs).or_exit(Exit::Usage)?);
        }
        match unused.into_keys().next() {
            None => Ok(offers),
            Some(name) => Err(Problem::UnknownInput { name: name.clone() }).or_exit(Exit::Usage),
        }
    }

    /// A directory to be for each job. Those that no machine had go with their places.
    fn places(&self) -> Result<Vec<Place>> {
        let place = |(number, job): (usize, &PathBuf)| {
            let stem = job.file_stem().unwrap_or_default().to_string_lossy();
            let output = Output::begin(&self.out.join(format!("{number:02}-{stem}")))?;
            Ok(Place { job: job.clone(), output: Some(output) })
        };
        (1..).zip(&self.job).map(place).collect()
    }
}

impl Place {
    /// Judges what a machine left, and gives it its name.
    fn finish(&mut self, served: Served, site: &Site, reference: &Reference, json: bool) -> Result<Exit> {
        let Some(output) = self.output.take() else { return Ok(Exit::Done) };
        let (outcome, exit, out, reason) = match &served.outcome {
            Err(fault) => ("fault", Exit::Infrastructure, None, Some(fault.to_string())),
            Ok(said) => {
                let Judged { outcome, exit, verdict, .. } = judge(site, reference, &output, said)?;
                let reason = verdict.findings.first().map(ToString::to_string);
                (outcome, exit, Some(output.release()?), reason)
            }
        };
        let told = Told { job: self.job.clone(), build_id: served.build_id, outcome, exit: exit as u8, out, reason };
        let Told { job, build_id, reason, .. } = &told;
        tracing::info!(job = %job.display(), %build_id, outcome, reason, "done");
        if json {
            document::print(&serde_json::to_vec(&told).or_exit(Exit::Infrastructure)?)?;
        } else {
            let reason = reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            document::print(format!("{}: {outcome}{reason}", job.display()).as_bytes())?;
        }
        Ok(exit)
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    let failed = |source| Problem::Listen { address, source };
    TcpListener::bind(address).await.map_err(failed).or_exit(Exit::Infrastructure)
}
