//! `kiln run`: one machine, one build.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use kiln_attestor::Offer;
use kiln_attestor::site::{Signer, Site};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::link::JOB_BYTES_MAX;
use kiln_formats::names::{BUILDER_HOSTED, Name};
use kiln_formats::reference::REFERENCE_BYTES_MAX;
use kiln_image::disk::Contents;
use kiln_image::toolchain;
use kiln_qemu::{Disk, Serial};
use tempfile::TempDir;

use super::sign::{EXPIRES_IN_HOURS, sign};
use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::image::{self, Image};
use crate::order::{Acceleration, BootMode, Finished, Order};
use crate::output::Output;
use crate::screen::Screen;
use crate::signed::Signed;
use crate::site_host::SiteHost;
use crate::{document, host, launch, notices};

/// Memory of a machine in MiB: it is also all the storage that a build has.
pub(crate) const MEMORY_MIB: u32 = 2048;
/// How long a build may take, in seconds, if nothing else is said.
pub(crate) const DEADLINE_S: u32 = 3600;
/// The toolchain image that is made if a job names it and nobody brought it along.
pub(super) const TOOLCHAIN: &str = "c";

/// Run one job on one machine, which exists for nothing else, and verify what it leaves.
///
/// JOB is a draft (*.toml), which is checked and signed with the site's job key, or a signed document, which is handed to the
/// machine as it is: the machine decides. OUT is made whole at the end: artifacts (only if everything holds), evidence, verdict. An
/// image that no producer made whom the site trusts is not started: OUT then holds image.dsse.json, which says so, and nothing else.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln run job.toml --site site --out out --input zlib.tar.gz=downloads/zlib-1.3.1.tar.gz
  kiln run job.json --site site --out out --boot direct --json
  kiln run job.toml --site site --out out --secure-boot
  kiln run job.toml --site site --out out --secure-boot --host-tpm device:/dev/tpmrm0
  kiln run job.toml --site site --out out --notices /var/log/kiln.jsonl
  kiln run job.toml --site site --out out --image-disk 3f…e1=toolchain.img --deadline 600")]
pub(crate) struct Run {
    /// A draft (*.toml) or a signed job document
    job: PathBuf,
    /// The site in whose name
    #[arg(long, value_name = "DIR")]
    site: PathBuf,
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The file that is the job's input NAME
    #[arg(long, value_name = "NAME=FILE", value_parser = pair::<Name>)]
    input: Vec<(Name, PathBuf)>,
    /// The disk that is the job's image with this root hash
    #[arg(long, value_name = "HASH=FILE", value_parser = pair::<Sha256Digest>)]
    image_disk: Vec<(Sha256Digest, PathBuf)>,
    /// Start the image that this file describes, as `kiln build image --json` prints it; the site must have its provenance
    /// (`kiln reference --save`)
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Hold the machine against these reference values, not the site's
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArguments,
    /// Have the TPM of this host quote what the host booted, for this build: its TCTI (`device:/dev/tpmrm0`), after `kiln host enrol`
    #[arg(long, value_name = "TCTI", requires = "secure_boot")]
    host_tpm: Option<String>,
    /// Append a line of JSON for each thing that happens, as it happens (docs/notices.md)
    #[arg(long, value_name = "FILE")]
    notices: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What a machine is like.
#[derive(Debug, Args)]
pub(crate) struct MachineArguments {
    /// How the machine starts
    #[arg(long, value_enum, default_value = "firmware")]
    pub(crate) boot: BootMode,
    /// Sign the image with the site's db key and have the firmware enforce Secure Boot with the site's keys
    #[arg(long)]
    pub(crate) secure_boot: bool,
    /// How its processors are made
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) accel: Acceleration,
    /// Its memory in MiB, which is also all the storage that a build has
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB)]
    pub(crate) memory: u32,
    /// Go by this time, on the root's word (`kiln trust time`), and not by this host's clock
    #[arg(long, value_name = "FILE")]
    pub(crate) reference_time: Option<PathBuf>,
    /// How long the build may take, in seconds
    #[arg(long, value_name = "S", default_value_t = DEADLINE_S, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) deadline: u32,
}

impl MachineArguments {
    /// The site's authority for machines that start in this way. No other's key is read.
    pub(crate) fn signer(&self, site: &Site) -> Result<Signer> {
        site.signer(self.boot.builder_id(self.secure_boot), host::now()?).or_exit(Exit::Usage)
    }

    /// The image with the site's signature, if the firmware is to insist on it, in a directory that goes when it is dropped.
    pub(crate) fn signed(&self, site: &Site, image: &Image, screen: &Screen) -> Result<Option<(Signed, TempDir)>> {
        match (self.secure_boot, self.boot) {
            (false, _) => Ok(None),
            (true, BootMode::Direct) => Err(Problem::NoFirmware).or_exit(Exit::Usage),
            (true, BootMode::Firmware) => {
                let directory = tempfile::tempdir().or_exit(Exit::Infrastructure)?;
                let signed =
                    Signed::make(site.directory(), &image.uki.path, &Contents::default(), directory.path(), screen)?;
                Ok(Some((signed, directory)))
            }
        }
    }
}

impl Run {
    pub(crate) fn run(self, screen: &Screen) -> Result {
        Output::check(&self.out)?;
        host::go_by(self.machine.reference_time.as_deref(), &self.site)?;
        let site = Site::open(&self.site, host::now()?).or_exit(Exit::Usage)?;
        let host = self.host_tpm.as_deref().map(|tcti| SiteHost::find(tcti, &site)).transpose()?;
        let signer = match host {
            Some(_) => site.signer(BUILDER_HOSTED, host::now()?).or_exit(Exit::Usage)?,
            None => self.machine.signer(&site)?,
        };
        let offer = self.offer(&site)?;
        let image = Image::get(self.image.as_deref(), screen)?;
        let launchable = match launch::admit(&site, &signer, &image, &self.out, screen)? {
            Ok(launchable) => launchable,
            Err(refused) => return refused.tell(self.json, screen),
        };
        let reference = match &self.reference {
            Some(reference) => document::read_canonical(reference, REFERENCE_BYTES_MAX)?,
            None => image.reference(&site, screen)?,
        };
        let disks = disks(&offer, &self.image_disk, screen)?;
        let signed = self.machine.signed(&site, &image, screen)?;
        let notices = self.notices.as_deref().map(notices::open).transpose()?;
        let reference = match &signed {
            Some((signed, _)) if self.reference.is_none() => signed.reference(&site, signer.builder_id(), reference)?,
            _ => reference,
        };
        let order = Order {
            site: &site,
            signer: &signer,
            image: launchable,
            reference: &reference,
            offer: &offer,
            disks,
            boot: self.machine.boot,
            signed: signed.as_ref().map(|(signed, _)| signed),
            acceleration: self.machine.accel,
            memory_mib: self.machine.memory,
            deadline: Duration::from_secs(self.machine.deadline.into()),
            notices: notices.as_ref(),
            host: host.as_ref(),
        };
        let finished = order.execute(&self.out, screen)?;
        tell(&finished, self.json)?;
        Ok(finished.exit())
    }

    fn offer(&self, site: &Site) -> Result<Offer> {
        let document = document(&self.job, site)?;
        let inputs: BTreeMap<Name, PathBuf> = self.input.iter().cloned().collect();
        for file in inputs.values() {
            plain_file(file)?;
        }
        Offer::new(document, &inputs).or_exit(Exit::Usage)
    }
}

/// A job's document: a draft signed with the site's job key, or a document as it is.
pub(crate) fn document(job: &Path, site: &Site) -> Result<Vec<u8>> {
    if job.extension().is_some_and(|extension| extension == "toml") {
        sign(job, &site.invoker_key().or_exit(Exit::Usage)?, EXPIRES_IN_HOURS)
    } else {
        document::read(job, JOB_BYTES_MAX)
    }
}

/// Prints what came of it.
pub(crate) fn tell(finished: &Finished, json: bool) -> Result<()> {
    if json { document::print_json(finished) } else { document::print(finished.text().as_bytes()) }
}

/// The disks of the job's images: those that the person brought, and the toolchain image of this checkout if the job names it.
/// An image that nobody has is for the machine to refuse.
pub(crate) fn disks(offer: &Offer, brought: &[(Sha256Digest, PathBuf)], screen: &Screen) -> Result<Vec<Disk>> {
    let mut files: BTreeMap<Sha256Digest, PathBuf> = brought.iter().cloned().collect();
    for file in files.values() {
        plain_file(file)?;
    }
    if offer.images().iter().any(|image| !files.contains_key(image)) {
        let made = image::in_workshop(screen, |shop| toolchain::build(shop, TOOLCHAIN).or_exit(Exit::Infrastructure))?;
        if offer.images().contains(&made.root_hash) {
            files.entry(made.root_hash).or_insert(made.path);
        }
    }
    let disk = |(root_hash, path): (Sha256Digest, PathBuf)| {
        let serial = Serial::of_root_hash(&root_hash.to_string()).or_exit(Exit::Usage)?;
        let path = path.canonicalize().or_exit(Exit::Usage)?;
        Ok(Disk { path, serial })
    };
    files.into_iter().map(disk).collect()
}

pub(crate) fn plain_file(path: &Path) -> Result<()> {
    let failed = |source| Problem::Io { action: "read", path: path.to_owned(), source };
    let metadata = path.metadata().map_err(failed).or_exit(Exit::Usage)?;
    if metadata.is_file() {
        Ok(())
    } else {
        Err(failed(std::io::Error::other("it is no plain file"))).or_exit(Exit::Usage)
    }
}

/// `WORD=FILE`.
pub(crate) fn pair<T: FromStr<Err: std::fmt::Display>>(text: &str) -> std::result::Result<(T, PathBuf), String> {
    let (word, file) = text.split_once('=').ok_or("it needs a =, with a file behind it")?;
    let word = word.parse().map_err(|error| format!("{error}"))?;
    if file.is_empty() { Err("it names no file".to_owned()) } else { Ok((word, file.into())) }
}
