//! What a step owes comes after its log, in order, once, of that step and by its own key, which the machine certified.

use super::*;

/// A machine that has sent the log of its step and its certificate.
async fn identified(script: impl AsyncFnOnce(&mut Machine)) -> Result<Outcome, Fault> {
    logged(async |machine| {
        machine.identify("build", "build").await.unwrap();
        script(machine).await;
    })
    .await
}

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
    let record_first = identified(async |machine| assert!(machine.record("build", "build").await.is_none()));
    assert!(matches!(record_first.await, Err(Fault::OutOfOrder { .. })));
    let trace_twice = identified(async |machine| {
        machine.trace("build", "build").await.unwrap();
        assert!(machine.trace("build", "build").await.is_none());
    });
    assert!(matches!(trace_twice.await, Err(Fault::OutOfOrder { .. })));
    let record_twice = identified(async |machine| {
        machine.trace("build", "build").await.unwrap();
        machine.record("build", "build").await.unwrap();
        assert!(machine.record("build", "build").await.is_none());
    });
    assert!(matches!(record_twice.await, Err(Fault::OutOfOrder { .. })));
    let other_place = identified(async |machine| assert!(machine.trace("other", "build").await.is_none()));
    assert!(matches!(other_place.await, Err(Fault::OutOfOrder { .. })));
}

#[tokio::test]
async fn a_step_s_key_is_its_own_and_certified() {
    let trace_first = logged(async |machine| assert!(machine.trace("build", "build").await.is_none()));
    assert!(matches!(trace_first.await, Err(Fault::OutOfOrder { .. })));
    let twice = identified(async |machine| assert!(machine.identify("build", "build").await.is_none()));
    assert!(matches!(twice.await, Err(Fault::OutOfOrder { .. })));
    type Change = fn(&mut Machine);
    let others: [Change; 3] = [
        |machine| machine.challenge.as_mut().unwrap().job_sha256 = Sha256Digest::of(b"another job"),
        |machine| machine.step_key = machine.statement_key.clone(),
        |machine| machine.step_key = machine.issuer_key.clone(),
    ];
    for change in others {
        let other = logged(async |machine| {
            change(machine);
            assert!(machine.identify("build", "build").await.is_none());
        });
        assert!(matches!(other.await, Err(Fault::StatementMismatch { kind: "identity", .. })));
    }
    let other = logged(async |machine| assert!(machine.identify("build", "other").await.is_none()));
    assert!(matches!(other.await, Err(Fault::StatementMismatch { kind: "identity", .. })));
    let forgeries: [Change; 3] = [
        |machine| machine.issuer_key = machine.statement_key.clone(),
        |machine| machine.challenge.as_mut().unwrap().build_id = "00".parse().unwrap(),
        |machine| machine.challenge.as_mut().unwrap().issued = now().plus_seconds(1),
    ];
    for change in forgeries {
        let forged = logged(async |machine| {
            change(machine);
            assert!(machine.identify("build", "build").await.is_none());
        });
        assert!(matches!(forged.await, Err(Fault::StepCertificate { .. })));
    }
    let none = logged(async |machine| {
        let path = format!("{}build", path::IDENTITIES);
        assert!(machine.ask(Method::POST, &path, "no certificate").await.is_none());
    });
    assert!(matches!(none.await, Err(Fault::StepCertificate { .. })));
}

/// Two boots under one root: OpenSSL takes each step under its own boot's chain, at the challenge's time, and under no other.
#[tokio::test]
async fn openssl_takes_a_step_under_the_chain_of_its_own_boot_alone() {
    let mut rig = Rig::new();
    let desk = tempfile::tempdir().unwrap();
    fs::write(desk.path().join("root.pem"), rig.site.root().to_pem().unwrap()).unwrap();
    for boot in 0..2 {
        let desk = desk.path();
        rig.taken = AtomicBool::new(false);
        let outcome = rig.run(async |mut machine| {
            machine.issuer_key = ed25519_dalek::SigningKey::from_bytes(&[10 + boot; 32]);
            let Certificates { authority, issuer, .. } = machine.attest().await;
            fs::write(desk.join(format!("chain-{boot}.pem")), issuer + &authority).unwrap();
            fs::write(desk.join(format!("step-{boot}.pem")), machine.certificate("build")).unwrap();
        });
        assert!(outcome.await.is_err(), "it went no further");
    }
    let verify = |chain: u8, step: u8, at: i64| {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["verify", "-x509_strict", "-attime", &at.to_string(), "-CAfile", "root.pem", "-untrusted"]);
        openssl.args([format!("chain-{chain}.pem"), format!("step-{step}.pem")]).current_dir(&desk);
        let ran = openssl.output().unwrap();
        (ran.status.success(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let issued = now().unix();
    for (one, other) in [(0, 1), (1, 0)] {
        let (good, said) = verify(one, one, issued);
        assert!(good, "{said}");
        assert!(!verify(other, one, issued).0, "under the chain of another boot");
        assert!(!verify(one, one, issued + 901).0, "when it has expired");
    }
}

#[tokio::test]
async fn each_is_of_the_step_and_by_the_certified_key() {
    let other = identified(async |machine| assert!(machine.trace("build", "other").await.is_none()));
    assert!(matches!(other.await, Err(Fault::StatementMismatch { kind: "trace", .. })));
    let other = identified(async |machine| {
        machine.trace("build", "build").await.unwrap();
        assert!(machine.record("build", "other").await.is_none());
    });
    assert!(matches!(other.await, Err(Fault::StatementMismatch { kind: "record", .. })));
    let forger = || ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let forged = identified(async |machine| {
        machine.step_key = forger();
        assert!(machine.trace("build", "build").await.is_none());
    });
    assert!(matches!(forged.await, Err(Fault::StatementSignature { kind: "trace", .. })));
    let forged = identified(async |machine| {
        machine.trace("build", "build").await.unwrap();
        machine.step_key = forger();
        assert!(machine.record("build", "build").await.is_none());
    });
    assert!(matches!(forged.await, Err(Fault::StatementSignature { kind: "record", .. })));
}
