//! `kiln attestor`: the authority as a service, and what it remembers.

mod enrol;
mod ledger;
mod serve;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kiln_attestor::ledger::{Act, Entry};
use kiln_attestor::site::Site;
use kiln_attestor::state::{Archive, ArchiveError, StateError, Summary};
use kiln_formats::names::Name;
use serde::Serialize;

use crate::exit::{Exit, OrExit as _, Result};
use crate::{document, host};

/// The authority of a site: what it did, and what it remembers so that nothing is granted twice.
///
/// `kiln run` and `kiln demo` have the same authority inside, with the same memory: nothing needs to be started for them.
/// docs/attestor.md says what a ledger proves and what it does not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln attestor serve --site site --listen 0.0.0.0:8443 --name attestor.example --job a.toml --out out
  kiln attestor enrol --site site --class hardware --root vendor-root.pem
  kiln attestor status --site site
  kiln attestor ledger verify --site site --head kept.json --evidence out
  kiln attestor ledger show --site site --build 4f0c…
  kiln attestor ledger head --site site > kept.json")]
pub(crate) struct AttestorCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Serve(serve::Serve),
    Enrol(enrol::Enrol),
    Status(Status),
    Ledger(ledger::LedgerCommand),
}

/// What the authority did so far, after everything that it remembers was verified.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln attestor status --site site
  kiln attestor status --site site --json")]
struct Status {
    #[command(flatten)]
    of: OfSite,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// Whose.
#[derive(Debug, Args)]
struct OfSite {
    /// The site
    #[arg(long, value_name = "DIR")]
    site: PathBuf,
}

/// A status as scripts read it.
#[derive(Debug, Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    state: &'a Path,
    bytes: u64,
    open: BTreeSet<Name>,
}

impl AttestorCommand {
    /// Whether it runs for long, and is watched by programs rather than by a person.
    pub(crate) fn is_service(&self) -> bool {
        matches!(self.action, Action::Serve(_))
    }

    pub(crate) fn run(self) -> Result {
        match self.action {
            Action::Serve(serve) => serve.run(),
            Action::Enrol(enrol) => enrol.run(),
            Action::Status(status) => status.run(),
            Action::Ledger(ledger) => ledger.run(),
        }
    }
}

impl OfSite {
    fn open(&self) -> Result<Site> {
        Site::open(&self.site, host::now()?).or_exit(Exit::Usage)
    }

    fn archive(&self) -> Result<Archive> {
        of_state(Archive::open(&self.open()?))
    }
}

impl Status {
    fn run(self) -> Result {
        let mut open = BTreeSet::new();
        let mut archive = self.of.archive()?;
        let summary = of_archive(archive.verify(None, |entry| follow(&mut open, entry)))?;
        let state = archive.path();
        let bytes = state.metadata().or_exit(Exit::Infrastructure)?.len();
        let told = Told { summary: &summary, state, bytes, open };
        if self.json {
            document::print_json(&told)?;
        } else {
            document::print(told.text().as_bytes())?;
        }
        Ok(Exit::Done)
    }
}

impl Told<'_> {
    fn text(&self) -> String {
        let Summary { challenged, certified, refused, handed_over, ended, boots, .. } = self.summary;
        let mut text = format!(
            "{}\nchallenged {challenged}, certified {certified}, refused {refused}, jobs {handed_over}, ended {ended}\n\
             {boots} boot(s) cannot be certified again\n{}, {} bytes",
            ledger::holds(self.summary),
            self.state.display(),
            self.bytes
        );
        for build_id in &self.open {
            text.push_str(&format!("\nno end yet: {build_id}"));
        }
        text
    }
}

/// Keeps the builds that have no end yet: they are under way, or their authority was killed.
fn follow(open: &mut BTreeSet<Name>, entry: &Entry) {
    match &entry.act {
        Act::Challenged { build_id, .. } => drop(open.insert(build_id.clone())),
        Act::Refused { build_id: Some(build_id), .. } | Act::Ended { build_id, .. } => drop(open.remove(build_id)),
        Act::Refused { build_id: None, .. }
        | Act::Begun { .. }
        | Act::Trusted { .. }
        | Act::Certified { .. }
        | Act::HandedOver { .. } => {}
    }
}

/// What a state that cannot be used leads to.
fn of_state<T>(result: std::result::Result<T, StateError>) -> Result<T> {
    let exit = match &result {
        Err(StateError::Ledger { .. } | StateError::Foreign { .. }) => Exit::NotVerified,
        Err(StateError::Missing { .. } | StateError::Exists { .. } | StateError::File { .. }) => Exit::Usage,
        _ => Exit::Infrastructure,
    };
    result.or_exit(exit)
}

/// What a state that does not hold leads to.
fn of_archive<T>(result: std::result::Result<T, ArchiveError>) -> Result<T> {
    match result {
        Err(ArchiveError::State(error)) => of_state(Err(error)),
        other => other.or_exit(Exit::NotVerified),
    }
}
