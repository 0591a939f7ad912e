//! `kiln lint`: checks drafts of jobs.

use std::path::PathBuf;

use clap::Args;

use crate::document;
use crate::exit::{Exit, Result};
use crate::host;

/// Check drafts of jobs against every rule of the format.
///
/// Each mistake is one line, as FILE:LINE:COLUMN: CODE: FIELD: PROBLEM.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln lint job.toml
  kiln lint jobs/*.toml")]
pub(crate) struct Lint {
    /// Drafts, as TOML
    #[arg(required = true, value_name = "DRAFT")]
    drafts: Vec<PathBuf>,
}

impl Lint {
    pub(crate) fn run(self) -> Result {
        let now = host::now()?;
        let mut failed = None;
        for draft in &self.drafts {
            if let Err(failure) = document::read_draft(draft, now) {
                failed.get_or_insert(failure);
            }
        }
        failed.map_or(Ok(Exit::Done), Err)
    }
}
