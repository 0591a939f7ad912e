//! What a machine says of its TPM: keys, certificates, credentials.

#![no_main]

use kiln_formats::endorsement::{CaCertificate, EkCertificate, EkPublic, Roots};
use kiln_formats::enrolment::{Credential, Enrolment};
use kiln_formats::timestamp::Timestamp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = EkPublic::parse(bytes);
    let ca = CaCertificate::from_file(bytes);
    if let (Ok(certificate), Ok(key)) = (EkCertificate::from_nv(bytes), EkPublic::parse(bytes)) {
        let roots = Roots { roots: ca.into_iter().collect(), ..Roots::default() };
        let _ = certificate.vouched(&key, &[], &roots, Timestamp::from_unix(1_800_000_000).expect("a second of 2027"));
    }
    let _ = serde_json::from_slice::<Enrolment>(bytes);
    if let Ok(credential) = serde_json::from_slice::<Credential>(bytes) {
        let _ = (credential.id_object(), credential.encrypted_secret());
    }
});
