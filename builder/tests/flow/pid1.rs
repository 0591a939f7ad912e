//! A PID 1 for the test: it signs with keys in memory, quotes nothing but the qualifying data, and keeps what it was asked.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use ed25519_dalek::Signer as _;
use kiln_builder::custody::{Identity, Label, Measurement, Quote, Reply, Request, WhichQuote, receive, send};
use kiln_formats::certificate::{StepDraft, StepIdentity};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::pae;
use kiln_formats::enrolment::Enrolment;
use kiln_formats::event::Event;
use kiln_formats::link::Blob;

use crate::site::{ISSUER, STATEMENT, STEP, endorsement_key, key, spki};

/// What it was asked, as one line for each request but those for the log.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) lines: Vec<String>,
    pub(crate) events: Vec<String>,
    pub(crate) qualifying: Vec<Sha256Digest>,
    /// What it certified of each step.
    pub(crate) identities: Vec<StepIdentity>,
}

impl Asked {
    /// The log as it would have been quoted.
    pub(crate) fn runtime_log(&self) -> Vec<u8> {
        self.events.join("\n").into_bytes()
    }
}

/// Answers until the builder closes the socket.
pub(crate) fn start() -> (UnixStream, JoinHandle<Asked>) {
    let (builder, mut init) = UnixStream::pair().unwrap();
    let answering = std::thread::spawn(move || {
        let mut asked = Asked::default();
        while let Ok(request) = receive::<Request>(&mut init) {
            let Some(reply) = answer(request, &mut asked) else { break };
            send(&mut init, &reply).unwrap();
        }
        asked
    });
    (builder, answering)
}

/// The key of the step that was identified last.
fn last_step(asked: &Asked) -> u8 {
    STEP - 1 + asked.identities.len() as u8
}

/// The digest of the event that begins so.
fn measured(events: &[String], begin: &str) -> Sha256Digest {
    let event = events.iter().rev().find(|event| event.starts_with(begin)).unwrap();
    event.rsplit(':').next().unwrap().parse().unwrap()
}

fn answer(request: Request, asked: &mut Asked) -> Option<Reply> {
    let mut said = |line: String| asked.lines.push(line);
    Some(match request {
        Request::Hello => Reply::Identity(Identity {
            enrolment: Enrolment { endorsement_key: Blob(endorsement_key()), ..Enrolment::default() },
            statement_key: Blob(spki(STATEMENT)),
            issuer_key: Blob(spki(ISSUER)),
            firmware_log: Blob(b"firmware".to_vec()),
            init_uptime_us: 7,
        }),
        Request::Measure { what } => {
            let event = match what {
                Measurement::Configuration { bytes } => Event::Configuration(Sha256Digest::of(&bytes.0)),
                Measurement::Trust { bytes } => Event::Trust(Sha256Digest::of(&bytes.0)),
                Measurement::Event { event } => event,
            };
            said(event.to_string());
            asked.events.push(event.to_string());
            Reply::Measured
        }
        Request::Allow { .. } => {
            said("allow".into());
            Reply::Allowed
        }
        Request::Identify { step, task } => {
            said(format!("identify {step}"));
            let identity = StepIdentity {
                job_sha256: measured(&asked.events, "job:"),
                step_sha256: measured(&asked.events, &format!("step-begin:{step}:")),
                image_root_hash: task.image_root_hash,
                argv_sha256: task.argv_sha256,
                enforced_sha256: task.enforced_sha256,
            };
            asked.identities.push(identity);
            let draft = StepDraft {
                trust_domain: &task.trust_domain,
                machine: &task.machine,
                build_id: &task.build_id,
                step: &step,
                identity,
                begin: task.begin,
                end: task.end,
                serial: [0x22; 16],
            };
            let certificate = draft.issue(&key(last_step(asked)).verifying_key(), &key(ISSUER)).unwrap();
            Reply::Identified { certificate: Blob(certificate.to_der().unwrap()) }
        }
        Request::Sign { label, payload } => {
            said(format!("sign {label:?}"));
            let seed = match label {
                Label::Trace { .. } | Label::Record { .. } => last_step(asked),
                Label::Decision | Label::Provenance | Label::Manifest => STATEMENT,
            };
            let signature = key(seed).sign(&pae(label.payload_type(), &payload.0)).to_bytes();
            Reply::Signature { signature: Blob(signature.to_vec()) }
        }
        Request::Activate { .. } => {
            said("activate".into());
            Reply::Activated
        }
        Request::RuntimeLog => Reply::RuntimeLog { bytes: Blob(asked.runtime_log()) },
        Request::Quote { which, qualifying } => {
            said(format!("quote {which:?}"));
            asked.qualifying.push(qualifying);
            let attest = if which == WhichQuote::First { "first" } else { "last" };
            let attest = format!("{attest} {qualifying}");
            Reply::Quote(Quote {
                attest: Blob(attest.into_bytes()),
                signature: Blob(b"signature".to_vec()),
                runtime_log: Blob(asked.runtime_log()),
                proof: (which == WhichQuote::First).then(|| Sha256Digest::of(b"proof")),
            })
        }
        Request::Done { .. } | Request::Fault { .. } => return None,
    })
}
