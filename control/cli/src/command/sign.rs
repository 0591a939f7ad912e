//! `kiln sign`: turns a draft into a signed job document.

use std::path::PathBuf;

use clap::Args;
use ed25519_dalek::SigningKey;
use kiln_attestor::site::{self, Site};

use crate::document;
use crate::exit::{Exit, OrExit as _, Result};
use crate::host;

/// How long a job without `expires` may be run, in hours: long enough to be reviewed and queued, short enough not to lie around.
pub(crate) const EXPIRES_IN_HOURS: u32 = 24;

/// Check a draft and sign it.
///
/// The result is one DSSE envelope around the job's canonical JSON. `kiln run` takes it as it is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln sign job.toml --site site --out job.json
  kiln sign job.toml --key invoker.key --expires-in 2 > job.json")]
pub(crate) struct Sign {
    /// The draft, as TOML
    draft: PathBuf,
    /// Sign with the job key of this site
    #[arg(long, value_name = "DIR", required_unless_present = "key")]
    site: Option<PathBuf>,
    /// Sign with this Ed25519 key (PKCS #8 PEM, readable by nobody else)
    #[arg(long, value_name = "FILE", conflicts_with = "site")]
    key: Option<PathBuf>,
    /// Where to write the document; standard output if not given
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A draft without `expires` expires in so many hours
    #[arg(long, value_name = "HOURS", default_value_t = EXPIRES_IN_HOURS, value_parser = clap::value_parser!(u32).range(1..=8760))]
    expires_in: u32,
}

impl Sign {
    pub(crate) fn run(self) -> Result {
        let key = self.key()?;
        let document = sign(&self.draft, &key, self.expires_in)?;
        match &self.out {
            Some(out) => document::write_new(out, &document)?,
            None => document::print(&document)?,
        }
        Ok(Exit::Done)
    }

    fn key(&self) -> Result<SigningKey> {
        match (&self.key, &self.site) {
            (Some(key), _) => site::read_key(key).or_exit(Exit::Usage),
            (None, Some(site)) => {
                Site::open(site, host::now()?).or_exit(Exit::Usage)?.invoker_key().or_exit(Exit::Usage)
            }
            // clap asks for one of them.
            (None, None) => Err(crate::exit::Problem::NoAnchors).or_exit(Exit::Usage),
        }
    }
}

/// Checks and signs a draft.
pub(crate) fn sign(draft: &std::path::Path, key: &SigningKey, expires_in_hours: u32) -> Result<Vec<u8>> {
    let expires = host::now()?.plus_seconds(expires_in_hours.saturating_mul(3600));
    let job = document::read_draft(draft, expires)?;
    let envelope = site::sign_job(&job, key).or_exit(Exit::Usage)?;
    envelope.to_vec().or_exit(Exit::Usage)
}
