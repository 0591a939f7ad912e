//! `kiln trust`: what the site's root says of everything that it once trusted.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kiln_attestor::site::change::{self, Root};
use kiln_attestor::site::{Site, path as in_site, read_key, read_public_file};
use kiln_formats::certificate::Certificate;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::{PublicKey, TRUST_BYTES_MAX};
use kiln_formats::trust_list::{LIFE_SECONDS_MAX, TrustList};

use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::{document, host};

/// How many days a list counts.
const DAYS: u32 = 90;
/// The most days.
const DAYS_MAX: i64 = LIFE_SECONDS_MAX as i64 / 86_400;

/// The site's trust list: what counts, from which number on, until when, and what is revoked. Each change is a new list, signed by
/// the root; nothing is taken back. The authority takes the newest at once, and refuses one that is older than it has seen.
///
/// Everything here but `show` needs the root's key: from the site's directory, or --root-key. docs/trust.md says when to use what.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln trust show --site site
  kiln trust renew --site site --days 30 --root-key /media/root.key
  kiln trust revoke --site site --key lost.pub --image 3f…e1
  kiln trust minimum --site site --image 7
  kiln trust policy policy.json --site site --only
  kiln trust rotate --site site
  kiln trust time --site site > time.json")]
pub(crate) struct TrustCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Show(Show),
    Renew(Renew),
    Revoke(Revoke),
    Minimum(Minimum),
    Policy(SetPolicy),
    Rotate(Rotate),
    Time(Time),
}

/// Print the newest trust list.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln trust show --site site --json")]
struct Show {
    /// The site
    #[arg(long, value_name = "DIR")]
    site: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// Who signs a list, and for how long.
#[derive(Debug, Args)]
struct Signer {
    /// The site
    #[arg(long, value_name = "DIR")]
    site: PathBuf,
    /// The root's key, if it does not lie in the site's directory
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    /// How many days the list counts
    #[arg(long, value_name = "DAYS", default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
    days: u32,
}

/// Say the same again, for some time more.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln trust renew --site site --days 30")]
struct Renew {
    #[command(flatten)]
    signer: Signer,
}

/// Say what does not count any more, whenever it was made.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln trust revoke --site site --key lost.pub
  kiln trust revoke --site site --key 8d3c…41 --image 3f…e1")]
struct Revoke {
    #[command(flatten)]
    signer: Signer,
    /// A key: a job signer's, an authority's, a root's, a machine's endorsement key. A PEM file (public key, private key or
    /// certificate), or the SHA-256 of its SubjectPublicKeyInfo; repeatable
    #[arg(long, value_name = "FILE|SHA256")]
    key: Vec<String>,
    /// An image, by the SHA-256 of its UKI; repeatable
    #[arg(long, value_name = "SHA256")]
    image: Vec<Sha256Digest>,
    /// A policy, by the SHA-256 of its file; repeatable
    #[arg(long, value_name = "SHA256")]
    policy: Vec<Sha256Digest>,
}

/// Say which is the least policy, or image, that counts. It is only ever raised.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln trust minimum --site site --policy 3 --image 7")]
struct Minimum {
    #[command(flatten)]
    signer: Signer,
    /// The least number of a policy
    #[arg(long, value_name = "NUMBER")]
    policy: Option<u64>,
    /// The least number of an image, as its reference values have it
    #[arg(long, value_name = "NUMBER")]
    image: Option<u64>,
}

/// Put another policy in force. Its number must be higher than that of the policy before it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln trust policy policy.json --site site --only")]
struct SetPolicy {
    /// The policy, in JSON; begin with the site's policy.json
    policy: PathBuf,
    #[command(flatten)]
    signer: Signer,
    /// Builds under an older policy do not count any more
    #[arg(long)]
    only: bool,
}

/// Make a new root, which the old one vouches for. Builds before it still count, under the old one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln trust rotate --site site")]
struct Rotate {
    #[command(flatten)]
    signer: Signer,
}

/// Say what time it is, for hosts whose clocks nobody sets: `kiln run`, `kiln attestor serve` and `kiln verify --reference-time`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kiln trust time --site site > time.json")]
struct Time {
    #[command(flatten)]
    signer: Signer,
    /// This time (YYYY-MM-DDTHH:MM:SSZ), and not that of this host's clock
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
}

impl TrustCommand {
    pub(crate) fn run(self) -> Result {
        match self.action {
            Action::Show(show) => show.run(),
            Action::Renew(Renew { signer }) => signer.issue(|_| {}),
            Action::Revoke(revoke) => revoke.run(),
            Action::Minimum(Minimum { signer, policy, image }) => signer.issue(|list| {
                list.minimum.policy = policy.unwrap_or(list.minimum.policy);
                list.minimum.image = image.unwrap_or(list.minimum.image);
            }),
            Action::Policy(policy) => policy.run(),
            Action::Rotate(Rotate { signer }) => {
                signer.with(|root, now, seconds| root.rotate(now, seconds, getrandom::fill).or_exit(Exit::Usage))
            }
            Action::Time(time) => time.run(),
        }
    }
}

impl Signer {
    /// Has a list made, and prints its number.
    fn with(&self, make: impl FnOnce(&Root<'_>, Timestamp, u32) -> Result<TrustList>) -> Result {
        let now = host::now()?;
        let site = Site::open(&self.site, now).or_exit(Exit::Usage)?;
        let root = Root::open(&site, self.root_key.as_deref()).or_exit(Exit::Usage)?;
        let list = make(&root, now, self.days * 86_400)?;
        document::print(format!("trust list {} counts until {}", list.number, list.expires).as_bytes())?;
        Ok(Exit::Done)
    }

    fn issue(&self, change: impl FnOnce(&mut TrustList)) -> Result {
        self.with(|root, now, seconds| root.issue(now, seconds, change).or_exit(Exit::Usage))
    }
}

impl Show {
    fn run(self) -> Result {
        let site = Site::open(&self.site, host::now()?).or_exit(Exit::Usage)?;
        let found = site.trust_list();
        if self.json {
            document::print_json(&found.list)?;
            return Ok(Exit::Done);
        }
        let TrustList { number, issued, expires, retired, minimum, revoked, .. } = &found.list;
        let mut text = format!(
            "trust list {number}, {issued} to {expires}, {}\npolicy {} of at least {}, images of at least {}",
            found.sha256,
            site.trust().policy.number,
            minimum.policy,
            minimum.image
        );
        for (number, retired) in (1..).zip(retired) {
            text.push_str(&format!("\nroot {number} counted until {}", retired.until));
        }
        for (what, digests) in [("key", &revoked.keys), ("image", &revoked.images), ("policy", &revoked.policies)] {
            digests.iter().for_each(|digest| text.push_str(&format!("\nrevoked {what} {digest}")));
        }
        document::print(text.as_bytes())?;
        Ok(Exit::Done)
    }
}

impl Revoke {
    fn run(self) -> Result {
        let keys: Vec<Sha256Digest> = self.key.iter().map(|key| key_sha256(key)).collect::<Result<_>>()?;
        self.signer.issue(|list| {
            list.revoked.keys.extend(keys);
            list.revoked.images.extend(self.image);
            list.revoked.policies.extend(self.policy);
        })
    }
}

/// The digest of a key that a person named, by it or by a file.
fn key_sha256(key: &str) -> Result<Sha256Digest> {
    if let Ok(digest) = key.parse() {
        return Ok(digest);
    }
    let path = Path::new(key);
    let bytes = read_public_file(path, TRUST_BYTES_MAX).or_exit(Exit::Usage)?;
    if let Ok(certificate) = Certificate::from_pem(&bytes) {
        return Ok(Sha256Digest::of(&certificate.spki().or_exit(Exit::Usage)?));
    }
    let public = std::str::from_utf8(&bytes).ok().and_then(|pem| serde_json::from_value(pem.into()).ok());
    let key: Option<PublicKey> = public.or_else(|| Some(PublicKey(read_key(path).ok()?.verifying_key())));
    let unknown = || Problem::Statement { path: path.to_owned(), expected: "key or certificate in PEM" };
    Ok(key.ok_or_else(unknown).or_exit(Exit::Usage)?.sha256())
}

impl SetPolicy {
    fn run(self) -> Result {
        let policy = change::read_policy(&self.policy).or_exit(Exit::Usage)?;
        self.signer.with(|root, now, seconds| root.set_policy(policy, self.only, now, seconds).or_exit(Exit::Usage))
    }
}

impl Time {
    fn run(self) -> Result {
        let now = host::now()?;
        let site = Site::open(&self.signer.site, now).or_exit(Exit::Usage)?;
        let inside = site.directory().join(in_site::ROOT_KEY);
        let root = Root::open(&site, self.signer.root_key.as_deref().or(Some(&inside))).or_exit(Exit::Usage)?;
        document::print_exact(&root.time(self.at.unwrap_or(now)).or_exit(Exit::Infrastructure)?)?;
        Ok(Exit::Done)
    }
}
