//! `kiln secure-boot`: signs images in a site's name, and takes signatures back.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use kiln_formats::digest::Sha256Digest;
use kiln_image::pe::Pe;
use kiln_image::progress::Silent;
use serde_json::json;

use crate::exit::{Exit, OrExit as _, Result};
use crate::image::{Image, UKI_BYTES_MAX};
use crate::screen::Screen;
use crate::signed::{self, Signed};
use crate::{document, host};

/// Sign images so that firmware starts them and no others, and take signatures back.
///
/// `kiln keygen` made the keys, in SITE/secure-boot. The files there enrol them: *.esl in virtual machines, *.auth on bare metal.
/// docs/secure-boot.md is the runbook.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln secure-boot sign --site site --out signed
  kiln secure-boot revoke --site site --image old/kiln.efi
  kiln secure-boot revoke --site site --certificate other/secure-boot/db.pem")]
pub(crate) struct SecureBootCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Sign(SignImage),
    Revoke(Revoke),
    Rotate(Rotate),
}

/// Sign an image with the site's db key.
///
/// OUT becomes a directory with kiln.efi (the signed UKI), disk.img (a disk that firmware boots it from) and variables.fd (for
/// virtual machines: OVMF's variables with the site's PK, KEK, db and dbx enrolled). The image stays the published one: its
/// reference values hold.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln secure-boot sign --site site --out signed
  kiln secure-boot sign kiln.efi --site site --out signed --json")]
struct SignImage {
    /// The unsigned UKI; this checkout's if not given
    uki: Option<PathBuf>,
    /// The site in whose name
    #[arg(long, value_name = "DIR")]
    site: PathBuf,
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print paths and digests as JSON
    #[arg(long)]
    json: bool,
}

/// Revoke an image, or all that one certificate's key signed, with the site's KEK key.
///
/// SITE/secure-boot/dbx.esl and dbx.auth then name it beside all that was revoked before. Virtual machines have it from the next
/// `sign` or `run` on; on bare metal dbx.auth is to be enrolled.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["image", "certificate"]),
    after_help = "\
Examples:
  kiln secure-boot revoke --site site --image old/kiln.efi
  kiln secure-boot revoke --site site --certificate other/secure-boot/db.pem"
)]
struct Revoke {
    /// The site whose machines are not to start it
    #[arg(long, value_name = "DIR")]
    site: PathBuf,
    /// This UKI, signed or not, whoever signs it
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Everything signed by the key of this certificate (PEM)
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
}

/// Replace the key that signs images, and print the file of the old certificate.
///
/// Firmware that has the new db (db.esl, db.auth) starts what either key signed. When no old image is needed any more, revoke the
/// old certificate: that is the way to say which image is the oldest that may start.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln secure-boot rotate --site site
  kiln secure-boot revoke --site site --certificate \"$(kiln secure-boot rotate --site site)\"")]
struct Rotate {
    /// The site
    #[arg(long, value_name = "DIR")]
    site: PathBuf,
}

impl SecureBootCommand {
    pub(crate) fn run(self, screen: &Screen) -> Result {
        match self.action {
            Action::Sign(sign) => sign.run(screen),
            Action::Revoke(revoke) => revoke.run(),
            Action::Rotate(rotate) => rotate.run(),
        }
    }
}

impl SignImage {
    fn run(self, screen: &Screen) -> Result {
        signed::keys(&self.site)?;
        let uki = match self.uki {
            Some(uki) => uki.canonicalize().or_exit(Exit::Usage)?,
            None => Image::get(None, screen)?.uki.path,
        };
        let made = Signed::create(&self.site, &uki, &self.out, screen)?;
        if self.json {
            let paths = json!({ "uki": made.uki(), "disk": made.disk(), "variables": made.variables() });
            document::print_json(&json!({ "authenticode_sha256": made.authenticode, "paths": paths }))?;
        } else {
            println!("{}", self.out.display());
        }
        Ok(Exit::Done)
    }
}

impl Revoke {
    fn run(self) -> Result {
        let (keys, now) = (signed::keys(&self.site)?, host::now()?);
        if let Some(image) = &self.image {
            let bytes = document::read(image, UKI_BYTES_MAX)?;
            let authenticode = Pe::parse(&bytes).and_then(|pe| pe.authenticode()).or_exit(Exit::Usage)?;
            keys.revoke_image(Sha256Digest::of(&authenticode), now, &Silent).or_exit(Exit::Usage)?;
        }
        if let Some(certificate) = &self.certificate {
            let certificate = certificate.canonicalize().or_exit(Exit::Usage)?;
            keys.revoke_certificate(&certificate, now, &Silent).or_exit(Exit::Usage)?;
        }
        Ok(Exit::Done)
    }
}

impl Rotate {
    fn run(self) -> Result {
        let old = signed::keys(&self.site)?.rotate(host::now()?, &Silent).or_exit(Exit::Usage)?;
        println!("{}", old.display());
        Ok(Exit::Done)
    }
}
