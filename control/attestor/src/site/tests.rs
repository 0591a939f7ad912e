//! A site is made whole, read with every check, and never overwritten.

mod change;
mod enrolment;
mod mode;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use kiln_formats::names::MACHINE_BUILDERS;

use super::*;
use crate::certify::{AUTHORITY_SECONDS, ROOT_SECONDS};
use crate::state::State;

fn now() -> Timestamp {
    Timestamp::from_unix(1_790_000_000).unwrap()
}

fn names() -> Names {
    Names { site: "demo".parse().unwrap(), trust_domain: "demo.example".parse().unwrap() }
}

/// A site in a directory that goes when the first value goes.
pub(crate) fn site() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("site");
    create(&directory, &names(), &PROFILES, now(), getrandom::fill).unwrap();
    (parent, directory)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_site_is_whole_and_its_keys_are_private() {
    let (parent, directory) = site();
    let site = Site::open(&directory, now()).unwrap();
    assert_eq!(site.trust().policy.job_signers, [PublicKey(site.invoker_key().unwrap().verifying_key())]);
    assert_eq!(site.trust().policy.profiles, PROFILES);
    assert_eq!(site.configuration("x").trust_domain.as_str(), "demo.example");
    assert_eq!(site.references().unwrap(), []);
    assert_eq!(mode(&directory), 0o700);
    let producer = provenance::producer(&site).unwrap().unwrap();
    assert_eq!(site.trust().policy.image_producers, [PublicKey(producer.verifying_key())]);
    for key in [path::ROOT_KEY, path::LEDGER_KEY, path::INVOKER_KEY, path::IMAGE_KEY] {
        assert_eq!(mode(&directory.join(key)), 0o600, "{key}");
    }
    for builder_id in MACHINE_BUILDERS {
        let [_, key] = signer::paths(&directory, builder_id).unwrap();
        assert_eq!(mode(&key), 0o600, "{builder_id}");
    }
    // Nothing is left beside it.
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
}

#[test]
fn the_certificates_live_as_long_as_they_should() {
    let (_parent, directory) = site();
    let early = Timestamp::from_unix(now().unix() - 1).unwrap();
    for early_or_late in [early, now().plus_seconds(ROOT_SECONDS + 1)] {
        let opened = Site::open(&directory, early_or_late);
        assert!(matches!(opened, Err(SiteError::Certificate { .. })), "{opened:?}");
    }
    let site = Site::open(&directory, now().plus_seconds(ROOT_SECONDS)).unwrap();
    for builder_id in MACHINE_BUILDERS {
        let signer = |at| site.signer(builder_id, at);
        assert!(signer(now()).is_ok() && signer(now().plus_seconds(AUTHORITY_SECONDS)).is_ok());
        for at in [early, now().plus_seconds(AUTHORITY_SECONDS + 1)] {
            let refused = signer(at);
            assert!(matches!(refused, Err(SiteError::Certificate { .. })), "{refused:?}");
        }
    }
}

#[test]
fn nothing_is_overwritten() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("site");
    let refused = |directory: &Path| create(directory, &names(), &PROFILES, now(), getrandom::fill).unwrap_err();
    fs::create_dir(&directory).unwrap();
    assert!(matches!(refused(&directory), SiteError::Exists { .. }));
    fs::remove_dir(&directory).unwrap();
    symlink("nowhere", &directory).unwrap();
    assert!(matches!(refused(&directory), SiteError::Exists { .. }));
    fs::remove_file(&directory).unwrap();
    fs::write(&directory, "mine").unwrap();
    assert!(matches!(refused(&directory), SiteError::Exists { .. }));
    assert_eq!(fs::read(&directory).unwrap(), b"mine");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "a draft was left");
}

#[test]
fn a_failure_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let broken = |_: &mut [u8]| Err(getrandom::Error::UNSUPPORTED);
    let error = create(&parent.path().join("site"), &names(), &PROFILES, now(), broken).unwrap_err();
    assert!(matches!(error, SiteError::Random { .. }));
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn keys_that_others_can_read_are_not_used() {
    let (_parent, directory) = site();
    let [_, key] = signer::paths(&directory, BUILDER_METAL).unwrap();
    let refused = || Site::open(&directory, now()).unwrap().signer(BUILDER_METAL, now()).unwrap_err();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = refused();
    assert!(matches!(error, SiteError::File(FileError::Open { mode: 0o640, .. })), "{error}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let error = Site::open(&directory, now()).unwrap_err();
    assert!(matches!(error, SiteError::File(FileError::Open { mode: 0o755, .. })), "{error}");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(&key, directory.join("elsewhere")).unwrap();
    symlink("../elsewhere", &key).unwrap();
    assert!(matches!(refused(), SiteError::File(FileError::Io { .. })));
    let ledger = directory.join(path::LEDGER_KEY);
    fs::set_permissions(&ledger, fs::Permissions::from_mode(0o644)).unwrap();
    let site = Site::open(&directory, now()).unwrap();
    assert!(matches!(site.ledger_key(), Err(FileError::Open { mode: 0o644, .. })));
    assert!(State::open(&site).is_err());
}

#[test]
fn parts_of_two_sites_are_no_site() {
    let (_parent, other) = site();
    for part in [path::ROOT, path::POLICY, path::TRUST] {
        let (_parent, directory) = site();
        fs::copy(other.join(part), directory.join(part)).unwrap();
        assert!(Site::open(&directory, now()).is_err(), "{part}");
    }
    for part in 0..2 {
        let (_parent, directory) = site();
        let [from, to] = [&other, &directory].map(|site| signer::paths(site, BUILDER_METAL).unwrap());
        fs::copy(&from[part], &to[part]).unwrap();
        let site = Site::open(&directory, now()).unwrap();
        assert!(site.signer(BUILDER_METAL, now()).is_err(), "{part}");
        assert!(site.signer(BUILDER_DIRECT, now()).is_ok());
    }
    let (_parent, directory) = site();
    let text = fs::read_to_string(directory.join(path::TRUST)).unwrap();
    fs::write(directory.join(path::TRUST), format!("{text}\n")).unwrap();
    let error = Site::open(&directory, now()).unwrap_err();
    assert!(matches!(error, SiteError::Document { .. }), "{error}");
}
