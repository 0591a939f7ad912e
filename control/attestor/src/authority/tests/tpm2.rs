//! A machine made of tpm2-tools: swtpm and `tpm2_createek`, `tpm2_createak`, `tpm2_activatecredential`, `tpm2_pcrextend` and
//! `tpm2_quote` enrol against this authority, from the first request to the job. Nothing of ours touches that TPM.
//!
//! What the same key rightly signs with `tpm2_certify`, `tpm2_certifycreation` and `tpm2_gettime` gets no job.

use kiln_formats::endorsement::{EkKind, EkPublic};
use kiln_formats::enrolment::{Enrolment, proof};
use kiln_formats::event::Event;
use kiln_formats::link::Blob;
use kiln_formats::quote::{AkPublic, Quote, QuoteError, QuoteSignature};
use kiln_formats::runtime_log::RuntimeLog;

use super::*;
use crate::credential::tests::Swtpm;

/// The keys of one TPM, as its tools wrote them.
struct Keys {
    enrolment: Enrolment,
    endorsement_key_sha256: Sha256Digest,
}

fn read(tpm: &Swtpm, file: &str) -> Vec<u8> {
    fs::read(tpm.directory().join(file)).unwrap()
}

/// An endorsement key by the TCG's template, and an attestation key below it.
fn make_keys(tpm: &Swtpm) -> Keys {
    tpm.must("tpm2_createek -c ek.ctx -G ecc -u ek.pub");
    tpm.must("tpm2_createak -C ek.ctx -c ak.ctx -G ecc -g sha256 -s ecdsa -u ak.pub -n ak.name");
    // A public area behind its length.
    let public = |file: &str| Blob(read(tpm, file)[2..].to_vec());
    let (endorsement_key, attestation_key) = (public("ek.pub"), public("ak.pub"));
    let endorsement_key_sha256 = EkPublic::parse(&endorsement_key.0).unwrap().sha256();
    assert_eq!(AkPublic::parse(&attestation_key.0).unwrap().name().to_vec(), read(tpm, "ak.name"));
    Keys { enrolment: Enrolment { endorsement_key, attestation_key, ..Enrolment::default() }, endorsement_key_sha256 }
}

/// Measures what a machine measures of its start.
fn measure(tpm: &Swtpm, log: &[u8]) {
    for record in RuntimeLog::parse(log).unwrap().records() {
        let digest = Sha256Digest::of(record.event.to_string().as_bytes());
        tpm.must(&format!("tpm2_pcrextend 15:sha256={digest}"));
    }
}

/// Enrols with these keys; what the authority offers.
async fn enrol(machine: &mut Machine, keys: &Enrolment) -> Enrolled {
    let message = canonical::to_vec(keys).unwrap();
    let (status, answer) = machine.ask(Method::POST, path::ENROLMENT, message).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer:?}");
    canonical::from_slice_exact(&answer).unwrap()
}

/// The attestations that are no quotes, by their tools. Source: TPM 2.0 Library part 2, section 6.9 (TPM_ST).
const CERTIFY: u16 = 0x8017;
const TIME: u16 = 0x8019;
const CREATION: u16 = 0x801a;
/// Where the attestation key is kept for commands that are sent as bytes.
const KEPT_AT: u32 = 0x8101_0002;

/// The start of a `TPMS_ATTEST` that is no quote: its kind, its qualifying data, and of a certification the name of what it
/// certifies. Source: TPM 2.0 Library part 2, sections 10.12.3 (TPMS_CERTIFY_INFO) and 10.12.12 (TPMS_ATTEST).
fn attested(attest: &[u8]) -> (u16, Vec<u8>, Vec<u8>) {
    let number = |at: usize| u16::from_be_bytes([attest[at], attest[at + 1]]);
    let sized = |at: usize| attest[at + 2..at + 2 + usize::from(number(at))].to_vec();
    let signer = sized(6);
    let qualifying = sized(8 + signer.len());
    // Clock, counters, whether the clock is safe, firmware version.
    let body = 10 + signer.len() + qualifying.len() + 8 + 4 + 4 + 1 + 8;
    let name = if number(4) == CERTIFY { sized(body) } else { Vec::new() };
    (number(4), qualifying, name)
}

/// `TPM2_Certify` of the attestation key by itself over these bytes, which `tpm2_certify` has no way to take: what is attested, and
/// the signature. Source: TPM 2.0 Library part 3, section 18.2.
fn certify_itself(tpm: &Swtpm, qualifying: &Sha256Digest) -> (Vec<u8>, Vec<u8>) {
    tpm.must(&format!("tpm2_evictcontrol -C o -c ak.ctx {KEPT_AT:#x}"));
    let handle = KEPT_AT.to_be_bytes();
    // An empty password, for the object and for the key: TPM_RS_PW, no nonce, continueSession, no secret.
    let password = [0x40, 0, 0, 9, 0, 0, 1, 0, 0];
    // The key's own scheme: TPM_ALG_NULL.
    let parameters = [&[0, 32], &qualifying.as_bytes()[..], &[0, 0x10]].concat();
    let body = [&[0, 0, 1, 0x48], &handle[..], &handle, &[0, 0, 0, 18], &password, &password, &parameters].concat();
    let length = u32::try_from(body.len() + 6).unwrap().to_be_bytes();
    fs::write(tpm.directory().join("command"), [&[0x80, 2], &length[..], &body].concat()).unwrap();
    tpm.must("tpm2_send -o response command");
    let response = read(tpm, "response");
    assert_eq!(response[6..10], [0; 4], "{response:?}");
    // Behind the head and the parameters' length: the attestation with its length, the signature, two sessions of five bytes.
    let length = usize::from(u16::from_be_bytes([response[14], response[15]]));
    let (attest, rest) = response[16..].split_at(length);
    (attest.to_vec(), rest[..rest.len() - 10].to_vec())
}

/// What a machine would send for this challenge, with a quote of this TPM.
fn answer(
    machine: &Machine,
    tpm: &Swtpm,
    keys: &Keys,
    enrolled: &Enrolled,
    secret: &[u8; SECRET_BYTES],
    log: &[u8],
) -> Attestation {
    let mut answer = machine.attestation(enrolled.challenge.clone(), log.to_vec());
    answer.binding.endorsement_key_sha256 = keys.endorsement_key_sha256;
    let binding_sha256 = Sha256Digest::of(&canonical::to_vec(&answer.binding).unwrap());
    let registers = (0..16).map(|index| index.to_string()).collect::<Vec<_>>().join(",");
    tpm.must(&format!("tpm2_quote -c ak.ctx -l sha256:{registers} -q {binding_sha256} -m quote -s signature"));
    answer.proof = proof(secret, &binding_sha256);
    answer.quote = Blob(read(tpm, "quote"));
    answer.signature = Blob(QuoteSignature::normalise(&read(tpm, "signature")).unwrap().to_bytes());
    answer
}

/// Enrols with the TPM's own keys, opens the credential, and answers the challenge.
async fn honest(machine: &mut Machine, tpm: &Swtpm, keys: &Keys, log: &[u8]) -> Attestation {
    let enrolled = enrol(machine, &keys.enrolment).await;
    let secret = tpm.open(EkKind::P256, &enrolled.credential).unwrap();
    answer(machine, tpm, keys, &enrolled, &secret.try_into().unwrap(), log)
}

#[tokio::test]
async fn tpm2_tools_enrol_and_get_the_job() {
    let tpm = Swtpm::start();
    let keys = make_keys(&tpm);
    let mut rig = Rig::new();
    site::enrolment::add_key(rig.site.directory(), TpmClass::Virtual, keys.endorsement_key_sha256).unwrap();
    let document = rig.offer.document().to_vec();
    let outcome = rig.run(async |mut machine| {
        let log = machine.start().await;
        measure(&tpm, &log);
        let answer = honest(&mut machine, &tpm, &keys, &log).await;
        let (status, said) = machine.send_attestation(&answer).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{said:?}");
        assert_eq!(machine.get(path::JOB).await.unwrap().1, document);
    });
    assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Closed))));
}

/// Each by the tools of two real TPMs: nothing that they let one do gets a job for the other.
#[tokio::test]
async fn what_tpm2_tools_forge_is_refused() {
    let (tpm, other) = (Swtpm::start(), Swtpm::start());
    let (keys, foreign) = (make_keys(&tpm), make_keys(&other));
    // The attestation key of another TPM: the one with the endorsement key does not open the credential, and a guess is no proof.
    let mut rig = Rig::new();
    site::enrolment::add_key(rig.site.directory(), TpmClass::Virtual, keys.endorsement_key_sha256).unwrap();
    rig.refuses("proof", async |machine| {
        let log = machine.start().await;
        measure(&other, &log);
        let attestation_key = foreign.enrolment.attestation_key.clone();
        let enrolled = enrol(machine, &Enrolment { attestation_key, ..keys.enrolment.clone() }).await;
        assert_eq!(tpm.open(EkKind::P256, &enrolled.credential), None);
        let answer = answer(machine, &other, &keys, &enrolled, &[0; SECRET_BYTES], &log);
        let (status, said) = machine.send_attestation(&answer).await.unwrap();
        (status, said.to_vec())
    })
    .await;
    // The bytes of a quote, signed with TPM2_Sign: the attestation key refuses, and another key of the same TPM is another key.
    let mut rig = Rig::new();
    site::enrolment::add_key(rig.site.directory(), TpmClass::Virtual, keys.endorsement_key_sha256).unwrap();
    rig.refuses("quote", async |machine| {
        let log = machine.start().await;
        measure(&tpm, &log);
        let mut answer = honest(machine, &tpm, &keys, &log).await;
        // What the firmware would have had to measure, and did not.
        *answer.quote.0.last_mut().unwrap() ^= 1;
        fs::write(tpm.directory().join("forged"), &answer.quote.0).unwrap();
        assert!(!tpm.tool("tpm2_sign -c ak.ctx -g sha256 -s ecdsa -o signature forged"), "a restricted key signed it");
        assert!(tpm.tool("tpm2_flushcontext -t"));
        let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign";
        tpm.must(&format!("tpm2_createprimary -C e -g sha256 -G ecc256:ecdsa-sha256:null -a {attributes} -c free.ctx"));
        tpm.must("tpm2_sign -c free.ctx -g sha256 -s ecdsa -o signature forged");
        answer.signature = Blob(QuoteSignature::normalise(&read(&tpm, "signature")).unwrap().to_bytes());
        let (status, said) = machine.send_attestation(&answer).await.unwrap();
        (status, said.to_vec())
    })
    .await;
    // That other key enrols no better: it signs what it is given.
    tpm.must("tpm2_readpublic -c free.ctx -o free.pub");
    let mut enrolment = keys.enrolment.clone();
    enrolment.attestation_key = Blob(read(&tpm, "free.pub")[2..].to_vec());
    let mut rig = Rig::new();
    site::enrolment::add_key(rig.site.directory(), TpmClass::Virtual, keys.endorsement_key_sha256).unwrap();
    rig.turns_away("attestation_key_unrestricted", |_| canonical::to_vec(&enrolment).unwrap()).await;
    // More was measured than the log says: a PCR with no events.
    let mut rig = Rig::new();
    site::enrolment::add_key(rig.site.directory(), TpmClass::Virtual, foreign.endorsement_key_sha256).unwrap();
    let late = Swtpm::start();
    let keys = make_keys(&late);
    site::enrolment::add_key(rig.site.directory(), TpmClass::Virtual, keys.endorsement_key_sha256).unwrap();
    rig.refuses("replay_differs", async |machine| {
        let log = machine.start().await;
        measure(&late, &log);
        late.must(&format!("tpm2_pcrextend 7:sha256={}", Sha256Digest::of(Event::Final.to_string().as_bytes())));
        let answer = honest(machine, &late, &keys, &log).await;
        let (status, said) = machine.send_attestation(&answer).await.unwrap();
        (status, said.to_vec())
    })
    .await;
}

/// A certification shows that a key is in the same TPM as the key that signs it, whichever TPM that is: so one of the attestation key
/// names it as the authority does, and stands for no quote. Nor does anything else that the enrolled key rightly signs.
#[tokio::test]
async fn what_the_attestation_key_signs_beside_quotes_gets_no_job() {
    type Attest = fn(&Swtpm, &Sha256Digest) -> (Vec<u8>, Vec<u8>);
    let kinds: [(&str, u16, Attest); 4] = [
        ("tpm2_certify", CERTIFY, |tpm, _| {
            tpm.must("tpm2_certify -c ak.ctx -C ak.ctx -g sha256 -o attest -s signature");
            (read(tpm, "attest"), read(tpm, "signature"))
        }),
        ("TPM2_Certify", CERTIFY, certify_itself),
        ("tpm2_gettime", TIME, |tpm, qualifying| {
            tpm.must(&format!("tpm2_gettime -c ak.ctx -g sha256 -q {qualifying} -o signature --attestation attest"));
            (read(tpm, "attest"), read(tpm, "signature"))
        }),
        ("tpm2_certifycreation", CREATION, |tpm, qualifying| {
            tpm.must("tpm2_createprimary -C e -g sha256 -G ecc -c made.ctx -d made.hash -t made.ticket");
            let made = "-c made.ctx -d made.hash -t made.ticket";
            tpm.must(&format!(
                "tpm2_certifycreation -C ak.ctx {made} -g sha256 -q {qualifying} -o signature --attestation attest"
            ));
            (read(tpm, "attest"), read(tpm, "signature"))
        }),
    ];
    for (tool, kind, attest) in kinds {
        let tpm = Swtpm::start();
        let keys = make_keys(&tpm);
        let ak = AkPublic::parse(&keys.enrolment.attestation_key.0).unwrap();
        let mut rig = Rig::new();
        site::enrolment::add_key(rig.site.directory(), TpmClass::Virtual, keys.endorsement_key_sha256).unwrap();
        rig.refuses("not_a_quote", async |machine| {
            let log = machine.start().await;
            measure(&tpm, &log);
            let mut answer = honest(machine, &tpm, &keys, &log).await;
            let binding_sha256 = Sha256Digest::of(&canonical::to_vec(&answer.binding).unwrap());
            let (attest, signature) = attest(&tpm, &binding_sha256);
            let (found, qualifying, name) = attested(&attest);
            assert_eq!(found, kind, "{tool}");
            // The tool has its own four bytes; everything else commits to this very challenge.
            assert_eq!(qualifying == binding_sha256.as_bytes(), tool != "tpm2_certify", "{tool}: {qualifying:?}");
            assert_eq!(name, if kind == CERTIFY { ak.name().to_vec() } else { Vec::new() }, "{tool}");
            let signature = QuoteSignature::normalise(&signature).unwrap().to_bytes();
            assert_eq!(
                Quote::verify(&attest, &signature, ak.key()),
                Err(QuoteError::Type { found: kind }),
                "{tool}: the signature holds"
            );
            (answer.quote, answer.signature) = (Blob(attest), Blob(signature));
            let (status, said) = machine.send_attestation(&answer).await.unwrap();
            (status, said.to_vec())
        })
        .await;
    }
}

/// Whatever key it certifies, the certification names that key and says who signed.
#[test]
fn a_certification_of_another_key_names_that_key() {
    let tpm = Swtpm::start();
    let keys = make_keys(&tpm);
    let ak = AkPublic::parse(&keys.enrolment.attestation_key.0).unwrap();
    tpm.must("tpm2_createprimary -C e -g sha256 -G ecc -c other.ctx");
    tpm.must("tpm2_readpublic -c other.ctx -n other.name");
    tpm.must("tpm2_certify -c other.ctx -C ak.ctx -g sha256 -o attest -s signature");
    let (kind, _, name) = attested(&read(&tpm, "attest"));
    assert_eq!((kind, &name), (CERTIFY, &read(&tpm, "other.name")));
    assert_ne!(name, ak.name());
}
