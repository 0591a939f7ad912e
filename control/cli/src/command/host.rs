//! `kiln host`: hosts that quote what they booted themselves, for the machines that stand on them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use kiln_attestor::credential;
use kiln_attestor::site::{Site, enrolment as chosen};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::enrolment::{Enrolment, SECRET_BYTES};
use kiln_formats::host::Host;
use kiln_formats::link::Blob;
use kiln_formats::trust::Policy;
use kiln_qemu::{HostKeys, NewKeys};
use kiln_verifier::enrolment::{self, EnrolledMachine};

use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::order::unless_interrupted;
use crate::site_host::{registers, tpm};
use crate::{document, host};

/// The registers that are taken down of a host, if nothing else is said: firmware, its settings, boot loader, Secure Boot.
const PCRS: &str = "0,1,2,3,4,5,6,7";

/// Hosts that quote what they booted themselves, with a hardware TPM, for the virtual machines that stand on them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln host enrol --site site > policy.json && kiln trust policy policy.json --site site
  kiln run job.toml --site site --out out --secure-boot --host-tpm device:/dev/tpmrm0")]
pub(crate) struct HostCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Enrol(Enrol),
}

/// Take down this host as it is now: prints the site's policy with it, under the next number.
///
/// The host's TPM makes a key that quotes, keeps it, and shows that it is in the TPM whose endorsement key the site takes for hardware
/// (`kiln attestor enrol --class hardware`). The values that the registers have now are the ones that each build's quote must have: look
/// at them (`kiln audit` says what they mean) before you put the policy in force (`kiln trust policy`), and enrol anew after each update
/// of firmware, boot loader or kernel that they cover. Needs tpm2-tools, and the right to use the TPM.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln host enrol --site site > policy.json && kiln trust policy policy.json --site site
  kiln host enrol --site site --tpm device:/dev/tpmrm0 --pcrs 0,2,4,7,9,11 --replace > policy.json")]
struct Enrol {
    /// The site
    #[arg(long, value_name = "DIR")]
    site: PathBuf,
    /// The TPM of this host, by its TCTI
    #[arg(long, value_name = "TCTI", default_value = "device:/dev/tpmrm0")]
    tpm: String,
    /// Which registers count, by number
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = PCRS, value_parser = clap::value_parser!(u8).range(0..=23))]
    pcrs: Vec<u8>,
    /// Take the key away that the TPM keeps from an enrolment before
    #[arg(long)]
    replace: bool,
}

impl HostCommand {
    pub(crate) fn run(self) -> Result {
        let Action::Enrol(enrol) = self.action;
        enrol.run()
    }
}

impl Enrol {
    fn run(self) -> Result {
        let site = Site::open(&self.site, host::now()?).or_exit(Exit::Usage)?;
        let enrolled = unless_interrupted(self.enrol(&site))?;
        let mut policy: Policy = site.trust().policy.clone();
        policy.number += 1;
        policy.hosts.retain(|known| known.endorsement_key_sha256 != enrolled.endorsement_key_sha256);
        policy.hosts.push(enrolled);
        document::print_json(&policy)?;
        Ok(Exit::Done)
    }

    async fn enrol(&self, site: &Site) -> Result<Host> {
        let new = tpm(&self.tpm).make_keys().await.or_exit(Exit::Infrastructure)?;
        let roots = chosen::read(site.directory()).or_exit(Exit::Usage)?;
        let machine = enrolment::check_host(&said(new.keys()), &roots, host::now()?).or_exit(Exit::NotAttested)?;
        prove(&new, &machine).await?;
        let values = tpm(&self.tpm).read(&self.pcrs).await.or_exit(Exit::Infrastructure)?;
        let pcrs: BTreeMap<_, _> =
            self.pcrs.iter().map(u8::to_string).zip(values.into_iter().map(Sha256Digest::from_bytes)).collect();
        let attestation_key = Blob(new.keys().attestation_key.clone());
        let host = Host { endorsement_key_sha256: machine.endorsement_key.sha256(), attestation_key, pcrs };
        registers(&host)?;
        new.keep(self.replace).await.or_exit(Exit::Infrastructure)?;
        Ok(host)
    }
}

/// What a machine would say of such a TPM.
fn said(keys: &HostKeys) -> Enrolment {
    Enrolment {
        certificates: keys.certificate.iter().cloned().map(Blob).collect(),
        chain: Vec::new(),
        endorsement_key: Blob(keys.endorsement_key.clone()),
        attestation_key: Blob(keys.attestation_key.clone()),
    }
}

/// Both keys are in one TPM: it opens a credential that is for both.
async fn prove(new: &NewKeys, machine: &EnrolledMachine) -> Result<()> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).or_exit(Exit::Infrastructure)?;
    let name = machine.attestation_key.name();
    let made =
        credential::make(&machine.endorsement_key, &name, &secret, getrandom::fill).or_exit(Exit::NotAttested)?;
    let opened = new.open(&made.id_object.0, &made.encrypted_secret.0).await.or_exit(Exit::NotAttested)?;
    if opened == secret { Ok(()) } else { Err(Problem::HostUnproven).or_exit(Exit::NotAttested) }
}
