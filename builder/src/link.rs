//! The builder's end of the link: an HTTP/1.1 client on one connection, one request at a time.
//!
//! Every answer has a bound, every wait ends after [`SILENCE_MS_MAX`]; only while a step runs may both sides be silent for as
//! long as the step may run. The transport is any stream of bytes: a virtio-serial port in a machine, a socket in a test.
//! Deliberately absent: retries, redirects, a second connection. An answer that is not understood is a fault.

mod port;
#[cfg(test)]
mod tests;
mod transfer;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_LENGTH, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kiln_formats::link::SILENCE_MS_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

pub use port::Port;
pub(crate) use transfer::{Download, Sent, Upload};

/// The host that requests name. There is one server on the link; HTTP/1.1 wants a name (RFC 9112, section 3.2).
const HOST_NAME: &str = "kiln";

/// What a request carries.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// Why the link failed. All of them end the machine.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is no port of this name, or nobody at its other end.
    #[error("no virtio-serial port {name} with a host at its other end")]
    Missing {
        /// The name.
        name: &'static str,
    },
    /// The port cannot be used.
    #[error("the port cannot be used")]
    Port {
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The host went away.
    #[error("the host closed the link during {path}")]
    Closed {
        /// During which request.
        path: String,
        /// What the HTTP client said.
        source: Option<hyper::Error>,
    },
    /// The host sent something that is no HTTP.
    #[error("the host does not speak HTTP/1.1 on {path}")]
    Protocol {
        /// In answer to which request.
        path: String,
        /// What the HTTP client said.
        source: hyper::Error,
    },
    /// The host did not go on.
    #[error("the host was silent for {SILENCE_MS_MAX} ms on {path}")]
    Silent {
        /// During which request.
        path: String,
    },
    /// An answer larger than its bound.
    #[error("the answer to {path} is larger than {bytes_max} bytes")]
    TooLarge {
        /// To which request.
        path: String,
        /// The bound.
        bytes_max: u64,
    },
    /// An answer of another kind than the protocol has here.
    #[error("the answer to {path} has status {status}")]
    Answer {
        /// To which request.
        path: String,
        /// Its status.
        status: u16,
    },
}

impl LinkError {
    /// A stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "link_missing",
            Self::Port { .. } => "link_port",
            Self::Closed { .. } => "link_closed",
            Self::Protocol { .. } => "link_protocol",
            Self::Silent { .. } => "link_silent",
            Self::TooLarge { .. } => "link_too_large",
            Self::Answer { .. } => "link_answer",
        }
    }

    fn from_http(path: &str, source: hyper::Error) -> Self {
        let path = path.to_owned();
        if source.is_parse() { Self::Protocol { path, source } } else { Self::Closed { path, source: Some(source) } }
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// An open link.
#[derive(Debug)]
pub struct Link {
    requests: SendRequest<Body>,
}

impl Link {
    /// Starts HTTP on a transport. Must be called inside a tokio runtime, which drives the connection from then on.
    ///
    /// # Errors
    /// [`LinkError::Closed`].
    pub async fn open<T>(transport: T) -> Result<Self, LinkError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shaken = handshake(TokioIo::new(transport)).await;
        let (requests, connection) = shaken.map_err(|source| LinkError::from_http("the start", source))?;
        // Its error is also that of the request that it breaks, where it is reported.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { requests })
    }

    /// Asks for a document that must be there.
    pub(crate) async fn get(&mut self, path: &str, bytes_max: usize) -> Result<Bytes, LinkError> {
        ok(path, self.exchange(Method::GET, path, Bytes::new(), bytes_max).await?)
    }

    /// Sends a message that must be taken, and hands out the answer to it.
    pub(crate) async fn post(&mut self, path: &str, body: Vec<u8>, bytes_max: usize) -> Result<Bytes, LinkError> {
        ok(path, self.ask(path, body, bytes_max).await?)
    }

    /// Sends a message that the other side may also say no to.
    pub(crate) async fn ask(&mut self, path: &str, body: Vec<u8>, bytes_max: usize) -> Result<Answer, LinkError> {
        self.exchange(Method::POST, path, body.into(), bytes_max).await
    }

    /// Asks for something large, to be taken piece by piece.
    pub(crate) async fn download(&mut self, path: &str) -> Result<Download, LinkError> {
        let response = self.send(Method::GET, path, Full::default().boxed_unsync(), Some(0)).await?;
        let response = patient(path, response).await?.map_err(|source| LinkError::from_http(path, source))?;
        Ok(Download::new(path, response))
    }

    /// Begins to send something piece by piece: of `length` bytes, or of as many as there will be.
    pub(crate) async fn upload(
        &mut self,
        method: Method,
        path: &str,
        length: Option<u64>,
    ) -> Result<Upload, LinkError> {
        let (pieces, body) = transfer::channel();
        let response = self.send(method, path, body, length).await?;
        Ok(Upload::new(path, pieces, Box::pin(response)))
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        bytes_max: usize,
    ) -> Result<Answer, LinkError> {
        let length = body.len() as u64;
        let response = self.send(method, path, Full::new(body).boxed_unsync(), Some(length)).await?;
        let response = patient(path, response).await?.map_err(|source| LinkError::from_http(path, source))?;
        Download::new(path, response).whole(bytes_max).await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Body,
        length: Option<u64>,
    ) -> Result<impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<>, LinkError> {
        patient(path, self.requests.ready()).await?.map_err(|source| LinkError::from_http(path, source))?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, HOST_NAME);
        if let Some(length) = length.filter(|&length| length > 0) {
            request = request.header(CONTENT_LENGTH, length);
        }
        let unfit = |_| LinkError::Answer { path: path.to_owned(), status: 0 };
        Ok(self.requests.send_request(request.body(body).map_err(unfit)?))
    }
}

/// Waits as long as either side may be silent.
async fn patient<F: Future>(path: &str, waiting: F) -> Result<F::Output, LinkError> {
    let silent = |_| LinkError::Silent { path: path.to_owned() };
    timeout(Duration::from_millis(SILENCE_MS_MAX), waiting).await.map_err(silent)
}

fn ok(path: &str, answer: Answer) -> Result<Bytes, LinkError> {
    if answer.status.is_success() {
        Ok(answer.body)
    } else {
        Err(LinkError::Answer { path: path.to_owned(), status: answer.status.as_u16() })
    }
}
