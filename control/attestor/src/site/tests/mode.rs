//! Each mode has a signer of its own: it needs no other's key, and no other's key does for it.

use kiln_formats::certificate::Authority;

use super::*;

/// The keys of a site, but for those that the authority of this builder id needs.
fn take_other_keys_away(directory: &Path, builder_id: &str) {
    for key in [path::ROOT_KEY, path::INVOKER_KEY] {
        fs::remove_file(directory.join(key)).unwrap();
    }
    for other in MACHINE_BUILDERS.into_iter().filter(|other| *other != builder_id) {
        signer::paths(directory, other).unwrap().into_iter().for_each(|file| fs::remove_file(file).unwrap());
    }
}

#[test]
fn each_mode_has_a_key_and_a_certificate_of_its_own() {
    let (_parent, directory) = site();
    let site = Site::open(&directory, now()).unwrap();
    assert_eq!(site.trust().policy.builder_ids, MACHINE_BUILDERS);
    let mut keys = std::collections::BTreeSet::from([
        spki(&site.invoker_key().unwrap()),
        spki(&site.ledger_key().unwrap()),
        site.root().spki().unwrap(),
    ]);
    for own in MACHINE_BUILDERS {
        let signer = site.signer(own, now()).unwrap();
        assert_eq!(signer.builder_id(), own);
        assert!(keys.insert(signer.certificate().spki().unwrap()), "{own} has another's key");
        for asked in MACHINE_BUILDERS {
            let counts = Authority::check(site.root(), signer.certificate(), now(), asked).is_ok();
            assert_eq!(counts, asked == own, "{own} for {asked}");
        }
    }
    assert_eq!(keys.len(), 3 + MACHINE_BUILDERS.len());
    let unknown = site.signer("https://kiln.example/builders/metal/v2", now());
    assert!(matches!(unknown, Err(SiteError::UnknownBuilder { .. })), "{unknown:?}");
}

fn spki(key: &SigningKey) -> Vec<u8> {
    PublicKey(key.verifying_key()).spki()
}

/// What a host of one mode needs, and what is not to be had there.
#[test]
fn a_site_serves_a_mode_without_the_keys_of_the_others() {
    for own in MACHINE_BUILDERS {
        let (_parent, directory) = site();
        take_other_keys_away(&directory, own);
        let site = Site::open(&directory, now()).unwrap();
        assert_eq!(site.signer(own, now()).unwrap().builder_id(), own);
        State::open(&site).unwrap();
        crate::state::Archive::open(&site).unwrap().verify(None, |_| {}).unwrap();
        for other in MACHINE_BUILDERS.into_iter().filter(|other| *other != own) {
            let refused = site.signer(other, now());
            assert!(matches!(refused, Err(SiteError::File(FileError::Io { .. }))), "{refused:?}");
        }
    }
}

/// Somebody has the key and the certificate of a development mode, and puts them where another mode's should be.
#[test]
fn a_stolen_key_of_one_mode_does_not_serve_another() {
    for (stolen, wanted) in [(BUILDER_DIRECT, BUILDER_METAL), (BUILDER_DIRECT, BUILDER_SECURE_BOOT)] {
        let (_parent, directory) = site();
        let [from, to] = [stolen, wanted].map(|id| signer::paths(&directory, id).unwrap());
        let signer = || Site::open(&directory, now()).unwrap().signer(wanted, now()).unwrap_err();
        // The key alone is not that of the certificate.
        fs::copy(&from[1], &to[1]).unwrap();
        assert!(matches!(signer(), SiteError::Mismatch { .. }));
        fs::copy(&from[0], &to[0]).unwrap();
        let expected = CertificateError::OtherMode { certified_for: stolen };
        let refused = signer();
        assert!(matches!(refused, SiteError::Certificate { source, .. } if source == expected), "{refused}");
    }
}

#[test]
fn a_site_with_one_authority_for_all_is_made_anew() {
    let (_parent, directory) = site();
    let [certificate, key] = signer::paths(&directory, BUILDER_DIRECT).unwrap();
    fs::rename(certificate, directory.join("authority.pem")).unwrap();
    fs::rename(key, directory.join("authority.key")).unwrap();
    fs::remove_dir_all(directory.join(path::AUTHORITIES)).unwrap();
    let refused = Site::open(&directory, now()).unwrap_err();
    assert!(matches!(refused, SiteError::OneAuthority { .. }));
    assert!(refused.to_string().contains("make the site anew"), "{refused}");
}
