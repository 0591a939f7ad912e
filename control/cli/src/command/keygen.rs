//! `kiln keygen`: makes a site.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use kiln_attestor::site::{self, Names, SiteError};
use kiln_formats::job::Profile;
use kiln_formats::names::Name;
use kiln_image::progress::Silent;
use kiln_image::secure_boot;

use crate::exit::{Exit, OrExit as _, Result};
use crate::host;

/// Make a site: root, policy, trust bundle, the keys of the authorities, of the ledger, of whoever orders builds and of whoever makes
/// images, and those of Secure Boot.
///
/// The site is a directory of mode 0700. It is made whole or not at all, and never overwritten. Keep root.key, secure-boot/PK.key
/// and secure-boot/KEK.key elsewhere: no build needs them. In authorities/ there is a key for each kind of machine; one certifies no
/// machines of another kind. A host needs that of the kind it serves alone: take the others away (docs/trust.md).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln keygen --site site
  kiln keygen --site site --name factory --trust-domain factory.example
  kiln keygen --site desk --allow-debug")]
pub(crate) struct Keygen {
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    site: PathBuf,
    /// What the site is called
    #[arg(long, default_value = "site")]
    name: Name,
    /// The trust domain of its SPIFFE ids
    #[arg(long, default_value = "site.example")]
    trust_domain: Name,
    /// Let jobs run steps in the profile `debug`, in which they may trace their own children: for machines of a desk's own
    /// making. The appliance refuses such a step all the same: its kernel lets nobody trace
    #[arg(long)]
    allow_debug: bool,
}

impl Keygen {
    pub(crate) fn run(self) -> Result {
        let mut profiles = site::PROFILES.to_vec();
        profiles.extend(self.allow_debug.then_some(Profile::Debug));
        make(&self.site, &Names { site: self.name, trust_domain: self.trust_domain }, &profiles)?;
        println!("{}", self.site.display());
        Ok(Exit::Done)
    }
}

/// Makes a site; what is in the way is the person's mistake, everything else this host's.
pub(crate) fn make(directory: &Path, names: &Names, profiles: &[Profile]) -> Result<()> {
    if directory.symlink_metadata().is_ok() {
        return Err(SiteError::Exists { path: directory.to_owned() }).or_exit(Exit::Usage);
    }
    let now = host::now()?;
    // What takes long and may fail comes first, beside the site; it moves in when the site is there.
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = parent.canonicalize().or_exit(Exit::Usage)?;
    let beside = tempfile::Builder::new().prefix(".kiln-keys-").tempdir_in(&parent).or_exit(Exit::Usage)?;
    let keys = beside.path().join(site::path::SECURE_BOOT);
    secure_boot::create(&keys, &names.site.to_string(), now, &Silent).or_exit(Exit::Infrastructure)?;
    let made = site::create(directory, names, profiles, now, getrandom::fill);
    let exit = match &made {
        Err(SiteError::Exists { .. } | SiteError::File(_)) => Exit::Usage,
        _ => Exit::Infrastructure,
    };
    made.or_exit(exit)?;
    fs::rename(&keys, directory.join(site::path::SECURE_BOOT)).or_exit(Exit::Infrastructure)
}
