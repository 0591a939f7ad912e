//! A PID 1 for the test: it signs with a key in memory, quotes nothing but the qualifying data, and keeps what it was asked.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use ed25519_dalek::Signer as _;
use kiln_builder::custody::{Identity, Measurement, Quote, Reply, Request, WhichQuote, receive, send};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::pae;
use kiln_formats::enrolment::Enrolment;
use kiln_formats::event::Event;
use kiln_formats::link::Blob;

use crate::site::{STATEMENT, endorsement_key, key, spki};

/// What it was asked, as one line for each request but those for the log.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) lines: Vec<String>,
    pub(crate) events: Vec<String>,
    pub(crate) qualifying: Vec<Sha256Digest>,
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

fn answer(request: Request, asked: &mut Asked) -> Option<Reply> {
    let mut said = |line: String| asked.lines.push(line);
    Some(match request {
        Request::Hello => Reply::Identity(Identity {
            enrolment: Enrolment { endorsement_key: Blob(endorsement_key()), ..Enrolment::default() },
            statement_key: Blob(spki(STATEMENT)),
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
        Request::Sign { label, payload } => {
            said(format!("sign {label:?}"));
            let signature = key(STATEMENT).sign(&pae(label.payload_type(), &payload.0)).to_bytes();
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
