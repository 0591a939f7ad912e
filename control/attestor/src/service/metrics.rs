//! What the service did, in numbers, as OpenMetrics text.
//!
//! On an address of its own: who reads numbers need not reach the service, and the other way round. No number names a machine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;

/// Source: OpenMetrics 1.0, section "text format".
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Where they are read.
const PATH: &str = "/metrics";
/// How long one reading may take, from the connection on.
const READING: Duration = Duration::from_secs(5);
/// The largest head of a request. Source: hyper's least.
const BUFFER_BYTES_MAX: usize = 8 << 10;
/// Seconds from connection to certificate: 150 ms is what a native software TPM takes, a hardware one takes some seconds.
const BUCKETS: [f64; 8] = [0.05, 0.15, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// The numbers.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    connections: Counter,
    present: Gauge,
    turned_away: Family<Code, Counter>,
    refused: Family<Code, Counter>,
    ended: Family<Outcome, Counter>,
    attested: Histogram,
    jobs: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// A machine that is here, until it is dropped.
pub(super) struct Present(Gauge);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("kiln_attestor");
        let connections = Counter::default();
        registry.register("connections", "Connections that were let in", connections.clone());
        let present = Gauge::default();
        registry.register("machines", "Connections that are open", present.clone());
        let turned_away = Family::<Code, Counter>::default();
        registry.register("turned_away", "Connections that were not served, by reason", turned_away.clone());
        let refused = Family::<Code, Counter>::default();
        registry.register("refused", "Machines that were not attested, by the first finding", refused.clone());
        let ended = Family::<Outcome, Counter>::default();
        registry.register("ended", "Machines that were served, by what came of it", ended.clone());
        let attested = Histogram::new(BUCKETS);
        let help = "From connection to certificate";
        registry.register_with_unit("attested", help, Unit::Seconds, attested.clone());
        let jobs = Gauge::default();
        registry.register("jobs", "Jobs on the list", jobs.clone());
        Self { registry: Arc::new(registry), connections, present, turned_away, refused, ended, attested, jobs }
    }
}

impl Metrics {
    /// The text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(super) fn jobs(&self, count: usize) {
        self.jobs.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn connected(&self) {
        self.connections.inc();
    }

    pub(super) fn present(&self) -> Present {
        self.present.inc();
        Present(self.present.clone())
    }

    pub(super) fn turned_away(&self, code: &'static str) {
        self.turned_away.get_or_create(&Code { code }).inc();
    }

    pub(super) fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&Code { code }).inc();
    }

    pub(super) fn ended(&self, outcome: &'static str) {
        self.ended.get_or_create(&Outcome { outcome }).inc();
    }

    pub(super) fn attested(&self, after: Duration) {
        self.attested.observe(after.as_secs_f64());
    }
}

/// One reader after the other: nobody needs two at a time, and a slow one ends by itself.
pub(super) async fn serve(metrics: Metrics, listener: TcpListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "no metrics can be read");
                tokio::time::sleep(super::BREATH).await;
                continue;
            }
        };
        let service = service_fn(|request: Request<Incoming>| {
            let response = answer(&metrics, &request);
            async { response }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .max_buf_size(BUFFER_BYTES_MAX)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        // Whether the reader was content is the reader's business.
        let _read = tokio::time::timeout(READING, connection).await;
    }
}

fn answer(metrics: &Metrics, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::http::Error> {
    let known = request.method() == Method::GET && request.uri().path() == PATH;
    let (status, body) = if known { (StatusCode::OK, metrics.text()) } else { (StatusCode::NOT_FOUND, String::new()) };
    Response::builder().status(status).header(CONTENT_TYPE, MEDIA_TYPE).body(Full::new(body.into()))
}
