//! Who is not the TPM that the site enrols gets no challenge; who does not open the credential gets no certificate.

use kiln_formats::enrolment::Enrolment;
use kiln_formats::link::Blob;
use kiln_formats::trust::TrustBundle;

use super::endorsement::{Endorsement, Maker};
use super::*;
use crate::state::Archive;

/// A stranger's seed: nobody lists or vouches for it.
pub(super) const STRANGER: u8 = 0x77;

impl Rig {
    /// The codes of all refusals in the ledger.
    pub(super) fn refusals(&self) -> Vec<String> {
        let mut codes = Vec::new();
        let each = |entry: &crate::ledger::Entry| {
            if let Act::Refused { code, .. } = &entry.act {
                codes.push(code.clone());
            }
        };
        let summary = Archive::open(&self.site).unwrap().verify(None, each).unwrap();
        assert_eq!(summary.handed_over, 0, "a job left");
        codes
    }

    /// Does as `script` says, which ends in a refusal with this code and nothing more.
    pub(super) async fn refuses(
        &mut self,
        code: &str,
        script: impl AsyncFnOnce(&mut Machine) -> (StatusCode, Vec<u8>),
    ) {
        let outcome = self.run(async |mut machine| {
            let (status, body) = script(&mut machine).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{code}");
            let refused: NotAttested = serde_json::from_slice(&body).unwrap();
            assert_eq!(refused.code, code, "{refused}");
            assert!(machine.get(path::JOB).await.is_none(), "{code}: the link is still open");
        });
        let outcome = outcome.await;
        assert!(matches!(outcome, Ok(Outcome::NotAttested(_))), "{code}: {outcome:?}");
        assert_eq!((self.heard("JobTaken"), self.heard("Attested")), (0, 0), "{code}");
        assert_eq!(self.refusals().last().map(String::as_str), Some(code));
    }

    /// Sends these bytes as an enrolment: refused before there is a challenge.
    pub(super) async fn turns_away(&mut self, code: &str, message: impl FnOnce(&Machine) -> Vec<u8>) {
        self.refuses(code, async |machine| {
            machine.start().await;
            let (status, body) = machine.ask(Method::POST, path::ENROLMENT, message(machine)).await.unwrap();
            (status, body.to_vec())
        })
        .await;
        let summary = Archive::open(&self.site).unwrap().verify(None, |_| {}).unwrap();
        assert_eq!((summary.challenged, summary.certified), (0, 0), "{code}");
    }

    /// Enrols honestly and sends what `change` makes of the honest answer.
    pub(super) async fn rejects(&mut self, code: &str, change: impl FnOnce(&mut Attestation, &Machine)) {
        self.refuses(code, async |machine| {
            let mut attestation = machine.prepare().await;
            change(&mut attestation, machine);
            let (status, body) = machine.send_attestation(&attestation).await.unwrap();
            (status, body.to_vec())
        })
        .await;
    }

    pub(super) fn trusts(&self, maker: &Maker) {
        self.trusts_as(TpmClass::Virtual, maker);
    }

    /// Takes this maker's TPMs for ones of a class.
    pub(super) fn trusts_as(&self, class: TpmClass, maker: &Maker) {
        let file = self.site.directory().join("maker.der");
        fs::write(&file, maker.certificate()).unwrap();
        let role = site::enrolment::Role::Root(class);
        site::enrolment::add_certificate(self.site.directory(), role, "maker", &file).unwrap();
    }
}

pub(super) fn json(enrolment: &Enrolment) -> Vec<u8> {
    canonical::to_vec(enrolment).unwrap()
}

/// The enrolment of a machine with a stranger's key and these certificates.
pub(super) fn of_a_stranger(machine: &Machine, certificates: Vec<Vec<u8>>, chain: Vec<Vec<u8>>) -> Vec<u8> {
    let blobs = |list: Vec<Vec<u8>>| list.into_iter().map(Blob).collect();
    let endorsement_key = Blob(Endorsement::of(STRANGER).public());
    json(&Enrolment { certificates: blobs(certificates), chain: blobs(chain), endorsement_key, ..machine.enrolment() })
}

#[tokio::test]
async fn a_key_that_nobody_vouches_for_is_not_challenged() {
    let (key, trusted, other) = (Endorsement::of(STRANGER), Maker::of(0x51), Maker::of(0x52));
    let good = trusted.certify(&key, 1000);
    type Ders = Vec<Vec<u8>>;
    let cases: [(&str, Ders, Ders); 8] = [
        ("endorsement_uncertified", vec![], vec![]),
        // An unknown authority, under the name of one that is known; it also comes along itself.
        ("endorsement_untrusted", vec![other.certify(&key, 1000)], vec![]),
        ("endorsement_untrusted", vec![other.certify(&key, 1000)], vec![other.certificate()]),
        ("endorsement_key_mismatch", vec![trusted.certify(&Endorsement::of(0x78), 1000)], vec![]),
        ("endorsement_expired", vec![trusted.certify(&key, -1)], vec![]),
        ("endorsement_certificate", vec![trusted.certificate()], vec![]),
        ("endorsement_chain", vec![good.clone()], vec![good.clone()]),
        ("enrolment", vec![good.clone(); 4], vec![]),
    ];
    for (code, certificates, chain) in cases {
        let mut rig = Rig::new();
        rig.trusts(&trusted);
        rig.turns_away(code, |machine| of_a_stranger(machine, certificates, chain)).await;
    }
    // The certificate alone decides.
    let mut rig = Rig::new();
    rig.turns_away("endorsement_untrusted", |machine| of_a_stranger(machine, vec![good.clone()], vec![])).await;
    let mut rig = Rig::new();
    rig.trusts(&trusted);
    let outcome = rig.run(async |mut machine| {
        machine.endorsement = key;
        let log = machine.start().await;
        let enrolment = Enrolment { certificates: vec![Blob(good)], ..machine.enrolment() };
        machine.enrol(&enrolment).await;
        let attestation = machine.attestation(machine.challenge.clone().unwrap(), log);
        assert_eq!(machine.send_attestation(&attestation).await.unwrap().0, StatusCode::OK);
        assert_eq!(machine.get(path::JOB).await.unwrap().0, StatusCode::OK);
    });
    assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Closed))));
}

#[tokio::test]
async fn an_attestation_key_is_restricted_and_of_one_form() {
    // TPMA_OBJECT is in the bytes 4 to 7: restricted is bit 16.
    for bit in 0..32 {
        let code = if bit == 16 { "attestation_key_unrestricted" } else { "attestation_key_attributes" };
        let flip = |machine: &Machine| {
            let mut enrolment = machine.enrolment();
            enrolment.attestation_key.0[7 - bit / 8] ^= 1 << (bit % 8);
            json(&enrolment)
        };
        Rig::new().turns_away(code, flip).await;
    }
    for (code, change) in [
        ("attestation_key", (|e| e.attestation_key.0.clear()) as fn(&mut Enrolment)),
        ("attestation_key", |e| e.attestation_key.0.push(0)),
        ("attestation_key", |e| *e.attestation_key.0.last_mut().unwrap() ^= 1),
        // One key for both.
        ("attestation_key_attributes", |e| e.attestation_key = e.endorsement_key.clone()),
        ("endorsement_key", |e| e.endorsement_key = e.attestation_key.clone()),
        ("endorsement_key", |e| e.endorsement_key.0.push(0)),
        ("endorsement_key", |e| e.endorsement_key.0[7] ^= 1 << 5),
    ] {
        let changed = |machine: &Machine| {
            let mut enrolment = machine.enrolment();
            change(&mut enrolment);
            json(&enrolment)
        };
        Rig::new().turns_away(code, changed).await;
    }
    // A key that is listed, and is no point of its curve.
    let mut rig = Rig::new();
    let mut public = Endorsement::of(STRANGER).public();
    *public.last_mut().unwrap() ^= 1;
    let key = kiln_formats::endorsement::EkPublic::parse(&public).unwrap();
    site::enrolment::add_key(rig.site.directory(), TpmClass::Virtual, key.sha256()).unwrap();
    rig.turns_away("enrolment", |machine| json(&Enrolment { endorsement_key: Blob(public), ..machine.enrolment() }))
        .await;
}

#[tokio::test]
async fn what_is_no_enrolment_is_not_challenged() {
    for garbage in [&b""[..], b"{}", b"[]", b"\0\xff", b"{\"certificates\":[]}"] {
        Rig::new().turns_away("enrolment", |_| garbage.to_vec()).await;
    }
    for keep in [1, 50, 300] {
        Rig::new().turns_away("enrolment", |machine| json(&machine.enrolment())[..keep].to_vec()).await;
    }
    let more = |machine: &Machine| {
        let text = String::from_utf8(json(&machine.enrolment())).unwrap();
        text.replacen('{', "{\"also\":1,", 1).into_bytes()
    };
    Rig::new().turns_away("enrolment", more).await;
    let outcome = in_a_new_rig(async |mut machine| {
        machine.start().await;
        assert!(machine.ask(Method::POST, path::ENROLMENT, vec![b' '; ENROLMENT_BYTES_MAX + 1]).await.is_none());
    });
    let outcome = outcome.await;
    assert!(matches!(outcome, Err(Fault::Link(LinkError::TooLarge { .. }))), "{outcome:?}");
}

#[tokio::test]
async fn only_who_opened_this_credential_is_certified() {
    Rig::new().rejects("proof", |answer, _| answer.proof = Sha256Digest::of(b"a guess")).await;
    let key = p256::ecdsa::SigningKey::from_slice(&[0x55; 32]).unwrap();
    // The right bytes, that begin as what a TPM makes, signed by a key that is not the one that enrolled.
    Rig::new()
        .rejects("quote", |answer, machine| {
            let binding = Sha256Digest::of(&canonical::to_vec(&answer.binding).unwrap());
            let (quote, signature) = machine.quote(&key, binding, &answer.runtime_log.0);
            assert_eq!(quote, answer.quote.0);
            answer.signature.0 = signature;
        })
        .await;
    // Another machine's answer, whole in itself; its key is enrolled too.
    let mut rig = Rig::new();
    site::enrolment::add_key(rig.site.directory(), TpmClass::Virtual, Endorsement::of(STRANGER).sha256()).unwrap();
    rig.refuses("other_machine", async |machine| {
        let log = machine.prepare().await.runtime_log.0;
        machine.endorsement = Endorsement::of(STRANGER);
        let answer = machine.attestation(machine.challenge.clone().unwrap(), log);
        let (status, body) = machine.send_attestation(&answer).await.unwrap();
        (status, body.to_vec())
    })
    .await;
    assert_eq!(rig.refusals(), ["other_machine"]);
}

/// A machine without a TPM enrols as one with a TPM, and has its credential opened there.
#[tokio::test]
async fn a_credential_is_of_no_use_in_another_enrolment() {
    let mut rig = Rig::new();
    let mut opened = None;
    let outcome = rig.run(async |mut machine| {
        let credential = {
            machine.start().await;
            machine.enrol(&machine.enrolment()).await
        };
        opened = Some(machine.secret);
        // It is for one key in one TPM.
        let (name, endorsement) = (machine.name(), &machine.endorsement);
        assert_eq!(endorsement.open(&credential, &name), opened);
        let mut other = name;
        other[33] ^= 1;
        assert_eq!(endorsement.open(&credential, &other), None);
        assert_eq!(Endorsement::of(STRANGER).open(&credential, &name), None);
        for byte in 2..credential.id_object.0.len() {
            let mut changed = credential.clone();
            changed.id_object.0[byte] ^= 1;
            // The first two bytes are the length of the digest behind them.
            assert!(byte < 4 || endorsement.open(&changed, &name).is_none(), "{byte}");
        }
    });
    assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Closed))));
    rig.refuses("proof", async |machine| {
        let log = machine.prepare().await.runtime_log.0;
        assert_ne!(Some(machine.secret), opened);
        machine.secret = opened.unwrap();
        let answer = machine.attestation(machine.challenge.clone().unwrap(), log);
        let (status, body) = machine.send_attestation(&answer).await.unwrap();
        (status, body.to_vec())
    })
    .await;
}

#[tokio::test]
async fn one_boot_of_a_machine_is_certified_once() {
    let mut rig = Rig::new();
    for reset_count in [7, 8] {
        rig.taken.store(false, Ordering::Release);
        let outcome = rig.run(async |mut machine| {
            machine.reset_count = reset_count;
            machine.attest().await;
        });
        assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Closed))));
    }
    rig.taken.store(false, Ordering::Release);
    rig.refuses("reset_count_seen", async |machine| {
        machine.reset_count = 7;
        let attestation = machine.prepare().await;
        let (status, body) = machine.send_attestation(&attestation).await.unwrap();
        (status, body.to_vec())
    })
    .await;
    let summary = Archive::open(&rig.site).unwrap().verify(None, |_| {}).unwrap();
    assert_eq!((summary.certified, summary.boots, summary.refused), (2, 2, 1));
    // The right is given back: the job is there for the next boot.
    assert!(!rig.taken.load(Ordering::Acquire));
}

#[tokio::test]
async fn a_policy_says_which_machines_build() {
    for (listed, certified) in [(endorsement().sha256(), true), (Endorsement::of(STRANGER).sha256(), false)] {
        let mut rig = Rig::new();
        let directory = rig.site.directory().to_owned();
        let mut trust: TrustBundle = rig.site.trust().clone();
        trust.policy.machines = Some([listed].into());
        fs::write(directory.join(site::path::POLICY), canonical::to_vec(&trust.policy).unwrap()).unwrap();
        fs::write(directory.join(site::path::TRUST), canonical::to_vec(&trust).unwrap()).unwrap();
        rig.site = Site::open(&directory, now()).unwrap();
        rig.reference = reference(&rig.site);
        if certified {
            let outcome = rig.run(async |mut machine| drop(machine.attest().await));
            assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Closed))));
        } else {
            rig.rejects("machine_not_authorised", |_, _| {}).await;
        }
    }
}
