//! `kiln setup`: makes this host ready.

use clap::Args;
use kiln_image::flavour::Flavour;
use kiln_image::{build, packages, toolchain};
use serde::Serialize;

use crate::exit::{Exit, OrExit as _, Result};
use crate::screen::Screen;
use crate::{document, host, image};

/// Install what this host lacks, and make everything that is made once: kernel, TPM library, image, toolchain image.
///
/// Packages are installed only by root, without a question. Anyone else gets the one command to run, and why.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln setup
  kiln setup --packages-only")]
pub(crate) struct Setup {
    /// Install packages and make nothing
    #[arg(long)]
    packages_only: bool,
    /// Print what was made as JSON
    #[arg(long, conflicts_with = "packages_only")]
    json: bool,
}

/// What a ready host has.
#[derive(Debug, Serialize)]
struct Made {
    image: build::Image,
    toolchain: toolchain::ToolchainImage,
}

impl Setup {
    pub(crate) fn run(self, screen: &Screen) -> Result {
        if self.packages_only {
            packages::ensure(screen, &packages::HOST_PACKAGES, host::is_root()).or_exit(Exit::Infrastructure)?;
            return Ok(Exit::Done);
        }
        let made = image::in_workshop(screen, |shop| {
            let image = build::image(shop, Flavour::Vm).or_exit(Exit::Infrastructure)?;
            let toolchain = toolchain::build(shop, "c").or_exit(Exit::Infrastructure)?;
            Ok(Made { image, toolchain })
        })?;
        if self.json {
            document::print_json(&made)?;
        } else {
            println!("image      {}  {}", made.image.uki.sha256, made.image.uki.path.display());
            println!("toolchain  {}  {}", made.toolchain.root_hash, made.toolchain.path.display());
        }
        Ok(Exit::Done)
    }
}
