//! `kiln attestor enrol`: whose TPMs the site takes for TPMs.

use std::path::PathBuf;

use clap::Args;
use kiln_attestor::site::enrolment::{self, Role};
use kiln_formats::digest::Sha256Digest;
use serde::Serialize;

use super::OfSite;
use crate::document;
use crate::exit::{Exit, OrExit as _, Problem, Result};

/// Whose TPMs the site takes for TPMs: adds what is named, and prints the choice as it then is.
///
/// A machine enrols if a root that the site trusts vouches for its TPM's endorsement key, or if the key itself is on the list. The
/// authority of the site's own software TPMs is added when the first machine starts. No vendor's root ships with Kiln: get it from
/// the vendor, and compare it with what they publish elsewhere.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln attestor enrol --site site
  kiln attestor enrol --site site --root vendor-root.pem --issuer vendor-issuer.pem
  kiln attestor enrol --site site --key 8d3c…41 --json")]
pub(super) struct Enrol {
    #[command(flatten)]
    of: OfSite,
    /// Trust this authority's certificate (PEM or DER) of itself; repeatable
    #[arg(long, value_name = "FILE")]
    root: Vec<PathBuf>,
    /// Know this authority's certificate (PEM or DER), which counts for what a root says of it; repeatable
    #[arg(long, value_name = "FILE")]
    issuer: Vec<PathBuf>,
    /// Take the endorsement key with this digest (SHA-256 of its SubjectPublicKeyInfo) without a certificate; repeatable
    #[arg(long, value_name = "SHA256")]
    key: Vec<Sha256Digest>,
    /// Print the choice as JSON
    #[arg(long)]
    json: bool,
}

/// A choice as scripts read it.
#[derive(Debug, Serialize)]
struct Chosen {
    roots: usize,
    issuers: usize,
    keys: Vec<Sha256Digest>,
}

impl Enrol {
    pub(super) fn run(self) -> Result {
        let site = self.of.open()?;
        let roots = self.root.iter().map(|file| (Role::Root, file));
        for (role, file) in roots.chain(self.issuer.iter().map(|file| (Role::Issuer, file))) {
            let name = file.file_stem().and_then(|stem| stem.to_str());
            let name = name.ok_or_else(|| Problem::NoName { path: file.clone() }).or_exit(Exit::Usage)?;
            enrolment::add_certificate(site.directory(), role, name, file).or_exit(Exit::Usage)?;
        }
        for key in self.key {
            enrolment::add_key(site.directory(), key).or_exit(Exit::Usage)?;
        }
        let found = enrolment::read(site.directory()).or_exit(Exit::Usage)?;
        let (roots, issuers) = (found.roots.len(), found.issuers.len());
        let chosen = Chosen { roots, issuers, keys: found.keys.into_iter().collect() };
        if self.json {
            document::print_json(&chosen)?;
        } else {
            println!("{roots} roots, {issuers} issuers");
            chosen.keys.iter().for_each(|key| println!("key {key}"));
        }
        Ok(Exit::Done)
    }
}
