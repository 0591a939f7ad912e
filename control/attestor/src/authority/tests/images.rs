//! Images that nobody whom the site trusts made: no machine with one is challenged, whatever its reference values say. And what a
//! launcher says of one.

use ed25519_dalek::SigningKey;
use kiln_formats::dsse::Envelope;
use kiln_formats::names::{BUILDER_METAL, PAYLOAD_STATEMENT};
use kiln_formats::statement::{Statement, Subject};
use kiln_formats::trust::PublicKey;
use kiln_formats::verdict::Summary;

use super::producer::statement;
use super::*;
use crate::site::provenance;
use crate::state::Archive;

impl Rig {
    fn provenance_file(&self) -> PathBuf {
        self.site.directory().join(format!("provenance/{}.intoto.json", self.reference.image_sha256))
    }

    fn own(&self) -> SigningKey {
        provenance::producer(&self.site).unwrap().unwrap()
    }

    /// Keeps another provenance as that of the image.
    fn vouches(&self, of: Sha256Digest, key: &SigningKey) {
        let envelope = provenance::sign(&statement(of), key).unwrap();
        provenance::add(self.site.directory(), &self.reference.image_sha256, &envelope).unwrap();
    }

    pub(super) fn attack_on_image(&mut self, what: &str) {
        let image = self.reference.image_sha256;
        match what {
            "image without provenance" => fs::remove_file(self.provenance_file()).unwrap(),
            "server's image without provenance" => {
                self.signer = self.site.signer(BUILDER_METAL, now()).unwrap();
                fs::remove_file(self.provenance_file()).unwrap();
            }
            "altered provenance" => {
                let envelope = Envelope::from_slice(&fs::read(self.provenance_file()).unwrap()).unwrap();
                let mut payload = String::from_utf8(envelope.alleged_payload().unwrap()).unwrap();
                payload = payload.replace("quiet", "debug");
                let signed: serde_json::Value = serde_json::from_slice(&envelope.to_vec().unwrap()).unwrap();
                let mut other: serde_json::Value = serde_json::from_slice(
                    &Envelope::new(PAYLOAD_STATEMENT, payload.as_bytes(), &[0; 64]).to_vec().unwrap(),
                )
                .unwrap();
                other["signatures"] = signed["signatures"].clone();
                fs::write(self.provenance_file(), other.to_string()).unwrap();
            }
            "provenance by a producer whom the policy does not name" => {
                self.vouches(image, &SigningKey::from_bytes(&[9; 32]));
            }
            // Whoever orders builds makes no images.
            "provenance by the job signer" => self.vouches(image, &self.site.invoker_key().unwrap()),
            "provenance of another image" => self.vouches(Sha256Digest::of(b"another"), &self.own()),
            "another statement of the producer's" => {
                let payload = br#"{"_type":"https://in-toto.io/Statement/v1"}"#;
                let envelope = Envelope::sign(PAYLOAD_STATEMENT, payload, &self.own()).to_vec().unwrap();
                fs::write(self.provenance_file(), envelope).unwrap();
            }
            _ => panic!("{what} is on the list, and nobody tries it"),
        }
    }
}

/// The same image, once a producer whom the policy names has vouched for it.
#[tokio::test]
async fn the_missing_provenance_is_all_that_was_missing() {
    let mut rig = Rig::new();
    let key = rig.own();
    fs::remove_file(rig.provenance_file()).unwrap();
    rig.turns_everyone_away("image_provenance_missing").await;
    rig.vouches(rig.reference.image_sha256, &key);
    let taken = rig.run(async |mut machine| drop(machine.attest().await));
    assert!(matches!(taken.await, Err(Fault::Link(LinkError::Closed))));
    let summary = Archive::open(&rig.site).unwrap().verify(None, |_| {}).unwrap();
    assert_eq!((summary.refused, summary.certified), (1, 1));
}

#[test]
fn a_launchers_refusal_is_a_failed_summary_under_the_authoritys_key() {
    let rig = Rig::new();
    let (image, files) = (rig.reference.image_sha256, vec![Subject::new("disk", Sha256Digest::of(b"another"))]);
    let kept = fs::read(rig.provenance_file()).unwrap();
    let read = || -> Statement<Summary> {
        let file = image::refusal(&rig.site, &rig.signer, &image, files.clone(), now()).unwrap();
        let key = PublicKey::from_spki(&rig.signer.certificate().spki().unwrap()).unwrap().0;
        let envelope = Envelope::from_slice_exact(&file).unwrap();
        canonical::from_slice_exact(envelope.verify(PAYLOAD_STATEMENT, &[key]).unwrap().payload()).unwrap()
    };
    let said = read();
    assert_eq!((said.subject.clone(), said.predicate.verification_result.as_str()), (files.clone(), "FAILED"));
    assert_eq!(said.predicate.policy.digest, rig.site.trust().policy.sha256().unwrap().into());
    assert_eq!(said.predicate.input_attestations[0].digest, Sha256Digest::of(&kept).into());
    fs::remove_file(rig.provenance_file()).unwrap();
    assert!(read().predicate.input_attestations.is_empty());
}
