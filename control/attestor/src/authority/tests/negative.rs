//! Every attack that the design names, one after the other: refused with its own code, before a job leaves, and in the ledger.
//!
//! [`CASES`] is the list. Machines here are programs; `super::tpm2` drives the same protocol with real TPMs, and the whole
//! appliance boots with its clock set back in the tests of whole machines.

use kiln_formats::enrolment::Enrolment;
use kiln_formats::event::Event;
use kiln_formats::link::Blob;
use kiln_formats::names::BUILDER_METAL;
use kiln_formats::pcr::PcrIndex;
use kiln_formats::runtime_log::RuntimeLog;
use kiln_formats::trust::TrustBundle;
use kiln_formats::trust_list::TrustList;

use super::endorsement::{Endorsement, Maker};
use super::enrolment::{STRANGER, json, of_a_stranger};
use super::*;
use crate::ledger::Act;
use crate::site::{read_key, trust_lists};
use crate::state::Archive;

/// What the acceptance line says, and what the machine, or the site's owner, is told.
const CASES: [(&str, &str); 40] = [
    ("wrong nonce", "other_challenge"),
    ("reused nonce", "nonce_reused"),
    ("reused nonce after a restart of the attestor", "nonce_reused"),
    ("quote of another boot", "qualifying_data"),
    ("AK of another TPM", "proof"),
    ("unrestricted AK", "attestation_key_unrestricted"),
    ("quote forged through TPM2_Sign", "quote"),
    ("EK of an unknown CA", "endorsement_untrusted"),
    ("PCR with no events", "replay_differs"),
    ("truncated log", "log_truncated"),
    ("event after final", "event_after_final"),
    ("seen resetCount", "reset_count_seen"),
    ("stale reference values", "reference_stale"),
    ("revoked key: the machine's", "key_revoked"),
    ("revoked key: the job signer's", "key_revoked"),
    ("revoked key: the authority's", "key_revoked"),
    ("revoked image", "image_revoked"),
    ("revoked policy", "policy_revoked"),
    ("rolled-back policy", "policy_rolled_back"),
    ("rolled-back trust list", "trust_list_rolled_back"),
    ("two trust lists of one number", "trust_list_forked"),
    ("withheld trust list (freeze)", "trust_list_expired"),
    ("forged trust list", "trust_list"),
    ("clock set back: before the newest trust list", "clock_set_back"),
    ("clock set back: before the ledger's last entry", "clock_set_back"),
    ("relay of another node's answers", "other_machine"),
    ("relay of another node's enrolment", "proof"),
    ("virtual TPM as a server: its key is listed", "machine_class"),
    ("virtual TPM as a server: its maker is trusted", "machine_class"),
    ("hardware TPM as a virtual machine", "machine_class"),
    ("image without provenance", "image_provenance_missing"),
    ("server's image without provenance", "image_provenance_missing"),
    ("altered provenance", "image_producer"),
    ("provenance by a producer whom the policy does not name", "image_producer"),
    ("provenance by the job signer", "image_producer"),
    ("provenance of another image", "image_provenance_other"),
    ("another statement of the producer's", "image_provenance"),
    ("revoked key: the image producer's", "key_revoked"),
    ("development key in a server's name", "signer_of_other_mode"),
    ("server's key in a development name", "signer_of_other_mode"),
];

impl Rig {
    /// The newest trust list, changed and signed by the site's root as the next one.
    pub(super) fn issue(&self, change: impl FnOnce(&mut TrustList)) {
        let directory = self.site.directory();
        let mut list = trust_lists::read(directory, self.site.root()).unwrap().list;
        list.number += 1;
        change(&mut list);
        let file = list.sign(&read_key(&directory.join(site::path::ROOT_KEY)).unwrap(), None).unwrap();
        trust_lists::add(directory, self.site.root(), list.number, &file).unwrap();
    }

    fn list_file(&self, number: u64) -> PathBuf {
        self.site.directory().join(format!("trust-lists/{number:06}.json"))
    }

    /// A machine that gets its challenge, and goes away.
    async fn challenges_somebody(&mut self) -> Challenge {
        let mut challenge = None;
        let outcome = self.run(async |mut machine| {
            machine.prepare().await;
            challenge = machine.challenge.clone();
        });
        assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Closed))));
        challenge.unwrap()
    }

    /// Serves machines of one mode with the signer of another.
    fn passes_off(&mut self, own: &str, other: &'static str) {
        self.signer = self.site.signer(own, now()).unwrap().passed_off_as(other);
    }

    /// An honest machine is turned away before it is challenged.
    pub(super) async fn turns_everyone_away(&mut self, code: &str) {
        self.refuses(code, async |machine| {
            machine.start().await;
            let (status, body) = machine.ask(Method::POST, path::ENROLMENT, json(&machine.enrolment())).await.unwrap();
            (status, body.to_vec())
        })
        .await;
    }

    /// An honest enrolment, and an answer with this runtime log, which the quote covers.
    async fn refuses_log(&mut self, code: &str, change: impl FnOnce(&mut Vec<Event>)) {
        self.rejects(code, |answer, machine| {
            let mut events: Vec<Event> =
                boot_log(&answer.runtime_log.0).records().iter().map(|record| record.event.clone()).collect();
            change(&mut events);
            *answer = machine.attestation(machine.challenge.clone().unwrap(), runtime_log(&events));
        })
        .await;
    }

    async fn attack(&mut self, what: &str, code: &str) {
        match what {
            "wrong nonce" => {
                self.rejects(code, |answer, _| answer.binding.challenge.nonce = Sha256Digest::of(b"a guess")).await;
            }
            "reused nonce" | "reused nonce after a restart of the attestor" => {
                let older = self.challenges_somebody().await;
                if what != "reused nonce" {
                    let state = State::open(&self.site).unwrap();
                    drop(std::mem::replace(&mut self.state, state));
                }
                self.rejects(code, |answer, machine| {
                    *answer = machine.attestation(older, answer.runtime_log.0.clone());
                })
                .await;
            }
            "quote of another boot" => {
                let older = self.challenges_somebody().await;
                self.rejects(code, |answer, machine| {
                    let other = machine.attestation(older, answer.runtime_log.0.clone());
                    (answer.quote, answer.signature) = (other.quote, other.signature);
                })
                .await;
            }
            // The TPM with the endorsement key does not open a credential for a key that it does not hold.
            "AK of another TPM" => {
                self.rejects(code, |answer, _| answer.proof = Sha256Digest::of(b"a guess")).await;
            }
            "unrestricted AK" => {
                self.turns_away(code, |machine| {
                    let mut enrolment = machine.enrolment();
                    enrolment.attestation_key.0[5] ^= 1;
                    json(&enrolment)
                })
                .await;
            }
            // A key that signs what it is given signs what a TPM would have made; it is not the one that enrolled.
            "quote forged through TPM2_Sign" => {
                let key = p256::ecdsa::SigningKey::from_slice(&[0x55; 32]).unwrap();
                self.rejects(code, |answer, machine| {
                    let binding = Sha256Digest::of(&canonical::to_vec(&answer.binding).unwrap());
                    let (quote, signature) = machine.quote(&key, binding, &answer.runtime_log.0);
                    (answer.quote, answer.signature) = (Blob(quote), Blob(signature));
                })
                .await;
            }
            "EK of an unknown CA" => {
                let certificate = Maker::of(0x52).certify(&Endorsement::of(STRANGER), 1000);
                self.turns_away(code, |machine| of_a_stranger(machine, vec![certificate], vec![])).await;
            }
            "PCR with no events" => {
                self.refuses(code, async |machine| {
                    machine.unlogged = Some(PcrIndex::new(7).unwrap());
                    let answer = machine.prepare().await;
                    let (status, body) = machine.send_attestation(&answer).await.unwrap();
                    (status, body.to_vec())
                })
                .await;
            }
            "truncated log" => self.refuses_log(code, |events| drop(events.pop())).await,
            "event after final" => {
                self.refuses_log(code, |events| {
                    events.extend([Event::Final, Event::Job(Sha256Digest::of(b"another job"))]);
                })
                .await;
            }
            "seen resetCount" => {
                let outcome = self.run(async |mut machine| {
                    machine.reset_count = 7_000_000;
                    machine.attest().await;
                });
                assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Closed))));
                self.taken.store(false, Ordering::Release);
                self.refuses(code, async |machine| {
                    machine.reset_count = 7_000_000;
                    let answer = machine.prepare().await;
                    let (status, body) = machine.send_attestation(&answer).await.unwrap();
                    (status, body.to_vec())
                })
                .await;
            }
            "relay of another node's answers" => {
                site::enrolment::add_key(self.site.directory(), TpmClass::Virtual, Endorsement::of(STRANGER).sha256())
                    .unwrap();
                self.refuses(code, async |machine| {
                    let log = machine.prepare().await.runtime_log.0;
                    machine.endorsement = Endorsement::of(STRANGER);
                    let answer = machine.attestation(machine.challenge.clone().unwrap(), log);
                    let (status, body) = machine.send_attestation(&answer).await.unwrap();
                    (status, body.to_vec())
                })
                .await;
            }
            // The enrolment is another node's, whole; its credential opens there and nowhere else.
            "relay of another node's enrolment" => {
                let victim = Endorsement::of(STRANGER);
                site::enrolment::add_key(self.site.directory(), TpmClass::Virtual, victim.sha256()).unwrap();
                self.refuses(code, async |machine| {
                    let log = machine.start().await;
                    let endorsement_key = Blob(victim.public());
                    let relayed = json(&Enrolment { endorsement_key, ..machine.enrolment() });
                    let (status, answer) = machine.ask(Method::POST, path::ENROLMENT, relayed).await.unwrap();
                    assert_eq!(status, StatusCode::OK, "{answer:?}");
                    let enrolled: Enrolled = canonical::from_slice_exact(&answer).unwrap();
                    assert_eq!(machine.endorsement.open(&enrolled.credential, &machine.name()), None);
                    machine.endorsement = victim;
                    let answer = machine.attestation(enrolled.challenge, log);
                    let (status, body) = machine.send_attestation(&answer).await.unwrap();
                    (status, body.to_vec())
                })
                .await;
            }
            // A virtual machine that starts the image for servers: its quote would hold, and every signature.
            "virtual TPM as a server: its key is listed" => {
                self.signer = self.site.signer(BUILDER_METAL, now()).unwrap();
                self.turns_away(code, |machine| json(&machine.enrolment())).await;
            }
            "virtual TPM as a server: its maker is trusted" => {
                self.signer = self.site.signer(BUILDER_METAL, now()).unwrap();
                let maker = Maker::of(0x51);
                self.trusts_as(TpmClass::Virtual, &maker);
                let certificate = maker.certify(&Endorsement::of(STRANGER), 1000);
                self.turns_away(code, |machine| of_a_stranger(machine, vec![certificate], vec![])).await;
            }
            "hardware TPM as a virtual machine" => {
                let maker = Maker::of(0x51);
                self.trusts_as(TpmClass::Hardware, &maker);
                let certificate = maker.certify(&Endorsement::of(STRANGER), 1000);
                self.turns_away(code, |machine| of_a_stranger(machine, vec![certificate], vec![])).await;
            }
            _ => self.attack_on_trust(what, code).await,
        }
    }

    /// What the site's root took back, and whoever hides that.
    async fn attack_on_trust(&mut self, what: &str, code: &str) {
        match what {
            "stale reference values" => self.issue(|list| list.minimum.image = 1),
            "revoked key: the machine's" => self.issue(|list| list.revoked.keys.extend([endorsement().sha256()])),
            "revoked key: the job signer's" => {
                let key = self.site.trust().policy.job_signers[0].sha256();
                self.issue(|list| list.revoked.keys.extend([key]));
            }
            "revoked key: the authority's" => {
                let key = Sha256Digest::of(&self.signer.certificate().spki().unwrap());
                self.issue(|list| list.revoked.keys.extend([key]));
            }
            "revoked image" => {
                let image = self.reference.image_sha256;
                self.issue(|list| list.revoked.images.extend([image]));
            }
            "revoked policy" => {
                let policy = Sha256Digest::of(&canonical::to_vec(&self.site.trust().policy).unwrap());
                self.issue(|list| list.revoked.policies.extend([policy]));
            }
            // Policy 2 was in force, and somebody put policy 1 back.
            "rolled-back policy" => self.issue(|list| list.minimum.policy = 2),
            "rolled-back trust list" => {
                self.issue(|_| {});
                self.challenges_somebody().await;
                fs::remove_file(self.list_file(2)).unwrap();
            }
            "two trust lists of one number" => {
                self.issue(|_| {});
                self.challenges_somebody().await;
                fs::remove_file(self.list_file(2)).unwrap();
                self.issue(|list| list.expires = list.expires.plus_seconds(1));
            }
            "withheld trust list (freeze)" => self.clock = || Some(now().plus_seconds(site::TRUST_LIST_SECONDS + 1)),
            "forged trust list" => {
                let mut list = trust_lists::read(self.site.directory(), self.site.root()).unwrap().list;
                list.number = 2;
                let stranger = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
                fs::write(self.list_file(2), list.sign(&stranger, None).unwrap()).unwrap();
            }
            "clock set back: before the newest trust list" => {
                self.issue(|list| {
                    list.issued = now().plus_seconds(60);
                    list.expires = now().plus_seconds(120);
                });
            }
            "clock set back: before the ledger's last entry" => {
                self.clock = || Some(now().plus_seconds(3600));
                self.challenges_somebody().await;
                self.clock = || Some(now());
            }
            "revoked key: the image producer's" => {
                let key = self.site.trust().policy.image_producers[0].sha256();
                self.issue(|list| list.revoked.keys.extend([key]));
            }
            // Root, certificate and key belong together; they were made for other machines.
            "development key in a server's name" => self.passes_off(BUILDER_DIRECT, BUILDER_METAL),
            "server's key in a development name" => self.passes_off(BUILDER_METAL, BUILDER_DIRECT),
            _ => self.attack_on_image(what),
        }
        self.turns_everyone_away(code).await;
    }
}

fn boot_log(bytes: &[u8]) -> RuntimeLog {
    RuntimeLog::parse(bytes).unwrap()
}

#[tokio::test]
async fn every_attack_has_its_own_refusal_and_no_job_leaves() {
    for (what, code) in CASES {
        let mut rig = Rig::new();
        rig.attack(what, code).await;
        assert_eq!(rig.refusals().last().map(String::as_str), Some(code), "{what}");
        let summary = Archive::open(&rig.site).unwrap().verify(None, |_| {}).unwrap();
        assert_eq!(summary.handed_over, 0, "{what}");
        println!("{what}: {code}");
    }
}

/// A new list takes effect with the next machine, is remembered once, and what is not revoked goes on.
#[tokio::test]
async fn a_newer_list_is_taken_and_remembered() {
    let mut rig = Rig::new();
    for _ in 0..2 {
        rig.challenges_somebody().await;
    }
    // The key of another mode is somebody else's.
    let metal = rig.site.signer(BUILDER_METAL, now()).unwrap().certificate().spki().unwrap();
    rig.issue(|list| list.revoked.keys.extend([Sha256Digest::of(&metal)]));
    for _ in 0..2 {
        rig.challenges_somebody().await;
    }
    let mut taken = Vec::new();
    let each = |entry: &crate::ledger::Entry| {
        if let Act::Trusted { number, reference_time, .. } = &entry.act {
            taken.push((*number, *reference_time));
        }
    };
    Archive::open(&rig.site).unwrap().verify(None, each).unwrap();
    assert_eq!(taken, [(1, None), (2, None)]);
    assert_eq!(rig.state.trusted().unwrap().map(|(number, _)| number), Some(2));
}

/// Another policy is another trust bundle: the machine measures it, and the site's reference values follow.
#[tokio::test]
async fn a_newer_policy_is_what_the_minimum_asks_for() {
    let mut rig = Rig::new();
    rig.issue(|list| list.minimum.policy = 2);
    let directory = rig.site.directory().to_owned();
    let mut trust: TrustBundle = rig.site.trust().clone();
    trust.policy.number = 2;
    fs::write(directory.join(site::path::POLICY), canonical::to_vec(&trust.policy).unwrap()).unwrap();
    fs::write(directory.join(site::path::TRUST), canonical::to_vec(&trust).unwrap()).unwrap();
    rig.site = Site::open(&directory, now()).unwrap();
    rig.reference = reference(&rig.site);
    let outcome = rig.run(async |mut machine| drop(machine.attest().await));
    assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Closed))));
}
