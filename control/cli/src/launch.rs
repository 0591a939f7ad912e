//! Before anything of an image is started: did a producer whom the site trusts make it, and are these its files?
//!
//! [`admit`] is the only way to a [`LaunchableImage`], and nothing else is started. What is made here the site's own producer vouches
//! for; what somebody brings along must have its provenance at the site (`kiln reference --save`). What is refused leaves a directory
//! with the signed, failed summary and nothing else.

use std::path::{Path, PathBuf};

use kiln_attestor::image;
use kiln_attestor::site::{Signer, Site, provenance};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::image_provenance::{ImageProvenance, UKI, VerifiedProvenance};
use kiln_formats::manifest::path as in_output;
use kiln_formats::statement::{Statement, Subject};
use kiln_image::files;
use kiln_image::progress::Progress as _;
use kiln_verifier::{Finding, Gate};
use serde::Serialize;

use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::image::Image;
use crate::order::unless_interrupted;
use crate::output::Output;
use crate::screen::Screen;
use crate::{document, host};

/// An image of which every file was, a moment ago, what a producer whom the site trusts says that it made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaunchableImage<'a>(&'a Image);

impl<'a> LaunchableImage<'a> {
    /// What to start.
    pub(crate) fn get(self) -> &'a Image {
        self.0
    }
}

/// An image that was not started.
#[derive(Debug, Serialize)]
pub(crate) struct Refused {
    /// Always `image_refused`.
    outcome: &'static str,
    /// What the process answers.
    exit: u8,
    /// The directory with the failed summary.
    out: PathBuf,
    /// Why.
    image_refused: Vec<Finding>,
}

/// Whether an image may be started at a site, as a machine that `signer` certifies; if not, `out` is made.
pub(crate) fn admit<'a>(
    site: &Site,
    signer: &Signer,
    image: &'a Image,
    out: &Path,
    screen: &Screen,
) -> Result<std::result::Result<LaunchableImage<'a>, Refused>> {
    if let Some(made) = &image.provenance {
        vouch(site, &image.uki.sha256, made, screen)?;
    }
    let found = found(image)?;
    let findings = match image::check(site, &site.trust_list().list, &image.uki.sha256).or_exit(Exit::Usage)? {
        Ok(provenance) => differences(image, &found, &provenance),
        Err(finding) => vec![finding],
    };
    if findings.is_empty() {
        return Ok(Ok(LaunchableImage(image)));
    }
    refuse(site, signer, &image.uki.sha256, found, findings, out).map(Err)
}

/// The same for an image that others start: all that is known of it is its digest.
pub(crate) fn admit_named(
    site: &Site,
    signer: &Signer,
    image: &Sha256Digest,
    out: &Path,
) -> Result<std::result::Result<(), Refused>> {
    match image::check(site, &site.trust_list().list, image).or_exit(Exit::Usage)? {
        Ok(_) => Ok(Ok(())),
        Err(finding) => refuse(site, signer, image, vec![Subject::new(UKI, *image)], vec![finding], out).map(Err),
    }
}

/// Has the site's own producer vouch for an image that was made here, unless the site has a provenance of it.
pub(crate) fn vouch(
    site: &Site,
    image: &Sha256Digest,
    made: &Statement<ImageProvenance>,
    screen: &Screen,
) -> Result<()> {
    let kept = provenance::read(site.directory(), image).or_exit(Exit::Usage)?;
    let key = provenance::producer(site).or_exit(Exit::Usage)?;
    if let (None, Some(key)) = (kept, key) {
        let envelope = provenance::sign(made, &key).or_exit(Exit::Infrastructure)?;
        let file = provenance::add(site.directory(), image, &envelope).or_exit(Exit::Infrastructure)?;
        screen.note(&format!("signed the provenance of a new image: {}", file.display()));
    }
    Ok(())
}

/// The files that machines are started from, as they are now. PID 1 is in the initrd; what is said of it is compared as it is.
fn found(image: &Image) -> Result<Vec<Subject>> {
    let files = [(UKI, &image.uki), ("disk", &image.disk), ("kernel", &image.kernel), ("initrd", &image.initrd)];
    let found = files.map(|(name, file)| {
        let (sha256, _) = files::digest(&file.path).or_exit(Exit::Usage)?;
        Ok(Subject::new(name, sha256))
    });
    found.into_iter().chain([Ok(Subject::new("init", image.init.sha256))]).collect()
}

fn differences(image: &Image, found: &[Subject], provenance: &VerifiedProvenance) -> Vec<Finding> {
    let altered =
        |object: &str, reason| Finding { gate: Gate::Boot, code: "image_altered", object: object.to_owned(), reason };
    let differing = found.iter().filter(|file| provenance.files.get(&file.name) != Some(&file.digest.sha256));
    let mut findings: Vec<Finding> = differing
        .map(|file| altered(&file.name, format!("it is {}, and its producer made another", file.digest.sha256)))
        .collect();
    if image.cmdline != provenance.cmdline {
        let reason = format!("it is {:?}, its producer's {:?}", image.cmdline, provenance.cmdline);
        findings.push(altered("cmdline", reason));
    }
    findings
}

fn refuse(
    site: &Site,
    signer: &Signer,
    image: &Sha256Digest,
    files: Vec<Subject>,
    image_refused: Vec<Finding>,
    out: &Path,
) -> Result<Refused> {
    let summary = image::refusal(site, signer, image, files, host::now()?).or_exit(Exit::Infrastructure)?;
    // A signal leaves nothing.
    let out = unless_interrupted(async {
        let output = Output::begin(out)?;
        document::write_new(&output.path().join(in_output::IMAGE_REFUSED), &summary)?;
        output.release()
    })?;
    Ok(Refused { outcome: "image_refused", exit: Exit::ImageRefused as u8, out, image_refused })
}

impl Refused {
    /// The same as an error, where nothing else is told.
    pub(crate) fn problem(self) -> Problem {
        let why = self.image_refused.first().map(ToString::to_string).unwrap_or_default();
        Problem::ImageRefused { why, out: self.out }
    }

    /// Tells why, and where the summary is.
    pub(crate) fn tell(&self, json: bool, screen: &Screen) -> Result {
        for finding in &self.image_refused {
            screen.say(&format!("kiln: image refused: {finding}"));
        }
        if json {
            document::print_json(self)?;
        } else {
            document::print(format!("nothing was started\n{}", self.out.display()).as_bytes())?;
        }
        Ok(Exit::ImageRefused)
    }
}
