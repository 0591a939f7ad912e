//! This host's clock, identity, randomness and places.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_attestor::Surroundings;
use kiln_formats::timestamp::Timestamp;
use kiln_image::cache::Cache;
use kiln_image::checkout::Checkout;

use crate::exit::{Exit, OrExit as _, Problem, Result};

/// What the authority is given.
pub(crate) const SURROUNDINGS: Surroundings = Surroundings { now: clock, random: getrandom::fill };

/// The wall clock.
pub(crate) fn now() -> Result<Timestamp> {
    clock().ok_or(Problem::Clock).or_exit(Exit::Infrastructure)
}

fn clock() -> Option<Timestamp> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Timestamp::from_unix(i64::try_from(seconds).ok()?).ok()
}

/// Whether we may install packages.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The checkout that this tool was built from, or the working directory's.
pub(crate) fn checkout() -> Result<Checkout> {
    let here = std::env::current_dir().or_exit(Exit::Infrastructure)?;
    let above = here.ancestors().find_map(|directory| Checkout::at(directory).ok());
    let built_from = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    match above {
        Some(checkout) => Ok(checkout),
        None => Checkout::at(&built_from.canonicalize().unwrap_or(built_from)).or_exit(Exit::Usage),
    }
}

/// Where the cache is.
pub(crate) fn cache() -> Result<Cache> {
    let root = Cache::default_root(|name| std::env::var_os(name).map(PathBuf::from));
    Cache::open(&root.ok_or(Problem::NoCache).or_exit(Exit::Usage)?).or_exit(Exit::Infrastructure)
}
