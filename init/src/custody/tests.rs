//! Answers, against registers that only count. The order itself is tested in `order`, the real TPM in `kiln-tpm`.

use super::*;
use ed25519_dalek::VerifyingKey;
use ed25519_dalek::pkcs8::DecodePublicKey as _;
use kiln_formats::certificate::Certificate;
use kiln_formats::enrolment::{self, Credential, Enrolment, SECRET_BYTES};
use kiln_formats::pcr::{Bank, BankDigest, PcrIndex, PcrValues};
use kiln_formats::runtime_log::{BootId, RuntimeLog};
use kiln_formats::timestamp::Timestamp;
use kiln_tpm::{SignedQuote, TpmError};

/// PCR 15 without a TPM; a quote is the register's value.
struct Fake {
    pcr: BankDigest,
    broken: bool,
}

impl Registers for Fake {
    fn extend(&mut self, digests: &[BankDigest]) -> Result<(), TpmError> {
        match digests {
            [digest] if !self.broken => {
                self.pcr = self.pcr.extend(digest).unwrap();
                Ok(())
            }
            _ => Err(TpmError::Banks),
        }
    }

    fn activate(&mut self, credential: &Credential) -> Result<Zeroizing<[u8; SECRET_BYTES]>, TpmError> {
        if credential.id_object.0.is_empty() { Err(TpmError::Banks) } else { Ok(Zeroizing::new(SECRET)) }
    }

    fn quote(&mut self, qualifying: &Sha256Digest) -> Result<SignedQuote, TpmError> {
        Ok(SignedQuote { attest: self.pcr.as_bytes().to_vec(), signature: qualifying.as_bytes().to_vec() })
    }
}

fn custody(broken: bool) -> Result<Custody<Fake>, CustodyError> {
    let registers = Fake { pcr: BankDigest::zero(Bank::Sha256), broken };
    let boot_id = BootId::from_kernel_text("189c18dd-7ba2-45f3-8cf4-9d9ac154b525\n").unwrap();
    let ledger = Ledger::new(registers, boot_id, &[Bank::Sha256], || 7).unwrap();
    let identity = Identity {
        enrolment: Enrolment { attestation_key: Blob(b"ak".to_vec()), ..Enrolment::default() },
        statement_key: Blob::default(),
        issuer_key: Blob::default(),
        firmware_log: Blob::default(),
        init_uptime_us: 3,
    };
    Custody::new(ledger, Sha256Digest::of(b"init"), &[Zeroizing::new([5; 32]), Zeroizing::new([6; 32])], identity)
}

fn attested() -> (Custody<Fake>, Quote) {
    let mut custody = custody(false).unwrap();
    ask(&mut custody, measure(Measurement::Configuration { bytes: Blob(b"{}".to_vec()) }));
    ask(&mut custody, measure(Measurement::Trust { bytes: Blob(b"[]".to_vec()) }));
    assert_eq!(ask(&mut custody, Request::Activate { credential: credential() }), Reply::Activated);
    let qualifying = Sha256Digest::of(b"binding");
    let Reply::Quote(quote) = ask(&mut custody, Request::Quote { which: WhichQuote::First, qualifying }) else {
        panic!("no quote");
    };
    (custody, quote)
}

/// What the fake TPM finds in every credential that is not empty.
const SECRET: [u8; SECRET_BYTES] = [9; SECRET_BYTES];

fn credential() -> Credential {
    Credential { id_object: Blob(b"id".to_vec()), encrypted_secret: Blob(b"seed".to_vec()) }
}

fn measure(what: Measurement) -> Request {
    Request::Measure { what }
}

fn event(event: Event) -> Request {
    measure(Measurement::Event { event })
}

fn ask(custody: &mut Custody<Fake>, request: Request) -> Reply {
    match custody.answer(request).unwrap() {
        Answer::Reply(reply) => reply,
        Answer::End(outcome) => panic!("ended as {outcome:?}"),
    }
}

#[test]
fn the_log_explains_the_register_and_holds_what_was_received() {
    let (_, quote) = attested();
    let log = RuntimeLog::parse(&quote.runtime_log.0).unwrap();
    let events: Vec<_> = log.records().iter().map(|record| record.event.clone()).collect();
    let init = Event::Init(Sha256Digest::of(b"init"));
    let configuration = Event::Configuration(Sha256Digest::of(b"{}"));
    assert_eq!(events, [init, configuration, Event::Trust(Sha256Digest::of(b"[]"))]);
    let mut values = PcrValues::new();
    log.fold_into(&mut values, 3);
    assert_eq!(values.get(Bank::Sha256, PcrIndex::RUNTIME).unwrap().as_bytes(), quote.attest.0);
    let binding = Sha256Digest::of(b"binding");
    assert_eq!(quote.signature.0, binding.as_bytes());
    assert_eq!(quote.proof, Some(enrolment::proof(&SECRET, &binding)));
}

#[test]
fn signatures_are_of_the_key_that_hello_names_and_of_the_labels_type() {
    let (mut custody, _) = attested();
    let Reply::Identity(identity) = ask(&mut custody, Request::Hello) else { panic!("no identity") };
    let key = VerifyingKey::from_public_key_der(&identity.statement_key.0).unwrap();
    let job_sha256 = Sha256Digest::of(b"job");
    ask(&mut custody, event(Event::Job(job_sha256)));
    assert_eq!(ask(&mut custody, Request::Allow { job_sha256 }), Reply::Allowed);
    assert_eq!(ask(&mut custody, event(Event::Decision(Sha256Digest::of(b"yes")))), Reply::Measured);
    let sign = Request::Sign { label: Label::Decision, payload: Blob(b"yes".to_vec()) };
    let Reply::Signature { signature } = ask(&mut custody, sign) else { panic!("no signature") };
    let envelope = dsse::Envelope::new(Label::Decision.payload_type(), b"yes", &signature.0.try_into().unwrap());
    assert_eq!(envelope.verify(Label::Decision.payload_type(), &[key]).unwrap().payload(), b"yes");
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn identify(step: &str) -> Request {
    let [machine, image_root_hash, argv_sha256, enforced_sha256] =
        ["ek", "image", "argv", "enforced"].map(|text| Sha256Digest::of(text.as_bytes()));
    let (begin, end) = (Timestamp::from_unix(1_790_000_000).unwrap(), Timestamp::from_unix(1_790_000_900).unwrap());
    let (trust_domain, build_id) = (name("site.example"), name("00"));
    let task = Task { trust_domain, machine, build_id, begin, end, image_root_hash, argv_sha256, enforced_sha256 };
    Request::Identify { step: name(step), task }
}

/// A machine whose job was allowed, in a decision that is measured and signed.
fn allowed() -> Custody<Fake> {
    let (mut custody, _) = attested();
    let job_sha256 = Sha256Digest::of(b"job");
    ask(&mut custody, event(Event::Job(job_sha256)));
    ask(&mut custody, Request::Allow { job_sha256 });
    ask(&mut custody, event(Event::Decision(Sha256Digest::of(b"yes"))));
    ask(&mut custody, Request::Sign { label: Label::Decision, payload: Blob(b"yes".to_vec()) });
    custody
}

fn signed(custody: &mut Custody<Fake>, label: Label, payload: &[u8]) -> dsse::Envelope {
    let payload_type = label.payload_type();
    let sign = Request::Sign { label, payload: Blob(payload.to_vec()) };
    let Reply::Signature { signature } = ask(custody, sign) else { panic!("no signature") };
    dsse::Envelope::new(payload_type, payload, &signature.0.try_into().unwrap())
}

/// Each step has a key of its own, certified under the key that hello names; its trace and its record are signed with it.
#[test]
fn each_step_has_a_key_of_its_own() {
    let mut custody = allowed();
    let Reply::Identity(identity) = ask(&mut custody, Request::Hello) else { panic!("no identity") };
    assert_ne!(identity.issuer_key, identity.statement_key);
    let statement_key = VerifyingKey::from_public_key_der(&identity.statement_key.0).unwrap();
    let mut spkis = vec![identity.statement_key.0, identity.issuer_key.0];
    for step in ["configure", "make"] {
        ask(&mut custody, event(Event::StepBegin(name(step), Sha256Digest::of(step.as_bytes()))));
        let Reply::Identified { certificate } = ask(&mut custody, identify(step)) else { panic!("not identified") };
        let spki = Certificate::from_der(&certificate.0).unwrap().spki().unwrap();
        assert!(!spkis.contains(&spki));
        let key = VerifyingKey::from_public_key_der(&spki).unwrap();
        spkis.push(spki);
        let begin = event(Event::StepTrace(name(step), Sha256Digest::of(b"trace")));
        ask(&mut custody, begin);
        let trace = signed(&mut custody, Label::Trace { step: name(step) }, b"trace");
        ask(&mut custody, event(Event::StepEnd(name(step), Sha256Digest::of(b"record"))));
        let record = signed(&mut custody, Label::Record { step: name(step) }, b"record");
        for envelope in [trace, record] {
            let payload_type = Label::Record { step: name(step) }.payload_type();
            assert!(envelope.verify(payload_type, &[key]).is_ok());
            assert!(envelope.verify(payload_type, &[statement_key]).is_err());
        }
        assert!(custody.step_key.is_none(), "its key is still there");
    }
}

/// Without an ALLOW that is recorded, without a begin, of another step, or twice: a refusal, and nothing is made, signed or measured.
#[test]
fn no_label_no_key() {
    let refused = Reply::Refused { refusal: Refusal::NoAdmissionLabel };
    let (mut unasked, _) = attested();
    let (mut unrecorded, _) = attested();
    ask(&mut unrecorded, event(Event::Job(Sha256Digest::of(b"job"))));
    ask(&mut unrecorded, Request::Allow { job_sha256: Sha256Digest::of(b"job") });
    let (mut denied, _) = attested();
    ask(&mut denied, event(Event::Job(Sha256Digest::of(b"job"))));
    ask(&mut denied, event(Event::Decision(Sha256Digest::of(b"no"))));
    ask(&mut denied, Request::Sign { label: Label::Decision, payload: Blob(b"no".to_vec()) });
    let mut not_begun = allowed();
    let mut other = allowed();
    ask(&mut other, event(Event::StepBegin(name("another"), Sha256Digest::of(b"step"))));
    for custody in [&mut unasked, &mut unrecorded, &mut denied, &mut not_begun, &mut other] {
        let before = ask(custody, Request::RuntimeLog);
        assert_eq!(ask(custody, identify("make")), refused);
        assert!(custody.step_key.is_none(), "a key was made");
        for label in [Label::Trace { step: name("make") }, Label::Record { step: name("make") }] {
            assert_eq!(ask(custody, Request::Sign { label, payload: Blob(b"x".to_vec()) }), refused);
        }
        assert_eq!(ask(custody, Request::RuntimeLog), before);
    }
    let mut twice = allowed();
    ask(&mut twice, event(Event::StepBegin(name("make"), Sha256Digest::of(b"step"))));
    assert!(matches!(ask(&mut twice, identify("make")), Reply::Identified { .. }));
    assert_eq!(ask(&mut twice, identify("make")), refused);
}

#[test]
fn refusals_are_answered_and_leave_no_trace() {
    let (mut custody, _) = attested();
    ask(&mut custody, event(Event::Job(Sha256Digest::of(b"job"))));
    let before = ask(&mut custody, Request::RuntimeLog);
    let second = ask(&mut custody, event(Event::Job(Sha256Digest::of(b"another"))));
    assert_eq!(second, Reply::Refused { refusal: Refusal::OneShot });
    let label = Label::Record { step: "make".parse().unwrap() };
    let record = ask(&mut custody, Request::Sign { label, payload: Blob(b"record".to_vec()) });
    assert_eq!(record, Reply::Refused { refusal: Refusal::NoAdmissionLabel });
    assert_eq!(ask(&mut custody, Request::RuntimeLog), before);
}

#[test]
fn whatever_else_is_not_next_ends_the_machine() {
    let early = [
        event(Event::Job(Sha256Digest::of(b"job"))),
        measure(Measurement::Trust { bytes: Blob::default() }),
        Request::Quote { which: WhichQuote::First, qualifying: Sha256Digest::of(b"") },
        Request::Sign { label: Label::Manifest, payload: Blob::default() },
        Request::Allow { job_sha256: Sha256Digest::of(b"job") },
        Request::Done { outcome: Outcome::Refused },
        // A digest in place of the bytes, though its moment has come.
        event(Event::Configuration(Sha256Digest::of(b"{}"))),
    ];
    for request in early {
        let answer = custody(false).unwrap().answer(request.clone());
        assert!(matches!(answer, Err(CustodyError::Order(_))), "{request:?}: {answer:?}");
    }
}

#[test]
fn a_credential_is_opened_once_and_at_its_time() {
    let activate = || Request::Activate { credential: credential() };
    let (mut custody, _) = attested();
    assert!(matches!(custody.answer(activate()), Err(CustodyError::Order(_))), "after the first quote");
    let mut custody = self::custody(false).unwrap();
    assert!(matches!(custody.answer(activate()), Err(CustodyError::Order(_))), "before the trust bundle");
    ask(&mut custody, measure(Measurement::Configuration { bytes: Blob(b"{}".to_vec()) }));
    ask(&mut custody, measure(Measurement::Trust { bytes: Blob(b"[]".to_vec()) }));
    let none = Credential { id_object: Blob::default(), encrypted_secret: Blob::default() };
    let answer = custody.answer(Request::Activate { credential: none });
    assert!(
        matches!(answer, Err(CustodyError::Measure(_))),
        "one that the TPM does not open ends the machine: {answer:?}"
    );
}

#[test]
fn a_measurement_that_fails_ends_the_machine() {
    assert!(matches!(custody(true), Err(CustodyError::Measure(MeasureError::Tpm(TpmError::Banks)))));
}
