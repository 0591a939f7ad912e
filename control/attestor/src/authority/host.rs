//! The host of a virtual machine, asked with its own TPM what it booted.

use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use kiln_formats::challenge::Binding;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::host::{HostQuote, Hosted};
use kiln_formats::names::BUILDER_HOSTED;
use kiln_formats::trust_list::TrustList;
use kiln_verifier::{Finding, host};

use super::request::encode;
use super::{Authority, Fault};

/// What a host's TPM says, or why it says nothing.
pub type HostAnswer<'a> = Pin<Box<dyn Future<Output = Result<HostQuote, Box<dyn Error + Send + Sync>>> + Send + 'a>>;

/// Whoever can make the host's TPM quote: the launcher.
pub trait QuotingHost: Debug + Sync {
    /// Has it quote the host's registers over the digest of a machine's binding.
    fn quote(&self, binding_sha256: Sha256Digest) -> HostAnswer<'_>;
}

/// What a host said, and what that shows.
pub(super) type Hosting = (HostQuote, Hosted);

impl Authority<'_> {
    /// Has the host quote for a machine whose own quote held, if the machine is to be certified as one on such a host.
    pub(super) async fn hosting(
        &self,
        binding: &Binding,
        list: &TrustList,
    ) -> Result<Result<Option<Hosting>, Vec<Finding>>, Fault> {
        let builder_id = self.signer.builder_id();
        let said = match self.host.filter(|_| builder_id == BUILDER_HOSTED) {
            None => None,
            Some(host) => {
                let binding_sha256 = Sha256Digest::of(&encode(binding)?);
                Some(host.quote(binding_sha256).await.map_err(|source| Fault::Host { source })?)
            }
        };
        let file = said.as_ref().map(encode).transpose()?;
        let hosted = host::check(builder_id, &self.site.trust().policy, Some(list), file.as_deref(), binding);
        Ok(hosted.map(|hosted| said.zip(hosted)).map_err(|finding| vec![finding]))
    }
}
