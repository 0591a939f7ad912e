//! What PID 1 holds for the machine's one life, and what it answers about it.
//!
//! The statement key is made here, from the kernel's randomness, and never leaves: it signs the DSSE encoding of what
//! [`crate::order`] lets it sign, under the payload type of the label, and is wiped when [`Custody`] is dropped. PID 1 reads no
//! payload, no configuration and no log: it hashes them.

use std::fmt;

use ed25519_dalek::pkcs8::EncodePublicKey as _;
use ed25519_dalek::{Signer as _, SigningKey};
use kiln_builder::custody::{Identity, Label, Measurement, Quote, Refusal, Reply, Request, WhichQuote};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse;
use kiln_formats::enrolment::{self, Credential, SECRET_BYTES};
use kiln_formats::event::Event;
use kiln_formats::link::Blob;
use kiln_formats::manifest::Outcome;
use kiln_formats::names::Name;
use zeroize::Zeroizing;

use crate::measure::{Ledger, MeasureError, Registers};
use crate::order::{Order, Violation};

#[cfg(test)]
mod tests;

/// Why the machine ends instead of answering.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CustodyError {
    /// The builder asked for something that is not next.
    #[error("the builder asked for what is not next")]
    Order(#[from] Violation),
    /// A measurement or quote was not made.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// The builder gave up.
    #[error("{text}")]
    Builder {
        /// Its reason, stable.
        code: Name,
        /// Its reason, for people.
        text: String,
    },
    /// No randomness for the statement key.
    #[error("the kernel gives no randomness: {source}")]
    Random {
        /// What it said.
        source: getrandom::Error,
    },
    /// The statement key has no encoding.
    #[error("the statement key cannot be encoded")]
    Encoding,
}

/// What follows from a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This, to the builder.
    Reply(Reply),
    /// The end.
    End(Outcome),
}

/// What only this boot knows: its parts are public but for the statement key.
pub(crate) struct Custody<R> {
    order: Order,
    ledger: Ledger<R>,
    statement_key: SigningKey,
    identity: Identity,
    /// What was in the credential, from its activation to the first quote.
    secret: Option<Zeroizing<[u8; SECRET_BYTES]>>,
}

impl<R> fmt::Debug for Custody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custody").field("order", &self.order).finish_non_exhaustive()
    }
}

/// 32 bytes that nobody else knows.
///
/// # Errors
/// [`CustodyError::Random`].
pub(crate) fn seed() -> Result<Zeroizing<[u8; 32]>, CustodyError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|source| CustodyError::Random { source })?;
    Ok(seed)
}

impl<R: Registers> Custody<R> {
    /// Measures PID 1's program as the first event, and makes the statement key from `seed`. `identity` comes without it.
    ///
    /// # Errors
    /// [`CustodyError::Measure`], [`CustodyError::Encoding`].
    pub(crate) fn new(
        ledger: Ledger<R>,
        program: Sha256Digest,
        seed: &Zeroizing<[u8; 32]>,
        mut identity: Identity,
    ) -> Result<Self, CustodyError> {
        let statement_key = SigningKey::from_bytes(seed);
        let public = statement_key.verifying_key().to_public_key_der().map_err(|_| CustodyError::Encoding)?;
        identity.statement_key = Blob(public.into_vec());
        let mut custody = Self { order: Order::new(), ledger, statement_key, identity, secret: None };
        custody.measure(&Event::Init(program))?;
        Ok(custody)
    }

    /// Does what is asked, if it is next.
    ///
    /// # Errors
    /// [`CustodyError`]: the machine cannot vouch for anything any more, or was never asked properly.
    pub(crate) fn answer(&mut self, request: Request) -> Result<Answer, CustodyError> {
        let answer = match request {
            Request::Hello => Ok(Reply::Identity(self.identity.clone())),
            Request::Measure { what } => event_of(what)
                .map_err(CustodyError::from)
                .and_then(|event| self.measure(&event))
                .map(|()| Reply::Measured),
            Request::Allow { job_sha256 } => {
                self.order.allow(&job_sha256).map(|()| Reply::Allowed).map_err(CustodyError::from)
            }
            Request::Sign { label, payload } => {
                self.sign(&label, &payload.0).map(|signature| Reply::Signature { signature })
            }
            Request::RuntimeLog => Ok(Reply::RuntimeLog { bytes: Blob(self.ledger.log().to_vec()) }),
            Request::Activate { credential } => self.activate(&credential).map(|()| Reply::Activated),
            Request::Quote { which, qualifying } => self.quote(which, &qualifying).map(Reply::Quote),
            Request::Done { outcome } => return Ok(self.order.done(outcome).map(|()| Answer::End(outcome))?),
            Request::Fault { code, text } => Err(CustodyError::Builder { code, text }),
        };
        match answer {
            Ok(reply) => Ok(Answer::Reply(reply)),
            Err(CustodyError::Order(Violation::Refused(refusal))) => Ok(Answer::Reply(refused(refusal))),
            Err(error) => Err(error),
        }
    }

    /// Measures an event, if it is next.
    ///
    /// # Errors
    /// [`CustodyError::Order`], [`CustodyError::Measure`].
    pub(crate) fn measure(&mut self, event: &Event) -> Result<(), CustodyError> {
        self.order.measure(event)?;
        Ok(self.ledger.record(event)?)
    }

    fn sign(&mut self, label: &Label, payload: &[u8]) -> Result<Blob, CustodyError> {
        self.order.sign(label, &Sha256Digest::of(payload))?;
        let signature = self.statement_key.sign(&dsse::pae(label.payload_type(), payload));
        Ok(Blob(signature.to_bytes().to_vec()))
    }

    fn activate(&mut self, credential: &Credential) -> Result<(), CustodyError> {
        self.order.activate()?;
        self.secret = Some(self.ledger.activate(credential)?);
        Ok(())
    }

    fn quote(&mut self, which: WhichQuote, qualifying: &Sha256Digest) -> Result<Quote, CustodyError> {
        self.order.quote(which)?;
        let quote = self.ledger.quote(qualifying)?;
        let runtime_log = Blob(self.ledger.log().to_vec());
        let proof = self.secret.take().map(|secret| enrolment::proof(&secret, qualifying));
        Ok(Quote { attest: Blob(quote.attest), signature: Blob(quote.signature), runtime_log, proof })
    }
}

fn refused(refusal: Refusal) -> Reply {
    Reply::Refused { refusal }
}

/// PID 1 hashes what the site sent; only the events after the first quote come with their digests.
///
/// # Errors
/// [`Violation::OutOfOrder`] for a digest in place of the bytes.
fn event_of(what: Measurement) -> Result<Event, Violation> {
    match what {
        Measurement::Configuration { bytes } => Ok(Event::Configuration(Sha256Digest::of(&bytes.0))),
        Measurement::Trust { bytes } => Ok(Event::Trust(Sha256Digest::of(&bytes.0))),
        Measurement::Event {
            event: event @ (Event::Init(_) | Event::Uplink(_) | Event::Configuration(_) | Event::Trust(_)),
        } => Err(Violation::OutOfOrder { act: event.to_string() }),
        Measurement::Event { event } => Ok(event),
    }
}
