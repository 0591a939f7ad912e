//! What a machine says of its TPM: keys, certificates and the path above them, credentials.

#![no_main]

use kiln_formats::endorsement::{CaCertificate, EkCertificate, EkPublic, Roots, TpmClass};
use kiln_formats::enrolment::{Credential, Enrolment};
use kiln_formats::timestamp::Timestamp;
use libfuzzer_sys::fuzz_target;

/// A real TPM's key, on which the corpus has a certificate, and who vouches for it.
const KEY: &[u8] = include_bytes!("../../src/endorsement/vectors/p384.public");
const CERTIFICATE: &[u8] = include_bytes!("../../src/endorsement/vectors/p384.der");
const ROOT: &[u8] = include_bytes!("../../src/endorsement/vectors/root.pem");
const ISSUER: &[u8] = include_bytes!("../../src/endorsement/vectors/issuer.pem");

fuzz_target!(|bytes: &[u8]| {
    let _ = EkPublic::parse(bytes);
    if let Some(class) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<TpmClass>().ok()) {
        assert_eq!(class.as_str().as_bytes(), bytes);
    }
    let key = EkPublic::parse(KEY).expect("a key");
    let root = CaCertificate::from_file(ROOT).into_iter();
    let roots = root.map(|root| (TpmClass::Hardware, root)).collect();
    let issuers = CaCertificate::from_file(ISSUER).into_iter().collect();
    let roots = Roots { roots, issuers, ..Roots::default() };
    let at = Timestamp::from_unix(1_800_000_000).expect("a second of 2027");
    if let Ok(certificate) = EkCertificate::from_nv(bytes) {
        let _ = certificate.vouched(&key, &[], &roots, at);
    }
    if let (Ok(brought), Ok(certificate)) = (CaCertificate::from_file(bytes), EkCertificate::from_nv(CERTIFICATE)) {
        let _ = certificate.vouched(&key, &[brought], &Roots { issuers: Vec::new(), ..roots }, at);
    }
    let _ = serde_json::from_slice::<Enrolment>(bytes);
    if let Ok(credential) = serde_json::from_slice::<Credential>(bytes) {
        let _ = (credential.id_object(), credential.encrypted_secret());
    }
});
