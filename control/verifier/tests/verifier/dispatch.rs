//! Gate 3: the authority's word that it checked the machine before it handed out the job.

use kiln_formats::endorsement::TpmClass;
use kiln_formats::manifest::path;
use kiln_verifier::Gate;

use crate::check;
use crate::world::{Leaf, Plan, STATEMENT_KEY, digest, dispatch_leaf, statement_leaf};

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
