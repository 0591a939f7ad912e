//! An authority for the test: it answers as the protocol says, but for what a case changes, and keeps what it gets.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kiln_formats::canonical;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::link::{Attestation, Certificates, path};
use tokio::io::DuplexStream;

use crate::site;

/// The most bytes on their way in either direction: less than any message, so that both sides wait for each other.
const IN_FLIGHT_BYTES: usize = 1000;

/// What is answered to paths that a case changes.
type Changed = BTreeMap<String, (StatusCode, Vec<u8>)>;

/// What an authority says.
#[derive(Debug, Default, Clone)]
pub(crate) struct Authority {
    pub(crate) document: Vec<u8>,
    pub(crate) inputs: BTreeMap<String, Vec<u8>>,
    pub(crate) changed: Changed,
    /// What a machine gets for its answer; nothing: what it should.
    pub(crate) certifies: Option<fn(&Attestation) -> Certificates>,
    /// Hangs up when a path that starts so is asked for, after the first piece of its body.
    pub(crate) hangs_up: Option<&'static str>,
}

/// What it got.
#[derive(Debug, Default)]
pub(crate) struct Got {
    pub(crate) requests: Vec<String>,
    pub(crate) bodies: BTreeMap<String, Vec<u8>>,
    /// How long each body took to come.
    pub(crate) took: BTreeMap<String, Duration>,
}

impl Got {
    pub(crate) fn file(&self, file: &str) -> &[u8] {
        self.bodies.get(&format!("{}{file}", path::FILES)).unwrap_or_else(|| panic!("no {file} in {:?}", self.requests))
    }

    /// All files of the bundle, by their paths.
    pub(crate) fn files(&self) -> BTreeMap<&str, &[u8]> {
        let files = self.bodies.iter().filter_map(|(at, body)| Some((at.strip_prefix(path::FILES)?, body.as_slice())));
        files.collect()
    }
}

impl Authority {
    /// Serves one connection in the background.
    pub(crate) fn serve(self) -> (DuplexStream, Arc<Mutex<Got>>) {
        let (machine, ours) = tokio::io::duplex(IN_FLIGHT_BYTES);
        let got = Arc::new(Mutex::new(Got::default()));
        let keeping = Arc::clone(&got);
        let hang_up = Arc::new(tokio::sync::Notify::new());
        let hanging_up = Arc::clone(&hang_up);
        let service = service_fn(move |request| {
            let (authority, got, hang_up) = (self.clone(), Arc::clone(&keeping), Arc::clone(&hang_up));
            async move { Ok::<_, Infallible>(authority.answer(request, &got, &hang_up).await) }
        });
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(ours), service);
            tokio::select! {
                _ = connection => {}
                () = hanging_up.notified() => {}
            }
        });
        (machine, got)
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        got: &Mutex<Got>,
        hang_up: &tokio::sync::Notify,
    ) -> Response<Full<Bytes>> {
        let at = request.uri().path().to_owned();
        got.lock().unwrap().requests.push(format!("{} {at}", request.method()));
        let begin = Instant::now();
        let mut body = request.into_body();
        let mut bytes = Vec::new();
        let hangs_up = self.hangs_up.is_some_and(|start| at.starts_with(start));
        while let Some(frame) = body.frame().await {
            bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
            if hangs_up {
                break;
            }
        }
        let body = bytes.clone();
        got.lock().unwrap().bodies.insert(at.clone(), bytes);
        got.lock().unwrap().took.insert(at.clone(), begin.elapsed());
        if hangs_up {
            hang_up.notify_one();
            std::future::pending::<()>().await;
        }
        let (status, body) = self.changed.get(&at).cloned().unwrap_or_else(|| self.regular(&at, &body));
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        response
    }

    fn regular(&self, at: &str, body: &[u8]) -> (StatusCode, Vec<u8>) {
        let body = match at {
            path::CONFIGURATION => canonical::to_vec(&site::configuration()).unwrap(),
            path::TRUST => canonical::to_vec(&site::trust()).unwrap(),
            path::ENROLMENT => canonical::to_vec(&site::enrolled(&self.document)).unwrap(),
            path::ATTESTATION => {
                let answer: Attestation = serde_json::from_slice(body).unwrap();
                let good: fn(&Attestation) -> Certificates =
                    |answer| site::certificates(site::STATEMENT, site::DISPATCH, answer);
                canonical::to_vec(&self.certifies.unwrap_or(good)(&answer)).unwrap()
            }
            path::JOB => self.document.clone(),
            _ => match at.strip_prefix(path::INPUTS) {
                None => return (StatusCode::NO_CONTENT, Vec::new()),
                Some(digest) => match self.inputs.get(digest) {
                    Some(input) => input.clone(),
                    None => return (StatusCode::NOT_FOUND, b"not here".to_vec()),
                },
            },
        };
        (StatusCode::OK, body)
    }

    /// Has an input at hand that names itself truly.
    pub(crate) fn with_input(mut self, bytes: &[u8]) -> Self {
        self.inputs.insert(Sha256Digest::of(bytes).to_string(), bytes.to_vec());
        self
    }

    /// Answers one path in another way.
    pub(crate) fn with(mut self, at: &str, status: StatusCode, body: impl Into<Vec<u8>>) -> Self {
        self.changed.insert(at.to_owned(), (status, body.into()));
        self
    }
}
