//! One HTTP/1.1 connection, seen as a sequence of requests.
//!
//! [`serve`] runs a script, which reads like the protocol: take the next request, answer it, take the next. Promises: one
//! request at a time; no wait without a bound; no body larger than the script allows. Deliberately absent: routing, a second
//! connection, anything that outlives the script.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// The largest head of a request in bytes, and hyper's read buffer: the longest path has 128 bytes, and a few headers.
/// Source: hyper refuses a buffer below 8 KiB; a larger one only makes large bodies faster.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// The most headers of a request; our machine sends four.
const HEADERS_MAX: usize = 16;
/// How long the last answer may take to reach the machine.
const FAREWELL_MS_MAX: u64 = 5_000;

/// What an answer carries.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why the conversation ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The machine closed the link.
    #[error("the machine closed the link")]
    Closed,
    /// What came is not HTTP/1.1, or the socket failed.
    #[error("the link failed")]
    Http {
        /// What hyper says.
        source: hyper::Error,
    },
    /// The machine neither asked, sent nor took anything for too long.
    #[error("the machine was silent for {} s while the authority waited for {awaited}", silence.as_secs())]
    Silent {
        /// What for.
        awaited: &'static str,
        /// The bound.
        silence: Duration,
    },
    /// A body above its bound.
    #[error("{path}: the body is larger than {bytes_max} bytes")]
    TooLarge {
        /// What was sent.
        path: String,
        /// The bound.
        bytes_max: u64,
    },
}

/// Runs `script` against the machine at the other end of `stream`. When it returns, the last answer was sent, or there is an
/// error and nobody is waited for.
///
/// # Errors
/// The script's, or those of the connection, whichever comes first.
pub(crate) async fn serve<S, T, E>(stream: S, script: impl AsyncFnOnce(&mut Link) -> Result<T, E>) -> Result<T, E>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: From<LinkError>,
{
    let activity = Activity::new();
    let (send, requests) = mpsc::channel(1);
    let service = service_fn(move |request| {
        let send = send.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            send.send((request, answer)).await.map_err(|_| ScriptEnded)?;
            answered.await.map_err(|_| ScriptEnded)
        }
    });
    let io = TokioIo::new(Watched { stream, activity: activity.clone() });
    let connection = hyper::server::conn::http1::Builder::new()
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let mut link = Link { requests, activity };
    let outcome = tokio::select! {
        biased;
        outcome = script(&mut link) => outcome?,
        ended = &mut connection => return Err(E::from(ended.map_or_else(|source| LinkError::Http { source }, |()| LinkError::Closed))),
    };
    connection.as_mut().graceful_shutdown();
    // Whether the machine took the last answer changes nothing: it powers off either way, and its owner watches for that.
    let _farewell = tokio::time::timeout(Duration::from_millis(FAREWELL_MS_MAX), connection).await;
    Ok(outcome)
}

/// The service's only error: it makes hyper close the connection.
#[derive(Debug, thiserror::Error)]
#[error("the conversation is over")]
struct ScriptEnded;

/// The machine's requests, in order.
#[derive(Debug)]
pub(crate) struct Link {
    requests: mpsc::Receiver<(Request<Incoming>, oneshot::Sender<Response<Body>>)>,
    activity: Activity,
}

/// One request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) method: Method,
    pub(crate) path: String,
    body: Incoming,
    answer: oneshot::Sender<Response<Body>>,
    activity: Activity,
}

impl Link {
    /// Waits for the next request, at most `silence` after the last sign of life.
    pub(crate) async fn next(&mut self, silence: Duration) -> Result<Exchange, LinkError> {
        let next = self.activity.within(silence, "the next request", self.requests.recv()).await?;
        let (request, answer) = next.ok_or(LinkError::Closed)?;
        let (parts, body) = request.into_parts();
        // A query is part of the path here: no path of the protocol has one, so none with one is known.
        let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        tracing::debug!(method = %parts.method, path, "asked");
        Ok(Exchange { method: parts.method, path, body, answer, activity: self.activity.clone() })
    }
}

impl Exchange {
    /// Whether the request has no body.
    pub(crate) fn is_bare(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn piece(&mut self, silence: Duration) -> Result<Option<Bytes>, LinkError> {
        loop {
            let frame = self.activity.within(silence, "a body", self.body.frame()).await?;
            match frame {
                None => return Ok(None),
                Some(Err(source)) => return Err(LinkError::Http { source }),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// The whole body.
    pub(crate) async fn message(&mut self, silence: Duration, bytes_max: usize) -> Result<Vec<u8>, LinkError> {
        let mut message = Vec::new();
        while let Some(piece) = self.piece(silence).await? {
            if message.len() + piece.len() > bytes_max {
                return Err(LinkError::TooLarge { path: self.path.clone(), bytes_max: bytes_max as u64 });
            }
            message.extend_from_slice(&piece);
        }
        Ok(message)
    }

    /// Answers with bytes.
    pub(crate) fn answer(self, status: StatusCode, bytes: impl Into<Bytes>) {
        self.answer_body(status, Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync());
    }

    /// Answers with a body of any kind.
    pub(crate) fn answer_body(self, status: StatusCode, body: Body) {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        // If nobody takes it, the connection is gone, and that is reported where it is driven.
        let _connection_gone = self.answer.send(response);
    }
}

/// When the machine last took or gave a byte.
#[derive(Debug, Clone)]
struct Activity {
    begin: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Activity {
    fn new() -> Self {
        Self { begin: Instant::now(), last_ms: Arc::default() }
    }

    fn note(&self) {
        let now_ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.begin + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }

    /// Waits for `future` until the machine has been silent for `silence`.
    async fn within<F: Future>(
        &self,
        silence: Duration,
        awaited: &'static str,
        future: F,
    ) -> Result<F::Output, LinkError> {
        let begin = Instant::now();
        tokio::pin!(future);
        loop {
            let end = self.last().max(begin) + silence;
            if end <= Instant::now() {
                return Err(LinkError::Silent { awaited, silence });
            }
            tokio::select! {
                biased;
                output = &mut future => return Ok(output),
                () = tokio::time::sleep_until(end) => {}
            }
        }
    }
}

/// A stream that notes when bytes pass.
struct Watched<S> {
    stream: S,
    activity: Activity,
}

impl<S> Watched<S> {
    fn noting<T>(&self, polled: Poll<T>) -> Poll<T> {
        if polled.is_ready() {
            self.activity.note();
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.noting(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.noting(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
