//! `kiln attestor enrol`: whose TPMs the site takes for TPMs.

use std::path::PathBuf;

use clap::Args;
use kiln_attestor::site::enrolment::{self, Role};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::endorsement::{Roots, TpmClass};
use serde::Serialize;

use super::OfSite;
use crate::document;
use crate::exit::{Exit, OrExit as _, Problem, Result};

/// Whose TPMs the site takes for TPMs: adds what is named, and prints the choice as it then is.
///
/// A machine enrols if a root that the site trusts vouches for its TPM's endorsement key, or if the key itself is on the list; and
/// then as what the root or the key was enrolled: only machines whose TPM is hardware build as servers, and only those whose TPM is
/// virtual as virtual machines. The authority of the site's own software TPMs is added, as virtual, when the first machine starts. No
/// vendor's root ships with Kiln: get it from the vendor, and compare it with what they publish elsewhere.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln attestor enrol --site site
  kiln attestor enrol --site site --class hardware --root vendor-root.pem --issuer vendor-issuer.pem
  kiln attestor enrol --site site --class virtual --key 8d3c…41 --json")]
pub(super) struct Enrol {
    #[command(flatten)]
    of: OfSite,
    /// What the TPMs of these roots and keys are: `hardware` (devices) or `virtual` (programs)
    #[arg(long, value_name = "CLASS")]
    class: Option<TpmClass>,
    /// Trust this authority's certificate (PEM or DER) of itself; repeatable
    #[arg(long, value_name = "FILE", requires = "class")]
    root: Vec<PathBuf>,
    /// Know this authority's certificate (PEM or DER), which counts for what a root says of it; repeatable
    #[arg(long, value_name = "FILE")]
    issuer: Vec<PathBuf>,
    /// Take the endorsement key with this digest (SHA-256 of its SubjectPublicKeyInfo) without a certificate; repeatable
    #[arg(long, value_name = "SHA256", requires = "class")]
    key: Vec<Sha256Digest>,
    /// Print the choice as JSON
    #[arg(long)]
    json: bool,
}

/// A choice as scripts read it.
#[derive(Debug, Serialize)]
struct Chosen {
    hardware: ChosenClass,
    r#virtual: ChosenClass,
    issuers: usize,
}

/// What TPMs of one class are taken for by.
#[derive(Debug, Serialize)]
struct ChosenClass {
    roots: usize,
    keys: Vec<Sha256Digest>,
}

impl ChosenClass {
    fn of(class: TpmClass, found: &Roots) -> Self {
        let roots = found.roots.iter().filter(|(of, _)| *of == class).count();
        let keys = found.keys.iter().filter(|(_, of)| **of == class).map(|(key, _)| *key);
        Self { roots, keys: keys.collect() }
    }
}

impl Enrol {
    pub(super) fn run(self) -> Result {
        let site = self.of.open()?;
        // The parser asks for a class where there is a root or a key.
        let class = self.class.unwrap_or(TpmClass::Virtual);
        let roots = self.root.iter().map(|file| (Role::Root(class), file));
        for (role, file) in roots.chain(self.issuer.iter().map(|file| (Role::Issuer, file))) {
            let name = file.file_stem().and_then(|stem| stem.to_str());
            let name = name.ok_or_else(|| Problem::NoName { path: file.clone() }).or_exit(Exit::Usage)?;
            enrolment::add_certificate(site.directory(), role, name, file).or_exit(Exit::Usage)?;
        }
        for key in self.key {
            enrolment::add_key(site.directory(), class, key).or_exit(Exit::Usage)?;
        }
        let found = enrolment::read(site.directory()).or_exit(Exit::Usage)?;
        let of = |class| ChosenClass::of(class, &found);
        let issuers = found.issuers.len();
        let chosen = Chosen { hardware: of(TpmClass::Hardware), r#virtual: of(TpmClass::Virtual), issuers };
        if self.json {
            document::print_json(&chosen)?;
        } else {
            for (class, ChosenClass { roots, keys }) in [("hardware", &chosen.hardware), ("virtual", &chosen.r#virtual)]
            {
                println!("{class}: {roots} roots");
                keys.iter().for_each(|key| println!("{class}: key {key}"));
            }
            println!("{issuers} issuers");
        }
        Ok(Exit::Done)
    }
}
