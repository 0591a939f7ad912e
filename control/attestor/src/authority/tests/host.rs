//! Machines that stand on a host that quotes: nobody is certified for such a one before the host's own quote holds.

use kiln_formats::dsse::Envelope;
use kiln_formats::host::{self as hosts, Host, HostQuote, Hosted};
use kiln_formats::link::Blob;
use kiln_formats::names::BUILDER_HOSTED;
use kiln_formats::reference::{MachineReference, PcrReference};
use kiln_formats::trust::TrustBundle;
use p256::ecdsa::SigningKey;

use super::machine::{public_area, quote};
use super::*;
use crate::site::boot_reference;

/// A TPM of a host, that quotes what it is told.
#[derive(Debug, Clone, Copy)]
struct Tpm {
    key: u8,
    named: &'static str,
    value: [u8; 32],
    relays: bool,
}

const GOOD: Tpm = Tpm { key: 7, named: "host", value: [1; 32], relays: false };

fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).unwrap()
}

/// The policy's entry of a good host: register 4.
fn entry() -> Host {
    Host {
        endorsement_key_sha256: Sha256Digest::of(GOOD.named.as_bytes()),
        attestation_key: Blob(public_area(&key(GOOD.key))),
        pcrs: [("4".to_owned(), Sha256Digest::from_bytes(GOOD.value))].into(),
    }
}

impl QuotingHost for Tpm {
    fn quote(&self, binding_sha256: Sha256Digest) -> HostAnswer<'_> {
        let qualifying = if self.relays { Sha256Digest::of(b"another build's") } else { binding_sha256 };
        let register_4 = [0x10, 0, 0];
        let (quote, signature) = quote(&key(self.key), qualifying, 0, register_4, Sha256Digest::of(&self.value));
        let said = HostQuote {
            endorsement_key_sha256: Sha256Digest::of(self.named.as_bytes()),
            quote: Blob(quote),
            signature: Blob(signature),
        };
        Box::pin(async move { Ok(said) })
    }
}

/// A TPM that does not answer.
#[derive(Debug)]
struct Broken;

impl QuotingHost for Broken {
    fn quote(&self, _: Sha256Digest) -> HostAnswer<'_> {
        Box::pin(async { Err("no TPM is there".into()) })
    }
}

/// A rig for machines on hosts of its policy.
fn rig(hosts: Vec<Host>, host: Option<Box<dyn QuotingHost>>) -> Rig {
    let mut rig = Rig::new();
    let directory = rig.site.directory().to_owned();
    let mut trust: TrustBundle = rig.site.trust().clone();
    trust.policy.hosts = hosts;
    fs::write(directory.join(site::path::POLICY), canonical::to_vec(&trust.policy).unwrap()).unwrap();
    fs::write(directory.join(site::path::TRUST), canonical::to_vec(&trust).unwrap()).unwrap();
    rig.site = Site::open(&directory, now()).unwrap();
    rig.signer = rig.site.signer(BUILDER_HOSTED, now()).unwrap();
    let boot = boot_reference(&directory, BUILDER_HOSTED, init_sha256(), None).unwrap();
    // These machines have no firmware, which would have measured something.
    let nothing = PcrReference { value: Sha256Digest::from_bytes([0; 32]), events: vec![] };
    let pcrs = ["4", "7", "9", "11"].map(|register| (register.to_owned(), nothing.clone()));
    let pcrs = pcrs.into_iter().chain([("15".to_owned(), boot)]).collect();
    let machine = MachineReference { builder_id: BUILDER_HOSTED.to_owned(), pcrs };
    rig.reference = Reference { machines: vec![machine], ..reference(&rig.site) };
    Rig { host, ..rig }
}

#[tokio::test]
async fn a_machine_on_a_good_host_is_certified_and_gets_the_host_s_quote() {
    let mut rig = rig(vec![entry()], Some(Box::new(GOOD)));
    let policy = rig.site.trust().policy.clone();
    let outcome = rig.run(async |mut machine| {
        let answer = machine.prepare().await;
        let (status, certificates) = machine.send_attestation(&answer).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{certificates:?}");
        let certificates: Certificates = canonical::from_slice_exact(&certificates).unwrap();
        let file = canonical::to_vec(&certificates.host.unwrap()).unwrap();
        let binding_sha256 = Sha256Digest::of(&canonical::to_vec(&answer.binding).unwrap());
        let ek = &answer.binding.endorsement_key_sha256;
        let hosted: Hosted =
            hosts::check(BUILDER_HOSTED, &policy.hosts, Some(&file), &binding_sha256, ek).unwrap().unwrap();
        assert_eq!(hosted.endorsement_key_sha256, entry().endorsement_key_sha256);
        // And its dispatch says so.
        let dispatch = Envelope::from_slice(&certificates.dispatch.attestation.0).unwrap().alleged_payload().unwrap();
        let said = String::from_utf8(dispatch).unwrap();
        assert!(said.contains("HOST_BOOT_QUOTE") && said.contains(&hosted.file_sha256.to_string()), "{said}");
    });
    assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Closed))));
    assert_eq!(rig.heard("Attested"), 1);
}

#[tokio::test]
async fn no_machine_is_certified_before_its_host_s_quote_holds() {
    let cases: [(&str, Vec<Host>, Option<Tpm>, &str); 6] = [
        ("nobody was asked", vec![entry()], None, "host_missing"),
        ("no host is in the policy", vec![], Some(GOOD), "host_unknown"),
        ("another host", vec![entry()], Some(Tpm { named: "other", ..GOOD }), "host_unknown"),
        ("another host in its name", vec![entry()], Some(Tpm { key: 8, ..GOOD }), "host_quote"),
        ("booted otherwise", vec![entry()], Some(Tpm { value: [2; 32], ..GOOD }), "host_registers"),
        ("quoted for another build", vec![entry()], Some(Tpm { relays: true, ..GOOD }), "host_other_build"),
    ];
    for (what, hosts, tpm, code) in cases {
        println!("{what}: {code}");
        let host = tpm.map(|tpm| -> Box<dyn QuotingHost> { Box::new(tpm) });
        rig(hosts, host).rejects(code, |_, _| {}).await;
    }
    // The same host, once the site has taken it back.
    let mut rig = rig(vec![entry()], Some(Box::new(GOOD)));
    rig.issue(|list| list.revoked.keys.extend([entry().endorsement_key_sha256]));
    rig.rejects("key_revoked", |_, _| {}).await;
}

#[tokio::test]
async fn a_host_whose_tpm_does_not_answer_ends_the_run() {
    let mut rig = rig(vec![entry()], Some(Box::new(Broken)));
    let outcome = rig.run(async |mut machine| {
        let answer = machine.prepare().await;
        assert!(machine.send_attestation(&answer).await.is_none(), "it was answered");
    });
    let fault = outcome.await.unwrap_err();
    assert_eq!(fault.code(), "host_tpm");
    assert_eq!(rig.heard("Attested"), 0);
}

/// A host is asked for the machines that stand on it, and for no others.
#[tokio::test]
async fn a_development_machine_asks_no_host() {
    let mut rig = Rig { host: Some(Box::new(Broken)), ..Rig::new() };
    let outcome = rig.run(async |mut machine| assert_eq!(machine.attest().await.host, None));
    assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Closed))));
}
