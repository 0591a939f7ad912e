//! What was granted once is not granted again, and a memory that fails grants nothing.

use super::*;
use crate::state::Archive;

/// Answers to challenges that others got: one that was answered, and one that nobody answered, before a restart of the authority.
#[tokio::test]
async fn a_nonce_is_answered_once_also_after_a_restart() {
    let mut rig = Rig::new();
    let mut older: Vec<Challenge> = Vec::new();
    for answered in [true, false] {
        let mut challenge = None;
        let outcome = rig.run(async |mut machine| {
            let attestation = machine.prepare().await;
            challenge = machine.challenge.clone();
            if answered {
                machine.send_attestation(&attestation).await.unwrap();
            }
        });
        assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Closed))));
        older.push(challenge.unwrap());
    }
    for restart in [false, true] {
        if restart {
            let state = State::open(&rig.site).unwrap();
            drop(std::mem::replace(&mut rig.state, state));
        }
        for challenge in &older {
            let outcome = rig.run(async |mut machine| {
                let log = machine.prepare().await.runtime_log.0;
                let attestation = machine.attestation(challenge.clone(), log);
                let (status, body) = machine.send_attestation(&attestation).await.unwrap();
                assert_eq!(status, StatusCode::FORBIDDEN);
                let refused: NotAttested = serde_json::from_slice(&body).unwrap();
                assert_eq!(refused.code, "nonce_reused", "{refused}");
                assert!(machine.get(path::JOB).await.is_none());
            });
            assert!(matches!(outcome.await.unwrap(), Outcome::NotAttested(_)));
        }
    }
    let summary = Archive::open(&rig.site).unwrap().verify(None, |_| {}).unwrap();
    assert_eq!((summary.challenged, summary.certified, summary.refused, summary.handed_over), (6, 1, 4, 0));
}

/// Somebody changes what the authority remembers while a machine is served: it gets nothing more.
#[tokio::test]
async fn a_state_that_fails_is_a_fault_and_never_a_yes() {
    let spoil = |rig: &Path| {
        let connection = rusqlite::Connection::open(rig).unwrap();
        connection.execute("DELETE FROM head", []).unwrap();
    };
    for requests in 0..3 {
        let mut rig = Rig::new();
        let file = rig.state.path().to_owned();
        let outcome = rig.run(async |mut machine| {
            if requests == 0 {
                machine.start().await;
                let enrolment = canonical::to_vec(&machine.enrolment()).unwrap();
                spoil(&file);
                assert!(machine.ask(Method::POST, path::ENROLMENT, enrolment).await.is_none(), "a challenge left");
            } else if requests == 1 {
                let attestation = machine.prepare().await;
                spoil(&file);
                assert!(machine.send_attestation(&attestation).await.is_none(), "a certificate left");
            } else {
                machine.attest().await;
                spoil(&file);
                assert!(machine.get(path::JOB).await.is_none(), "a job left");
            }
        });
        let outcome = outcome.await;
        assert!(matches!(outcome, Err(Fault::State(_))), "{requests}: {outcome:?}");
    }
}
