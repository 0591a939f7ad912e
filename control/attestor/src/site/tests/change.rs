//! A site's trust changes step by step, and nothing of it goes back.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::trust_list::{ReferenceTime, TrustListError, Unfit, current};

use super::*;
use crate::site::change::{Root, bundles};
use crate::site::trust_lists::{TrustListsError, files};

const DAY: u32 = 86_400;

fn reopened(directory: &Path) -> Site {
    Site::open(directory, now().plus_seconds(DAY)).unwrap()
}

#[test]
fn a_new_root_takes_over_and_the_old_one_counts_until_then() {
    let (_parent, directory) = site();
    let old = Site::open(&directory, now()).unwrap();
    old.add_reference(&old.reference(Sha256Digest::of(b"uki"), Sha256Digest::of(b"init"), &BTreeMap::new()).unwrap())
        .unwrap();
    let later = now().plus_seconds(DAY);
    let keys = MACHINE_BUILDERS.map(|builder_id| {
        // The key itself is not needed, and may be elsewhere.
        let [_, key] = signer::paths(&directory, builder_id).unwrap();
        let spki = old.signer(builder_id, now()).unwrap().certificate().spki().unwrap();
        fs::rename(&key, key.with_extension("away")).unwrap();
        spki
    });
    let list = Root::open(&old, None).unwrap().rotate(later, DAY, getrandom::fill).unwrap();
    let new = reopened(&directory);
    for builder_id in MACHINE_BUILDERS {
        let [_, key] = signer::paths(&directory, builder_id).unwrap();
        fs::rename(key.with_extension("away"), key).unwrap();
    }
    assert_eq!((list.number, new.trust_list().list.clone()), (2, list.clone()));
    assert_ne!(new.root(), old.root());
    // The ledger stands under the same key, and so does each mode; under the new root, not under the old one any more.
    assert_eq!(new.ledger_key().unwrap(), old.ledger_key().unwrap());
    State::open(&new).unwrap();
    for (builder_id, key) in MACHINE_BUILDERS.into_iter().zip(keys) {
        let signer = new.signer(builder_id, later).unwrap();
        assert_eq!(signer.certificate().spki().unwrap(), key);
        let under = |root| certificate::Authority::check(root, signer.certificate(), later, builder_id);
        assert!(under(new.root()).is_ok() && under(old.root()).is_err());
    }
    let at = |site: &Site, at| list.allows_root(&site.root().to_pem().unwrap(), at);
    assert_eq!((at(&new, later), at(&old, later)), (Ok(()), Ok(())));
    assert_eq!(at(&old, later.plus_seconds(1)), Err(Unfit::RootRetired { until: later }));
    // Who trusts the old root follows; who trusts another does not.
    let lists = files(&directory).unwrap();
    assert_eq!(current(&lists, old.root()).unwrap().root, *new.root());
    let (_parent, other) = site();
    let stranger = Site::open(&other, now()).unwrap();
    assert!(matches!(current(&lists, stranger.root()), Err(TrustListError::UnknownRoot)));
    // The old bundle and the old key are kept; the reference values follow the new bundle.
    let kept = bundles(&directory).unwrap();
    assert_eq!(kept.into_values().collect::<Vec<_>>(), [old.trust().clone(), new.trust().clone()]);
    assert_eq!(mode(&directory.join("before/000002").join(path::ROOT_KEY)), 0o600);
    let [reference] = new.references().unwrap().try_into().unwrap();
    let expected = new.reference(Sha256Digest::of(b"uki"), Sha256Digest::of(b"init"), &BTreeMap::new()).unwrap();
    assert_eq!(reference, expected);
    // Only the new key is the root's.
    let kept_key = directory.join("before/000002").join(path::ROOT_KEY);
    assert!(matches!(Root::open(&new, Some(&kept_key)), Err(SiteError::Mismatch { .. })));
    let next = Root::open(&new, None).unwrap().issue(later, DAY, |_| {}).unwrap();
    assert_eq!((next.number, next.retired.len()), (3, 1));
}

#[test]
fn a_policy_has_a_higher_number_and_may_end_those_before_it() {
    let (_parent, directory) = site();
    let site = Site::open(&directory, now()).unwrap();
    let root = Root::open(&site, None).unwrap();
    let mut policy = site.trust().policy.clone();
    let same = root.set_policy(policy.clone(), false, now(), DAY);
    assert!(matches!(same, Err(SiteError::Mismatch { .. })), "{same:?}");
    policy.number = 2;
    policy.profiles.clear();
    let list = root.set_policy(policy.clone(), true, now(), DAY).unwrap();
    assert_eq!((list.number, list.minimum.policy), (2, 2));
    let changed = Site::open(&directory, now()).unwrap();
    assert_eq!(changed.trust().policy, policy);
    let lowered = Root::open(&changed, None).unwrap().issue(now(), DAY, |list| list.minimum.policy = 1);
    assert!(matches!(lowered, Err(SiteError::TrustLists(TrustListsError::Lists { .. }))), "{lowered:?}");
    assert_eq!(files(&directory).unwrap().len(), 2, "a list that takes something back was added");
}

#[test]
fn the_time_is_the_roots_word() {
    let (_parent, directory) = site();
    let site = Site::open(&directory, now()).unwrap();
    let file = Root::open(&site, None).unwrap().time(now()).unwrap();
    assert_eq!(ReferenceTime::verify(&file, site.name(), site.root()).unwrap().time, now());
}

#[test]
fn a_list_that_was_changed_or_is_missing_makes_no_site() {
    let (_parent, directory) = site();
    let file = directory.join("trust-lists/000001.json");
    let good = fs::read(&file).unwrap();
    for bytes in [&good[..good.len() - 1], b"", b"{}"] {
        fs::write(&file, bytes).unwrap();
        assert!(matches!(Site::open(&directory, now()), Err(SiteError::TrustLists(_))));
    }
    fs::remove_file(&file).unwrap();
    assert!(matches!(Site::open(&directory, now()), Err(SiteError::TrustLists(_))));
}

/// A new root certifies each authority for what the old one did, and nothing that lies in its place.
#[test]
fn a_rotation_makes_no_authority_into_one_of_another_mode() {
    let (_parent, directory) = site();
    let old = Site::open(&directory, now()).unwrap();
    let rotate = || Root::open(&old, None).unwrap().rotate(now(), DAY, getrandom::fill);
    let [metal, direct] = [BUILDER_METAL, BUILDER_DIRECT].map(|id| signer::paths(&directory, id).unwrap()[0].clone());
    let own = fs::read(&metal).unwrap();
    fs::copy(&direct, &metal).unwrap();
    let refused = rotate().unwrap_err();
    let other_mode = CertificateError::OtherMode { certified_for: BUILDER_DIRECT };
    assert!(matches!(refused, SiteError::Certificate { source, .. } if source == other_mode), "{refused}");
    fs::remove_file(&metal).unwrap();
    assert!(matches!(rotate(), Err(SiteError::File(_))));
    fs::write(&metal, own).unwrap();
    assert_eq!(Site::open(&directory, now()).unwrap().trust_list().list.number, 1, "something was changed");
    rotate().unwrap();
}
