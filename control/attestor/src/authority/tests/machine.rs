//! A machine that needs no hardware: it speaks the protocol and makes real quotes with a key of its own.

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use kiln_formats::canonical;
use kiln_formats::challenge::{Binding, Challenge};
use kiln_formats::decision::{self, Code, Decision, Refusal, Ruling};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::{Envelope, pae};
use kiln_formats::event::Event;
use kiln_formats::job::Limits;
use kiln_formats::link::{Attestation, Blob, Certificates, Done, path};
use kiln_formats::log::{Content, Frame, Stream};
use kiln_formats::manifest::Outcome;
use kiln_formats::names::{PAYLOAD_DECISION, PAYLOAD_STATEMENT, PREDICATE_RECORD};
use kiln_formats::pcr::{Bank, PcrValues};
use kiln_formats::quote::QuoteSignature;
use kiln_formats::runtime_log::{BootId, RuntimeLog, Writer};
use kiln_formats::statement::{Statement, Subject};
use kiln_formats::trust::PublicKey;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};

/// What PID 1's program is, as far as these tests go.
pub(crate) fn init_sha256() -> Sha256Digest {
    Sha256Digest::of(b"init")
}

pub(crate) struct Machine {
    requests: SendRequest<Full<Bytes>>,
    pub(crate) statement_key: SigningKey,
    attestation_key: p256::ecdsa::SigningKey,
    pub(crate) challenge: Option<Challenge>,
    pub(crate) trust_sha256: Option<Sha256Digest>,
}

impl Machine {
    pub(crate) async fn new(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (requests, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self {
            requests,
            statement_key: SigningKey::from_bytes(&[3; 32]),
            attestation_key: p256::ecdsa::SigningKey::from_slice(&[0x42; 32]).unwrap(),
            challenge: None,
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

    /// Configuration, trust bundle, challenge: what an honest machine would attest with.
    pub(crate) async fn prepare(&mut self) -> Attestation {
        let (_, configuration) = self.get(path::CONFIGURATION).await.unwrap();
        let (_, trust) = self.get(path::TRUST).await.unwrap();
        let (_, challenge) = self.get(path::CHALLENGE).await.unwrap();
        let challenge: Challenge = canonical::from_slice_exact(&challenge).unwrap();
        self.challenge = Some(challenge.clone());
        self.trust_sha256 = Some(Sha256Digest::of(&trust));
        let runtime_log = runtime_log(&boot_events(Sha256Digest::of(&configuration), Sha256Digest::of(&trust)));
        self.attestation(challenge, runtime_log)
    }

    pub(crate) fn attestation(&self, challenge: Challenge, runtime_log: Vec<u8>) -> Attestation {
        let statement_key = PublicKey(self.statement_key.verifying_key());
        let binding = Binding { challenge, statement_key_sha256: statement_key.sha256() };
        let (quote, signature) = self.quote(Sha256Digest::of(&canonical::to_vec(&binding).unwrap()), &runtime_log);
        Attestation {
            binding,
            statement_key: Blob(statement_key.spki()),
            attestation_key: Blob(self.attestation_public()),
            quote: Blob(quote),
            signature: Blob(signature),
            firmware_log: Blob::default(),
            runtime_log: Blob(runtime_log),
            init_uptime_us: 1_000_000,
            sent_uptime_us: 2_000_000,
        }
    }

    /// The key as `TPMT_PUBLIC`. Source: TPM 2.0 Library part 2, section 12.2.4.
    fn attestation_public(&self) -> Vec<u8> {
        let point = self.attestation_key.verifying_key().to_sec1_point(false);
        let head = [0, 0x23, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10];
        let coordinate = |bytes: &[u8]| [&[0, 32][..], bytes].concat();
        [&head[..], &coordinate(point.x().unwrap()), &coordinate(point.y().unwrap())].concat()
    }

    /// A `TPMS_ATTEST` over sha256:0-15 and its `TPMT_SIGNATURE`. Source: the same, sections 10.12.12 and 11.3.4.
    pub(crate) fn quote(&self, qualifying: Sha256Digest, runtime_log: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut values = PcrValues::default();
        RuntimeLog::parse(runtime_log).unwrap().fold_into(&mut values, usize::MAX);
        let attest = [
            &[0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 34, 0, 0x0b][..],
            &[0xaa; 32],
            &[0, 32],
            qualifying.as_bytes(),
            &[0; 8],
            &[0, 0, 0, 1, 0, 0, 0, 0, 1],
            &[0; 8],
            &[0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0xff, 0, 0, 32],
            values.quote_digest().as_bytes(),
        ]
        .concat();
        let signature: p256::ecdsa::Signature = self.attestation_key.sign(&attest);
        let (r, s) = signature.split_bytes();
        let signature = [&[0, 0x18, 0, 0x0b, 0, 32][..], &r, &[0, 32], &s].concat();
        (attest, QuoteSignature::normalise(&signature).unwrap().to_bytes())
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
        let subject = vec![Subject::new("log/build", Sha256Digest::of(b""))];
        let payload = canonical::to_vec(&Statement::new(PREDICATE_RECORD, subject, record)).unwrap();
        let signature = self.statement_key.sign(&pae(PAYLOAD_STATEMENT, &payload)).to_bytes();
        let envelope = Envelope::new(PAYLOAD_STATEMENT, &payload, &signature).to_vec().unwrap();
        self.ask(Method::POST, &format!("{}{step}", path::RECORDS), envelope).await
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
