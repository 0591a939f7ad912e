//! One request as the protocol has it, and its answer.

use std::time::Duration;

use hyper::{Method, StatusCode};
use kiln_formats::canonical;
use kiln_formats::link::MESSAGE_BYTES_MAX;
use kiln_verifier::Finding;

use super::{Admitted, Fault, SILENCE, checks};
use crate::link::{Exchange, Link};

/// Tells a machine why it is refused, and no more.
pub(super) fn refuse(exchange: Exchange, findings: Vec<Finding>) -> Result<Result<Admitted, Vec<Finding>>, Fault> {
    exchange.answer(StatusCode::FORBIDDEN, encode(&checks::answer(&findings))?);
    Ok(Err(findings))
}

/// The next request, which must be this one; one without a body if it is a GET.
pub(super) async fn expect(
    link: &mut Link,
    method: &Method,
    path: &'static str,
    silence: Duration,
) -> Result<Exchange, Fault> {
    let exchange = link.next(silence).await?;
    let bare = *method != Method::GET || exchange.is_bare();
    if exchange.method == *method && exchange.path == path && bare {
        Ok(exchange)
    } else {
        Err(out_of_order(&exchange, path))
    }
}

/// What has no place here.
pub(super) fn out_of_order(exchange: &Exchange, expected: &'static str) -> Fault {
    let asked = format!("{} {}", exchange.method, exchange.path);
    Fault::OutOfOrder { expected, asked: asked.chars().filter(|c| !c.is_control()).take(120).collect() }
}

/// An answer's bytes.
pub(super) fn encode<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    canonical::to_vec(value).map_err(|source| Fault::Encode { source })
}

/// The document in a request.
pub(super) async fn decode<T: serde::de::DeserializeOwned>(exchange: &mut Exchange) -> Result<T, Fault> {
    let bytes = exchange.message(SILENCE, MESSAGE_BYTES_MAX).await?;
    serde_json::from_slice(&bytes).map_err(|source| Fault::Malformed { path: exchange.path.clone(), source })
}
