//! Images that are not started: each with its own code and exit, a signed summary where the person looks, and nothing else. No machine
//! is needed for that; an image is some files and what its producer says of them.

use std::fs;
use std::path::Path;
use std::process::Output;

use ed25519_dalek::SigningKey;
use kiln_attestor::site::{provenance, read_key};
use kiln_formats::canonical;
use kiln_formats::certificate::Certificate;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::Envelope;
use kiln_formats::image_provenance::{
    BuildDefinition, ExternalParameters, FILES, ImageProvenance, InternalParameters, RunDetails,
};
use kiln_formats::names::{BUILD_TYPE_IMAGE, BUILDER_HOST, PAYLOAD_STATEMENT, PREDICATE_PROVENANCE};
use kiln_formats::provenance::Builder;
use kiln_formats::statement::{Statement, Subject};
use kiln_formats::trust::{Policy, PublicKey};
use kiln_formats::verdict::Summary;
use serde_json::{Value, json};

use crate::{code, desk, kiln, text};

/// The image of the example job's steps.
const STEP_IMAGE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// The refusal of a start that goes on after the image was taken: there is no firmware to enforce Secure Boot.
const TAKEN: [&str; 3] = ["--boot", "direct", "--secure-boot"];

fn statement(file: impl Fn(&str) -> Sha256Digest) -> Statement<ImageProvenance> {
    let predicate = ImageProvenance {
        build_definition: BuildDefinition {
            build_type: BUILD_TYPE_IMAGE.to_owned(),
            external_parameters: ExternalParameters { checkout: None },
            internal_parameters: InternalParameters {
                kernel_release: "7.3".to_owned(),
                cmdline: "quiet".to_owned(),
                pinned: true,
                programs: [].into(),
            },
            resolved_dependencies: Vec::new(),
        },
        run_details: RunDetails { builder: Builder { id: BUILDER_HOST.to_owned(), version: [].into() } },
    };
    Statement::new(PREDICATE_PROVENANCE, FILES.map(|name| Subject::new(name, file(name))).into(), predicate)
}

/// Has a key vouch for the image with this digest, of which nothing is known.
pub(crate) fn vouch(desk: &Path, image: Sha256Digest) {
    let key = read_key(&desk.join("site/image.key")).unwrap();
    provenance::add(&desk.join("site"), &image, &provenance::sign(&statement(|_| image), &key).unwrap()).unwrap();
}

/// A desk with an image: its files are text, each its own name.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(desk());
        for name in FILES {
            fs::write(desk.0.path().join(name), name).unwrap();
        }
        desk.describe(|_| {});
        desk
    }

    fn describe(&self, change: impl Fn(&mut Value)) {
        let file =
            |name: &str| json!({ "path": name, "bytes": name.len(), "sha256": Sha256Digest::of(name.as_bytes()) });
        let mut image = json!({ "cmdline": "quiet", "pcrs": {} });
        FILES.into_iter().for_each(|name| image[name] = file(name));
        change(&mut image);
        fs::write(self.0.path().join("image.json"), image.to_string()).unwrap();
    }

    fn key(&self, name: &str) -> SigningKey {
        read_key(&self.0.path().join("site").join(name)).unwrap()
    }

    /// Keeps at the site what `key` signs of an image with these files.
    fn keep(&self, key: &SigningKey, file: impl Fn(&str) -> Sha256Digest) {
        let envelope = provenance::sign(&statement(file), key).unwrap();
        provenance::add(&self.0.path().join("site"), &Sha256Digest::of(b"uki"), &envelope).unwrap();
    }

    fn run(&self, more: &[&str]) -> Output {
        let disk = format!("{STEP_IMAGE}=job.toml");
        let arguments =
            ["run", "job.toml", "--site", "site", "--out", "out", "--image", "image.json", "--image-disk", &disk];
        kiln(self.0.path(), &[&arguments[..], &TAKEN, more].concat())
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.path().join(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Runs, is refused with this code, and finds the summary, which is taken away again.
    fn is_refused(&self, what: &str, expected: &str) -> Statement<Summary> {
        let before = self.names("site/reference");
        let ran = self.run(&["--json"]);
        assert_eq!(code(&ran), 15, "{what}: {}", text(&ran.stderr));
        let told: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(
            (&told["outcome"], &told["image_refused"][0]["code"]),
            (&"image_refused".into(), &expected.into()),
            "{what}"
        );
        assert!(text(&ran.stderr).contains(expected), "{what}: {}", text(&ran.stderr));
        assert_eq!(self.names("out"), ["image.dsse.json"], "{what}");
        assert_eq!(self.names("site/reference"), before, "{what}: the site took it up");
        let beside: Vec<_> = self.names(".").into_iter().filter(|name| name.starts_with(".kiln")).collect();
        assert!(beside.is_empty(), "{what}: {beside:?}");

        let envelope =
            Envelope::from_slice_exact(&fs::read(self.0.path().join("out/image.dsse.json")).unwrap()).unwrap();
        fs::remove_dir_all(self.0.path().join("out")).unwrap();
        let authority = self.0.path().join("site/authorities/vm-swtpm-direct-v1.pem");
        let authority = Certificate::from_pem(&fs::read(authority).unwrap()).unwrap();
        let key = PublicKey::from_spki(&authority.spki().unwrap()).unwrap();
        let verified = envelope.verify(PAYLOAD_STATEMENT, &[key.0]).unwrap();
        let said: Statement<Summary> = canonical::from_slice_exact(verified.payload()).unwrap();
        assert_eq!(said.predicate.verification_result, "FAILED", "{what}");
        assert_eq!(said.predicate.verified_levels, ["FAILED"], "{what}");
        let policy = fs::read(self.0.path().join("site/policy.json")).unwrap();
        assert_eq!(said.predicate.policy.digest, Sha256Digest::of(&policy).into(), "{what}");
        said
    }

    fn is_taken(&self) {
        let ran = self.run(&[]);
        assert_eq!(code(&ran), 2, "{}", text(&ran.stderr));
        assert!(text(&ran.stderr).contains("no firmware"), "{}", text(&ran.stderr));
        assert!(!self.0.path().join("out").exists());
    }
}

fn named(name: &str) -> Sha256Digest {
    Sha256Digest::of(name.as_bytes())
}

#[test]
fn an_image_is_started_on_the_word_of_a_producer_whom_the_site_trusts() {
    let desk = Desk::new();
    let said = desk.is_refused("no provenance", "image_provenance_missing");
    assert!(said.predicate.input_attestations.is_empty());
    assert_eq!(said.subject[0], Subject::new("uki", named("uki")));

    desk.keep(&SigningKey::from_bytes(&[9; 32]), named);
    let said = desk.is_refused("a producer of somebody else's", "image_producer");
    assert_eq!(said.predicate.input_attestations.len(), 1);
    desk.keep(&desk.key("invoker.key"), named);
    desk.is_refused("whoever orders builds", "image_producer");
    desk.keep(&desk.key("image.key"), |_| named("x"));
    desk.is_refused("another image", "image_provenance_other");
    let file = desk.0.path().join(format!("site/provenance/{}.intoto.json", named("uki")));
    fs::write(&file, "{}").unwrap();
    desk.is_refused("no statement at all", "image_provenance");

    desk.keep(&desk.key("image.key"), named);
    desk.is_taken();
    let mut envelope = fs::read(&file).unwrap();
    let at = envelope.windows(10).position(|window| window == b"\"payload\":").unwrap() + 40;
    envelope[at] = if envelope[at] == b'A' { b'B' } else { b'A' };
    fs::write(&file, envelope).unwrap();
    desk.is_refused("an altered provenance", "image_producer");
    assert_eq!(desk.names("site/reference").len(), 1, "what was taken is known");
}

#[test]
fn an_altered_image_is_not_started() {
    let desk = Desk::new();
    desk.keep(&desk.key("image.key"), named);
    for name in ["uki", "disk", "kernel", "initrd"] {
        fs::write(desk.0.path().join(name), "altered").unwrap();
        let said = desk.is_refused(name, "image_altered");
        let subject = said.subject.iter().find(|subject| subject.name == name).unwrap();
        assert_eq!(subject.digest.sha256, named("altered"), "the summary is about what was found");
        fs::write(desk.0.path().join(name), name).unwrap();
    }
    desk.describe(|image| image["cmdline"] = "quiet init=/bin/sh".into());
    desk.is_refused("another command line", "image_altered");
    desk.describe(|image| image["init"]["sha256"] = named("x").to_string().into());
    desk.is_refused("another PID 1, by its description", "image_altered");
    desk.describe(|image| image["uki"]["sha256"] = named("x").to_string().into());
    desk.is_refused("described as another image", "image_provenance_missing");
    desk.describe(|_| {});
    desk.is_taken();
    let told = desk.run(&[]);
    assert!(!text(&told.stdout).contains("nothing was started"));
    fs::write(desk.0.path().join("disk"), "altered").unwrap();
    let told = desk.run(&[]);
    assert_eq!(text(&told.stdout), "nothing was started\nout\n");
}

#[test]
fn a_producer_who_was_revoked_or_is_not_named_makes_no_images() {
    let desk = Desk::new();
    let key = desk.key("image.key");
    desk.keep(&key, named);
    desk.is_taken();
    let file = desk.0.path().join("site/policy.json");
    let mut policy: Policy = canonical::from_slice_exact(&fs::read(&file).unwrap()).unwrap();
    policy.number = 2;
    policy.image_producers.clear();
    fs::write(desk.0.path().join("policy.json"), canonical::to_vec(&policy).unwrap()).unwrap();
    let changed = kiln(desk.0.path(), &["trust", "policy", "policy.json", "--site", "site"]);
    assert_eq!(code(&changed), 0, "{}", text(&changed.stderr));
    desk.is_refused("nobody is named", "image_producer");
    policy.number = 3;
    policy.image_producers.push(PublicKey(key.verifying_key()));
    fs::write(desk.0.path().join("policy.json"), canonical::to_vec(&policy).unwrap()).unwrap();
    assert_eq!(code(&kiln(desk.0.path(), &["trust", "policy", "policy.json", "--site", "site"])), 0);
    desk.is_taken();
    let revoked = kiln(desk.0.path(), &["trust", "revoke", "--site", "site", "--key", "site/image.key"]);
    assert_eq!(code(&revoked), 0, "{}", text(&revoked.stderr));
    desk.is_refused("a revoked key", "key_revoked");
}

/// Whose machines come over a network: no list of jobs is served for an image that nobody vouches for.
#[test]
fn the_service_does_not_begin_for_such_an_image() {
    let desk = Desk::new();
    let image = named("uki");
    let reference = format!(r#"{{"image_sha256":"{image}","init_sha256":"{image}","machines":[],"version":1}}"#);
    fs::write(desk.0.path().join("reference.json"), reference).unwrap();
    let arguments = ["attestor", "serve", "--site", "site", "--listen", "127.0.0.1:0", "--job", "job.toml"];
    let served = kiln(desk.0.path(), &[&arguments[..], &["--reference", "reference.json", "--out", "out"]].concat());
    assert_eq!(code(&served), 15, "{}", text(&served.stderr));
    assert!(text(&served.stderr).contains("image_provenance_missing"), "{}", text(&served.stderr));
    assert_eq!(desk.names("out"), ["image.dsse.json"]);
}
