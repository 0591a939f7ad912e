//! What goes over the link piece by piece: with a bound on what is in flight, and a sender that waits for its receiver.

use std::pin::Pin;

use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Response, StatusCode};

use super::{Answer, Body, LinkError, patient};

/// How many pieces wait in memory for the host to take them.
const PIECES_MAX: usize = 2;
/// The answer to an upload says nothing but its status; larger ones are a fault, in bytes.
const ANSWER_BYTES_MAX: usize = 4096;

pub(super) type Pieces = Sender<Bytes>;
type Waiting = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

/// The two ends of a request's body.
pub(super) fn channel() -> (Pieces, Body) {
    let (pieces, body) = Channel::new(PIECES_MAX);
    (pieces, body.boxed_unsync())
}

/// An answer whose body has not been read yet.
#[derive(Debug)]
pub(crate) struct Download {
    path: String,
    status: StatusCode,
    body: Incoming,
}

impl Download {
    pub(super) fn new(path: &str, response: Response<Incoming>) -> Self {
        Self { path: path.to_owned(), status: response.status(), body: response.into_body() }
    }

    /// The answer's status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, LinkError> {
        while let Some(frame) = patient(&self.path, self.body.frame()).await? {
            let frame = frame.map_err(|source| LinkError::from_http(&self.path, source))?;
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// The rest, if it is no larger than `bytes_max`.
    pub(crate) async fn whole(self, bytes_max: usize) -> Result<Answer, LinkError> {
        let Self { path, status, body } = self;
        let limited = Limited::new(body, bytes_max);
        let body =
            patient(&path, limited.collect()).await?.map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(source) => LinkError::from_http(&path, *source),
                Err(_) => LinkError::TooLarge { path: path.clone(), bytes_max: bytes_max as u64 },
            })?;
        Ok(Answer { status, body: body.to_bytes() })
    }
}

/// A request whose body is still being sent.
pub(crate) struct Upload {
    path: String,
    pieces: Pieces,
    /// Gone once it has come.
    response: Option<Waiting>,
}

impl Upload {
    pub(super) fn new(path: &str, pieces: Pieces, response: Waiting) -> Self {
        Self { path: path.to_owned(), pieces, response: Some(response) }
    }

    /// Sends a piece, once there is room for it.
    pub(crate) async fn send(&mut self, piece: Bytes) -> Result<(), LinkError> {
        let Self { path, pieces, response } = self;
        tokio::select! {
            biased;
            broken = too_early(path, response) => Err(broken),
            sent = patient(path, pieces.send_data(piece)) => {
                sent?.map_err(|_| LinkError::Closed { path: path.clone(), source: None })
            }
        }
    }

    /// Waits for the link to break while there is nothing to send.
    pub(crate) async fn broken(&mut self) -> LinkError {
        too_early(&self.path, &mut self.response).await
    }

    /// Ends the body and waits until the host has taken it.
    pub(crate) async fn finish(self) -> Result<(), LinkError> {
        self.end().await.taken().await
    }

    /// Ends the body. Whether the host has taken it is asked later: it may be out of reach.
    pub(crate) async fn end(self) -> Sent {
        let Self { path, pieces, response } = self;
        drop(pieces);
        // The connection sends the end now, while there is nothing else to do.
        tokio::task::yield_now().await;
        Sent { path, response }
    }
}

/// A request whose body has been sent.
pub(crate) struct Sent {
    path: String,
    response: Option<Waiting>,
}

impl Sent {
    /// Waits until the host has taken it.
    pub(crate) async fn taken(self) -> Result<(), LinkError> {
        let Self { path, response } = self;
        let response = response.ok_or_else(|| LinkError::Closed { path: path.clone(), source: None })?;
        let response = patient(&path, response).await?.map_err(|source| LinkError::from_http(&path, source))?;
        let answer = Download::new(&path, response).whole(ANSWER_BYTES_MAX).await?;
        super::ok(&path, answer).map(drop)
    }
}

/// Waits for an answer before the end of the body: the host is gone, or does not want the rest.
async fn too_early(path: &str, response: &mut Option<Waiting>) -> LinkError {
    let Some(waiting) = response else { return LinkError::Closed { path: path.to_owned(), source: None } };
    let early = waiting.await;
    *response = None;
    match early {
        Ok(answer) => LinkError::Answer { path: path.to_owned(), status: answer.status().as_u16() },
        Err(source) => LinkError::from_http(path, source),
    }
}
