//! A machine that needs no hardware: it speaks the protocol, opens credentials and makes real quotes with keys of its own.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use kiln_formats::canonical;
use kiln_formats::certificate::{StepDraft, StepIdentity};
use kiln_formats::challenge::{Binding, Challenge};
use kiln_formats::decision::{self, Code, Decision, Refusal, Ruling};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::{Envelope, pae};
use kiln_formats::enrolment::{Credential, Enrolled, Enrolment, SECRET_BYTES, proof};
use kiln_formats::event::Event;
use kiln_formats::job::Limits;
use kiln_formats::link::{Attestation, Blob, Certificates, Done, path};
use kiln_formats::log::{Content, Frame, Stream};
use kiln_formats::manifest::Outcome;
use kiln_formats::names::{
    BUILD_TYPE, BUILDER_DIRECT, MONITOR, PAYLOAD_DECISION, PAYLOAD_STATEMENT, PREDICATE_RECORD, PREDICATE_RUNTIME_TRACE,
};
use kiln_formats::pcr::{Bank, PcrIndex, PcrValues};
use kiln_formats::quote::{AkPublic, QuoteSignature};
use kiln_formats::runtime_log::{BootId, RuntimeLog, Writer};
use kiln_formats::runtime_trace;
use kiln_formats::statement::{Statement, Subject};
use kiln_formats::trust::PublicKey;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use super::endorsement::Endorsement;

/// Each machine is another boot, as the TPM counts them.
static BOOTS: AtomicU32 = AtomicU32::new(1);

/// How long the authority certifies a build's keys, in seconds.
const LEAF_SECONDS: u32 = 900;

/// The endorsement key that the test sites list.
pub(crate) fn endorsement() -> Endorsement {
    Endorsement::of(0x24)
}

/// What PID 1's program is, as far as these tests go.
pub(crate) fn init_sha256() -> Sha256Digest {
    Sha256Digest::of(b"init")
}

/// A key that signs only what its TPM made, as `TPMT_PUBLIC`. Source: TPM 2.0 Library part 2, section 12.2.4.
pub(crate) fn public_area(key: &p256::ecdsa::SigningKey) -> Vec<u8> {
    let point = key.verifying_key().to_sec1_point(false);
    let head = [0, 0x23, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10];
    let coordinate = |bytes: &[u8]| [&[0, 32][..], bytes].concat();
    [&head[..], &coordinate(point.x().unwrap()), &coordinate(point.y().unwrap())].concat()
}

/// A `TPMS_ATTEST` over these registers, SHA-256, and its `TPMT_SIGNATURE`. Source: the same, sections 10.12.12 and 11.3.4.
pub(crate) fn quote(
    key: &p256::ecdsa::SigningKey,
    qualifying: Sha256Digest,
    reset_count: u32,
    selection: [u8; 3],
    pcr_digest: Sha256Digest,
) -> (Vec<u8>, Vec<u8>) {
    let attest = [
        &[0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 34, 0, 0x0b][..],
        &[0xaa; 32],
        &[0, 32],
        qualifying.as_bytes(),
        &[0; 8],
        &reset_count.to_be_bytes(),
        &[0, 0, 0, 0, 1],
        &[0; 8],
        &[0, 0, 0, 1, 0, 0x0b, 3],
        &selection,
        &[0, 32],
        pcr_digest.as_bytes(),
    ]
    .concat();
    let signature: p256::ecdsa::Signature = key.sign(&attest);
    let (r, s) = signature.split_bytes();
    let signature = [&[0, 0x18, 0, 0x0b, 0, 32][..], &r, &[0, 32], &s].concat();
    (attest, QuoteSignature::normalise(&signature).unwrap().to_bytes())
}

pub(crate) struct Machine {
    requests: SendRequest<Full<Bytes>>,
    pub(crate) statement_key: SigningKey,
    pub(crate) issuer_key: SigningKey,
    /// The key of the step that runs.
    pub(crate) step_key: SigningKey,
    attestation_key: p256::ecdsa::SigningKey,
    pub(crate) endorsement: Endorsement,
    pub(crate) reset_count: u32,
    /// A register that something was measured into which no log has.
    pub(crate) unlogged: Option<PcrIndex>,
    pub(crate) challenge: Option<Challenge>,
    pub(crate) secret: [u8; SECRET_BYTES],
    pub(crate) trust_sha256: Option<Sha256Digest>,
}

impl Machine {
    pub(crate) async fn new(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (requests, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self {
            requests,
            statement_key: SigningKey::from_bytes(&[3; 32]),
            issuer_key: SigningKey::from_bytes(&[4; 32]),
            step_key: SigningKey::from_bytes(&[5; 32]),
            attestation_key: p256::ecdsa::SigningKey::from_slice(&[0x42; 32]).unwrap(),
            endorsement: endorsement(),
            reset_count: BOOTS.fetch_add(1, Ordering::Relaxed),
            unlogged: None,
            challenge: None,
            secret: [0; SECRET_BYTES],
            trust_sha256: None,
        }
    }

    /// One request; `None` if the authority hung up.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Option<(StatusCode, Bytes)> {
        self.requests.ready().await.ok()?;
        let body = Full::new(body.into());
        let request = Request::builder().method(method).uri(path).header("host", "kiln").body(body).unwrap();
        let response = self.requests.send_request(request).await.ok()?;
        let status = response.status();
        Some((status, response.into_body().collect().await.ok()?.to_bytes()))
    }

    pub(crate) async fn get(&mut self, path: &str) -> Option<(StatusCode, Bytes)> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// Configuration and trust bundle; the runtime log that an honest machine has then.
    pub(crate) async fn start(&mut self) -> Vec<u8> {
        let (_, configuration) = self.get(path::CONFIGURATION).await.unwrap();
        let (_, trust) = self.get(path::TRUST).await.unwrap();
        self.trust_sha256 = Some(Sha256Digest::of(&trust));
        runtime_log(&boot_events(Sha256Digest::of(&configuration), Sha256Digest::of(&trust)))
    }

    /// What an honest machine enrols with whose TPM keeps no certificate.
    pub(crate) fn enrolment(&self) -> Enrolment {
        Enrolment {
            endorsement_key: Blob(self.endorsement.public()),
            attestation_key: Blob(self.attestation_public()),
            ..Enrolment::default()
        }
    }

    /// Enrols, and opens the credential.
    pub(crate) async fn enrol(&mut self, enrolment: &Enrolment) -> Credential {
        let message = canonical::to_vec(enrolment).unwrap();
        let (status, answer) = self.ask(Method::POST, path::ENROLMENT, message).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{answer:?}");
        let Enrolled { challenge, credential } = canonical::from_slice_exact(&answer).unwrap();
        self.challenge = Some(challenge);
        self.secret = self.endorsement.open(&credential, &self.name()).unwrap();
        credential
    }

    /// Everything before the attestation: what an honest machine would attest with.
    pub(crate) async fn prepare(&mut self) -> Attestation {
        let runtime_log = self.start().await;
        self.enrol(&self.enrolment()).await;
        self.attestation(self.challenge.clone().unwrap(), runtime_log)
    }

    pub(crate) fn attestation(&self, challenge: Challenge, runtime_log: Vec<u8>) -> Attestation {
        let [statement_key, issuer_key] =
            [&self.statement_key, &self.issuer_key].map(|key| PublicKey(key.verifying_key()));
        let endorsement_key_sha256 = self.endorsement.sha256();
        let [statement_key_sha256, issuer_key_sha256] = [statement_key.sha256(), issuer_key.sha256()];
        let binding = Binding { challenge, statement_key_sha256, issuer_key_sha256, endorsement_key_sha256 };
        let binding_sha256 = Sha256Digest::of(&canonical::to_vec(&binding).unwrap());
        let (quote, signature) = self.quote(&self.attestation_key, binding_sha256, &runtime_log);
        Attestation {
            binding,
            statement_key: Blob(statement_key.spki()),
            issuer_key: Blob(issuer_key.spki()),
            proof: proof(&self.secret, &binding_sha256),
            quote: Blob(quote),
            signature: Blob(signature),
            firmware_log: Blob::default(),
            runtime_log: Blob(runtime_log),
            init_uptime_us: 1_000_000,
            sent_uptime_us: 2_000_000,
        }
    }

    /// The attestation key's name.
    pub(crate) fn name(&self) -> [u8; 34] {
        AkPublic::parse(&self.attestation_public()).unwrap().name()
    }

    fn attestation_public(&self) -> Vec<u8> {
        public_area(&self.attestation_key)
    }

    /// A quote of the machine's registers after what the log says.
    pub(crate) fn quote(
        &self,
        key: &p256::ecdsa::SigningKey,
        qualifying: Sha256Digest,
        runtime_log: &[u8],
    ) -> (Vec<u8>, Vec<u8>) {
        let mut values = PcrValues::default();
        RuntimeLog::parse(runtime_log).unwrap().fold_into(&mut values, usize::MAX);
        if let Some(index) = self.unlogged {
            values.extend(index, &Bank::Sha256.hash(b"unlogged").unwrap());
        }
        quote(key, qualifying, self.reset_count, [0xff, 0xff, 0], values.quote_digest())
    }

    pub(crate) async fn attest(&mut self) -> Certificates {
        let attestation = self.prepare().await;
        let (status, certificates) = self.send_attestation(&attestation).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{certificates:?}");
        serde_json::from_slice(&certificates).unwrap()
    }

    pub(crate) async fn send_attestation(&mut self, attestation: &Attestation) -> Option<(StatusCode, Bytes)> {
        self.ask(Method::POST, path::ATTESTATION, canonical::to_vec(attestation).unwrap()).await
    }

    pub(crate) async fn decide(&mut self, verdict: Ruling) -> Option<(StatusCode, Bytes)> {
        let challenge = self.challenge.clone().unwrap();
        let decision = Decision {
            version: decision::VERSION,
            build_id: challenge.build_id,
            job_sha256: challenge.job_sha256,
            trust_sha256: self.trust_sha256.unwrap(),
            time: challenge.issued,
            verdict,
        };
        let payload = canonical::to_vec(&decision).unwrap();
        let signature = self.statement_key.sign(&pae(PAYLOAD_DECISION, &payload)).to_bytes();
        let envelope = Envelope::new(PAYLOAD_DECISION, &payload, &signature).to_vec().unwrap();
        self.ask(Method::POST, path::DECISION, envelope).await
    }

    /// Everything up to an admitted job.
    pub(crate) async fn admitted(&mut self) {
        self.attest().await;
        self.get(path::JOB).await.unwrap();
        assert_eq!(self.decide(Ruling::Allow).await.unwrap().0, StatusCode::NO_CONTENT);
    }

    pub(crate) async fn put(&mut self, file: &str, bytes: impl Into<Bytes>) -> Option<(StatusCode, Bytes)> {
        self.ask(Method::PUT, &format!("{}{file}", path::FILES), bytes).await
    }

    pub(crate) async fn log(&mut self, step: &str, bytes: impl Into<Bytes>) -> Option<(StatusCode, Bytes)> {
        self.ask(Method::POST, &format!("{}{step}", path::LOGS), bytes).await
    }

    /// A step that ended: its log, and what is signed of it.
    pub(crate) async fn step(&mut self, step: &str, log: impl Into<Bytes>) {
        self.log(step, log).await.unwrap();
        self.identify(step, step).await.unwrap();
        self.trace(step, step).await.unwrap();
        self.record(step, step).await.unwrap();
    }

    /// The certificate of a step of this name.
    pub(crate) fn certificate(&self, step: &str) -> String {
        let challenge = self.challenge.as_ref().unwrap();
        let [image_root_hash, argv_sha256, enforced_sha256] = [Sha256Digest::of(b"x"); 3];
        let (job_sha256, step_sha256) = (challenge.job_sha256, Sha256Digest::of(step.as_bytes()));
        let draft = StepDraft {
            trust_domain: &"demo.example".parse().unwrap(),
            machine: &self.endorsement.sha256(),
            build_id: &challenge.build_id,
            step: &step.parse().unwrap(),
            identity: StepIdentity { job_sha256, step_sha256, image_root_hash, argv_sha256, enforced_sha256 },
            begin: challenge.issued,
            end: challenge.issued.plus_seconds(LEAF_SECONDS),
            serial: [1; 16],
        };
        draft.issue(&self.step_key.verifying_key(), &self.issuer_key).unwrap().to_pem().unwrap()
    }

    /// The certificate of `of`, sent as that of `step`.
    pub(crate) async fn identify(&mut self, step: &str, of: &str) -> Option<(StatusCode, Bytes)> {
        self.ask(Method::POST, &format!("{}{step}", path::IDENTITIES), self.certificate(of)).await
    }

    /// A trace of `of`, sent as that of `step`.
    pub(crate) async fn trace(&mut self, step: &str, of: &str) -> Option<(StatusCode, Bytes)> {
        let event = runtime_trace::event(&self.challenge.as_ref().unwrap().build_id, &of.parse().unwrap());
        let trace = json!({
            "monitor": {
                "type": MONITOR,
                "tracePolicy": { "profile": "strict", "executions": "synchronous", "denials": "asynchronous" },
            },
            "monitoredProcess": { "hostID": BUILDER_DIRECT, "type": BUILD_TYPE, "event": event },
            "monitorLog": {
                "process": [],
                "network": [],
                "kiln_denials": [{ "layer": "seccomp", "operation": "socket", "object": "10, 3, 0", "count": 2 }],
                "kiln_unlisted": { "executions": 1, "denials": 0 },
            },
            "metadata": { "buildStartedOn": "2026-09-21T13:46:40Z", "buildFinishedOn": "2026-09-21T13:46:41Z" },
        });
        let envelope = self.statement(PREDICATE_RUNTIME_TRACE, trace);
        self.ask(Method::POST, &format!("{}{step}", path::TRACES), envelope).await
    }

    /// A record of `of`, sent as that of `step`.
    pub(crate) async fn record(&mut self, step: &str, of: &str) -> Option<(StatusCode, Bytes)> {
        let sha256 = Sha256Digest::of(b"");
        let stream = json!({ "sha256": sha256, "writtenBytes": 0, "writtenLines": 0, "keptBytes": 0, "keptLines": 0 });
        let record = json!({
            "buildId": "00", "sequence": 0, "previous": Sha256Digest::of(b""), "step": of,
            "stepSha256": Sha256Digest::of(b""), "imageRootHash": Sha256Digest::of(b""), "argv": ["cc"], "env": {},
            "workdir": "/", "inputs": [], "workspaces": [], "profile": "strict", "proc": "minimal",
            "limits": Limits::default(), "exit": { "kind": "code", "code": 1 },
            "usage": {
                "wallMs": 1, "cpuUs": 1, "memoryPeakBytes": 1, "pidsPeak": 1, "ioReadBytes": 0, "ioWrittenBytes": 0,
            },
            "log": { "sha256": sha256, "frames": 0, "out": stream, "err": stream },
            "trace": Sha256Digest::of(b""), "enforced": {},
        });
        let envelope = self.statement(PREDICATE_RECORD, record);
        self.ask(Method::POST, &format!("{}{step}", path::RECORDS), envelope).await
    }

    fn statement(&self, predicate: &str, content: Value) -> Vec<u8> {
        let subject = vec![Subject::new("log/build", Sha256Digest::of(b""))];
        let payload = canonical::to_vec(&Statement::new(predicate, subject, content)).unwrap();
        let signature = self.step_key.sign(&pae(PAYLOAD_STATEMENT, &payload)).to_bytes();
        Envelope::new(PAYLOAD_STATEMENT, &payload, &signature).to_vec().unwrap()
    }

    pub(crate) async fn done(&mut self, outcome: Outcome) -> Option<(StatusCode, Bytes)> {
        self.ask(Method::POST, path::DONE, canonical::to_vec(&Done { outcome }).unwrap()).await
    }
}

pub(crate) fn boot_events(configuration: Sha256Digest, trust: Sha256Digest) -> [Event; 3] {
    [Event::Init(init_sha256()), Event::Configuration(configuration), Event::Trust(trust)]
}

pub(crate) fn runtime_log(events: &[Event]) -> Vec<u8> {
    let boot_id = BootId::from_kernel_text("0123456789abcdef0123456789abcdef").unwrap();
    let mut writer = Writer::new(boot_id, &[Bank::Sha256]).unwrap();
    let entries = (1..).zip(events).map(|(at, event)| writer.entry(event, at).unwrap());
    entries.flat_map(|entry| entry.bytes).collect()
}

/// A log: each of these written at once.
pub(crate) fn frames(writes: &[(Stream, &[u8])]) -> Vec<u8> {
    let mut to = Vec::new();
    writes.iter().fold(0, |sequence, &(stream, bytes)| {
        Frame { sequence, time_us: 7, content: Content::Wrote { stream, bytes } }.encode(&mut to)
    });
    to
}

pub(crate) fn refusal() -> Refusal {
    let text = || "because".to_owned();
    Refusal { code: Code::Expired, object: text(), reason: text(), remedy: text() }
}
