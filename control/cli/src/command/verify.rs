//! `kiln verify`: judges what a machine left, offline.

use std::path::{Path, PathBuf};

use clap::Args;
use kiln_attestor::site::{boot_references, change, path as in_site, trust_lists};
use kiln_formats::canonical;
use kiln_formats::certificate::Certificate;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::manifest::path as in_bundle;
use kiln_formats::reference::Reference;
use kiln_formats::teardown::{TEARDOWN_BYTES_MAX, TornDown};
use kiln_formats::trust::{Policy, TRUST_BYTES_MAX, TrustBundle};
use kiln_formats::trust_list::{self, Current, REFERENCE_TIME_BYTES_MAX, ReferenceTime, TRUST_LIST_BYTES_MAX};
use kiln_verifier::{Anchors, Bundle, Finding, Standing, Verdict, teardown, verify};
use serde::Serialize;

use crate::document;
use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::{evidence, host, published, verdict};

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
  kiln verify out --root root.pem --policy policy.json --reference uki.json --trust-list 000001.json
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

/// What is known of the machine's end. It decides nothing about the evidence; a word that does not hold is an error all the same.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Teardown {
    /// The launcher says nothing.
    Absent,
    /// Where nothing is proved there is nothing that it could be about.
    NotJudged,
    /// It is not the launcher's word on this build.
    Refused(Finding),
    /// The launcher says that the machine is gone.
    Holds(TornDown),
}

impl Teardown {
    fn of(out: &Path, bundle: &Bundle, anchors: &Anchors, found: &Verdict) -> Result<Self> {
        let file = out.join(in_bundle::TEARDOWN);
        if !file.exists() {
            return Ok(Self::Absent);
        }
        if !found.holds() {
            return Ok(Self::NotJudged);
        }
        let file = document::read(&file, TEARDOWN_BYTES_MAX)?;
        Ok(teardown::check(&file, bundle, anchors, found).map_or_else(Self::Refused, Self::Holds))
    }

    fn text(&self) -> Option<String> {
        match self {
            Self::Absent | Self::NotJudged | Self::Refused(_) => None,
            Self::Holds(TornDown { started, ended, .. }) => {
                Some(format!("the machine ran from {started} to {ended}; the launcher says that nothing of it is left"))
            }
        }
    }
}

/// All that is said as JSON: the verdict's fields, and `teardown` beside them.
#[derive(Debug, Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    verdict: &'a Verdict,
    teardown: &'a Teardown,
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
    /// The site's trust lists, the oldest first, up to the newest that you have: what is revoked, and since when roots count.
    /// Without one (and without --site) nothing is held against revocations, and the verdict says so
    #[arg(long, value_name = "FILE")]
    trust_list: Vec<PathBuf>,
    /// Judge the trust list at this time, on the root's word (`kiln trust time`), and not by this host's clock
    #[arg(long, value_name = "FILE")]
    reference_time: Option<PathBuf>,
}

impl Verify {
    pub(crate) fn run(self) -> Result {
        let bundle = evidence::read(&self.out)?;
        let anchors = self.anchors.read(&bundle)?;
        let found = verify(&bundle, &anchors);
        let teardown = Teardown::of(&self.out, &bundle, &anchors, &found)?;
        if let Some(path) = &self.verdict {
            document::write_new(path, &verdict::summary(&found, &bundle, &anchors.policy)?)?;
        }
        if self.json {
            document::print_json(&Told { verdict: &found, teardown: &teardown })?;
        } else {
            verdict::print(&found)?;
            teardown.text().map_or(Ok(()), |text| document::print(text.as_bytes()))?;
        }
        if let Teardown::Refused(finding) = teardown {
            return Err(finding).or_exit(Exit::NotVerified);
        }
        Ok(if found.passed() { Exit::Done } else { Exit::NotVerified })
    }
}

impl AnchorArguments {
    fn read(&self, bundle: &Bundle) -> Result<Anchors> {
        let site = self.site.as_deref().map(|directory| SiteAnchors::open(directory, bundle)).transpose()?;
        let lists = site.as_ref().map_or_else(Vec::new, |site| site.lists.clone());
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
        let lists = match (self.trust_list.as_slice(), &lists) {
            ([], lists) => lists.clone(),
            (files, _) => files.iter().map(|file| document::read(file, TRUST_LIST_BYTES_MAX)).collect::<Result<_>>()?,
        };
        let standing = if lists.is_empty() { None } else { Some(self.standing(&lists, &root)?) };
        Ok(Anchors { root, policy, reference, standing })
    }

    /// The newest list, judged by a time on the root's word if there is one, or else by this host's clock.
    fn standing(&self, lists: &[Vec<u8>], root: &Certificate) -> Result<Standing> {
        let Current { list, root, .. } = trust_list::current(lists, root).or_exit(Exit::NotVerified)?;
        let judged_at = match &self.reference_time {
            None => host::now()?,
            Some(file) => {
                let said = document::read(file, REFERENCE_TIME_BYTES_MAX)?;
                ReferenceTime::verify(&said, &list.site, &root).or_exit(Exit::NotVerified)?.time
            }
        };
        Ok(Standing { list, judged_at })
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
    lists: Vec<Vec<u8>>,
}

impl SiteAnchors {
    /// Root and policy are those that were in force when the evidence was made, as far as the site was changed since.
    fn open(directory: &Path, bundle: &Bundle) -> Result<Self> {
        let bundles = change::bundles(directory).or_exit(Exit::Usage)?;
        let named = evidence::trust(bundle);
        let sha256 = |trust: &TrustBundle| canonical::to_vec(trust).ok().map(|bytes| Sha256Digest::of(&bytes));
        let then = bundles.iter().find(|(_, trust)| named.is_some() && sha256(trust) == named);
        let now = directory.join(in_site::TRUST);
        let (path, trust) =
            then.or_else(|| bundles.get_key_value(&now)).ok_or(Problem::NoAnchors).or_exit(Exit::Usage)?;
        let broken = |source| Problem::Certificate { path: path.clone(), source };
        let root = Certificate::from_pem(trust.root.as_bytes()).map_err(broken).or_exit(Exit::Usage)?;
        let lists = trust_lists::files(directory).or_exit(Exit::Usage)?;
        Ok(Self { directory: directory.to_owned(), root, policy: trust.policy.clone(), lists })
    }

    /// The reference values of the image that the evidence names. Any of the site's will do to reject one that it does not know.
    fn reference(self, bundle: &Bundle) -> Result<Reference> {
        let mut references = kiln_attestor::site::references(&self.directory).or_exit(Exit::Usage)?;
        let named = evidence::image(bundle);
        let at = references.iter().position(|reference| Some(reference.image_sha256) == named).unwrap_or(0);
        if references.is_empty() {
            return Err(Problem::NoReference { path: self.directory }).or_exit(Exit::Usage);
        }
        let mut reference = references.swap_remove(at);
        let trust = TrustBundle::new(self.root.to_pem().or_exit(Exit::Infrastructure)?, self.policy);
        boot_references(&self.directory, &trust, &mut reference).or_exit(Exit::Usage)?;
        Ok(reference)
    }
}

/// What `kiln verify OUT --site DIR` would answer: the same code, on what is on disk now.
pub(crate) fn of_directory(out: &Path, site: &Path) -> Result<Verdict> {
    let bundle = evidence::read(out)?;
    let arguments = AnchorArguments {
        site: Some(site.to_owned()),
        root: None,
        policy: None,
        reference: None,
        publisher: None,
        trust_list: Vec::new(),
        reference_time: None,
    };
    Ok(verify(&bundle, &arguments.read(&bundle)?))
}
