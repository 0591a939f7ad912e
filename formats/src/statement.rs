//! in-toto Statement v1: what is said of which things.
//!
//! Source: in-toto attestation framework, `spec/v1/statement.md` and `resource_descriptor.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::names;

/// The digests of a thing; ours are always exactly one SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DigestSet {
    /// The SHA-256 of the thing's bytes.
    pub sha256: Sha256Digest,
}

/// A thing that a statement is about, by name and digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Unique among the subjects of a statement.
    pub name: String,
    /// What it was.
    pub digest: DigestSet,
}

impl Subject {
    /// The thing called `name` with this digest.
    #[must_use]
    pub fn new(name: impl Into<String>, sha256: Sha256Digest) -> Self {
        Self { name: name.into(), digest: DigestSet { sha256 } }
    }
}

/// A thing that a predicate refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ResourceDescriptor {
    /// What the thing is called here.
    pub name: String,
    /// Where it comes from, if it has such a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// What it was.
    pub digest: DigestSet,
    /// What kind of bytes it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Anything else, as text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl ResourceDescriptor {
    /// The thing called `name` with this digest, and nothing else said of it.
    #[must_use]
    pub fn new(name: impl Into<String>, sha256: Sha256Digest) -> Self {
        Self {
            name: name.into(),
            uri: None,
            digest: DigestSet { sha256 },
            media_type: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The same thing with its origin.
    #[must_use]
    pub fn with_uri(mut self, uri: impl Into<String>) -> Self {
        self.uri = Some(uri.into());
        self
    }
}

/// A statement: a predicate of one kind about some subjects. It says nothing until an envelope around it is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Statement<P> {
    /// Always [`names::STATEMENT`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// What it is about; never empty.
    pub subject: Vec<Subject>,
    /// Which kind of predicate follows.
    pub predicate_type: String,
    /// What is said.
    pub predicate: P,
}

impl<P> Statement<P> {
    /// Says `predicate` of `subject`.
    #[must_use]
    pub fn new(predicate_type: &str, subject: Vec<Subject>, predicate: P) -> Self {
        Self { kind: names::STATEMENT.to_owned(), subject, predicate_type: predicate_type.to_owned(), predicate }
    }

    /// Whether this is a Statement v1 with this kind of predicate and at least one subject, each named once.
    #[must_use]
    pub fn is(&self, predicate_type: &str) -> bool {
        let mut seen: Vec<&str> = self.subject.iter().map(|subject| subject.name.as_str()).collect();
        seen.sort_unstable();
        self.kind == names::STATEMENT
            && self.predicate_type == predicate_type
            && !seen.is_empty()
            && seen.windows(2).all(|pair| pair.first() != pair.last())
    }
}
