//! A machine that keeps to the protocol gets through; every one that does not ends the run, and leaves nothing behind.

pub(crate) mod endorsement;
mod enrolment;
mod host;
mod images;
pub(crate) mod machine;
mod memory;
mod negative;
mod notices;
mod patience;
mod producer;
mod statements;
mod tpm2;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use kiln_formats::canonical;
use kiln_formats::certificate::{self, Certificate, CertificateError};
use kiln_formats::dispatch::{Dispatch, Dispatched, Envelopes, Used};
use kiln_formats::endorsement::TpmClass;
use kiln_formats::job::draft;
use kiln_formats::link::NotAttested;
use kiln_formats::log::Stream;
use kiln_formats::manifest::Outcome as Said;
use kiln_formats::names::BUILDER_DIRECT;

use super::*;
use crate::{LinkError, site};
use machine::{Machine, boot_events, endorsement, frames, init_sha256, refusal, runtime_log};

const DRAFT: &str = r#"
version = 1
name = "hello"
image = [{ name = "c", root_hash = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" }]
workspace = [{ name = "out", size_bytes_max = 1000 }]
output = [{ name = "hello", workspace = "out", path = "hello", size_bytes_max = 10 }]
[[input]]
name = "hello.c"
uri = "https://downloads.example/hello.c"
sha256 = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
size = 4
[[step]]
name = "build"
image = "c"
argv = ["cc"]
workdir = "/work/out"
inputs = ["hello.c"]
workspaces = [{ name = "out", access = "rw" }]
limits = { log_bytes = 100, wall_ms = 1000 }
"#;

const INPUT: &str = "/v1/inputs/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const RECORD: &str = "evidence/records/00-build.dsse.json";

fn now() -> Timestamp {
    Timestamp::from_unix(1_790_000_000).unwrap()
}

/// A site, an offer and a directory for the bundle.
struct Rig {
    _directory: tempfile::TempDir,
    site: Site,
    state: State,
    signer: Signer,
    reference: Reference,
    offer: Offer,
    taken: AtomicBool,
    bundle: PathBuf,
    said: Vec<String>,
    clock: fn() -> Option<Timestamp>,
    host: Option<Box<dyn QuotingHost>>,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("site");
        let names = site::Names { site: "demo".parse().unwrap(), trust_domain: "demo.example".parse().unwrap() };
        site::create(&path, &names, &site::PROFILES, now(), getrandom::fill).unwrap();
        site::enrolment::add_key(&path, TpmClass::Virtual, endorsement().sha256()).unwrap();
        let site = Site::open(&path, now()).unwrap();
        vouch(&site);
        let document = document(&site);
        let input = directory.path().join("input");
        fs::write(&input, "int main;").unwrap();
        let offer = Offer::new(document, &BTreeMap::from([("hello.c".parse().unwrap(), input)])).unwrap();
        let bundle = directory.path().join("bundle");
        fs::create_dir(&bundle).unwrap();
        let state = State::open(&site).unwrap();
        Self {
            signer: site.signer(BUILDER_DIRECT, now()).unwrap(),
            reference: reference(&site),
            state,
            _directory: directory,
            site,
            offer,
            taken: AtomicBool::new(false),
            bundle,
            said: Vec::new(),
            clock: || Some(now()),
            host: None,
        }
    }

    /// Serves what `script` makes of a machine.
    async fn run(&mut self, script: impl AsyncFnOnce(Machine)) -> Result<Outcome, Fault> {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let mut said = Vec::new();
        let mut listener = |report: Report<'_>| said.push(format!("{report:?}"));
        let authority = self.authority();
        let serve = authority.serve(host, Duration::from_secs(3600), &mut listener);
        let (outcome, ()) = tokio::join!(serve, async { script(Machine::new(guest).await).await });
        self.said = said;
        outcome
    }

    fn authority(&self) -> Authority<'_> {
        Authority {
            site: &self.site,
            state: &self.state,
            signer: &self.signer,
            reference: &self.reference,
            offer: &self.offer,
            taken: &self.taken,
            bundle: &self.bundle,
            first_request: BOOT,
            notices: None,
            host: self.host.as_deref(),
            surroundings: Surroundings { now: self.clock, random: getrandom::fill, reference_time: None },
        }
    }

    fn heard(&self, word: &str) -> usize {
        self.said.iter().filter(|said| said.starts_with(word)).count()
    }

    fn files(&self) -> usize {
        walk(&self.bundle)
    }
}

async fn in_a_new_rig(script: impl AsyncFnOnce(Machine)) -> Result<Outcome, Fault> {
    Rig::new().run(script).await
}

fn walk(path: &Path) -> usize {
    fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).map(|p| if p.is_dir() { walk(&p) } else { 1 }).sum()
}

/// A signed job.
pub(crate) fn document(site: &Site) -> Vec<u8> {
    let job = draft::parse(DRAFT, now().plus_seconds(60)).unwrap();
    site::sign_job(&job, &site.invoker_key().unwrap()).unwrap().to_vec().unwrap()
}

/// Has the site's own producer vouch for the image that all machines have.
pub(crate) fn vouch(site: &Site) {
    let image = Sha256Digest::of(b"uki");
    let key = site::provenance::producer(site).unwrap().unwrap();
    let envelope = site::provenance::sign(&producer::statement(image), &key).unwrap();
    site::provenance::add(site.directory(), &image, &envelope).unwrap();
}

pub(crate) fn reference(site: &Site) -> Reference {
    site.reference(Sha256Digest::of(b"uki"), init_sha256(), &BTreeMap::new()).unwrap()
}

#[tokio::test]
async fn an_honest_machine_gets_its_job_and_its_certificates_hold() {
    let mut rig = Rig::new();
    let (root, document) = (rig.site.root().clone(), rig.offer.document().to_vec());
    let reference_sha256 = Sha256Digest::of(&canonical::to_vec(&rig.reference).unwrap());
    let provenance = site::provenance::read(rig.site.directory(), &rig.reference.image_sha256).unwrap().unwrap();
    let provenance_sha256 = Sha256Digest::of(&provenance);
    let used = Used { reference_sha256, provenance_sha256, class: TpmClass::Virtual };
    let policy_sha256 = rig.site.trust().policy.sha256().unwrap();
    let outcome = rig.run(async |mut machine| {
        let answer = machine.prepare().await;
        let (_, certificates) = machine.send_attestation(&answer).await.unwrap();
        let certificates: Certificates = serde_json::from_slice(&certificates).unwrap();
        let read = |pem: &str| Certificate::from_pem(pem.as_bytes()).unwrap();
        let authority =
            certificate::Authority::check(&root, &read(&certificates.authority), now(), BUILDER_DIRECT).unwrap();
        let statement = authority.statement(&read(&certificates.statement)).unwrap();
        assert_eq!(statement.key, machine.statement_key.verifying_key());
        let build_id = machine.challenge.clone().unwrap().build_id;
        let name = format!("spiffe://demo.example/build/ek/{}/job/{build_id}/", endorsement().sha256());
        assert_eq!(statement.id.as_str(), format!("{name}statement"));
        authority.attestation(&read(&certificates.attestation)).unwrap();
        let issuer = authority.issuer(&read(&certificates.issuer)).unwrap();
        assert!(issuer.is_of(&endorsement().sha256(), &build_id));
        assert_eq!(issuer.key, machine.issuer_key.verifying_key());
        let dispatch = authority.dispatch(&read(&certificates.dispatch.certificate)).unwrap();
        assert_eq!(dispatch.id.as_str(), format!("{name}dispatch"));
        let (binding, quote) = (&answer.binding, &answer.quote.0);
        let said = Dispatched { binding, quote, builder_id: BUILDER_DIRECT, policy_sha256, hosted: None };
        let Dispatch { attestation, summary, image, .. } = &certificates.dispatch;
        let found = Envelopes { attestation: &attestation.0, summary: &summary.0, image: &image.0 };
        assert_eq!(said.check(found, &dispatch.key).unwrap(), used);

        assert_eq!(machine.get(path::JOB).await.unwrap().1, document);
        // The file is longer than the job says: one byte more shows it, and no more is sent.
        assert_eq!(machine.get(INPUT).await.unwrap(), (StatusCode::OK, "int m".into()));
        let unknown = format!("{}{}", path::INPUTS, Sha256Digest::of(b"other"));
        assert_eq!(machine.get(&unknown).await.unwrap().0, StatusCode::NOT_FOUND);
        machine.decide(Ruling::Allow).await.unwrap();
        machine.step("build", frames(&[(Stream::Out, b"compiling"), (Stream::Err, b"done")])).await;
        machine.put("artifacts/hello", "0123456789").await.unwrap();
        machine.put(RECORD, "{}").await.unwrap();
        assert_eq!(machine.done(Said::Built).await.unwrap().0, StatusCode::NO_CONTENT);
    });
    assert!(matches!(outcome.await.unwrap(), Outcome::Built));
    assert_eq!(fs::read(rig.bundle.join("artifacts/hello")).unwrap(), b"0123456789");
    assert_eq!(fs::read(rig.bundle.join(RECORD)).unwrap(), b"{}");
    assert_eq!((rig.heard("StepWrote"), rig.heard("FileTaken"), rig.heard("Attested")), (2, 2, 1), "{:?}", rig.said);
}

/// A host of one mode has no other's keys: what it certifies names its own signer.
#[tokio::test]
async fn a_machine_is_certified_where_there_is_no_key_but_its_own_mode_s() {
    let mut rig = Rig::new();
    let directory = rig.site.directory().to_owned();
    let own = site::signer::paths(&directory, BUILDER_DIRECT).unwrap();
    for entry in fs::read_dir(directory.join(site::path::AUTHORITIES)).unwrap().map(|entry| entry.unwrap().path()) {
        if !own.contains(&entry) {
            fs::remove_file(entry).unwrap();
        }
    }
    for key in [site::path::ROOT_KEY, site::path::INVOKER_KEY] {
        fs::remove_file(directory.join(key)).unwrap();
    }
    rig.site = Site::open(&directory, now()).unwrap();
    rig.signer = rig.site.signer(BUILDER_DIRECT, now()).unwrap();
    drop(std::mem::replace(&mut rig.state, State::open(&rig.site).unwrap()));
    let (root, expected) = (rig.site.root().clone(), rig.signer.certificate().clone());
    let outcome = rig.run(async |mut machine| {
        let answer = machine.prepare().await;
        let (_, certificates) = machine.send_attestation(&answer).await.unwrap();
        let certificates: Certificates = serde_json::from_slice(&certificates).unwrap();
        let authority = Certificate::from_pem(certificates.authority.as_bytes()).unwrap();
        assert_eq!(authority, expected);
        let other_mode = CertificateError::OtherMode { certified_for: BUILDER_DIRECT };
        let as_a_server = certificate::Authority::check(&root, &authority, now(), BUILDER_METAL);
        assert_eq!(as_a_server.err(), Some(other_mode));
        assert_eq!(machine.get(path::JOB).await.unwrap().0, StatusCode::OK);
    });
    assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Closed))));
    assert!(rig.site.signer(BUILDER_METAL, now()).is_err());
}

#[tokio::test]
async fn refusals_and_failed_steps_are_outcomes() {
    let mut rig = Rig::new();
    let refused = rig.run(async |mut machine| {
        machine.attest().await;
        machine.get(path::JOB).await.unwrap();
        machine.decide(Ruling::Deny(refusal())).await.unwrap();
        machine.put("evidence/decision.dsse.json", "{}").await.unwrap();
        machine.done(Said::Refused).await.unwrap();
    });
    let Outcome::Refused(decision) = refused.await.unwrap() else { panic!("not refused") };
    assert_eq!(decision.verdict, Ruling::Deny(refusal()));

    let failed = in_a_new_rig(async |mut machine| {
        machine.admitted().await;
        machine.step("build", "").await;
        machine.done(Said::StepFailed).await.unwrap();
    });
    assert!(matches!(failed.await.unwrap(), Outcome::StepFailed));
}

/// Each changes an honest answer; the authority says no.
#[tokio::test]
async fn no_quote_no_job() {
    type Change = fn(&mut Attestation, &Machine);
    let changes: [(&str, Change); 7] = [
        ("quote", |a, _| a.signature.0[40] ^= 1),
        ("statement_key", |a, _| a.statement_key.0[20] ^= 1),
        ("issuer_key", |a, _| a.issuer_key = a.statement_key.clone()),
        ("other_challenge", |a, _| a.binding.challenge.nonce = Sha256Digest::of(b"an older one")),
        ("other_challenge", |a, m| {
            // A quote made for another challenge, whole in itself.
            let other = Challenge { nonce: Sha256Digest::of(b"an older one"), ..m.challenge.clone().unwrap() };
            *a = m.attestation(other, a.runtime_log.0.clone());
        }),
        ("event_order", |a, m| {
            let mut events = boot_events(Sha256Digest::of(b"x"), Sha256Digest::of(b"y")).to_vec();
            events.remove(0);
            *a = m.attestation(m.challenge.clone().unwrap(), runtime_log(&events));
        }),
        ("runtime_log", |a, _| a.runtime_log.0.clear()),
    ];
    for (name, change) in changes {
        let mut rig = Rig::new();
        let outcome = rig.run(async |mut machine| {
            let mut attestation = machine.prepare().await;
            change(&mut attestation, &machine);
            let (status, body) = machine.send_attestation(&attestation).await.unwrap();
            assert_eq!(status, StatusCode::FORBIDDEN, "{name}");
            let refused: NotAttested = serde_json::from_slice(&body).unwrap();
            assert_eq!(refused.code, name, "{refused}");
            assert!(machine.get(path::JOB).await.is_none(), "{name}: the link is still open");
        });
        assert!(matches!(outcome.await.unwrap(), Outcome::NotAttested(_)), "{name}");
        assert_eq!((rig.heard("JobTaken"), rig.heard("Attested")), (0, 0), "{name}");
    }
}

#[tokio::test]
async fn an_image_without_reference_values_gets_no_job() {
    let mut rig = Rig::new();
    rig.reference.init_sha256 = Sha256Digest::of(b"another init");
    let outcome = rig.run(async |mut machine| {
        let attestation = machine.prepare().await;
        assert_eq!(machine.send_attestation(&attestation).await.unwrap().0, StatusCode::FORBIDDEN);
    });
    let Outcome::NotAttested(findings) = outcome.await.unwrap() else { panic!("attested") };
    assert_eq!(findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["init"]);
}

/// What a machine does out of order, after as much order as each step needs.
#[tokio::test]
async fn order_is_kept() {
    async fn breaks(script: impl AsyncFnOnce(&mut Machine)) {
        let mut rig = Rig::new();
        let outcome = rig.run(async |mut machine| script(&mut machine).await).await;
        assert!(matches!(outcome, Err(Fault::OutOfOrder { .. })), "{outcome:?}");
    }
    breaks(async |m| assert!(m.get(path::JOB).await.is_none())).await;
    breaks(async |m| assert!(m.ask(Method::POST, path::CONFIGURATION, "").await.is_none())).await;
    breaks(async |m| assert!(m.ask(Method::GET, path::CONFIGURATION, "a body").await.is_none())).await;
    breaks(async |m| assert!(m.get("/v1/configuration?again").await.is_none())).await;
    breaks(async |m| {
        m.get(path::CONFIGURATION).await.unwrap();
        assert!(m.ask(Method::POST, path::ENROLMENT, "{}").await.is_none());
    })
    .await;
    breaks(async |m| {
        m.prepare().await;
        assert!(m.get(path::JOB).await.is_none());
    })
    .await;
    breaks(async |m| {
        m.attest().await;
        assert!(m.ask(Method::POST, path::ENROLMENT, "{}").await.is_none());
    })
    .await;
    breaks(async |m| {
        m.attest().await;
        m.get(path::JOB).await.unwrap();
        assert!(m.put(RECORD, "{}").await.is_none());
    })
    .await;
    breaks(async |m| {
        m.admitted().await;
        assert!(m.get(path::JOB).await.is_none());
    })
    .await;
    breaks(async |m| {
        m.admitted().await;
        m.put(RECORD, "{}").await.unwrap();
        assert!(m.log("build", "").await.is_none());
    })
    .await;
    breaks(async |m| {
        m.admitted().await;
        m.log("build", "").await.unwrap();
        assert!(m.log("build", "").await.is_none());
    })
    .await;
}

#[tokio::test]
async fn only_files_of_the_bundle_are_written() {
    let foreign = [
        "../escaped",
        "evidence/../../escaped",
        "/etc/escaped",
        "evidence/%2e%2e/escaped",
        "evidence/records/00-other.dsse.json",
        "evidence/records/01-build.dsse.json",
        "artifacts/other",
        "artifacts/hello/x",
        "verdict.json",
        "",
    ];
    for file in foreign {
        let mut rig = Rig::new();
        let outcome = rig.run(async |mut machine| {
            machine.admitted().await;
            assert!(machine.put(file, "x").await.is_none(), "{file}");
        });
        assert!(matches!(outcome.await, Err(Fault::OutOfOrder { .. })), "{file}");
        assert_eq!(rig.files(), 0, "{file}");
    }
}

#[tokio::test]
async fn files_come_once_and_within_their_bounds() {
    let mut rig = Rig::new();
    let twice = rig.run(async |mut machine| {
        machine.admitted().await;
        machine.put(RECORD, "first").await.unwrap();
        assert!(machine.put(RECORD, "second").await.is_none());
    });
    assert!(matches!(twice.await, Err(Fault::Intake(crate::IntakeError::Twice { .. }))));
    assert_eq!(fs::read(rig.bundle.join(RECORD)).unwrap(), b"first");

    let mut rig = Rig::new();
    let large = rig.run(async |mut machine| {
        machine.admitted().await;
        assert!(machine.put("artifacts/hello", "01234567890").await.is_none());
    });
    let large = large.await;
    assert!(matches!(large, Err(Fault::Intake(crate::IntakeError::Link(LinkError::TooLarge { .. })))), "{large:?}");

    let mut rig = Rig::new();
    let large = rig.run(async |mut machine| {
        machine.prepare().await;
        assert!(machine.ask(Method::POST, path::ATTESTATION, vec![b' '; MESSAGE_BYTES_MAX + 1]).await.is_none());
    });
    let large = large.await;
    assert!(matches!(large, Err(Fault::Link(LinkError::TooLarge { .. }))), "{large:?}");
}

#[tokio::test]
async fn a_refused_job_leaves_no_artifact_and_no_log() {
    for (target, method) in [("/v1/files/artifacts/hello", Method::PUT), ("/v1/logs/build", Method::POST)] {
        let outcome = in_a_new_rig(async |mut machine| {
            machine.attest().await;
            machine.get(path::JOB).await.unwrap();
            machine.decide(Ruling::Deny(refusal())).await.unwrap();
            assert!(machine.ask(method, target, "").await.is_none());
        });
        assert!(matches!(outcome.await, Err(Fault::OutOfOrder { .. })), "{target}");
    }
}

#[tokio::test]
async fn the_last_word_fits_what_came_before() {
    for said in [Said::Refused, Said::StepFailed] {
        let outcome = in_a_new_rig(async |mut machine| {
            machine.admitted().await;
            machine.put("artifacts/hello", "x").await.unwrap();
            assert!(machine.done(said).await.is_none());
        });
        assert!(matches!(outcome.await, Err(Fault::Contradiction { .. })), "{said:?}");
    }
}

#[tokio::test]
async fn a_decision_is_signed_by_the_certified_key_and_about_this_job() {
    let outcome = in_a_new_rig(async |mut machine| {
        machine.attest().await;
        machine.get(path::JOB).await.unwrap();
        machine.statement_key = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
        assert!(machine.decide(Ruling::Allow).await.is_none());
    });
    assert!(matches!(outcome.await, Err(Fault::DecisionSignature { .. })));
    let outcome = in_a_new_rig(async |mut machine| {
        machine.attest().await;
        machine.get(path::JOB).await.unwrap();
        machine.challenge.as_mut().unwrap().job_sha256 = Sha256Digest::of(b"another job");
        assert!(machine.decide(Ruling::Allow).await.is_none());
    });
    assert!(matches!(outcome.await, Err(Fault::DecisionMismatch { field: "job_sha256" })));
}

#[tokio::test]
async fn logs_are_whole_frames_within_the_step_s_bound() {
    let full = frames(&[(Stream::Out, &[b'x'; 100])]);
    let beyond = frames(&[(Stream::Out, &[b'x'; 200])]);
    let again = [full.clone(), full.clone()].concat();
    for (bytes, good) in
        [(full.clone(), true), (full[..50].to_vec(), false), (beyond, false), (again, false), (vec![9; 30], false)]
    {
        let outcome = in_a_new_rig(async |mut machine| {
            machine.admitted().await;
            assert_eq!(machine.log("build", bytes).await.is_some(), good);
            machine.identify("build", "build").await;
            machine.trace("build", "build").await;
            machine.record("build", "build").await;
            machine.done(Said::StepFailed).await;
        });
        assert_eq!(outcome.await.is_ok(), good);
    }
}
