//! Where notices are written to: a file, a pipe, a terminal.

use std::fs::OpenOptions;
use std::path::Path;

use kiln_attestor::Notices;

use crate::exit::{Exit, OrExit as _, Problem, Result};

/// Begins a chain of notices at the end of the file, which need not be there.
pub(crate) fn open(path: &Path) -> Result<Notices> {
    let failed = |source| Problem::Io { action: "write notices to", path: path.to_owned(), source };
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map(Notices::new).map_err(failed).or_exit(Exit::Usage)
}
