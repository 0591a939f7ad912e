//! What an image's producer signs for everyone who boots it, and how it is read again.
//!
//! The producer's key is a role of its own: it signs no jobs and certifies no machines, so `--publisher` names it and nothing else
//! does. A file that is signed is not read without that key, and one that is not signed is not read with it.

use std::path::Path;

use ed25519_dalek::pkcs8::DecodePublicKey as _;
use ed25519_dalek::{SigningKey, VerifyingKey};
use kiln_attestor::site::boot_reference;
use kiln_formats::canonical;
use kiln_formats::dsse::{self, Envelope};
use kiln_formats::names::{PAYLOAD_STATEMENT, PREDICATE_REFERENCE};
use kiln_formats::pcr::PcrIndex;
use kiln_formats::prediction::{PREDICTIONS_BYTES_MAX, Predictions, Registers};
use kiln_formats::reference::{MachineReference, REFERENCE_BYTES_MAX, Reference};
use kiln_formats::statement::Statement;
use serde::Serialize;

use crate::document;
use crate::exit::{Exit, OrExit as _, Problem, Result};

/// The largest public key file in bytes; ours have 113.
const KEY_BYTES_MAX: usize = 4096;
/// Base64 and the frame around it.
const ENVELOPE_BYTES_MAX: usize = 2 * PREDICTIONS_BYTES_MAX;

/// Signs a statement: canonical, in an envelope, on one line.
pub(crate) fn sign<P: Serialize>(statement: &Statement<P>, key: &SigningKey) -> Result<Vec<u8>> {
    let payload = canonical::to_vec(statement).or_exit(Exit::Infrastructure)?;
    let mut line = Envelope::sign(PAYLOAD_STATEMENT, &payload, key).to_vec().or_exit(Exit::Infrastructure)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads reference values: plain ones as they are, signed ones if `publisher` signed them. Signed ones are the same for every site;
/// what the site itself decides (PCR 15) is taken from its directory.
pub(crate) fn read(path: &Path, publisher: Option<&Path>, site: Option<&Path>) -> Result<Reference> {
    let Some(publisher) = publisher else {
        let bytes = document::read(path, ENVELOPE_BYTES_MAX)?;
        if Envelope::from_slice(&bytes).is_ok() {
            return Err(Problem::Publisher { path: path.to_owned() }).or_exit(Exit::Usage);
        }
        return document::read_canonical(path, REFERENCE_BYTES_MAX);
    };
    let mut reference = read_signed(path, publisher)?;
    if let Some(site) = site {
        for machine in &mut reference.machines {
            let boot = boot_reference(site, &machine.builder_id, reference.init_sha256, None).or_exit(Exit::Usage)?;
            machine.pcrs.insert(PcrIndex::RUNTIME.get().to_string(), boot);
        }
    }
    Ok(reference)
}

/// What one kind of machine must leave in its TPM, in every bank that the file has.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// The kind of machine, if it is one of ours.
    pub(crate) builder_id: Option<String>,
    /// Its registers.
    pub(crate) registers: Registers,
}

/// Reads reference values for an audit: of any image, also one that is not ours. Signed ones as [`read`] does; plain ones in
/// either form that `kiln reference` prints.
pub(crate) fn read_expected(path: &Path, publisher: Option<&Path>) -> Result<Vec<Expected>> {
    let statement = match publisher {
        Some(publisher) => Some(read_statement(path, publisher)?),
        None => serde_json::from_slice::<Statement<Predictions>>(&document::read(path, ENVELOPE_BYTES_MAX)?).ok(),
    };
    let Some(statement) = statement.filter(|statement| statement.is(PREDICATE_REFERENCE)) else {
        let of = |it: MachineReference| Expected { registers: it.registers(), builder_id: Some(it.builder_id) };
        return Ok(read(path, None, None)?.machines.into_iter().map(of).collect());
    };
    let expected = statement.predicate.registers();
    let expected =
        expected.map_err(|source| Problem::Prediction { path: path.to_owned(), source }).or_exit(Exit::Usage)?;
    let of = |(id, registers): (Option<&str>, &Registers)| Expected {
        builder_id: id.map(str::to_owned),
        registers: registers.clone(),
    };
    Ok(expected.into_iter().map(of).collect())
}

fn read_signed(path: &Path, publisher: &Path) -> Result<Reference> {
    let statement = read_statement(path, publisher)?;
    let [image] = statement.subject.as_slice() else { return other(path) };
    let reference = statement.predicate.reference(image.digest.sha256);
    reference.map_err(|source| Problem::Prediction { path: path.to_owned(), source }).or_exit(Exit::Usage)
}

/// A statement of one image's reference values that this producer signed.
fn read_statement(path: &Path, publisher: &Path) -> Result<Statement<Predictions>> {
    let failed = |source| match source {
        dsse::Error::Signature { .. } => Problem::OtherPublisher { path: path.to_owned() },
        source => Problem::Envelope { path: path.to_owned(), source },
    };
    let key = read_public_key(publisher)?;
    let envelope =
        Envelope::from_slice(&document::read(path, ENVELOPE_BYTES_MAX)?).map_err(failed).or_exit(Exit::Usage)?;
    let verified = envelope.verify(PAYLOAD_STATEMENT, &[key]).map_err(failed).or_exit(Exit::NotVerified)?;
    let statement = canonical::from_slice_exact::<Statement<Predictions>>(verified.payload());
    let statement =
        statement.map_err(|source| Problem::Document { path: path.to_owned(), source }).or_exit(Exit::Usage)?;
    if statement.subject.len() != 1 || !statement.is(PREDICATE_REFERENCE) {
        return other(path);
    }
    Ok(statement)
}

fn other<T>(path: &Path) -> Result<T> {
    Err(Problem::Statement { path: path.to_owned(), expected: "statement of one image's reference values" })
        .or_exit(Exit::Usage)
}

fn read_public_key(path: &Path) -> Result<VerifyingKey> {
    let bytes = document::read(path, KEY_BYTES_MAX)?;
    let key = std::str::from_utf8(&bytes).ok().and_then(|pem| VerifyingKey::from_public_key_pem(pem).ok());
    key.ok_or_else(|| Problem::Statement { path: path.to_owned(), expected: "Ed25519 public key in PEM" })
        .or_exit(Exit::Usage)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ed25519_dalek::pkcs8::EncodePublicKey as _;
    use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
    use kiln_formats::digest::Sha256Digest;
    use kiln_formats::pcr::Bank;
    use kiln_formats::prediction::{EventPrediction, MachineDescription, PcrPrediction, Prediction, VERSION};
    use kiln_formats::statement::Subject;

    use super::*;

    struct Desk {
        dir: tempfile::TempDir,
    }

    impl Desk {
        /// A signed file, and the public keys of its signer and of another.
        fn new(change: impl FnOnce(&mut Statement<Predictions>)) -> Self {
            let desk = Self { dir: tempfile::tempdir().unwrap() };
            let init_sha256 = Some(Sha256Digest::of(b"init"));
            let predicate = Predictions { version: VERSION, number: 0, init_sha256, machines: Vec::new() };
            let subject = vec![Subject::new("kiln.efi", Sha256Digest::of(b"image"))];
            let mut statement = Statement::new(PREDICATE_REFERENCE, subject, predicate);
            change(&mut statement);
            let keys = [1, 2].map(|seed| SigningKey::from_bytes(&[seed; 32]));
            desk.put("signed", &sign(&statement, &keys[0]).unwrap());
            for (name, key) in ["signer.pub", "other.pub"].into_iter().zip(&keys) {
                desk.put(name, key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap().as_bytes());
            }
            desk
        }

        fn put(&self, name: &str, bytes: &[u8]) {
            std::fs::write(self.dir.path().join(name), bytes).unwrap();
        }

        fn read(&self, publisher: Option<&str>) -> std::result::Result<Reference, (Exit, String)> {
            let publisher = publisher.map(|name| self.dir.path().join(name));
            read(&self.dir.path().join("signed"), publisher.as_deref(), None)
                .map_err(|failure| (failure.exit, format!("{:?}", failure.report)))
        }
    }

    #[test]
    fn only_the_producers_signature_counts() {
        let desk = Desk::new(|_| ());
        assert_eq!(desk.read(Some("signer.pub")).unwrap().image_sha256, Sha256Digest::of(b"image"));
        let (exit, said) = desk.read(Some("other.pub")).unwrap_err();
        assert!(exit == Exit::NotVerified && said.contains("publisher_refused"), "{said}");
        let (exit, said) = desk.read(None).unwrap_err();
        assert!(exit == Exit::Usage && said.contains("--publisher"), "{said}");
        assert_eq!(desk.read(Some("signed")).unwrap_err().0, Exit::Usage, "not a key");
    }

    #[test]
    fn a_changed_byte_or_a_plain_file_is_refused() {
        let desk = Desk::new(|_| ());
        let text = std::fs::read_to_string(desk.dir.path().join("signed")).unwrap();
        let at = text.find("payload\":\"").unwrap() + 40;
        let other = if &text[at..=at] == "A" { "B" } else { "A" };
        desk.put("signed", format!("{}{other}{}", &text[..at], &text[at + 1..]).as_bytes());
        assert_eq!(desk.read(Some("signer.pub")).unwrap_err().0, Exit::NotVerified);
        desk.put("signed", b"{\"version\":1}");
        assert_eq!(desk.read(Some("signer.pub")).unwrap_err().0, Exit::Usage);
    }

    /// For an audit every bank counts, the image need not be ours, and the signature is as good as for a verifier.
    #[test]
    fn an_audit_reads_every_bank_signed_or_plain() {
        let desk = Desk::new(|statement| {
            statement.predicate.init_sha256 = None;
            let banks = [Bank::Sha256, Bank::Sha384];
            let digests = banks.iter().filter_map(|bank| bank.hash(&[0; 4])).collect();
            let event = EventPrediction { name: "separator".to_owned(), digests };
            let register = PcrPrediction::of(PcrIndex::new(2).unwrap(), &banks, vec![event]);
            let (machine, pcrs) = (MachineDescription::default(), Registers::from([("2".to_owned(), register)]));
            statement.predicate.machines = vec![Prediction { machine, pcrs, not_predicted: BTreeMap::new() }];
        });
        let at = |name: &str| desk.dir.path().join(name);
        let signed = read_expected(&at("signed"), Some(&at("signer.pub"))).unwrap();
        assert!(signed[0].registers["2"].values.get(Bank::Sha384).is_some() && signed[0].builder_id.is_none());
        let failed = |name: &str, publisher: Option<&str>| {
            read_expected(&at(name), publisher.map(at).as_deref()).unwrap_err().exit
        };
        assert_eq!(failed("signed", Some("other.pub")), Exit::NotVerified);
        assert_eq!(failed("signed", None), Exit::Usage);
        let envelope = Envelope::from_slice(&std::fs::read(at("signed")).unwrap()).unwrap();
        let key = read_public_key(&at("signer.pub")).unwrap();
        let plain = envelope.verify(PAYLOAD_STATEMENT, &[key]).unwrap().payload().to_vec();
        desk.put("plain", &plain);
        assert_eq!(read_expected(&at("plain"), None).unwrap()[0].registers, signed[0].registers);
        // A value of the bank that no verifier looks at.
        let text = String::from_utf8(plain).unwrap();
        let value = signed[0].registers["2"].values.get(Bank::Sha384).unwrap().to_string();
        desk.put("plain", text.replace(&value, &"0".repeat(96)).as_bytes());
        assert_eq!(failed("plain", None), Exit::Usage);
    }

    #[test]
    fn another_statement_by_the_same_key_is_refused() {
        let of = |change: fn(&mut Statement<Predictions>)| Desk::new(change).read(Some("signer.pub")).unwrap_err().0;
        assert_eq!(of(|statement| statement.predicate_type.push('0')), Exit::Usage);
        assert_eq!(of(|statement| statement.subject.push(Subject::new("b", Sha256Digest::of(b"b")))), Exit::Usage);
        assert_eq!(of(|statement| statement.predicate.init_sha256 = None), Exit::Usage);
        assert_eq!(of(|statement| statement.predicate.version = 2), Exit::Usage);
    }
}
