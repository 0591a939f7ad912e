//! `kiln attestor ledger`: verifies it, shows it, hands its head out to be kept.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kiln_attestor::ledger::{Act, Entry, HEAD_BYTES_MAX, Head, Issued};
use kiln_attestor::state::{State, Summary};
use kiln_formats::challenge::Binding;
use kiln_formats::link::MESSAGE_BYTES_MAX;
use kiln_formats::manifest::path;
use kiln_formats::names::Name;
use serde::Serialize;

use super::{OfSite, of_archive, of_state};
use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::{document, host};

/// The ledger of all that the authority did: each entry names the one before it, and the last is signed.
#[derive(Debug, Args)]
pub(super) struct LedgerCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Verify(Verify),
    Show(Show),
    Head(HeadCommand),
    Begin(Begin),
}

/// Verify every entry, every link, the signed head, and that the rest of the state says the same.
///
/// What is cut off the end together with its head can only be seen by someone who kept something: a head (--head), or a build's
/// evidence, whose certificates must be in the ledger (--evidence). The exit code is 13 if anything does not hold.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln attestor ledger verify --site site
  kiln attestor ledger verify --site site --head kept.json
  kiln attestor ledger verify --site site --evidence out --evidence other/out --json")]
struct Verify {
    #[command(flatten)]
    of: OfSite,
    /// A head that was kept: what `kiln attestor ledger head` printed
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// A build's output: its certificates must be in the ledger
    #[arg(long, value_name = "DIR")]
    evidence: Vec<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Print entries, one a line. Nothing is verified here.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln attestor ledger show --site site
  kiln attestor ledger show --site site --from 100 --json
  kiln attestor ledger show --site site --build 4f0c2a…")]
struct Show {
    #[command(flatten)]
    of: OfSite,
    /// Begin at this entry
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: u64,
    /// Only what is about this build
    #[arg(long, value_name = "ID")]
    build: Option<Name>,
    /// Print the entries' very bytes
    #[arg(long)]
    json: bool,
}

/// Print the signed head. Keep it elsewhere: it shows later if the ledger was cut or replaced.
#[derive(Debug, Args)]
#[command(name = "head")]
struct HeadCommand {
    #[command(flatten)]
    of: OfSite,
}

/// Begin a ledger at a site that has none, because it is older than ledgers or because it was lost.
///
/// The new one knows nothing of what was certified before, and says so by beginning later.
#[derive(Debug, Args)]
struct Begin {
    #[command(flatten)]
    of: OfSite,
}

/// What a build's evidence says that the authority did.
#[derive(Debug)]
struct Claim {
    directory: PathBuf,
    build_id: Name,
    attestation: Issued,
    statement: Issued,
    found: Option<u64>,
}

/// A verification as scripts read it.
#[derive(Debug, Serialize)]
struct Verified {
    #[serde(flatten)]
    summary: Summary,
    /// For each `--evidence`, the entry that certified it.
    evidence: Vec<Option<u64>>,
}

impl LedgerCommand {
    pub(super) fn run(self) -> Result {
        match self.action {
            Action::Verify(verify) => verify.run(),
            Action::Show(show) => show.run(),
            Action::Head(head) => {
                let (_, envelope) = of_archive(head.of.archive()?.head())?;
                document::print(&envelope).map(|()| Exit::Done)
            }
            Action::Begin(begin) => {
                of_state(State::begin(&begin.of.open()?, host::now()?))?;
                Ok(Exit::Done)
            }
        }
    }
}

impl Verify {
    fn run(self) -> Result {
        let site = self.of.open()?;
        let kept = self.head.as_deref().map(|file| {
            let mut bytes = document::read(file, HEAD_BYTES_MAX)?;
            // The newline that printing added.
            bytes.truncate(bytes.trim_ascii_end().len());
            let key = site.ledger_key().or_exit(Exit::Usage)?.verifying_key();
            Head::verify(&bytes, site.name(), &key).or_exit(Exit::NotVerified)
        });
        let kept = kept.transpose()?;
        let mut claims: Vec<Claim> = self.evidence.iter().map(|out| Claim::read(out)).collect::<Result<_>>()?;
        let verified = self.of.archive()?.verify(kept.as_ref(), |entry| {
            claims.iter_mut().for_each(|claim| claim.look_for(entry));
        });
        let summary = of_archive(verified)?;
        let text = holds(&summary);
        let lost = claims.iter().find(|claim| claim.found.is_none()).map(|claim| claim.directory.clone());
        let verified = Verified { summary, evidence: claims.iter().map(|claim| claim.found).collect() };
        if self.json {
            document::print_json(&verified)?;
        } else if lost.is_none() {
            document::print(text.as_bytes())?;
        }
        match lost {
            None => Ok(Exit::Done),
            Some(path) => Err(Problem::NotInLedger { path }).or_exit(Exit::NotVerified),
        }
    }
}

/// In words, what a ledger that holds is like.
pub(super) fn holds(summary: &Summary) -> String {
    let Summary { entries, last, head_sha256, .. } = summary;
    format!("the ledger holds: {entries} entries, the last of {last}\nhead {} {head_sha256}", entries - 1)
}

impl Claim {
    fn read(out: &Path) -> Result<Self> {
        let binding: Binding = document::read_canonical(&out.join(path::BINDING), MESSAGE_BYTES_MAX)?;
        let issued = |file: &str| {
            let path = out.join(file);
            let named = Issued::of(&document::read_certificate(&path)?);
            named.map_err(|source| Problem::Certificate { path, source }).or_exit(Exit::Usage)
        };
        Ok(Self {
            directory: out.to_owned(),
            build_id: binding.challenge.build_id,
            attestation: issued(path::ATTESTATION_KEY)?,
            statement: issued(path::STATEMENT_KEY)?,
            found: None,
        })
    }

    fn look_for(&mut self, entry: &Entry) {
        if let Act::Certified { build_id, attestation, statement, .. } = &entry.act
            && *build_id == self.build_id
            && *attestation == self.attestation
            && *statement == self.statement
        {
            self.found = Some(entry.sequence);
        }
    }
}

impl Show {
    fn run(self) -> Result {
        let mut failure = None;
        let shown = self.of.archive()?.entries(self.from, |sequence, bytes| match self.line(sequence, bytes) {
            Ok(None) => true,
            Ok(Some(line)) => document::print(&line).map_err(|error| failure = Some(error)).is_ok(),
            Err(error) => {
                failure = Some(error);
                false
            }
        });
        of_state(shown)?;
        failure.map_or(Ok(Exit::Done), Err)
    }

    /// An entry as it is printed; none if it is about something else.
    fn line(&self, sequence: u64, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
        let entry: std::result::Result<Entry, _> = serde_json::from_slice(bytes);
        let entry = entry.map_err(|source| Problem::Entry { sequence, source }).or_exit(Exit::NotVerified)?;
        if self.build.is_some() && self.build.as_ref() != entry.act.build_id() {
            return Ok(None);
        }
        Ok(Some(if self.json { bytes.to_vec() } else { text(&entry).into_bytes() }))
    }
}

/// An entry for a person, harmless whatever stands in it.
fn text(entry: &Entry) -> String {
    let what = match &entry.act {
        Act::Begun { site, ledger_key_sha256, .. } => format!("begun       {site} key {ledger_key_sha256}"),
        Act::Trusted { number, list_sha256, reference_time } => {
            let time = reference_time.map_or_else(String::new, |time| format!(" by the reference time {time}"));
            format!("trusted     list {number} {list_sha256}{time}")
        }
        Act::Challenged { build_id, job_sha256, image_sha256, .. } => {
            format!("challenged  {build_id} job {job_sha256} image {image_sha256}")
        }
        Act::Refused { build_id, code, object } => {
            let build_id = build_id.as_ref().map_or("-", Name::as_str);
            format!("refused     {build_id} {} {}", code.escape_default(), object.escape_default())
        }
        Act::Certified { build_id, ek_sha256, reset_count, attestation, statement, dispatch, issuer } => format!(
            "certified   {build_id} ek {} reset {reset_count} attestation {} statement {} dispatch {} issuer {}",
            ek_sha256,
            attestation.serial.escape_default(),
            statement.serial.escape_default(),
            dispatch.serial.escape_default(),
            issuer.as_ref().map_or("-", |issuer| &issuer.serial).escape_default()
        ),
        Act::HandedOver { build_id, job_sha256 } => format!("handed over {build_id} job {job_sha256}"),
        Act::Ended { build_id, outcome } => format!("ended       {build_id} {}", outcome.escape_default()),
    };
    format!("{:>6} {} {what}", entry.sequence, entry.time)
}
