//! How many machines the authority enrols in a second on one processor: everything but the TPM's share.
//!
//! `cargo bench -p kiln-attestor -- [--check]`; with `--check` a missed target makes the exit status 1. Each machine speaks the whole
//! protocol over a link of memory, from the configuration to its job, with quotes of a key in software; what the machines' thread takes of
//! a processor is not counted. The state is on the disk, in the working directory's target, with every commit synced.
//! Run by `cargo test` it is short. Deliberately absent: absolute times of a machine, which are `kiln bench boot`'s.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing to say")]

#[path = "../src/authority/tests/endorsement.rs"]
#[expect(dead_code, reason = "the tests' endorsement keys can do more than open a credential")]
mod endorsement;
#[path = "../src/authority/tests/machine.rs"]
#[expect(dead_code, reason = "the tests' machine can do more than enrol")]
mod machine;
#[path = "../src/authority/tests/producer.rs"]
mod producer;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kiln_attestor::site::{self, Names, PROFILES, Signer, Site};
use kiln_attestor::state::{Archive, State};
use kiln_attestor::{Authority, BOOT, Offer, Report, Surroundings};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::endorsement::TpmClass;
use kiln_formats::link::path;
use kiln_formats::names::BUILDER_DIRECT;
use kiln_formats::reference::Reference;
use kiln_formats::timestamp::Timestamp;
use machine::Machine;
use rustix::time::{ClockId, clock_gettime};
use tokio::io::DuplexStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

/// The least: enrolments in a second and for each processor, where enough machines wait to keep one busy. One at a time never does: it
/// waits for the disk at every step, and each time it is woken costs it some of the processor.
const RATE_MIN: f64 = 200.0;

fn main() {
    let has = |word: &str| std::env::args().any(|argument| argument == word);
    let machines = if has("--bench") { 2000 } else { 20 };
    let directory = tempfile::tempdir_in(".").unwrap();
    let home = directory.path().join("site");
    let names = Names { site: "bench".parse().unwrap(), trust_domain: "bench.example".parse().unwrap() };
    site::create(&home, &names, &PROFILES, now(), getrandom::fill).unwrap();
    site::enrolment::add_key(&home, TpmClass::Virtual, machine::endorsement().sha256()).unwrap();
    let mut site = Site::open(&home, now()).unwrap();
    let (image, key) = (Sha256Digest::of(b"uki"), site::provenance::producer(&site).unwrap().unwrap());
    let envelope = site::provenance::sign(&producer::statement(image), &key).unwrap();
    site::provenance::add(&home, &image, &envelope).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut best = 0_f64;
    for together in [1, 16, 128] {
        let begin = (Instant::now(), processor(ClockId::ProcessCPUTime));
        let theirs;
        (site, theirs) = runtime.block_on(enrol(site, machines, together));
        let taken = processor(ClockId::ProcessCPUTime) - begin.1 - theirs;
        let (wall, cpu) = (begin.0.elapsed().as_secs_f64(), taken.as_secs_f64());
        let count = f64::from(machines);
        let (rate, per_processor) = (count / wall, count / cpu);
        best = best.max(per_processor);
        println!("{together:>4} at once: {rate:>6.0}/s, {per_processor:>6.0}/s of a processor's time");
    }
    let begin = Instant::now();
    let summary = Archive::open(&site).unwrap().verify(None, |_| {}).unwrap();
    let verified = begin.elapsed();
    println!("ledger of {} entries verified in {:.0} ms", summary.entries, verified.as_secs_f64() * 1e3);
    let missed = best < RATE_MIN;
    println!("{} at least {RATE_MIN}/s of a processor's time", if missed { "MISSED" } else { "met   " });
    if has("--check") && missed {
        std::process::exit(1);
    }
}

/// What all machines are enrolled with.
struct World {
    site: Site,
    signer: Signer,
    state: State,
    reference: Reference,
    offer: Offer,
}

/// Enrols so many machines, so many of them at the same time. Gives the site back, and says what the machines' own processor was.
async fn enrol(site: Site, machines: u32, together: u32) -> (Site, Duration) {
    let state = State::open(&site).unwrap();
    let reference = site.reference(Sha256Digest::of(b"uki"), machine::init_sha256(), &BTreeMap::new()).unwrap();
    let offer = Offer::new(b"a job".to_vec(), &BTreeMap::new()).unwrap();
    let signer = site.signer(BUILDER_DIRECT, now()).unwrap();
    let world = Rc::new(World { site, signer, state, reference, offer });
    let (links, waiting) = unbounded_channel();
    let clients = std::thread::spawn(move || clients(waiting));
    let turns = LocalSet::new();
    for turn in 0..together {
        let (world, links) = (Rc::clone(&world), links.clone());
        let share = machines / together + u32::from(turn < machines % together);
        turns.spawn_local(async move {
            for _ in 0..share {
                serve(&world, &links).await;
            }
        });
    }
    turns.await;
    drop(links);
    let theirs = clients.join().unwrap();
    (Rc::into_inner(world).unwrap().site, theirs)
}

/// One machine, from its first request to its job.
async fn serve(world: &World, links: &UnboundedSender<DuplexStream>) {
    let (host, guest) = tokio::io::duplex(1 << 16);
    links.send(guest).unwrap();
    let authority = Authority {
        site: &world.site,
        state: &world.state,
        signer: &world.signer,
        reference: &world.reference,
        offer: &world.offer,
        taken: &AtomicBool::new(false),
        bundle: world.site.directory(),
        first_request: BOOT,
        notices: None,
        host: None,
        surroundings: Surroundings { now: clock, random: getrandom::fill, reference_time: None },
    };
    let mut listener = |_: Report<'_>| {};
    // It hangs up after its job: what comes then is no enrolment.
    let served = authority.serve(host, Duration::from_secs(600), &mut listener).await;
    assert_eq!(served.unwrap_err().code(), "link_closed");
}

/// All machines, on a thread of their own; says how much of a processor they took.
fn clients(mut waiting: UnboundedReceiver<DuplexStream>) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let mut machines = Vec::new();
        while let Some(guest) = waiting.recv().await {
            machines.push(tokio::task::spawn_local(async {
                let mut machine = Machine::new(guest).await;
                machine.attest().await;
                machine.get(path::JOB).await.unwrap();
            }));
        }
        for machine in machines {
            machine.await.unwrap();
        }
    });
    processor(ClockId::ThreadCPUTime)
}

fn now() -> Timestamp {
    clock().unwrap()
}

fn clock() -> Option<Timestamp> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Timestamp::from_unix(i64::try_from(since.as_secs()).ok()?).ok()
}

/// How much of the processors this process or thread has had.
fn processor(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}
