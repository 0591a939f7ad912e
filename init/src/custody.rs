//! What PID 1 holds for the machine's one life, and what it answers about it.
//!
//! The keys are made here, from the kernel's randomness, and never leave. The statement key signs the DSSE encoding of what
//! [`crate::order`] lets it sign, under the payload type of the label; what there is to say of a step is signed with the step's own
//! key ([`crate::identity`]), which the issuer's key certifies. All are wiped when they are dropped. PID 1 reads no payload, no
//! configuration and no log: it hashes them.

use std::fmt;

use ed25519_dalek::pkcs8::EncodePublicKey as _;
use ed25519_dalek::{Signer as _, SigningKey};
use kiln_builder::custody::{Identity, Label, Measurement, Quote, Refusal, Reply, Request, Task, WhichQuote};
use kiln_formats::certificate::CertificateError;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse;
use kiln_formats::enrolment::{self, Credential, SECRET_BYTES};
use kiln_formats::event::Event;
use kiln_formats::link::Blob;
use kiln_formats::manifest::Outcome;
use kiln_formats::names::Name;
use zeroize::Zeroizing;

use crate::identity::StepKey;
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
    /// No randomness for a key.
    #[error("the kernel gives no randomness: {source}")]
    Random {
        /// What it said.
        source: getrandom::Error,
    },
    /// A key has no encoding.
    #[error("a key cannot be encoded")]
    Encoding,
    /// What the builder says of a step fits no certificate.
    #[error("a step cannot be identified")]
    Identity {
        /// Why.
        source: CertificateError,
    },
}

/// What follows from a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This, to the builder.
    Reply(Reply),
    /// The end.
    End(Outcome),
}

/// What only this boot knows: its parts are public but for the keys.
pub(crate) struct Custody<R> {
    order: Order,
    ledger: Ledger<R>,
    statement_key: SigningKey,
    issuer_key: SigningKey,
    /// From a step's identification to its record.
    step_key: Option<StepKey>,
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
    /// Measures PID 1's program as the first event, and makes the statement key and the issuer's from `seeds`. `identity` comes
    /// without them.
    ///
    /// # Errors
    /// [`CustodyError::Measure`], [`CustodyError::Encoding`].
    pub(crate) fn new(
        ledger: Ledger<R>,
        program: Sha256Digest,
        seeds: &[Zeroizing<[u8; 32]>; 2],
        mut identity: Identity,
    ) -> Result<Self, CustodyError> {
        let [statement_key, issuer_key] = seeds.each_ref().map(|seed| SigningKey::from_bytes(seed));
        identity.statement_key = public(&statement_key)?;
        identity.issuer_key = public(&issuer_key)?;
        let order = Order::new();
        let mut custody = Self { order, ledger, statement_key, issuer_key, step_key: None, identity, secret: None };
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
            Request::Identify { step, task } => {
                self.identify(&step, &task).map(|certificate| Reply::Identified { certificate })
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

    fn identify(&mut self, step: &Name, task: &Task) -> Result<Blob, CustodyError> {
        let begun = self.order.identify(step)?;
        let (key, certificate) = StepKey::issue(begun, task, &self.issuer_key)?;
        self.step_key = Some(key);
        Ok(Blob(certificate))
    }

    fn sign(&mut self, label: &Label, payload: &[u8]) -> Result<Blob, CustodyError> {
        self.order.sign(label, &Sha256Digest::of(payload))?;
        let message = dsse::pae(label.payload_type(), payload);
        let signature = match label {
            Label::Trace { step } => self.step_key.as_ref().and_then(|key| key.sign(step, &message)),
            // The last word of a step: its key goes with it.
            Label::Record { step } => self.step_key.take().and_then(|key| key.sign(step, &message)),
            Label::Decision | Label::Provenance | Label::Manifest => Some(self.statement_key.sign(&message)),
        };
        let signature = signature.ok_or(Violation::Refused(Refusal::NoAdmissionLabel))?;
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

fn public(key: &SigningKey) -> Result<Blob, CustodyError> {
    let public = key.verifying_key().to_public_key_der().map_err(|_| CustodyError::Encoding)?;
    Ok(Blob(public.into_vec()))
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
