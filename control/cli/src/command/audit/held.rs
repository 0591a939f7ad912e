//! What a boot is held against: registers, a quote, reference values.

use std::path::PathBuf;

use clap::Args;
use kiln_formats::audit::{Finding, Severity, Subject};
use kiln_formats::names::{BUILDER_DIRECT, BUILDER_FIRMWARE};
use kiln_formats::pcr::PcrValues;
use kiln_formats::prediction::Registers;
use kiln_formats::quote::{FOREIGN_BYTES_MAX, ForeignQuote, QuoteKey, Quoted};

use super::problem::Problem;
use super::source::{self, Taken};
use crate::document;
use crate::exit::{Exit, OrExit as _, Result};
use crate::published::{self, Expected};

/// What a person names to hold a boot against.
#[derive(Debug, Args)]
pub(super) struct HeldArguments {
    /// The TPM's registers: what `tpm2_pcrread` prints, JSON, or a directory like /sys/class/tpm/tpm0
    #[arg(long, value_name = "FILE|DIR")]
    pcrs: Option<PathBuf>,
    /// A quote of the TPM (`tpm2_quote --message`, or a quote of Kiln's evidence)
    #[arg(long, value_name = "FILE", requires_all = ["signature", "key"])]
    quote: Option<PathBuf>,
    /// Its signature (`tpm2_quote --signature`)
    #[arg(long, value_name = "FILE", requires = "quote")]
    signature: Option<PathBuf>,
    /// The key that must have signed it: PEM, certificate, or what `tpm2_createak --public` wrote
    #[arg(long, value_name = "FILE", requires = "quote")]
    key: Option<PathBuf>,
    /// The image's reference values (`kiln reference`)
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// The public key (PEM) of the image's producer, who signed the reference values
    #[arg(long, value_name = "FILE", requires = "reference")]
    publisher: Option<PathBuf>,
}

/// What there is to hold one boot against.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) values: Option<PcrValues>,
    pub(super) quoted: Option<Quoted>,
    pub(super) reference: Option<Registers>,
    pub(super) said: Said,
}

/// What was found before the audit.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) subject: Subject,
    pub(super) findings: Vec<Finding>,
    pub(super) quoted: Option<Quoted>,
}

impl HeldArguments {
    /// Whether anything in here is about a single boot.
    pub(super) fn is_for_one(&self) -> bool {
        self.pcrs.is_some() || self.quote.is_some()
    }

    /// The reference values, for every kind of machine that they are of.
    pub(super) fn reference(&self) -> Result<Option<Vec<Expected>>> {
        let read = |path: &PathBuf| published::read_expected(path, self.publisher.as_deref());
        self.reference.as_ref().map(read).transpose()
    }

    /// Reads everything that was named. What the boot brings itself counts where nothing was named in its place.
    pub(super) fn read(&self, taken: &Taken) -> Result<Held> {
        let mut said = evidence(taken);
        let values = match &self.pcrs {
            Some(path) if path.is_dir() => {
                let found = source::read_registers(path, &mut said.subject)?;
                Some(found.ok_or_else(|| Problem::NoTpm { path: path.clone() }).or_exit(Exit::Usage)?)
            }
            Some(path) => Some(source::read_values(path, &mut said.subject)?),
            None => taken.values.clone(),
        };
        let quoted = match (&self.quote, &self.signature, &self.key) {
            (Some(quote), Some(signature), Some(key)) => {
                let mut read = |what, path: &PathBuf| -> Result<Vec<u8>> {
                    let bytes = document::read(path, FOREIGN_BYTES_MAX)?;
                    said.subject.read(what, &path.display().to_string(), &bytes);
                    Ok(bytes)
                };
                let (attest, signature) = (read("quote", quote)?, read("signature", signature)?);
                let public = QuoteKey::read(&read("key of the quote", key)?);
                let public =
                    public.map_err(|source| Problem::Key { path: key.clone(), source }).or_exit(Exit::Usage)?;
                verify(&attest, &signature, &public, &mut said.findings)
            }
            _ => said.quoted.clone(),
        };
        let reference = self.reference()?.map(|reference| machine(&reference, taken)).transpose()?;
        Ok(Held { values, quoted, reference, said })
    }
}

/// What the boot's own files say: a bundle of ours ends with a quote.
pub(super) fn evidence(taken: &Taken) -> Said {
    let mut said = Said { subject: taken.subject.clone(), findings: taken.findings.clone(), quoted: None };
    let Some(evidence) = &taken.evidence else { return said };
    match QuoteKey::read(&evidence.certificate) {
        Ok(key) => {
            said.quoted = verify(&evidence.attest, &evidence.signature, &key, &mut said.findings);
            let words =
                "the logs are held against the evidence's own quote; whose key signed it is for `kiln verify` to say";
            said.findings.push(Finding::new(Severity::Note, "quote_of_evidence", words));
        }
        Err(error) => said.findings.push(refused(&error.to_string())),
    }
    said
}

/// A quote that does not hold is a finding, and nothing to hold logs against.
fn verify(attest: &[u8], signature: &[u8], key: &QuoteKey, findings: &mut Vec<Finding>) -> Option<Quoted> {
    match ForeignQuote::verify(attest, signature, key) {
        Ok(quote) => Some(quote.quoted),
        Err(error) => {
            findings.push(refused(&error.to_string()));
            None
        }
    }
}

fn refused(why: &str) -> Finding {
    Finding::new(Severity::Failure, "quote_refused", format!("the quote counts for nothing: {why}"))
}

/// The reference values for this kind of start: the one that the evidence claims; else the only one that there is, or what the logs
/// look like.
pub(super) fn machine(reference: &[Expected], taken: &Taken) -> Result<Registers> {
    let looks = if taken.has_firmware_log() { BUILDER_FIRMWARE } else { BUILDER_DIRECT };
    let id = taken.builder_id.as_deref().unwrap_or(looks);
    let found = match reference {
        [only] if taken.builder_id.is_none() => Some(only),
        several => several.iter().find(|expected| expected.builder_id.as_deref() == Some(id)),
    };
    let builder_id = taken.builder_id.clone();
    Ok(found.ok_or(Problem::NoMachine { builder_id }).or_exit(Exit::Usage)?.registers.clone())
}
