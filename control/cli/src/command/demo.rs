//! `kiln demo`: the whole way once, on real input.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kiln_attestor::Offer;
use kiln_attestor::site::{Names, PROFILES, Site};
use kiln_formats::manifest::path as in_bundle;
use kiln_formats::names::Name;
use kiln_image::build;
use kiln_image::flavour::Flavour;

use super::run::{MachineArguments, disks};
use super::sign::{EXPIRES_IN_HOURS, sign};
use super::{keygen, verify};
use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::image::{self, Image};
use crate::order::Order;
use crate::output::Output;
use crate::screen::Screen;
use crate::zlib::{ARTIFACT, INPUT, Zlib};
use crate::{document, host, launch, verdict};

/// Build the real zlib in a measured machine, verify it, and show that one flipped bit is noticed.
///
/// Makes OUT/site (unless a site is given), OUT/zlib.toml and OUT/zlib, and touches nothing else but the cache.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln demo
  kiln demo --out demo --boot direct
  kiln demo --out demo --site site")]
pub(crate) struct Demo {
    /// The directory to make
    #[arg(long, value_name = "DIR", default_value = "kiln-demo")]
    out: PathBuf,
    /// Use this site instead of a new one
    #[arg(long, value_name = "DIR")]
    site: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArguments,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What the demonstration is made from.
struct Materials {
    image: Image,
    zlib: Zlib,
}

impl Demo {
    pub(crate) fn run(self, screen: &Screen) -> Result {
        let (job, out) = (self.out.join("zlib.toml"), self.out.join("zlib"));
        Output::check(&out)?;
        let materials = image::in_workshop(screen, |shop| {
            Ok(Materials {
                image: build::image(shop, Flavour::Vm).or_exit(Exit::Infrastructure)?.into(),
                zlib: Zlib::make(shop)?,
            })
        })?;
        let failed = |source| Problem::Io { action: "write", path: self.out.clone(), source };
        fs::create_dir_all(&self.out).map_err(failed).or_exit(Exit::Usage)?;
        let site = self.site()?;
        let signer = self.machine.signer(&site)?;
        let launchable = match launch::admit(&site, &signer, &materials.image, &out, screen)? {
            Ok(launchable) => launchable,
            Err(refused) => return refused.tell(self.json, screen),
        };
        write_draft(&job, &materials.zlib.made.draft)?;

        let document = sign(&job, &site.invoker_key().or_exit(Exit::Usage)?, EXPIRES_IN_HOURS)?;
        let input: Name = INPUT.parse().or_exit(Exit::Infrastructure)?;
        let offer = Offer::new(document, &[(input, materials.zlib.made.input.clone())].into()).or_exit(Exit::Usage)?;
        let reference = materials.image.reference(&site, screen)?;
        let toolchain = &materials.zlib.toolchain;
        let brought = [(toolchain.root_hash, toolchain.path.clone())];
        let signed = self.machine.signed(&site, &materials.image, screen)?;
        let reference = match &signed {
            Some((signed, _)) => signed.reference(&site, signer.builder_id(), reference)?,
            None => reference,
        };
        let order = Order {
            site: &site,
            signer: &signer,
            image: launchable,
            reference: &reference,
            offer: &offer,
            disks: disks(&offer, &brought, screen)?,
            boot: self.machine.boot,
            signed: signed.as_ref().map(|(signed, _)| signed),
            acceleration: self.machine.accel,
            memory_mib: self.machine.memory,
            deadline: Duration::from_secs(self.machine.deadline.into()),
            notices: None,
            host: None,
        };
        let finished = order.execute(&out, screen)?;
        if finished.exit() != Exit::Done {
            super::run::tell(&finished, self.json)?;
            return Ok(finished.exit());
        }
        let flipped = flip_one_bit(&out, site.directory())?;
        if self.json {
            document::print_json(&finished)?;
        } else {
            let table = finished.timings.table();
            println!("{}\n\none flipped bit in a copy of {ARTIFACT}:\n{flipped}\n\n{table}", finished_text(&finished));
        }
        Ok(Exit::Done)
    }

    /// The given site, or that of OUT, which an earlier try may have made.
    fn site(&self) -> Result<Site> {
        let directory = self.site.clone().unwrap_or_else(|| self.out.join("site"));
        if self.site.is_none() && !directory.exists() {
            let name = |text: &str| text.parse::<Name>().or_exit(Exit::Infrastructure);
            keygen::make(&directory, &Names { site: name("demo")?, trust_domain: name("demo.example")? }, &PROFILES)?;
        }
        host::go_by(self.machine.reference_time.as_deref(), &directory)?;
        Site::open(&directory, host::now()?).or_exit(Exit::Usage)
    }
}

fn finished_text(finished: &crate::order::Finished) -> String {
    let verdict = finished.verdict.as_ref().map(verdict::text).unwrap_or_default();
    let out = finished.out.as_ref().map(|out| out.display().to_string()).unwrap_or_default();
    format!("{verdict}\n{out}")
}

/// Writes the draft; one with the same text may be there from an earlier try.
fn write_draft(path: &Path, text: &str) -> Result<()> {
    match fs::read_to_string(path) {
        Ok(there) if there == text => Ok(()),
        _ => document::write_new(path, text.as_bytes()),
    }
}

/// Judges a copy of the evidence in which one bit of the artifact is another; it must be rejected. Says by which finding.
fn flip_one_bit(out: &Path, site: &Path) -> Result<String> {
    let directory = tempfile::tempdir().or_exit(Exit::Infrastructure)?;
    let copy = directory.path().join("copy");
    copy_tree(out, &copy).or_exit(Exit::Infrastructure)?;
    let artifact = copy.join(in_bundle::artifact(&ARTIFACT.parse().or_exit(Exit::Infrastructure)?));
    let mut bytes = fs::read(&artifact).or_exit(Exit::Infrastructure)?;
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    fs::write(&artifact, bytes).or_exit(Exit::Infrastructure)?;
    let judged = verify::of_directory(&copy, site)?;
    if verdict::exit(&judged) != Exit::NotVerified {
        return Err(Problem::FlipNotNoticed).or_exit(Exit::NotVerified);
    }
    Ok(verdict::text(&judged))
}

/// Copies a tree of plain files.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
