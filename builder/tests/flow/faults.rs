//! Lives that end without evidence: each with its code, and with nothing handed out.

use hyper::StatusCode;
use kiln_formats::canonical;
use kiln_formats::host::HostQuote;
use kiln_formats::link::{Attestation, Blob, Certificates, NotAttested, path};
use kiln_formats::names::{BUILDER_HOSTED, BUILDER_METAL};
use kiln_formats::trust::Configuration;

use crate::Case;
use crate::authority::Authority;
use crate::bench::{Bench, job, offering};
use crate::site::{self, DISPATCH, SIGNER, STATEMENT};

pub(crate) const CASES: &[Case] = &[
    ("documents_are_measured_and_then_believed", documents_are_measured_and_then_believed),
    ("a_machine_that_is_not_certified_sees_no_job", a_machine_that_is_not_certified_sees_no_job),
    ("a_link_that_breaks_ends_everything", a_link_that_breaks_ends_everything),
    ("answers_are_bounded_and_expected", answers_are_bounded_and_expected),
    ("a_damaged_image_ends_everything", a_damaged_image_ends_everything),
];

/// The fault's code; no file of the evidence has left the machine.
fn fault(bench: &mut Bench, authority: Authority) -> &'static str {
    let ended = bench.run(authority);
    assert!(ended.got.files().is_empty(), "{:?}", ended.got.requests);
    assert!(!ended.got.bodies.contains_key(path::DONE));
    ended.fault()
}

fn good() -> Authority {
    offering(&job("echo >hello"))
}

fn documents_are_measured_and_then_believed(bench: &mut Bench) {
    for at in [path::CONFIGURATION, path::TRUST] {
        let ended = bench.run(good().with(at, StatusCode::OK, "{}"));
        assert_eq!(ended.fault(), "document");
        assert_eq!(ended.asked.events.len(), 2, "both are measured before either is read");
        assert!(ended.asked.qualifying.is_empty());
    }
    let mut newer = site::trust();
    newer.policy.version = 2;
    let newer = canonical::to_vec(&newer).unwrap();
    assert_eq!(fault(bench, good().with(path::TRUST, StatusCode::OK, newer)), "document");
    assert_eq!(fault(bench, good().with(path::ENROLMENT, StatusCode::OK, "null")), "document");
}

fn a_machine_that_is_not_certified_sees_no_job(bench: &mut Bench) {
    let answer = NotAttested { code: "pcr".into(), object: "PCR 11".into(), reason: "another image".into() };
    let not_attested = good().with(path::ATTESTATION, StatusCode::FORBIDDEN, canonical::to_vec(&answer).unwrap());
    let certifying = |certifies| Authority { certifies: Some(certifies), ..good() };
    let other_key = certifying(|answer| site::certificates(SIGNER, DISPATCH, answer));
    let no_chain = certifying(|answer| {
        let mut no_chain = site::certificates(STATEMENT, DISPATCH, answer);
        no_chain.authority = no_chain.statement.clone();
        no_chain
    });
    // Everything is signed, and about this machine and its builder id, by the authority of other machines.
    let other_mode = certifying(|answer| site::certificates_of(BUILDER_METAL, STATEMENT, DISPATCH, answer));
    let configuration = Configuration { builder_id: BUILDER_METAL.into(), ..site::configuration() };
    let another_configuration =
        good().with(path::CONFIGURATION, StatusCode::OK, canonical::to_vec(&configuration).unwrap());
    // The machine was told that its host quotes, or that it does not; the policy names no host.
    let hosted = Configuration { builder_id: BUILDER_HOSTED.into(), ..site::configuration() };
    let hosted = canonical::to_vec(&hosted).unwrap();
    let on_a_host = |authority: Authority| authority.with(path::CONFIGURATION, StatusCode::OK, hosted.clone());
    let quoting = || {
        certifying(|answer| {
            let endorsement_key_sha256 = answer.binding.endorsement_key_sha256;
            let host = HostQuote { endorsement_key_sha256, quote: Blob::default(), signature: Blob::default() };
            Certificates { host: Some(host), ..site::certificates(STATEMENT, DISPATCH, answer) }
        })
    };
    let nobodys_word = certifying(|answer| site::certificates(STATEMENT, SIGNER, answer));
    let another_quote = certifying(|answer| {
        let quote = Blob(b"another".to_vec());
        site::certificates(STATEMENT, DISPATCH, &Attestation { quote, ..answer.clone() })
    });
    // Signed with the right key, and no word on the image.
    let another_summary = certifying(|answer| {
        let mut certificates = site::certificates(STATEMENT, DISPATCH, answer);
        certificates.dispatch.image = certificates.dispatch.summary.clone();
        certificates
    });
    let expected = [
        ("not_attested", not_attested),
        ("certificate", other_key),
        ("certificate", no_chain),
        ("signer_of_other_mode", other_mode),
        ("signer_of_other_mode", another_configuration),
        ("host_missing", on_a_host(good())),
        ("host_unknown", on_a_host(quoting())),
        ("host_unexpected", quoting()),
        ("dispatch", nobodys_word),
        ("dispatch", another_quote),
        ("dispatch", another_summary),
        ("document", good().with(path::ATTESTATION, StatusCode::OK, "no certificates")),
    ];
    for (code, authority) in expected {
        let ended = bench.run(authority);
        assert_eq!(ended.fault(), code);
        assert_eq!(*ended.got.requests.last().unwrap(), "POST /v1/attestation");
    }
}

fn a_link_that_breaks_ends_everything(bench: &mut Bench) {
    for at in [path::CONFIGURATION, path::JOB, path::INPUTS, path::DECISION] {
        assert_eq!(fault(bench, Authority { hangs_up: Some(at), ..good() }), "link_closed", "{at}");
    }
    // In the middle of a step that would go on for long: it is killed, not waited for.
    let begin = std::time::Instant::now();
    let endless = offering(&job("while :; do echo noise; done"));
    assert_eq!(fault(bench, Authority { hangs_up: Some("/v1/logs/second"), ..endless }), "link_closed");
    assert!(begin.elapsed().as_secs() < 8, "{:?}", begin.elapsed());
    let ended = bench.run(Authority { hangs_up: Some("/v1/files/evidence/closing"), ..good() });
    assert_eq!(ended.fault(), "link_closed");
    assert!(!ended.got.bodies.contains_key(path::DONE));
}

fn answers_are_bounded_and_expected(bench: &mut Bench) {
    let large = vec![b' '; 1 << 20];
    assert_eq!(fault(bench, good().with(path::CONFIGURATION, StatusCode::OK, large)), "link_too_large");
    let silent_no = StatusCode::INTERNAL_SERVER_ERROR;
    for at in [path::TRUST, path::JOB, path::DECISION, "/v1/logs/first"] {
        assert_eq!(fault(bench, good().with(at, silent_no, "")), "link_answer", "{at}");
    }
    let input = good().inputs.keys().next().map(|digest| format!("{}{digest}", path::INPUTS)).unwrap();
    assert_eq!(fault(bench, good().with(&input, silent_no, "")), "link_answer");
}

fn a_damaged_image_ends_everything(bench: &mut Bench) {
    let ended = bench.run_damaged(good());
    assert_eq!(ended.fault(), "image");
    assert!(ended.got.files().is_empty());
    assert!(!ended.asked.lines.iter().any(|line| line.starts_with("sign Record")));
}
