//! Jobs that are refused: a signed decision with its code, evidence that a quote covers, and no step started.

use hyper::StatusCode;
use kiln_formats::canonical;
use kiln_formats::decision::{Code, Decision, Refusal, Ruling};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::link::path;
use kiln_formats::manifest::{Outcome, path as file};
use kiln_formats::names::PAYLOAD_DECISION;

use crate::Case;
use crate::authority::Authority;
use crate::bench::{Bench, INPUT, job, offering};
use crate::built::closed;
use crate::site::{SIGNER, STATEMENT, key, signed, time};

pub(crate) const CASES: &[Case] = &[
    ("a_refused_job_leaves_evidence_and_nothing_runs", a_refused_job_leaves_evidence_and_nothing_runs),
    ("a_second_job_is_refused", a_second_job_is_refused),
    ("inputs_must_be_there_and_as_declared", inputs_must_be_there_and_as_declared),
    ("images_must_be_there", images_must_be_there),
    ("a_job_must_fit", a_job_must_fit),
];

/// Runs a life that must end in a refusal, checks all that a refusal leaves, and hands out the reason.
fn refused(bench: &mut Bench, authority: Authority) -> Refusal {
    let ended = bench.run(authority);
    assert_eq!(*ended.outcome.as_ref().unwrap(), Outcome::Refused, "{:?}", ended.asked.lines);
    let manifest = closed(&ended);
    assert_eq!(manifest.outcome, Outcome::Refused);
    let unexpected = |file: &str| {
        !file.starts_with("evidence/boot/")
            && !file.starts_with("evidence/quotes/")
            && !file.starts_with("evidence/certificates/")
            && !file.starts_with("evidence/dispatch/")
            && ![file::JOB, file::DECISION].contains(&file)
    };
    assert!(!manifest.files.iter().any(|file| unexpected(&file.path)), "{:?}", manifest.files);
    let words: Vec<_> = ended.asked.lines.iter().map(|line| line.split(":sha256").next().unwrap()).collect();
    let expected = [
        "configuration",
        "trust",
        "activate",
        "quote First",
        "job",
        "decision",
        "sign Decision",
        "manifest",
        "sign Manifest",
        "final",
        "quote Last",
    ];
    assert_eq!(words, expected);
    assert!(!ended.got.requests.iter().any(|request| request.contains(path::LOGS)));
    assert_eq!(ended.got.bodies[path::DONE], br#"{"outcome":"refused"}"#);
    let envelope = Envelope::from_slice_exact(ended.got.file(file::DECISION)).unwrap();
    let verified = envelope.verify(PAYLOAD_DECISION, &[key(STATEMENT).verifying_key()]).unwrap();
    let decision: Decision = canonical::from_slice_exact(verified.payload()).unwrap();
    assert_eq!(decision.job_sha256, Sha256Digest::of(ended.got.file(file::JOB)));
    match decision.verdict {
        Ruling::Deny(refusal) => refusal,
        Ruling::Allow => panic!("allowed"),
    }
}

fn a_refused_job_leaves_evidence_and_nothing_runs(bench: &mut Bench) {
    let by_nobody = Authority { document: b"{}".to_vec(), ..Authority::default() };
    assert_eq!(refused(bench, by_nobody).code, Code::Unsigned);
    let by_another = Authority { document: signed(&job("true"), SIGNER + 1), ..Authority::default() };
    assert_eq!(refused(bench, by_another).code, Code::UntrustedSigner);
    let mut late = job("true");
    late["expires"] = serde_json::json!(time(0));
    assert_eq!(refused(bench, offering(&late)).code, Code::Expired);
    let mut unknown = job("true");
    unknown["step"][0]["network"] = true.into();
    assert_eq!(refused(bench, offering(&unknown)).code, Code::Malformed);
    let mut traced = job("true");
    traced["step"][1]["profile"] = "debug".into();
    assert_eq!(refused(bench, offering(&traced)).code, Code::Profile);
    // Another document than the challenge names.
    let other = offering(&job("true")).with(path::JOB, StatusCode::OK, signed(&job("false"), SIGNER));
    assert_eq!(refused(bench, other).code, Code::JobMismatch);
}

fn a_second_job_is_refused(bench: &mut Bench) {
    let one = signed(&job("true"), SIGNER);
    let two = Authority { document: [one.as_slice(), b"\n", &one, b"\n"].concat(), ..Authority::default() };
    assert_eq!(refused(bench, two).code, Code::OneShot);
}

fn inputs_must_be_there_and_as_declared(bench: &mut Bench) {
    let mut none = offering(&job("true"));
    none.inputs.clear();
    let refusal = refused(bench, none);
    assert_eq!((refusal.code, refusal.object.as_str()), (Code::InputMissing, "input in"));
    assert!(refusal.remedy.contains("https://downloads.example/in"));
    let at = format!("{}{}", path::INPUTS, Sha256Digest::of(INPUT));
    let mut flipped = INPUT.to_vec();
    flipped[0] ^= 1;
    let longer = [INPUT, b"!"].concat();
    let much_longer = INPUT.repeat(100_000);
    for other in [flipped, INPUT[1..].to_vec(), longer, much_longer, Vec::new()] {
        let authority = offering(&job("true")).with(&at, StatusCode::OK, other);
        assert_eq!(refused(bench, authority).code, Code::InputMismatch);
    }
}

fn images_must_be_there(bench: &mut Bench) {
    let mut other = job("true");
    other["image"][0]["root_hash"] = serde_json::json!(Sha256Digest::of(b"other"));
    let refusal = refused(bench, offering(&other));
    assert_eq!((refusal.code, refusal.object.as_str()), (Code::ImageMissing, "image c"));
}

fn a_job_must_fit(bench: &mut Bench) {
    let mut large = job("true");
    large["workspace"][0]["size_bytes_max"] = (2_u64 << 30).into();
    assert_eq!(refused(bench, offering(&large)).code, Code::Resources);
    // Less memory than the sandbox itself takes.
    let mut small = job("true");
    small["step"][1]["limits"]["memory_bytes"] = 4096.into();
    let refusal = refused(bench, offering(&small));
    assert_eq!((refusal.code, refusal.object.as_str()), (Code::InvalidJob, "step second"));
}
