//! What is signed of a step comes after its log, in order, once, of that step and by the certified key.

use super::*;

/// A machine that has sent the log of its step.
async fn logged(script: impl AsyncFnOnce(&mut Machine)) -> Result<Outcome, Fault> {
    in_a_new_rig(async |mut machine| {
        machine.admitted().await;
        machine.log("build", "").await.unwrap();
        script(&mut machine).await;
        machine.done(Said::StepFailed).await;
    })
    .await
}

#[tokio::test]
async fn trace_and_record_follow_the_log() {
    let mut rig = Rig::new();
    let outcome = rig.run(async |mut machine| {
        machine.admitted().await;
        machine.step("build", "").await;
        machine.done(Said::StepFailed).await.unwrap();
    });
    assert!(matches!(outcome.await, Ok(Outcome::StepFailed)));
    assert_eq!((rig.heard("StepTraced"), rig.heard("StepRecorded")), (1, 1), "{:?}", rig.said);
}

#[tokio::test]
async fn each_has_its_place() {
    let early = in_a_new_rig(async |mut machine| {
        machine.admitted().await;
        assert!(machine.trace("build", "build").await.is_none());
    });
    assert!(matches!(early.await, Err(Fault::OutOfOrder { .. })));
    let owed = logged(async |machine| assert!(machine.done(Said::StepFailed).await.is_none()));
    assert!(matches!(owed.await, Err(Fault::OutOfOrder { .. })));
    let record_first = logged(async |machine| assert!(machine.record("build", "build").await.is_none()));
    assert!(matches!(record_first.await, Err(Fault::OutOfOrder { .. })));
    let trace_twice = logged(async |machine| {
        machine.trace("build", "build").await.unwrap();
        assert!(machine.trace("build", "build").await.is_none());
    });
    assert!(matches!(trace_twice.await, Err(Fault::OutOfOrder { .. })));
    let record_twice = logged(async |machine| {
        machine.trace("build", "build").await.unwrap();
        machine.record("build", "build").await.unwrap();
        assert!(machine.record("build", "build").await.is_none());
    });
    assert!(matches!(record_twice.await, Err(Fault::OutOfOrder { .. })));
    let other_place = logged(async |machine| assert!(machine.trace("other", "build").await.is_none()));
    assert!(matches!(other_place.await, Err(Fault::OutOfOrder { .. })));
}

#[tokio::test]
async fn each_is_of_the_step_and_by_the_certified_key() {
    let other = logged(async |machine| assert!(machine.trace("build", "other").await.is_none()));
    assert!(matches!(other.await, Err(Fault::StatementMismatch { kind: "trace", .. })));
    let other = logged(async |machine| {
        machine.trace("build", "build").await.unwrap();
        assert!(machine.record("build", "other").await.is_none());
    });
    assert!(matches!(other.await, Err(Fault::StatementMismatch { kind: "record", .. })));
    let forger = || ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let forged = logged(async |machine| {
        machine.statement_key = forger();
        assert!(machine.trace("build", "build").await.is_none());
    });
    assert!(matches!(forged.await, Err(Fault::StatementSignature { kind: "trace", .. })));
    let forged = logged(async |machine| {
        machine.trace("build", "build").await.unwrap();
        machine.statement_key = forger();
        assert!(machine.record("build", "build").await.is_none());
    });
    assert!(matches!(forged.await, Err(Fault::StatementSignature { kind: "record", .. })));
}
