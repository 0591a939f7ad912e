//! How long logs take and how much memory: every log of real machines, hostile logs of ten megabytes, a thousand audits.
//!
//! Ratios count: bytes of memory for each byte of the log, and each log against the bound of a millisecond. Logs are read from
//! `KILN_EVENT_LOGS`, else from beside the workspace; without them only the hostile part runs, and says so.

#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a benchmark that cannot read its input ends")]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_formats::audit::{Against, Member, audit, summarise};
use kiln_formats::boot::Boot;
use kiln_formats::cel::{CelLog, RECORDS_MAX};
use kiln_formats::eventlog::{EVENTS_MAX, EventLog};
use kiln_formats::pcr::PcrValues;
use peak_alloc::PeakAlloc;
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// How often a log is read; the median counts.
const ROUNDS: usize = 21;
/// The bytes of a hostile log.
const HOSTILE_BYTES: usize = 10_000_000;
/// How many boots are audited.
const BOOTS: usize = 1000;

/// Bounds, as ratios to them are printed.
const LOG_BOUND: Duration = Duration::from_millis(1);
const HOSTILE_BOUND: Duration = Duration::from_millis(50);
const AUDITS_BOUND: Duration = Duration::from_secs(2);

fn main() {
    println!("{:<62} {:>9} {:>10} {:>8} {:>8}", "parse and replay", "bytes", "CPU", "bound", "memory");
    let logs = real_logs();
    for (name, bytes) in &logs {
        report(name, bytes, LOG_BOUND);
    }
    for (name, bytes) in hostile() {
        report(name, &bytes, HOSTILE_BOUND);
    }
    for (name, text) in hostile_text() {
        measure(name, text.len(), HOSTILE_BOUND, || drop(black_box(CelLog::parse(black_box(text.as_bytes())))));
    }
    many(&logs);
}

/// A thousand boots: read, replayed, audited and summarised, all of one kind and each of another.
fn many(logs: &[(String, Vec<u8>)]) {
    let Some((_, usual)) = logs.iter().find(|(name, _)| name.contains("sdstub")) else { return };
    let distinct = |at: usize| {
        let word = format!("\x1e{{\"pcr\":15,\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{at:064x}\"}}]}}\n");
        (usual.clone(), word.into_bytes())
    };
    let same: Vec<_> = (0..BOOTS).map(|_| distinct(0)).collect();
    let others: Vec<_> = (0..BOOTS).map(distinct).collect();
    let foreign = (0..BOOTS).filter_map(|at| Some((logs.get(at % logs.len())?.1.clone(), distinct(at).1)));
    let foreign: Vec<_> = foreign.collect();
    for (name, boots) in [("of one kind", &same), ("each of its own", &others), ("of all machines", &foreign)] {
        // What each machine's TPM holds comes with its logs.
        let values: Vec<PcrValues> = boots.iter().map(|logs| boot(logs).replay()).collect();
        let started = now();
        let member = |(logs, values)| {
            let boot = boot(logs);
            let audit = audit(&boot, &Against { values: Some(values), ..Against::default() });
            let (verdict, values) = (audit.verdict(), audit.replayed);
            Member { name: String::new(), boot, verdict, values, failures: Vec::new() }
        };
        let members: Vec<_> = boots.iter().zip(&values).map(member).collect();
        let groups = black_box(summarise(&members, Vec::new())).groups.len();
        let took = now().saturating_sub(started);
        println!("{BOOTS} boots {name}, {groups} groups: {took:?}, {:.2} of the bound", ratio(took, AUDITS_BOUND));
    }
}

/// A firmware's log and the running system's.
type Logs = (Vec<u8>, Vec<u8>);

fn boot((firmware, runtime): &Logs) -> Boot<'_> {
    Boot { firmware: EventLog::parse(firmware).ok(), runtime: CelLog::parse(runtime).ok() }
}

/// The time that this program has had of a processor: a busy machine does not count.
fn now() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}

fn report(name: &str, bytes: &[u8], bound: Duration) {
    measure(name, bytes.len(), bound, || {
        // A hostile log may be refused: that is an answer too.
        if let Ok(log) = EventLog::parse(black_box(bytes)) {
            black_box(log.replay());
        }
    });
}

fn measure(name: &str, size: usize, bound: Duration, run: impl Fn()) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    run();
    let peak = MEMORY.peak_usage().saturating_sub(before);
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let started = now();
            run();
            now().saturating_sub(started)
        })
        .collect();
    times.sort_unstable();
    let median = times.get(ROUNDS / 2).copied().unwrap_or_default();
    let memory = peak as f64 / size as f64;
    println!("{name:<62} {size:>9} {median:>10.1?} {:>7.2}x {memory:>7.3}x", ratio(median, bound));
}

fn ratio(time: Duration, bound: Duration) -> f64 {
    time.as_secs_f64() / bound.as_secs_f64()
}

fn real_logs() -> Vec<(String, Vec<u8>)> {
    let beside = || Some(Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?.join("shared/data/event-logs"));
    let folder = std::env::var_os("KILN_EVENT_LOGS").map(PathBuf::from).or_else(beside).unwrap_or_default();
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("LEFT OUT: there are no event logs in KILN_EVENT_LOGS or ../shared/data/event-logs");
        return Vec::new();
    };
    let mut logs: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "bin"))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).expect("a file")))
        .collect();
    logs.sort_unstable();
    logs
}

/// Logs of the most events, of the most extends, of the most digests, and of one claim.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let le = |value: u32| value.to_le_bytes();
    let mut header = [le(0), le(3)].concat();
    header.extend([0; 20]);
    let mut spec = b"Spec ID Event03\0".to_vec();
    spec.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    let banks: [(u16, u16); 5] = [(4, 20), (0x0b, 32), (0x0c, 48), (0x0d, 64), (0x12, 32)];
    spec.extend(le(banks.len() as u32));
    banks.iter().for_each(|(id, size)| spec.extend([id.to_le_bytes(), size.to_le_bytes()].concat()));
    spec.push(0);
    header.extend(le(spec.len() as u32));
    header.extend(&spec);
    let event = |digests: &[(u16, u16)], data_bytes: usize| {
        let mut bytes = [le(1), le(13), le(digests.len() as u32)].concat();
        for (id, size) in digests {
            bytes.extend(id.to_le_bytes());
            bytes.extend(vec![7; usize::from(*size)]);
        }
        bytes.extend(le(data_bytes as u32));
        bytes.extend(vec![7; data_bytes]);
        bytes
    };
    // As many events as are read, each as large as it takes to fill the log.
    let fill = |digests: &[(u16, u16)]| {
        let data_bytes = HOSTILE_BYTES / EVENTS_MAX - event(digests, 0).len();
        [header.clone(), event(digests, data_bytes).repeat(EVENTS_MAX)].concat()
    };
    let sha1_data = HOSTILE_BYTES / EVENTS_MAX - 32;
    let sha1 = [&[1, 0, 0, 0, 13, 0, 0, 0][..], &[7; 20], &le(sha1_data as u32), &vec![7; sha1_data]].concat();
    let small = event(&[(0x0b, 32)], 0);
    let more = [header.clone(), small.repeat((HOSTILE_BYTES - header.len()) / small.len())].concat();
    // Data that looks like padding, behind a claim of all of it.
    let one = event(&[(0x0b, 32)], HOSTILE_BYTES - header.len());
    let one = [header.clone(), one.iter().map(|byte| if *byte == 7 { 0xff } else { *byte }).collect()].concat();
    vec![
        ("hostile: events without digests", fill(&[])),
        ("hostile: SHA-1 events", sha1.repeat(EVENTS_MAX)),
        ("hostile: SHA-256 events", fill(&[(0x0b, 32)])),
        ("hostile: SHA-384 events", fill(&[(0x0c, 48)])),
        ("hostile: SM3 events", fill(&[(0x12, 32)])),
        ("hostile: events in five banks", fill(&banks)),
        ("hostile: more events than are read", more),
        ("hostile: one event", one),
    ]
}

/// Runtime logs of the most records: more than are read, and as many as are read.
fn hostile_text() -> Vec<(&'static str, String)> {
    let record = "\x1e{\"pcr\":1,\"digests\":[]}\n";
    let digest = format!("{{\"hashAlg\":\"sha256\",\"digest\":\"{}\"}}", "07".repeat(32));
    let long = format!(
        "\x1e{{\"pcr\":1,\"digests\":[{digest}],\"x\":\"{}\"}}\n",
        "y".repeat(HOSTILE_BYTES / RECORDS_MAX - 130)
    );
    let count = (HOSTILE_BYTES / long.len()).min(RECORDS_MAX);
    vec![
        ("hostile runtime log: more records than are read", record.repeat(HOSTILE_BYTES / record.len())),
        ("hostile runtime log: as many as are read", long.repeat(count)),
    ]
}
