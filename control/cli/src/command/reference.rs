//! `kiln reference`: what an image must yield, without booting it.

use std::path::PathBuf;

use clap::Args;
use kiln_attestor::site::Site;
use kiln_formats::canonical;
use kiln_formats::names::BUILDER_FIRMWARE;
use kiln_formats::reference::{self, MachineReference, Reference};

use crate::exit::{Exit, OrExit as _, Result};
use crate::image::Uki;
use crate::{document, host};

/// Compute the PCR values that booting an image must leave in the TPM, from its bytes alone.
///
/// Without a site: PCR 4, 9 and 11, the same for everyone. With a site also PCR 15, which holds the site's configuration and trust
/// bundle. The result is canonical JSON.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln reference kiln.efi
  kiln reference kiln.efi --site site > reference.json
  kiln reference kiln.efi --site site --save")]
pub(crate) struct ReferenceCommand {
    /// A unified kernel image (UKI)
    image: PathBuf,
    /// The site whose machines start it
    #[arg(long, value_name = "DIR")]
    site: Option<PathBuf>,
    /// Add the values to the site and print the file's path
    #[arg(long, requires = "site")]
    save: bool,
}

impl ReferenceCommand {
    pub(crate) fn run(self) -> Result {
        let uki = Uki::read(&self.image)?;
        let Some(directory) = self.site else {
            let machine = MachineReference { builder_id: BUILDER_FIRMWARE.to_owned(), pcrs: uki.pcrs };
            let (image_sha256, init_sha256) = (uki.sha256, uki.init_sha256);
            return print(&Reference {
                version: reference::VERSION,
                image_sha256,
                init_sha256,
                machines: vec![machine],
            });
        };
        let site = Site::open(&directory, host::now()?).or_exit(Exit::Usage)?;
        let computed = site.reference(uki.sha256, uki.init_sha256, &uki.pcrs).or_exit(Exit::Infrastructure)?;
        if self.save {
            println!("{}", site.add_reference(&computed).or_exit(Exit::Usage)?.display());
            return Ok(Exit::Done);
        }
        print(&computed)
    }
}

fn print(reference: &Reference) -> Result {
    // To the byte what a verifier reads: no line end.
    document::print_exact(&canonical::to_vec(reference).or_exit(Exit::Infrastructure)?)?;
    Ok(Exit::Done)
}
