//! Every act at every moment: only the next one passes.

use super::*;

/// Everything that can be asked of [`Order`].
#[derive(Debug, Clone, PartialEq)]
enum Act {
    Measure(Event),
    Allow(Sha256Digest),
    Identify(Name),
    Sign(Label, Sha256Digest),
    Activate,
    Quote(WhichQuote),
    Done(Outcome),
}

fn digest(of: &str) -> Sha256Digest {
    Sha256Digest::of(of.as_bytes())
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn record(step: &str) -> Label {
    Label::Record { step: name(step) }
}

fn trace(step: &str) -> Label {
    Label::Trace { step: name(step) }
}

fn attempt(order: &mut Order, act: &Act) -> Result<(), Violation> {
    match act {
        Act::Measure(event) => order.measure(event),
        Act::Allow(job) => order.allow(job),
        Act::Identify(step) => order.identify(step).map(drop),
        Act::Sign(label, payload) => order.sign(label, payload),
        Act::Activate => order.activate(),
        Act::Quote(which) => order.quote(*which),
        Act::Done(outcome) => order.done(*outcome),
    }
}

fn after(acts: &[Act]) -> Order {
    let mut order = Order::new();
    acts.iter().for_each(|act| attempt(&mut order, act).unwrap_or_else(|violation| panic!("{act:?}: {violation}")));
    order
}

/// A whole life: one input, two steps, one output.
fn life() -> Vec<Act> {
    vec![
        Act::Measure(Event::Init(digest("init"))),
        Act::Measure(Event::Configuration(digest("configuration"))),
        Act::Measure(Event::Trust(digest("trust"))),
        Act::Activate,
        Act::Quote(WhichQuote::First),
        Act::Measure(Event::Job(digest("job"))),
        Act::Allow(digest("job")),
        Act::Measure(Event::Decision(digest("decision"))),
        Act::Sign(Label::Decision, digest("decision")),
        Act::Measure(Event::Input(name("source"), digest("source"))),
        Act::Measure(Event::StepBegin(name("configure"), digest("spec 1"))),
        Act::Identify(name("configure")),
        Act::Measure(Event::StepTrace(name("configure"), digest("trace 1"))),
        Act::Sign(trace("configure"), digest("trace 1")),
        Act::Measure(Event::StepEnd(name("configure"), digest("record 1"))),
        Act::Sign(record("configure"), digest("record 1")),
        Act::Measure(Event::StepBegin(name("make"), digest("spec 2"))),
        Act::Identify(name("make")),
        Act::Measure(Event::StepTrace(name("make"), digest("trace 2"))),
        Act::Sign(trace("make"), digest("trace 2")),
        Act::Measure(Event::StepEnd(name("make"), digest("record 2"))),
        Act::Sign(record("make"), digest("record 2")),
        Act::Measure(Event::Output(name("libz.a"), digest("libz.a"))),
        Act::Measure(Event::Provenance(digest("provenance"))),
        Act::Sign(Label::Provenance, digest("provenance")),
        Act::Measure(Event::Manifest(digest("manifest"))),
        Act::Sign(Label::Manifest, digest("manifest")),
        Act::Measure(Event::Final),
        Act::Quote(WhichQuote::Last),
        Act::Done(Outcome::Built),
    ]
}

/// The acts that may stand in for the next one of [`life`]: what a shorter or an unhappy life does there.
fn other_ways(at: usize) -> Vec<Act> {
    let life = life();
    let of_life =
        |numbers: &[usize]| numbers.iter().filter_map(|number| life.get(*number)).cloned().collect::<Vec<_>>();
    match at {
        // A denial.
        6 => of_life(&[7]),
        // No input; the second step first.
        9 => of_life(&[10, 16]),
        10 => of_life(&[16]),
        // One step and then outputs, the provenance, or the manifest of a failed step.
        16 => of_life(&[22, 23, 25]),
        // A second step is the last; its outputs are none.
        22 => of_life(&[23, 25]),
        // An output was not as declared.
        23 => of_life(&[25]),
        _ => Vec::new(),
    }
}

#[test]
fn at_every_moment_only_the_next_act_passes() {
    let life = life();
    for at in 0..life.len() {
        let others = other_ways(at);
        for act in life.iter().chain([&Act::Done(Outcome::StepFailed), &Act::Done(Outcome::Refused)]) {
            let mut order = after(&life[..at]);
            let passes = attempt(&mut order, act).is_ok();
            let expected = life.get(at) == Some(act) || others.contains(act);
            assert_eq!(passes, expected, "after {at} acts: {act:?}");
        }
    }
}

#[test]
fn a_no_changes_nothing() {
    let life = life();
    let mut order = Order::new();
    for (at, next) in life.iter().enumerate() {
        let others = other_ways(at);
        for act in life.iter().filter(|act| *act != next && !others.contains(act)) {
            assert!(attempt(&mut order, act).is_err());
        }
        attempt(&mut order, next).unwrap();
    }
}

#[test]
fn one_machine_has_one_job() {
    let life = life();
    // From the job on, until the very end.
    for at in 6..life.len() {
        let second = Act::Measure(Event::Job(digest("another job")));
        assert_eq!(attempt(&mut after(&life[..at]), &second), Err(Refusal::OneShot.into()), "after {at} acts");
    }
    for at in 7..life.len() {
        let again = Act::Allow(digest("job"));
        assert_eq!(attempt(&mut after(&life[..at]), &again), Err(Refusal::OneShot.into()), "after {at} acts");
    }
}

#[test]
fn no_record_is_signed_for_a_step_that_was_not_admitted_and_begun() {
    let life = life();
    let sign = Act::Sign(record("configure"), digest("record 1"));
    let sign_trace = Act::Sign(trace("configure"), digest("trace 1"));
    for at in 0..life.len() {
        for (act, moment) in [(&sign, 15), (&sign_trace, 13)] {
            let answer = attempt(&mut after(&life[..at]), act);
            let expected = if at == moment { Ok(()) } else { Err(Refusal::NoAdmissionLabel.into()) };
            assert_eq!(answer, expected, "after {at} acts");
        }
    }
    // A denied job has no steps.
    let mut denied = after(&life[..6]);
    attempt(&mut denied, &life[7]).unwrap();
    attempt(&mut denied, &life[8]).unwrap();
    assert!(matches!(attempt(&mut denied, &life[10]), Err(Violation::OutOfOrder { .. })));
    assert_eq!(attempt(&mut denied, &sign), Err(Refusal::NoAdmissionLabel.into()));
    assert_eq!(attempt(&mut denied, &Act::Allow(digest("job"))), Err(Refusal::OneShot.into()));
}

/// Whatever came before: a key for a step is had once, between its begin and its trace, under a recorded ALLOW, and says what was
/// measured.
#[test]
fn no_key_is_made_for_a_step_that_was_not_admitted_and_begun() {
    let life = life();
    for at in 0..life.len() {
        for (step, moment) in [("configure", 11), ("make", 17), ("install", usize::MAX)] {
            let answer = attempt(&mut after(&life[..at]), &Act::Identify(name(step)));
            let expected = if at == moment { Ok(()) } else { Err(Refusal::NoAdmissionLabel.into()) };
            assert_eq!(answer, expected, "{step} after {at} acts");
        }
    }
    let begun = after(&life[..11]).identify(&name("configure")).unwrap();
    assert_eq!((begun.job_sha256(), begun.step_sha256()), (digest("job"), digest("spec 1")));
    // A job that was not allowed, and one whose ALLOW is not recorded: there is no begin, and so no key.
    for acts in [[&life[..6], &life[7..9]].concat(), life[..7].to_vec()] {
        let mut order = after(&acts);
        assert!(attempt(&mut order, &life[10]).is_err());
        assert_eq!(order.identify(&name("configure")), Err(Refusal::NoAdmissionLabel.into()));
    }
}

/// What a step did is not measured, and so never signed, before it has a key.
#[test]
fn a_step_without_a_key_has_no_trace() {
    let life = life();
    let trace = after(&life[..11]).measure(&Event::StepTrace(name("configure"), digest("trace 1")));
    assert!(matches!(trace, Err(Violation::OutOfOrder { .. })));
}

#[test]
fn only_what_was_measured_is_admitted_and_signed() {
    let life = life();
    let mut order = after(&life[..6]);
    assert!(matches!(order.allow(&digest("another job")), Err(Violation::Other { .. })));
    let mut order = after(&life[..8]);
    assert!(matches!(order.sign(&Label::Decision, &digest("another")), Err(Violation::Other { .. })));
    assert!(matches!(order.sign(&Label::Manifest, &digest("decision")), Err(Violation::OutOfOrder { .. })));
    let mut order = after(&life[..15]);
    assert!(matches!(order.sign(&record("configure"), &digest("another")), Err(Violation::Other { .. })));
    assert_eq!(order.sign(&record("make"), &digest("record 1")), Err(Refusal::NoAdmissionLabel.into()));
}

#[test]
fn a_denied_job_ends_like_every_other() {
    let life = life();
    let mut order = after(&life[..6]);
    for act in life.get(7..9).unwrap().iter().chain(life.get(25..29).unwrap()) {
        assert!(order.done(Outcome::Refused).is_err(), "before {act:?}");
        attempt(&mut order, act).unwrap();
    }
    assert!(order.done(Outcome::Built).is_err());
    assert!(order.done(Outcome::StepFailed).is_err());
    assert_eq!(order.done(Outcome::Refused), Ok(()));
}

#[test]
fn a_step_that_ends_is_the_one_that_began_and_comes_once() {
    let life = life();
    for at in [12, 14] {
        let mut order = after(&life[..at]);
        for other in
            [Event::StepTrace(name("make"), digest("trace 1")), Event::StepEnd(name("make"), digest("record 1"))]
        {
            assert!(matches!(order.measure(&other), Err(Violation::OutOfOrder { .. })));
        }
    }
    let mut order = after(&life[..16]);
    let again = Event::StepBegin(name("configure"), digest("spec 3"));
    assert!(matches!(order.measure(&again), Err(Violation::Twice { .. })));
}

#[test]
fn a_step_without_its_trace_has_no_record() {
    let life = life();
    assert!(matches!(
        after(&life[..12]).measure(&Event::StepEnd(name("configure"), digest("record 1"))),
        Err(Violation::OutOfOrder { .. })
    ));
    assert!(matches!(
        after(&life[..13]).measure(&Event::StepEnd(name("configure"), digest("record 1"))),
        Err(Violation::Unsigned { .. })
    ));
}

#[test]
fn a_failed_step_ends_without_provenance() {
    let life = life();
    let mut order = after(&life[..16]);
    for act in life.get(25..29).unwrap() {
        attempt(&mut order, act).unwrap();
    }
    assert!(order.done(Outcome::Built).is_err());
    assert_eq!(order.done(Outcome::StepFailed), Ok(()));
}

/// A server's uplink comes between PID 1's program and the configuration, or not at all.
#[test]
fn an_uplink_comes_second_and_once() {
    let (life, uplink) = (life(), Act::Measure(Event::Uplink(digest("uplink"))));
    for at in 0..life.len() {
        let mut order = after(&life[..at]);
        assert_eq!(attempt(&mut order, &uplink).is_ok(), at == 1, "after {at} acts");
        assert!(attempt(&mut order, &uplink).is_err(), "twice after {at} acts");
    }
    let mut order = after(&life[..1]);
    attempt(&mut order, &uplink).unwrap();
    for act in &life[1..] {
        attempt(&mut order, act).unwrap();
    }
}
