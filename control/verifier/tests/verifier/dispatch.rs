//! Gate 3: the authority's word that it checked the machine before it handed out the job.

use kiln_formats::endorsement::TpmClass;
use kiln_formats::manifest::path;
use kiln_formats::names::PAYLOAD_STATEMENT;
use kiln_formats::statement::{Statement, Subject};
use kiln_formats::verdict::Summary;
use kiln_verifier::Gate;

use crate::check;
use crate::world::{Leaf, Plan, STATEMENT_KEY, at, digest, dispatch_leaf, sign, statement_leaf};

#[test]
fn the_authority_alone_says_it_and_of_this_build_alone() {
    let gate = Gate::Boot;
    let says = |edit: fn(&mut kiln_formats::challenge::Binding)| Plan { dispatched: Box::new(edit), ..Plan::default() };
    let without = |file: &'static str| Plan {
        files: Box::new(move |files| {
            files.remove(file);
        }),
        ..Plan::default()
    };
    check(vec![
        ("no certificate", without(path::DISPATCH_KEY), gate, "file_missing", "dispatch.pem"),
        ("no attestation", without(path::DISPATCH), gate, "file_missing", "attestation.dsse.json"),
        ("no summary", without(path::DISPATCH_SUMMARY), gate, "file_missing", "summary.dsse.json"),
        ("no summary of the image", without(path::DISPATCH_IMAGE), gate, "file_missing", "image.dsse.json"),
        ("a key that nobody certified", Plan { dispatch_key: 9, ..Plan::default() }, gate, "dispatch", "signed"),
        (
            "the machine speaks for the authority",
            Plan { dispatch_key: STATEMENT_KEY, dispatch_leaf: statement_leaf(), ..Plan::default() },
            gate,
            "certificate_name",
            "dispatch.pem",
        ),
        (
            "another build's key",
            Plan {
                dispatch_leaf: Leaf { id: dispatch_leaf().id.replace("00112233", "ffffffff"), ..dispatch_leaf() },
                ..Plan::default()
            },
            gate,
            "certificate_name",
            "dispatch.pem",
        ),
        (
            "a key of another authority",
            Plan { dispatch_leaf: Leaf { issuer_key: 9, ..dispatch_leaf() }, ..Plan::default() },
            gate,
            "certificate",
            "signature",
        ),
        (
            "a TPM of another class, on the authority's own word",
            Plan { class: TpmClass::Hardware, ..Plan::default() },
            gate,
            "machine_class",
            "dispatch attestation",
        ),
        ("another job", says(|b| b.challenge.job_sha256 = digest("x")), gate, "dispatch", "does not say"),
        ("another image", says(|b| b.challenge.image_sha256 = digest("x")), gate, "dispatch", "does not say"),
        ("another key", says(|b| b.statement_key_sha256 = digest("x")), gate, "dispatch", "does not say"),
        ("another issuer's key", says(|b| b.issuer_key_sha256 = digest("x")), gate, "dispatch", "does not say"),
        ("another machine", says(|b| b.endorsement_key_sha256 = digest("x")), gate, "dispatch", "does not say"),
        ("an older challenge", says(|b| b.challenge.nonce = digest("x")), gate, "dispatch", "does not say"),
    ]);
}

/// What the authority says of the image: signed with the right key, and not what follows from this evidence and this policy.
#[test]
fn nothing_else_is_said_of_the_image() {
    type Change = fn(&mut Statement<Summary>);
    let says = |change: Change| Plan { image_summary: Box::new(change), ..Plan::default() };
    let swapped = |from: &'static str| Plan {
        files: Box::new(move |files| drop(files.insert(path::DISPATCH_IMAGE.to_owned(), files[from].clone()))),
        ..Plan::default()
    };
    let changes: [(&str, Change); 9] = [
        ("another image", |it| it.subject = vec![Subject::new("uki", digest("x"))]),
        ("a file more", |it| it.subject.push(Subject::new("disk", digest("x")))),
        ("as another resource", |it| it.predicate.resource_uri.push('x')),
        ("by another policy", |it| it.predicate.policy.digest = digest("x").into()),
        ("from another provenance", |it| it.predicate.input_attestations[0].digest = digest("x").into()),
        ("from none", |it| it.predicate.input_attestations.clear()),
        ("before", |it| it.predicate.time_verified = at(-1)),
        ("that it failed", |it| it.predicate.verification_result = "FAILED".to_owned()),
        ("that it earned more", |it| it.predicate.verified_levels.push("SLSA_BUILD_LEVEL_3".to_owned())),
    ];
    let says = changes.map(|(what, change)| (what, says(change), Gate::Boot, "dispatch", "the image's provenance"));
    let others = [
        (
            "the summary of the quote for it",
            swapped(path::DISPATCH_SUMMARY),
            Gate::Boot,
            "dispatch",
            "image's provenance",
        ),
        ("the configuration for it", swapped(path::CONFIGURATION), Gate::Boot, "dispatch", "image's provenance"),
        (
            "the producer's own word for it",
            Plan {
                files: Box::new(|files| {
                    let by_other = sign(9, PAYLOAD_STATEMENT, b"{}");
                    files.insert(path::DISPATCH_IMAGE.to_owned(), by_other);
                }),
                ..Plan::default()
            },
            Gate::Boot,
            "dispatch",
            "signed",
        ),
    ];
    check(says.into_iter().chain(others).collect());
}
