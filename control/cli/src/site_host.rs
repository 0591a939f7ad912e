//! This host as the site's policy has it, and its TPM, which quotes for each build.

use kiln_attestor::site::Site;
use kiln_attestor::{HostAnswer, QuotingHost};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::host::{Host, HostQuote};
use kiln_formats::link::Blob;
use kiln_qemu::HostTpm;

use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::order::unless_interrupted;

/// A host that the policy names, with the TPM that the entry is of.
#[derive(Debug)]
pub(crate) struct SiteHost {
    tpm: HostTpm,
    host: Host,
    registers: Vec<u8>,
}

/// The TPM of this host with this TCTI.
pub(crate) fn tpm(tcti: &str) -> HostTpm {
    HostTpm::new(tcti, std::env::var_os("PATH").unwrap_or_default())
}

/// The numbers of the registers that are quoted of a host, ascending.
pub(crate) fn registers(host: &Host) -> Result<Vec<u8>> {
    Ok(host.registers().or_exit(Exit::Usage)?.keys().map(|index| index.get()).collect())
}

impl SiteHost {
    /// Finds the policy's entry for the key that this TPM quotes with.
    pub(crate) fn find(tcti: &str, site: &Site) -> Result<Self> {
        let tpm = tpm(tcti);
        let key = unless_interrupted(async { tpm.attestation_key().await.or_exit(Exit::Infrastructure) })?;
        let hosts = &site.trust().policy.hosts;
        let host = hosts.iter().find(|host| host.attestation_key.0 == key).cloned();
        let host = host.ok_or(Problem::HostUnknown).or_exit(Exit::Usage)?;
        let registers = registers(&host)?;
        Ok(Self { tpm, host, registers })
    }
}

impl QuotingHost for SiteHost {
    fn quote(&self, binding_sha256: Sha256Digest) -> HostAnswer<'_> {
        Box::pin(async move {
            let (quote, signature) = self.tpm.quote(&self.registers, binding_sha256.as_bytes()).await?;
            let endorsement_key_sha256 = self.host.endorsement_key_sha256;
            Ok(HostQuote { endorsement_key_sha256, quote: Blob(quote), signature: Blob(signature) })
        })
    }
}
