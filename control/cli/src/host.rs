//! This host's clock, identity, randomness and places.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kiln_attestor::Surroundings;
use kiln_attestor::site::path as in_site;
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust_list::{REFERENCE_TIME_BYTES_MAX, ReferenceTime};
use kiln_image::cache::Cache;
use kiln_image::checkout::Checkout;

use crate::document;
use crate::exit::{Exit, OrExit as _, Problem, Result};

/// A time on the root's word, and since when it counts; then it is what the clock is asked for.
static REFERENCE: OnceLock<(Timestamp, Instant)> = OnceLock::new();

/// What the authority is given.
pub(crate) fn surroundings() -> Surroundings {
    let reference_time = REFERENCE.get().map(|(time, _)| *time);
    Surroundings { now: clock, random: getrandom::fill, reference_time }
}

/// Goes by the time in `file` from now on, which the root of the site in `site` signed, and not by this host's clock.
pub(crate) fn go_by(file: Option<&Path>, site: &Path) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let root = document::read_certificate(&site.join(in_site::ROOT))?;
    let said = document::read(file, REFERENCE_TIME_BYTES_MAX)?;
    let name = kiln_attestor::site::name(site).or_exit(Exit::Usage)?;
    let said = ReferenceTime::verify(&said, &name, &root).or_exit(Exit::NotVerified)?;
    // A process is told once.
    let _told = REFERENCE.set((said.time, Instant::now()));
    Ok(())
}

/// The wall clock, or what stands for it.
pub(crate) fn now() -> Result<Timestamp> {
    clock().ok_or(Problem::Clock).or_exit(Exit::Infrastructure)
}

fn clock() -> Option<Timestamp> {
    if let Some((time, since)) = REFERENCE.get() {
        return Some(time.plus_seconds(u32::try_from(since.elapsed().as_secs()).unwrap_or(u32::MAX)));
    }
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
