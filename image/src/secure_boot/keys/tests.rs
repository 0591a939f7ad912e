//! Keys made with the host's openssl, which reads them again.

//! Keys: made once for each role, kept apart, and read back as what they are.

use kiln_formats::eventlog::decode::SignatureDatabase;
use tempfile::TempDir;

use super::*;
use crate::progress::Silent;

pub(in crate::secure_boot) fn noon() -> Timestamp {
    "2026-01-02T12:00:00Z".parse().unwrap()
}

/// A site's keys, gone with the directory.
pub(in crate::secure_boot) fn keys() -> (TempDir, Keys) {
    let directory = tempfile::tempdir().unwrap();
    let keys = create(&directory.path().join("secure-boot"), "site", noon(), &Silent).unwrap();
    (directory, keys)
}

fn openssl(arguments: &[&str], file: &Path) -> String {
    let output = std::process::Command::new("openssl").args(arguments).arg("-in").arg(file).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn three_rsa_keys_for_three_roles() {
    let (_directory, keys) = keys();
    let publics: std::collections::BTreeSet<_> = Role::ALL
        .map(|role| {
            assert_eq!(fs::metadata(keys.key(role)).unwrap().mode() & 0o777, 0o600);
            let certificate = openssl(&["x509", "-noout", "-text"], &keys.certificate(role));
            for word in ["Public-Key: (2048 bit)", "CA:FALSE", &format!("CN = site Secure Boot {}", role.name())] {
                assert!(certificate.contains(word), "{word}: {certificate}");
            }
            let public = openssl(&["x509", "-noout", "-pubkey"], &keys.certificate(role));
            assert_eq!(public, openssl(&["pkey", "-pubout"], &keys.key(role)));
            public
        })
        .into();
    assert_eq!(publics.len(), 3);
    assert!(matches!(create(&keys.directory, "site", noon(), &Silent), Err(KeysError::Exists { .. })));
}

#[test]
fn a_key_with_two_roles_is_refused() {
    let (_directory, keys) = keys();
    fs::copy(keys.certificate(Role::Image), keys.certificate(Role::Exchange)).unwrap();
    let error = Keys::open(&keys.directory).unwrap_err();
    assert!(matches!(error, KeysError::Shared { roles: (Role::Exchange, Role::Image), .. }), "{error}");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let (_directory, keys) = keys();
    fs::set_permissions(keys.key(Role::Image), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Keys::open(&keys.directory), Err(KeysError::Open { mode: 0o640, .. })));
}

#[test]
fn revocations_add_up_and_survive() {
    let (directory, keys) = keys();
    let [first, second] = [1, 2].map(|n| Sha256Digest::from_bytes([n; 32]));
    let other = directory.path().join("other");
    let other = create(&other, "other", noon(), &Silent).unwrap();
    assert!(!keys.file(Variable::Forbidden, "esl").exists());
    keys.revoke_image(first, noon(), &Silent).unwrap();
    keys.revoke_certificate(&other.certificate(Role::Image), noon().plus_seconds(1), &Silent).unwrap();
    keys.revoke_image(second, noon().plus_seconds(2), &Silent).unwrap();
    let forbidden = Keys::open(&keys.directory).unwrap().databases().unwrap().pop().unwrap().1;
    assert_eq!((forbidden.images(), forbidden.certificates().len()), ([first, second].as_slice(), 1));
    let signed = fs::read(keys.file(Variable::Forbidden, "auth")).unwrap();
    assert!(signed.ends_with(&forbidden.to_bytes()));
}

#[test]
fn the_files_are_what_firmware_keeps() {
    let (_directory, keys) = keys();
    for (variable, database) in keys.databases().unwrap() {
        let esl = keys.file(variable, "esl");
        if variable == Variable::Forbidden {
            assert!(database.is_empty() && !esl.exists());
            continue;
        }
        let bytes = fs::read(&esl).unwrap();
        assert_eq!(bytes, database.to_bytes());
        let entries: Vec<_> = SignatureDatabase::parse(&bytes).unwrap().iter().map(|entry| entry.to_string()).collect();
        assert_eq!(entries.len(), 1);
        assert!(entries[0].contains(&format!("CN=site Secure Boot {}", variable.name())), "{entries:?}");
        let signed = fs::read(keys.file(variable, "auth")).unwrap();
        assert!(signed.ends_with(&bytes) && signed.len() > bytes.len() + 1000);
    }
}

#[test]
fn a_new_key_signs_and_the_old_one_is_kept() {
    let (_directory, keys) = keys();
    let before = fs::read(keys.certificate(Role::Image)).unwrap();
    let (old_key, old) = (fs::read(keys.key(Role::Image)).unwrap(), keys.rotate(noon(), &Silent).unwrap());
    assert_eq!((fs::read(&old).unwrap(), fs::read(old.with_extension("key")).unwrap()), (before, old_key.clone()));
    let keys = Keys::open(&keys.directory).unwrap();
    assert_ne!(fs::read(keys.key(Role::Image)).unwrap(), old_key);
    let allowed = keys.databases().unwrap().swap_remove(2).1;
    let of = |path: &Path| read_certificate(path).unwrap().0;
    assert_eq!(allowed.certificates(), [of(&old), of(&keys.certificate(Role::Image))]);
    let certificate = openssl(&["x509", "-noout", "-subject"], &keys.certificate(Role::Image));
    assert!(certificate.contains("CN = site Secure Boot db"), "{certificate}");
    let third = keys.rotate(noon().plus_seconds(1), &Silent).unwrap();
    assert_ne!(third, old);
    let allowed = Keys::open(&keys.directory).unwrap().databases().unwrap().swap_remove(2).1;
    assert_eq!(allowed.certificates().len(), 3);
}
