//! A site has one certificate authority for TPMs, and no two machines have the same TPM.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::host::{WAIT, machine, power_on, tools};
use kiln_qemu::{Tpm, TpmCa, TpmCaError};

#[tokio::test]
async fn machines_that_start_together_have_their_own_keys_under_one_root() {
    let site = tempfile::tempdir().unwrap();
    let directory = site.path().join("tpm ca");
    let tools = tools();
    // Two make it at the same time: one of them does, and both have it.
    let (ca, other) = tokio::join!(TpmCa::open_or_make(&directory, &tools), TpmCa::open_or_make(&directory, &tools));
    let ca = ca.unwrap();
    assert_eq!(ca, other.unwrap());
    assert_eq!(std::fs::read_dir(site.path()).unwrap().count(), 1, "nothing beside it is left");

    let described = || machine(WAIT, Tpm::Software { ca: ca.clone() });
    let (a, b, c) = tokio::join!(power_on(described()), power_on(described()), power_on(described()));
    let machines = [a.0, b.0, c.0];
    let certificates: Vec<_> = machines.iter().flat_map(|machine| machine.endorsement_certificates()).collect();
    assert_eq!(certificates.len(), 6, "RSA and ECC for each");
    assert_eq!(certificates.iter().collect::<BTreeSet<_>>().len(), 6, "all different");

    for certificate in certificates {
        let path = site.path().join("endorsement.der");
        std::fs::write(&path, certificate).unwrap();
        let verified = Command::new("openssl")
            .args(["verify", "-ignore_critical", "-CAfile"])
            .arg(ca.root_certificate())
            .arg("-untrusted")
            .arg(ca.issuer_certificate())
            .arg(&path)
            .output()
            .expect("openssl: apt-get install -y --no-install-recommends openssl");
        assert!(verified.status.success(), "{verified:?}");
    }
}

#[tokio::test]
async fn an_authority_is_private_and_complete_or_refused() {
    let site = tempfile::tempdir().unwrap();
    let directory = site.path().join("ca");
    TpmCa::open_or_make(&directory, &tools()).await.unwrap();
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&directory).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o077, 0);
    }
    let root = std::fs::read(directory.join("swtpm-localca-rootca-cert.pem")).unwrap();
    let again = TpmCa::open_or_make(&directory, &tools()).await.unwrap();
    assert_eq!(std::fs::read(again.root_certificate()).unwrap(), root, "opened, not made again");

    std::fs::remove_file(again.issuer_certificate()).unwrap();
    let error = TpmCa::open_or_make(&directory, &tools()).await.unwrap_err();
    assert!(matches!(error, TpmCaError::Incomplete { file: "issuercert.pem", .. }), "{error}");
    let error = TpmCa::open_or_make(&site.path().join("a\nb"), &tools()).await.unwrap_err();
    assert!(matches!(error, TpmCaError::Path { .. }), "{error}");
}
