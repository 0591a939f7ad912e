//! Secure Boot's variables made by hand. That firmware agrees is shown by booting.

use kiln_formats::pcr::Bank;
use kiln_formats::prediction::{MachineDescription, Prediction};

use super::*;
use crate::pe::tests::sample;
use crate::reference::{ReferenceError, predict};

const CERTIFICATE: [u8; 16] = *b"\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72";
const SHA256: [u8; 16] = *b"\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28";

fn list(kind: [u8; 16], data: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_vec();
    let sizes = [28 + 16 + data.len(), 0, 16 + data.len()];
    bytes.extend(sizes.iter().flat_map(|size| u32::try_from(*size).unwrap().to_le_bytes()));
    bytes.extend([7; 16]);
    bytes.extend_from_slice(data);
    bytes
}

fn uki(signature: &[u8]) -> Vec<u8> {
    let kernel = sample(&[(".text", b"code")], b"");
    sample(&[(".linux", &kernel), (".sdmagic", b"LoaderInfo: systemd-stub 257")], signature)
}

fn variables(db: &[u8], dbx: &[u8]) -> Variables {
    Variables::new([
        list(CERTIFICATE, b"owner"),
        list(CERTIFICATE, b"owner"),
        db.to_vec(),
        dbx.to_vec(),
        vec![],
        vec![],
    ])
    .unwrap()
}

fn predicted(uki: &[u8], variables: &Variables) -> Result<Prediction, ReferenceError> {
    let machine =
        MachineDescription { secure_boot: SecureBoot::On, banks: vec![Bank::Sha256], ..MachineDescription::default() };
    predict(uki, &machine, variables)
}

/// The last measurement of PCR 7: the entry of `db`.
fn entry(uki: &[u8], variables: &Variables) -> Result<String, VariablesError> {
    match predicted(uki, variables) {
        Ok(prediction) => {
            let last = prediction.pcrs["7"].events.last().unwrap();
            assert!(last.name.starts_with("db: "), "{}", last.name);
            Ok(last.digests.get(Bank::Sha256).unwrap().to_string())
        }
        Err(ReferenceError::Variables(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

fn of_entry(data: &[u8]) -> String {
    let data = [&[7; 16], data].concat();
    Sha256Digest::of(&variable(IMAGE_SECURITY, "db", &data)).to_string()
}

#[test]
fn the_entry_is_the_one_whose_certificate_the_signature_holds() {
    let two = [list(CERTIFICATE, b"other"), list(CERTIFICATE, b"signer")].concat();
    assert_eq!(entry(&uki(b"a signature with signer in it"), &variables(&two, b"")), Ok(of_entry(b"signer")));
    assert_eq!(entry(&uki(b"an intermediate's"), &variables(&two, b"")), Err(VariablesError::Undecided));
    let one = list(CERTIFICATE, b"root");
    assert_eq!(entry(&uki(b"an intermediate's"), &variables(&one, b"")), Ok(of_entry(b"root")));
    assert_eq!(entry(&uki(b""), &variables(&one, b"")), Err(VariablesError::NotSigned));
}

#[test]
fn an_image_can_be_named_itself() {
    let unsigned = uki(b"");
    let image = Sha256Digest::of(&Pe::parse(&unsigned).unwrap().authenticode().unwrap());
    let named = list(SHA256, image.as_bytes());
    assert_eq!(entry(&unsigned, &variables(&named, b"")), Ok(of_entry(image.as_bytes())));
    assert_eq!(entry(&unsigned, &variables(&named, &named)), Err(VariablesError::Revoked));
}

#[test]
fn every_variable_counts() {
    let db = list(CERTIFICATE, b"signer");
    let value = |variables: &Variables| predicted(&uki(b"signer"), variables).unwrap().pcrs["7"].values.clone();
    let before = value(&variables(&db, b""));
    assert_ne!(before, value(&variables(&db, &list(CERTIFICATE, b"revoked"))));
    for at in 0..6 {
        let mut changed = variables(&db, b"");
        changed.contents[at].extend(list(CERTIFICATE, b"another"));
        assert_ne!(before, value(&changed), "{}", Variables::NAMES[at]);
    }
}

#[test]
fn what_is_no_list_is_refused() {
    for at in 0..6 {
        let mut contents = [(); 6].map(|()| Vec::new());
        contents[at] = b"-----BEGIN CERTIFICATE-----".to_vec();
        assert_eq!(Variables::new(contents), Err(VariablesError::Malformed { name: Variables::NAMES[at] }));
    }
}
