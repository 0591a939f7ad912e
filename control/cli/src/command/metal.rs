//! `kiln metal`: the disk that a server of a site boots from.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use kiln_attestor::site::Site;
use kiln_formats::canonical;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::names::BUILDER_METAL;
use kiln_formats::reference::{self, Reference};
use kiln_formats::uplink::{self, Address, HardwareAddress, Uplink};
use kiln_image::disk::Contents;
use kiln_image::flavour::Flavour;
use kiln_image::progress::Progress as _;
use kiln_image::{build, provenance, toolchain};
use serde_json::json;

use super::run::{TOOLCHAIN, pair};
use crate::exit::{Exit, OrExit as _, Result};
use crate::image::{Uki, in_workshop};
use crate::output::Output;
use crate::screen::Screen;
use crate::signed::Signed;
use crate::{document, host, launch, signed};

/// The file that a machine measures before it uses the network.
const UPLINK: &str = "uplink.json";
/// What machines with this disk must yield.
const REFERENCE: &str = "reference.json";
/// How much scratch a disk has if nothing is said: twice what a large build of C writes.
const SCRATCH_MIB: u32 = 16 << 10;

/// Make the disk that servers of a site boot from, with the site's signature and the way to its attestor.
///
/// OUT becomes a directory with disk.img (to be written to the boot disk: a GPT with the signed image, the uplink, the toolchain
/// image, and room for scratch), kiln.efi and variables.fd as `kiln secure-boot sign` makes them, uplink.json, and reference.json:
/// what these servers must yield, for `kiln attestor serve --metal --reference`. The latter becomes the site's, too, and so does the
/// image's provenance, which the site's own producer signs. The disk holds no secret. docs/bare-metal.md is the runbook.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln metal --site site --attestor 192.0.2.10:8443 --name attestor.example --out disk
  kiln metal --site site --attestor 192.0.2.10:8443 --address 192.0.2.20/24 --gateway 192.0.2.1 --out disk
  kiln metal --site site --attestor 192.0.2.10:8443 --card 52:54:00:12:34:56 --scratch-mib 65536 --out disk")]
pub(crate) struct Metal {
    /// The site
    #[arg(long, value_name = "DIR")]
    site: PathBuf,
    /// Where the attestor listens: an IPv4 address, nobody looks up names
    #[arg(long, value_name = "ADDR:PORT")]
    attestor: SocketAddrV4,
    /// The name in its certificate (`kiln attestor serve --name`); without it, the address
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The server's own address; without it, DHCP
    #[arg(long, value_name = "ADDR/PREFIX")]
    address: Option<Subnet>,
    /// Who takes packets for other networks
    #[arg(long, value_name = "ADDR", requires = "address")]
    gateway: Option<Ipv4Addr>,
    /// The network card; without it, servers must have exactly one
    #[arg(long, value_name = "MAC")]
    card: Option<HardwareAddress>,
    /// An image that steps run on; without any, the toolchain image of this checkout
    #[arg(long, value_name = "ROOTHASH=FILE", value_parser = pair::<Sha256Digest>)]
    image_disk: Vec<(Sha256Digest, PathBuf)>,
    /// Room for scratch; 0 for none
    #[arg(long, value_name = "N", default_value_t = SCRATCH_MIB)]
    scratch_mib: u32,
    /// Which image of yours it is, for lists that say which is the least that counts; 0 if you do not count
    #[arg(long, value_name = "N", default_value_t = 0)]
    number: u64,
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print paths and digests as JSON
    #[arg(long)]
    json: bool,
}

/// An address and how many of its bits are the network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subnet(Ipv4Addr, u8);

/// Text that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IPv4 address with the length of its prefix, as in 192.0.2.20/24")]
struct ParseSubnetError;

impl FromStr for Subnet {
    type Err = ParseSubnetError;

    fn from_str(text: &str) -> std::result::Result<Self, ParseSubnetError> {
        let (address, prefix) = text.split_once('/').ok_or(ParseSubnetError)?;
        Ok(Self(address.parse().map_err(|_| ParseSubnetError)?, prefix.parse().map_err(|_| ParseSubnetError)?))
    }
}

impl Metal {
    pub(crate) fn run(self, screen: &Screen) -> Result {
        Output::check(&self.out)?;
        signed::keys(&self.site)?;
        let site = Site::open(&self.site, host::now()?).or_exit(Exit::Usage)?;
        let uplink = self.uplink(&site)?.to_bytes().or_exit(Exit::Usage)?;
        let (built, images) = in_workshop(screen, |shop| {
            let built = build::image(shop, Flavour::Metal).or_exit(Exit::Infrastructure)?;
            if !self.image_disk.is_empty() {
                return Ok((built, self.image_disk.clone()));
            }
            let made = toolchain::build(shop, TOOLCHAIN).or_exit(Exit::Infrastructure)?;
            Ok((built, vec![(made.root_hash, made.path)]))
        })?;
        launch::vouch(&site, &built.uki.sha256, &provenance::statement(&built.published()), screen)?;
        let uki = built.uki.path;
        let output = Output::begin(&self.out)?;
        let scratch_bytes = u64::from(self.scratch_mib) << 20;
        let contents = Contents { uplink: Some(&uplink), images: &images, scratch_bytes };
        screen.begin("disk");
        let made = Signed::make(&self.site, &uki, &contents, output.path(), screen)?;
        let image = Uki::read(&uki)?;
        let machine = made.machine(&site, BUILDER_METAL, image.init_sha256, Some(Sha256Digest::of(&uplink)))?;
        let reference = Reference {
            version: reference::VERSION,
            number: self.number,
            image_sha256: image.sha256,
            init_sha256: image.init_sha256,
            machines: vec![machine],
        };
        site.add_reference(&reference).or_exit(Exit::Infrastructure)?;
        document::write_new(&output.path().join(UPLINK), &uplink)?;
        let bytes = canonical::to_vec(&reference).or_exit(Exit::Infrastructure)?;
        document::write_new(&output.path().join(REFERENCE), &bytes)?;
        let out = output.release()?;
        if self.json {
            let at = |name: &str| out.join(name);
            let paths = json!({ "disk": at("disk.img"), "uki": at("kiln.efi"), "variables": at("variables.fd"),
                "uplink": at(UPLINK), "reference": at(REFERENCE) });
            let images: Vec<_> = images.iter().map(|(root_hash, _)| root_hash).collect();
            let digests = json!({ "image": reference.image_sha256, "uplink": Sha256Digest::of(&uplink) });
            document::print_json(&json!({ "paths": paths, "sha256": digests, "images": images }))?;
        } else {
            println!("{}", out.display());
        }
        Ok(Exit::Done)
    }

    fn uplink(&self, site: &Site) -> Result<Uplink> {
        let address = match self.address {
            None => Address::Dhcp,
            Some(Subnet(address, prefix)) => Address::Static { address, prefix, gateway: self.gateway },
        };
        Ok(Uplink {
            version: uplink::VERSION,
            attestor: self.attestor,
            name: self.name.clone().unwrap_or_else(|| self.attestor.ip().to_string()).to_ascii_lowercase(),
            root: site.root().to_pem().or_exit(Exit::Infrastructure)?,
            address,
            interface: self.card,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_an_address_and_a_prefix() {
        assert_eq!("192.0.2.20/24".parse(), Ok(Subnet(Ipv4Addr::new(192, 0, 2, 20), 24)));
        for other in ["", "192.0.2.20", "192.0.2.20/", "/24", "192.0.2/24", "192.0.2.20/256", "::1/64"] {
            assert_eq!(other.parse::<Subnet>(), Err(ParseSubnetError), "{other}");
        }
    }
}
