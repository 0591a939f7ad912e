//! `kiln verify`: judges what a machine left, offline.

use std::path::{Path, PathBuf};

use clap::Args;
use kiln_attestor::site::path as in_site;
use kiln_formats::certificate::Certificate;
use kiln_formats::reference::Reference;
use kiln_formats::trust::{Policy, TRUST_BYTES_MAX};
use kiln_verifier::{Anchors, Bundle, Verdict, verify};

use crate::document;
use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::{evidence, published, verdict};

/// Check evidence, offline: gate by gate, against a root, a policy and reference values that you got by other ways.
///
/// Answers 0 if the evidence holds and the job was built, and 13 for everything else: also for sound evidence of a refusal or of a
/// failed step, which the verdict tells apart.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln verify out --site site
  kiln verify out --root root.pem --policy policy.json --reference uki.json --json
  kiln verify out --site site --reference reference.intoto.json --publisher image.pub
  kiln verify out --site site --verdict verdict.json")]
pub(crate) struct Verify {
    /// The directory that `kiln run` made
    out: PathBuf,
    #[command(flatten)]
    anchors: AnchorArguments,
    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
    /// Write the verdict to this new file, as a SLSA verification summary
    #[arg(long, value_name = "FILE")]
    verdict: Option<PathBuf>,
}

/// Where root, policy and reference values come from.
#[derive(Debug, Args)]
struct AnchorArguments {
    /// Take all three from this site
    #[arg(long, value_name = "DIR")]
    site: Option<PathBuf>,
    /// The root's certificate (PEM)
    #[arg(long, value_name = "FILE", required_unless_present = "site")]
    root: Option<PathBuf>,
    /// The policy
    #[arg(long, value_name = "FILE", required_unless_present = "site")]
    policy: Option<PathBuf>,
    /// The reference values of the image
    #[arg(long, value_name = "FILE", required_unless_present = "site")]
    reference: Option<PathBuf>,
    /// The public key (PEM) of the image's producer, who signed the reference values
    #[arg(long, value_name = "FILE", requires = "reference")]
    publisher: Option<PathBuf>,
}

impl Verify {
    pub(crate) fn run(self) -> Result {
        let bundle = evidence::read(&self.out)?;
        let anchors = self.anchors.read(&bundle)?;
        let found = verify(&bundle, &anchors);
        if let Some(path) = &self.verdict {
            document::write_new(path, &verdict::summary(&found, &bundle, &anchors.policy)?)?;
        }
        if self.json {
            document::print_json(&found)?;
        } else {
            verdict::print(&found)?;
        }
        Ok(if found.passed() { Exit::Done } else { Exit::NotVerified })
    }
}

impl AnchorArguments {
    fn read(&self, bundle: &Bundle) -> Result<Anchors> {
        let site = self.site.as_deref().map(SiteAnchors::open).transpose()?;
        let (root, policy) = match (&self.root, &self.policy, &site) {
            (Some(root), Some(policy), _) => (document::read_certificate(root)?, read_policy(policy)?),
            (Some(root), None, Some(site)) => (document::read_certificate(root)?, site.policy.clone()),
            (None, Some(policy), Some(site)) => (site.root.clone(), read_policy(policy)?),
            (None, None, Some(site)) => (site.root.clone(), site.policy.clone()),
            _ => return Err(Problem::NoAnchors).or_exit(Exit::Usage),
        };
        let reference = match (&self.reference, site) {
            (Some(reference), site) => published::read(
                reference,
                self.publisher.as_deref(),
                site.as_ref().map(|site| site.directory.as_path()),
            )?,
            (None, Some(site)) => site.reference(bundle)?,
            (None, None) => return Err(Problem::NoAnchors).or_exit(Exit::Usage),
        };
        Ok(Anchors { root, policy, reference })
    }
}

fn read_policy(path: &Path) -> Result<Policy> {
    document::read_canonical(path, TRUST_BYTES_MAX)
}

/// The public half of a site, as a verifier needs it: no key is read, and a site that has expired still says what it trusted.
struct SiteAnchors {
    directory: PathBuf,
    root: Certificate,
    policy: Policy,
}

impl SiteAnchors {
    fn open(directory: &Path) -> Result<Self> {
        let root = document::read_certificate(&directory.join(in_site::ROOT))?;
        let policy = read_policy(&directory.join(in_site::POLICY))?;
        Ok(Self { directory: directory.to_owned(), root, policy })
    }

    /// The reference values of the image that the evidence names. Any of the site's will do to reject one that it does not know.
    fn reference(self, bundle: &Bundle) -> Result<Reference> {
        let mut references = kiln_attestor::site::references(&self.directory).or_exit(Exit::Usage)?;
        let named = evidence::image(bundle);
        let at = references.iter().position(|reference| Some(reference.image_sha256) == named).unwrap_or(0);
        if references.is_empty() {
            return Err(Problem::NoReference { path: self.directory }).or_exit(Exit::Usage);
        }
        Ok(references.swap_remove(at))
    }
}

/// What `kiln verify OUT --site DIR` would answer: the same code, on what is on disk now.
pub(crate) fn of_directory(out: &Path, site: &Path) -> Result<Verdict> {
    let bundle = evidence::read(out)?;
    let site = SiteAnchors::open(site)?;
    let (root, policy) = (site.root.clone(), site.policy.clone());
    let anchors = Anchors { root, policy, reference: site.reference(&bundle)? };
    Ok(verify(&bundle, &anchors))
}
