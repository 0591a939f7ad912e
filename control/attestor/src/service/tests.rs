//! Over real sockets: honest machines get a job each, and whoever is not honest, or slow, keeps nothing from them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use kiln_formats::certificate::{self, Certificate};
use kiln_formats::endorsement::TpmClass;
use kiln_formats::link::path;
use kiln_formats::manifest::Outcome as Said;
use kiln_formats::names::{BUILDER_DIRECT, BUILDER_METAL};
use kiln_formats::timestamp::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName as PkiName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::authority::tests::machine::{Machine, endorsement};
use crate::authority::tests::{document, reference, vouch};
use crate::site;
use crate::state::Archive;

/// A service with so many jobs, that listens.
struct Rig {
    _directory: tempfile::TempDir,
    site: Arc<Site>,
    address: SocketAddr,
    metrics: Metrics,
    stop: watch::Sender<bool>,
    served: Rc<RefCell<Vec<Served>>>,
}

impl Rig {
    /// Runs `script` beside the service, which must come to its end.
    async fn run(jobs: usize, script: impl AsyncFnOnce(&Rig)) -> Rig {
        let directory = tempfile::tempdir().unwrap();
        let site = new_site(&directory.path().join("site"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let job = |number: usize| {
            let offer = Offer::new(document(&site), &BTreeMap::new()).unwrap();
            Job { offer, bundle: directory.path().join(number.to_string()) }
        };
        let service = Service {
            state: State::open(&site).unwrap(),
            signer: site.signer(BUILDER_DIRECT, host_clock().unwrap()).unwrap(),
            reference: reference(&site),
            jobs: (0..jobs).map(job).collect(),
            deadline: Duration::from_secs(60),
            names: vec!["attestor.example".parse().unwrap(), "127.0.0.1".parse().unwrap()],
            notices: None,
            surroundings: Surroundings { now: host_clock, random: getrandom::fill, reference_time: None },
            site: Arc::clone(&site),
        };
        let (stop, stopped) = watch::channel(false);
        let (metrics, served) = (Metrics::default(), Rc::new(RefCell::new(Vec::new())));
        let taken = Rc::clone(&served);
        let taker: Taker = Rc::new(move |served| taken.borrow_mut().push(served));
        let address = listener.local_addr().unwrap();
        let rig = Self { _directory: directory, site, address, metrics: metrics.clone(), stop, served };
        let both = async { tokio::join!(service.serve(listener, metrics, taker, stopped), script(&rig)) };
        let (ended, ()) =
            tokio::time::timeout(Duration::from_secs(60), both).await.expect("the service goes on for ever");
        ended.unwrap();
        assert!(rig.metrics.text().contains("kiln_attestor_machines 0\n"), "{}", rig.metrics.text());
        rig
    }

    async fn tls(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        connector(&self.site).connect(name("attestor.example"), stream).await.unwrap()
    }

    async fn machine(&self) -> Machine {
        Machine::new(self.tls().await).await
    }

    fn counts(&self, line: &str) -> bool {
        self.metrics.text().lines().any(|found| found == format!("kiln_attestor_{line}"))
    }
}

/// TLS looks at the real time.
fn host_clock() -> Option<Timestamp> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    Timestamp::from_unix(i64::try_from(since.as_secs()).ok()?).ok()
}

fn new_site(directory: &Path) -> Arc<Site> {
    let names = site::Names { site: "demo".parse().unwrap(), trust_domain: "demo.example".parse().unwrap() };
    let now = host_clock().unwrap();
    site::create(directory, &names, &site::PROFILES, now, getrandom::fill).unwrap();
    site::enrolment::add_key(directory, TpmClass::Virtual, endorsement().sha256()).unwrap();
    let site = Site::open(directory, now).unwrap();
    vouch(&site);
    Arc::new(site)
}

fn name(text: &str) -> PkiName<'static> {
    PkiName::try_from(text.to_owned()).unwrap()
}

/// A client that trusts this site's root and nothing else.
fn connector(site: &Site) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(site.root().to_der().unwrap())).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    TlsConnector::from(Arc::new(config.with_no_client_auth()))
}

/// Everything that a machine does whose step fails: no artifact is needed.
async fn work(mut machine: Machine) {
    machine.admitted().await;
    machine.step("build", "").await;
    machine.done(Said::StepFailed).await.unwrap();
}

#[tokio::test]
async fn each_machine_gets_a_job_of_its_own_and_then_the_service_ends() {
    let rig = Rig::run(3, async |rig| {
        let machines = [rig.machine().await, rig.machine().await, rig.machine().await];
        let [one, two, three] = machines.map(work);
        tokio::join!(one, two, three);
    })
    .await;
    let served = rig.served.borrow();
    let mut jobs: Vec<_> = served.iter().map(|served| served.job).collect();
    jobs.sort_unstable();
    assert_eq!(jobs, [0, 1, 2]);
    assert!(served.iter().all(|served| matches!(served.outcome, Ok(Outcome::StepFailed))), "{served:?}");
    assert!(
        rig.counts("ended_total{outcome=\"step_failed\"} 3") && rig.counts("connections_total 3"),
        "{}",
        rig.metrics.text()
    );
    assert!(rig.counts("attested_seconds_count 3"), "{}", rig.metrics.text());
    let summary = Archive::open(&rig.site).unwrap().verify(None, |_| {}).unwrap();
    assert_eq!((summary.challenged, summary.handed_over, summary.ended, summary.refused), (3, 3, 3, 0));
}

#[tokio::test]
async fn a_job_belongs_to_the_first_that_is_attested_and_comes_back_if_it_was_not_taken() {
    let rig = Rig::run(1, async |rig| {
        let (mut early, mut late) = (rig.machine().await, rig.machine().await);
        let (first, second) = (early.prepare().await, late.prepare().await);
        // Attested, and gone before it asks for the job: somebody else may have it.
        assert_eq!(early.send_attestation(&first).await.unwrap().0, 200);
        let (status, body) = late.send_attestation(&second).await.unwrap();
        assert_eq!(status, 403);
        assert!(String::from_utf8_lossy(&body).contains("\"job_taken\""), "{body:?}");
        drop(early);
        // The list has no free job until the service has seen that one is gone.
        loop {
            let stream = TcpStream::connect(rig.address).await.unwrap();
            if let Ok(stream) = connector(&rig.site).connect(name("attestor.example"), stream).await {
                return work(Machine::new(stream).await).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(rig.served.borrow().len(), 1);
    assert!(rig.counts("refused_total{code=\"job_taken\"} 1"), "{}", rig.metrics.text());
}

#[tokio::test]
async fn who_is_slow_or_talks_nonsense_keeps_nothing_from_others() {
    let rig = Rig::run(1, async |rig| {
        let mut hostile = Vec::new();
        for garbage in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 0xff, 0xff, 1, 2], &[0; 70_000]] {
            let mut stream = TcpStream::connect(rig.address).await.unwrap();
            // The service may hang up while it is being told.
            let _ = stream.write_all(garbage).await;
            hostile.push(stream);
        }
        // Inside of TLS: silence, half a request, no HTTP at all, a head without an end.
        let mut inside = Vec::new();
        for garbage in [&b""[..], b"GET /v1/conf", b"\0\0\0\0\r\n\r\n", &[b'a'; 100_000]] {
            let mut stream = rig.tls().await;
            let _ = stream.write_all(garbage).await;
            let _ = stream.flush().await;
            inside.push(stream);
        }
        work(rig.machine().await).await;
        // All of them are sent away, without a word that is worth anything.
        for mut stream in inside {
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said).await;
            assert!(!String::from_utf8_lossy(&said).contains("trust"), "something was told to noise");
        }
        for mut stream in hostile {
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said).await;
        }
    })
    .await;
    assert!(matches!(rig.served.borrow().as_slice(), [Served { outcome: Ok(Outcome::StepFailed), .. }]));
    assert!(rig.counts("turned_away_total{code=\"handshake_slow\"} 1"), "{}", rig.metrics.text());
    assert!(rig.counts("ended_total{outcome=\"silent\"} 2"), "{}", rig.metrics.text());
}

#[tokio::test]
async fn an_address_that_comes_too_often_is_turned_away() {
    let rig = Rig::run(1, async |rig| {
        for _ in 0..limits::BURST_MAX + 10 {
            drop(TcpStream::connect(rig.address).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        work(rig.machine().await).await;
    })
    .await;
    let text = rig.metrics.text();
    assert!(text.contains("turned_away_total{code=\"too_often\"}"), "{text}");
}

#[tokio::test]
async fn at_the_end_who_has_a_job_may_finish_it_and_nobody_else_is_served() {
    let rig = Rig::run(3, async |rig| {
        let (mut working, mut waiting) = (rig.machine().await, rig.machine().await);
        working.attest().await;
        working.get(path::JOB).await.unwrap();
        waiting.attest().await;
        rig.stop.send_replace(true);
        assert!(waiting.get(path::JOB).await.is_none());
        assert_eq!(working.decide(kiln_formats::decision::Ruling::Allow).await.unwrap().0, 204);
        working.step("build", "").await;
        working.done(Said::StepFailed).await.unwrap();
    })
    .await;
    assert_eq!(rig.served.borrow().len(), 1);
    assert!(rig.counts("ended_total{outcome=\"stopped\"} 1"), "{}", rig.metrics.text());
}

#[tokio::test]
async fn the_server_is_this_site_s_under_its_names() {
    Rig::run(1, async |rig| {
        let other = tempfile::tempdir().unwrap();
        let other = new_site(&other.path().join("site"));
        for (site, known_as, good) in [
            (&rig.site, "attestor.example", true),
            (&rig.site, "127.0.0.1", true),
            (&rig.site, "127.0.0.2", false),
            (&rig.site, "other.example", false),
            (&other, "attestor.example", false),
        ] {
            let stream = TcpStream::connect(rig.address).await.unwrap();
            let connected = connector(site).connect(name(known_as), stream).await;
            assert_eq!(connected.is_ok(), good, "{known_as}");
        }
        // It shows the authority of the machines that it serves, and no more.
        let stream = rig.tls().await;
        let [_, authority] = stream.get_ref().1.peer_certificates().unwrap() else { panic!("another chain") };
        let authority = Certificate::from_der(authority).unwrap();
        let now = host_clock().unwrap();
        let counts = |builder_id| certificate::Authority::check(rig.site.root(), &authority, now, builder_id).is_ok();
        assert!(counts(BUILDER_DIRECT) && !counts(BUILDER_METAL));
        rig.stop.send_replace(true);
    })
    .await;
}
