//! What is told while machines are served: whole, in order, chained; and an authority that cannot tell it is at fault.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::*;

/// A sink that takes so many lines, and no more.
#[derive(Clone, Default)]
struct Sink {
    bytes: Arc<Mutex<Vec<u8>>>,
    lines_max: Option<usize>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut held = self.bytes.lock().unwrap();
        if self.lines_max.is_some_and(|max| held.iter().filter(|byte| **byte == b'\n').count() >= max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        held.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }

    fn kinds(&self) -> Vec<String> {
        let kind =
            |line: &String| serde_json::from_str::<Value>(line).unwrap()["notice"]["kind"].as_str().map(str::to_owned);
        self.lines().iter().map(|line| kind(line).unwrap()).collect()
    }
}

async fn told(rig: &Rig, sink: &Sink, script: impl AsyncFnOnce(Machine)) -> Result<Outcome, Fault> {
    let notices = Notices::new(sink.clone());
    told_by(rig, &notices, script).await
}

async fn told_by(rig: &Rig, notices: &Notices, script: impl AsyncFnOnce(Machine)) -> Result<Outcome, Fault> {
    let authority = Authority { notices: Some(notices), ..rig.authority() };
    let (host, guest) = tokio::io::duplex(1 << 16);
    let mut listener = |_: Report<'_>| {};
    let serve = authority.serve(host, Duration::from_secs(3600), &mut listener);
    let (outcome, ()) = tokio::join!(serve, async { script(Machine::new(guest).await).await });
    outcome
}

async fn build(mut machine: Machine) {
    machine.admitted().await;
    machine.step("build", frames(&[(Stream::Out, b"not told")])).await;
    machine.done(Said::StepFailed).await;
}

#[tokio::test]
async fn a_build_is_told_from_its_quote_to_its_end() {
    let (rig, sink) = (Rig::new(), Sink::default());
    told(&rig, &sink, build).await.unwrap();
    let kinds = ["attested", "job_taken", "decided", "step_begun", "denied", "step_traced", "step_recorded", "ended"];
    assert_eq!(sink.kinds(), kinds);
    let denied: Value = serde_json::from_str(&sink.lines()[4]).unwrap();
    assert_eq!(denied["notice"]["layer"], "seccomp");
    assert_eq!(denied["notice"]["count"], 2);
    assert_eq!(denied["build_id"].as_str().unwrap().len(), 32);
    assert!(!sink.lines().concat().contains("not told"), "a step's log is no notice");
}

#[tokio::test]
async fn each_line_names_the_one_before_it_over_all_machines() {
    let (rig, sink) = (Rig::new(), Sink::default());
    let notices = Notices::new(sink.clone());
    for _ in 0..2 {
        rig.taken.store(false, Ordering::Release);
        told_by(&rig, &notices, build).await.unwrap();
    }
    let mut previous = Sha256Digest::from_bytes([0; 32]).to_string();
    for (at, line) in sink.lines().iter().enumerate() {
        let read: Value = serde_json::from_str(line).unwrap();
        assert_eq!((read["sequence"].as_u64(), read["previous_sha256"].as_str()), (Some(at as u64), Some(&*previous)));
        previous = Sha256Digest::of(line.as_bytes()).to_string();
    }
    assert_eq!(sink.lines().len(), 16);
}

#[tokio::test]
async fn a_refused_machine_is_told_with_its_reason() {
    let (rig, sink) = (Rig::new(), Sink::default());
    let outcome = told(&rig, &sink, async |mut machine| {
        let mut answer = machine.prepare().await;
        answer.quote.0[12] ^= 1;
        machine.send_attestation(&answer).await;
    });
    assert!(matches!(outcome.await, Ok(Outcome::NotAttested(_))));
    assert_eq!(sink.kinds(), ["not_attested", "ended"]);
    assert!(sink.lines()[0].contains("\"code\":\"quote"), "{:?}", sink.lines());
}

#[tokio::test]
async fn who_cannot_tell_is_at_fault() {
    for lines_max in [0, 1, 7] {
        let (rig, sink) = (Rig::new(), Sink { lines_max: Some(lines_max), ..Sink::default() });
        let outcome = told(&rig, &sink, build).await;
        assert!(matches!(outcome, Err(Fault::Untold { .. })), "{outcome:?}");
        assert_eq!(sink.lines().len(), lines_max);
    }
}
