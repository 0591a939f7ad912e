//! `kiln build`: makes the image, or a part of it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kiln_image::flavour::Flavour;
use kiln_image::{appliance, build, kernel, toolchain, tss};
use serde::Serialize;
use serde_json::json;

use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::screen::Screen;
use crate::zlib::{INPUT, Zlib};
use crate::{compared, document, image};

/// Make the image that machines boot, or a part of it, from locked sources. What was made before is taken from the cache.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln build
  kiln build image --json > image.json
  kiln build image --check published/image.json
  kiln build toolchain
  kiln build kernel
  kiln build image --flavour metal
  kiln build zlib > zlib.toml")]
pub(crate) struct Build {
    /// What to make
    #[arg(value_enum, default_value = "image")]
    part: Part,
    /// For which kind of machine: image and kernel differ
    #[arg(long, value_enum, default_value = "vm")]
    flavour: Kind,
    /// Print paths, sizes and digests as JSON
    #[arg(long)]
    json: bool,
    /// Compare with a published image (what --json printed, or the directory that holds it as image.json), and say what differs
    #[arg(long, value_name = "FILE|DIR")]
    check: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A disposable virtual machine: no driver for any network card
    Vm,
    /// A server that boots from its own disk
    Metal,
}

impl From<Kind> for Flavour {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Vm => Self::Vm,
            Kind::Metal => Self::Metal,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    /// Kernel, init, initrd, UKI and boot disk
    Image,
    /// The kernel alone
    Kernel,
    /// The TPM library that the appliance links
    Tss,
    /// The appliance's program
    Appliance,
    /// The image `c` that steps run on: a C compiler and what belongs to it
    Toolchain,
    /// The job of `kiln demo`, to be run elsewhere: prints its draft, with --json also where its input is
    Zlib,
}

impl Build {
    pub(crate) fn run(self, screen: &Screen) -> Result {
        if self.check.is_some() && !matches!(self.part, Part::Image) {
            return Err(Problem::CheckPart).or_exit(Exit::Usage);
        }
        image::in_workshop(screen, |shop| match self.part {
            Part::Image => {
                let published = self.check.as_deref().map(compared::read).transpose()?;
                let made = build::image(shop, self.flavour.into()).or_exit(Exit::Infrastructure)?;
                if let Some(published) = published {
                    let compared = published.compare(&made)?;
                    let exit = compared.exit();
                    let text = compared.text();
                    return self.tell(&compared, text.trim_end()).map(|_| exit);
                }
                let files = [("uki", &made.uki), ("disk", &made.disk), ("kernel", &made.kernel), ("init", &made.init)];
                let lines = files.map(|(name, file)| line(name, &file.sha256, file.bytes, &file.path));
                self.tell(&made, &lines.join("\n"))
            }
            Part::Kernel => {
                let made = kernel::build(shop, self.flavour.into()).or_exit(Exit::Infrastructure)?;
                let text = format!("kernel {}  {}", made.release, made.image.display());
                self.tell(&json!({ "release": made.release, "path": made.image }), &text)
            }
            Part::Tss => {
                let made = tss::build(shop).or_exit(Exit::Infrastructure)?;
                self.tell(&json!({ "prefix": made.prefix }), &made.prefix.display().to_string())
            }
            Part::Appliance => {
                let tss = tss::build(shop).or_exit(Exit::Infrastructure)?;
                let made = appliance::build(shop, self.flavour.into(), &tss).or_exit(Exit::Infrastructure)?;
                let value = json!({ "path": made.path, "bytes": made.bytes, "sha256": made.sha256 });
                self.tell(&value, &line("init", &made.sha256, made.bytes, &made.path))
            }
            Part::Toolchain => {
                let made = toolchain::build(shop, "c").or_exit(Exit::Infrastructure)?;
                let text = format!("root hash {}\n{}", made.root_hash, line("c", &made.sha256, made.bytes, &made.path));
                self.tell(&made, &text)
            }
            Part::Zlib => {
                let Zlib { made, .. } = Zlib::make(shop)?;
                let text = format!("# --input {INPUT}={}\n{}", made.input.display(), made.draft.trim_end());
                self.tell(&made, &text)
            }
        })
    }

    fn tell<T: Serialize>(&self, value: &T, text: &str) -> Result {
        if self.json {
            document::print_json(value)?
        } else {
            document::print(text.as_bytes())?
        }
        Ok(Exit::Done)
    }
}

fn line(name: &str, sha256: &impl std::fmt::Display, bytes: u64, path: &std::path::Path) -> String {
    format!("{name:<7} {sha256} {bytes:>10}  {}", path.display())
}
