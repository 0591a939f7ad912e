//! Every canonical document: what is read is written again to the byte, and what is written of it otherwise is refused.
#![no_main]

use kiln_formats::canonical;
use kiln_formats::challenge::{Binding, Challenge, Closing};
use kiln_formats::decision::Decision;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dispatch::AttributeReport;
use kiln_formats::host::{self, Host, HostQuote};
use kiln_formats::image_provenance::{ImageProvenance, VerifiedProvenance};
use kiln_formats::link::{Attestation, Done};
use kiln_formats::manifest::Manifest;
use kiln_formats::names::BUILDER_HOSTED;
use kiln_formats::prediction::Predictions;
use kiln_formats::provenance::Provenance;
use kiln_formats::record::StepRecord;
use kiln_formats::reference::Reference;
use kiln_formats::statement::Statement;
use kiln_formats::teardown::Teardown;
use kiln_formats::trust::{Configuration, Policy, TrustBundle};
use kiln_formats::uplink;
use kiln_formats::verdict::Summary;
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let document = canonical::from_slice_exact(bytes).ok()?;
    assert_eq!(canonical::to_vec(&document).expect("what was read is written"), bytes);
    let spaced = [bytes, b" "].concat();
    assert!(canonical::from_slice_exact::<T>(&spaced).is_err(), "another spelling of the same document");
    Some(document)
}

fuzz_target!(|bytes: &[u8]| {
    let image = Sha256Digest::of(b"image");
    if let Some(predictions) = read::<Predictions>(bytes) {
        let _ = predictions.registers();
        if let Ok(reference) = predictions.reference(image) {
            let registers: Vec<_> = reference.machines.iter().map(|machine| machine.registers()).collect();
            assert!(registers.len() <= predictions.machines.len());
        }
    }
    read::<Statement<Predictions>>(bytes);
    read::<Statement<Provenance>>(bytes);
    read::<Statement<ImageProvenance>>(bytes);
    assert!(VerifiedProvenance::check(bytes, &image, &[]).is_err(), "nobody's word was taken");
    read::<Statement<StepRecord>>(bytes);
    read::<Statement<Summary>>(bytes);
    read::<Statement<AttributeReport>>(bytes);
    read::<Teardown>(bytes);
    read::<Reference>(bytes);
    read::<Manifest>(bytes);
    read::<Decision>(bytes);
    read::<Challenge>(bytes);
    read::<Binding>(bytes);
    read::<Closing>(bytes);
    if let Some(policy) = read::<Policy>(bytes) {
        let found = host::check(BUILDER_HOSTED, &policy.hosts, Some(bytes), &image, &image);
        assert!(found.is_err(), "a policy is no host's quote");
        for host in &policy.hosts {
            let _ = (host.registers(), host.spki());
        }
    }
    if let Some(said) = read::<HostQuote>(bytes) {
        let pcrs = [("0".to_owned(), image)].into();
        let known = Host { endorsement_key_sha256: said.endorsement_key_sha256, attestation_key: said.quote, pcrs };
        let found = host::check(BUILDER_HOSTED, &[known], Some(bytes), &image, &image);
        assert!(found.is_err(), "a quote is no key");
    }
    read::<TrustBundle>(bytes);
    read::<Configuration>(bytes);
    read::<Attestation>(bytes);
    read::<Done>(bytes);
    if let Ok(checked) = uplink::read(bytes) {
        assert_eq!(checked.to_bytes().expect("what was read is written"), bytes);
    }
});
