//! A sequence that holds, broken rule by rule; and what a list says of everything that it knows.

use proptest::prelude::*;

use super::*;
use crate::certificate::tests::another_root;
use crate::trust::PublicKey;

const NOW: i64 = 1_790_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(NOW + seconds).unwrap()
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn root(seed: u8) -> Certificate {
    another_root(seed)
}

fn pem(seed: u8) -> String {
    root(seed).to_pem().unwrap()
}

fn digest(text: &str) -> Sha256Digest {
    Sha256Digest::of(text.as_bytes())
}

/// The first list of a site whose root has this seed.
fn first(seed: u8) -> TrustList {
    TrustList {
        version: VERSION,
        site: "demo".parse().unwrap(),
        number: 1,
        issued: at(0),
        expires: at(1000),
        root: pem(seed),
        retired: Vec::new(),
        minimum: Minimum { policy: 2, image: 3 },
        revoked: Revoked { keys: [digest("lost")].into(), ..Revoked::default() },
    }
}

/// The one after it: the same root, one image more that does not count.
fn second(seed: u8) -> TrustList {
    let mut list = TrustList { number: 2, issued: at(10), expires: at(1010), ..first(seed) };
    list.revoked.images.insert(digest("image"));
    list
}

/// The one after that, with a new root.
fn third(seed: u8, next: u8) -> TrustList {
    let retired = vec![RetiredRoot { root: pem(seed), until: at(20) }];
    TrustList { number: 3, issued: at(20), root: pem(next), retired, ..second(seed) }
}

fn sequence() -> Vec<Vec<u8>> {
    let (old, new) = (key(1), key(2));
    vec![
        first(1).sign(&old, None).unwrap(),
        second(1).sign(&old, None).unwrap(),
        third(1, 2).sign(&new, Some(&old)).unwrap(),
    ]
}

#[test]
fn who_trusts_any_root_of_a_sequence_follows_it_to_the_newest() {
    let files = sequence();
    for known in [1, 2] {
        let found = current(&files, &root(known)).unwrap();
        assert_eq!((found.list.clone(), found.root), (third(1, 2), root(2)));
        assert_eq!(found.sha256, Sha256Digest::of(&canonical::to_vec(&found.list).unwrap()));
    }
    // Who has only the newest and trusts its root needs no more; who trusts the old one does.
    assert_eq!(current(&files[2..], &root(2)).unwrap().list.number, 3);
    assert!(matches!(current(&files[2..], &root(1)), Err(TrustListError::UnknownRoot)));
    assert!(matches!(current(&files, &root(9)), Err(TrustListError::UnknownRoot)));
    assert!(matches!(current(&[], &root(1)), Err(TrustListError::Count { lists: 0 })));
    let many = vec![files[0].clone(); LISTS_MAX + 1];
    assert!(matches!(current(&many, &root(1)), Err(TrustListError::Count { .. })));
}

#[test]
fn a_list_is_signed_by_its_own_root_and_a_new_root_by_the_one_before() {
    let (old, new, other) = (key(1), key(2), key(9));
    let third = third(1, 2);
    for (signer, previous, which) in [
        (&other, Some(&old), "current"),
        (&old, Some(&old), "current"),
        (&new, Some(&other), "previous"),
        (&new, Some(&new), "previous"),
    ] {
        let mut files = sequence();
        files[2] = third.sign(signer, previous).unwrap();
        let error = current(&files, &root(1)).unwrap_err();
        assert!(
            matches!(error, TrustListError::Signature { number: 3, which: found, .. } if found == which),
            "{error}"
        );
    }
    let mut files = sequence();
    files[2] = third.sign(&new, None).unwrap();
    assert!(current(&files, &root(1)).unwrap_err().to_string().contains("the root before did not sign it"));
    files = sequence();
    files[1] = second(1).sign(&old, Some(&old)).unwrap();
    assert!(current(&files, &root(1)).unwrap_err().to_string().contains("for no reason"));
    // The two roots sign different texts.
    let mut mixed: SignedList = canonical::from_slice_exact(&sequence()[2]).unwrap();
    let later = TrustList { expires: at(2000), ..third.clone() };
    mixed.cross_signed =
        canonical::from_slice_exact::<SignedList>(&later.sign(&new, Some(&old)).unwrap()).unwrap().cross_signed;
    files = sequence();
    files[2] = canonical::to_vec(&mixed).unwrap();
    assert!(current(&files, &root(1)).unwrap_err().to_string().contains("two lists"));
}

#[test]
fn nothing_is_taken_back() {
    type Change = (&'static str, fn(&mut TrustList));
    let changes: [Change; 16] = [
        ("another site", |list| list.site = "other".parse().unwrap()),
        ("not newer", |list| list.number = 2),
        ("not newer", |list| list.number = 1),
        ("not newer", |list| list.issued = at(9)),
        ("lowers a minimum", |list| list.minimum.policy = 1),
        ("lowers a minimum", |list| list.minimum.image = 0),
        ("takes a revocation back", |list| list.revoked.keys.clear()),
        ("takes a revocation back", |list| list.revoked.images.clear()),
        ("forgets a root", |list| list.retired.clear()),
        ("forgets a root", |list| list.retired[0].until = at(21)),
        ("do not follow", |list| list.retired.push(RetiredRoot { root: pem(7), until: at(5) })),
        ("version", |list| list.version = 2),
        ("version", |list| list.number = 0),
        ("396 days", |list| list.expires = list.issued.plus_seconds(LIFE_SECONDS_MAX + 1)),
        ("396 days", |list| list.issued = list.expires.plus_seconds(1)),
        ("more entries", |list| {
            list.revoked.policies = (0..=ENTRIES_MAX).map(|number| digest(&number.to_string())).collect();
        }),
    ];
    for (rule, change) in changes {
        let mut files = sequence();
        let mut fourth = TrustList { number: 4, issued: at(30), expires: at(1030), ..third(1, 2) };
        files.push(fourth.sign(&key(2), None).unwrap());
        assert_eq!(current(&files, &root(1)).unwrap().list.number, 4);
        change(&mut fourth);
        files[3] = fourth.sign(&key(2), None).unwrap();
        let error = current(&files, &root(1)).unwrap_err().to_string();
        assert!(error.contains(rule), "{rule}: {error}");
    }
    // A new root that does not say what became of the old one.
    let mut files = sequence();
    files[2] = TrustList { retired: Vec::new(), ..third(1, 2) }.sign(&key(2), Some(&key(1))).unwrap();
    assert!(current(&files, &root(1)).unwrap_err().to_string().contains("do not follow"));
    // Out of order, or one twice.
    let files = sequence();
    assert!(current(&[files[1].clone(), files[0].clone()], &root(1)).is_err());
    assert!(current(&[files[0].clone(), files[0].clone()], &root(1)).is_err());
}

#[test]
fn no_byte_of_a_list_is_free() {
    let (files, root) = (sequence(), root(1));
    for at in 0..files[0].len() {
        let mut changed = files[0].clone();
        changed[at] ^= 1 << (at % 8);
        assert!(current(&[changed], &root).is_err(), "byte {at}");
    }
    let longer = [&files[0][..], b"\n"].concat();
    assert!(matches!(current(&[longer], &root), Err(TrustListError::Syntax { .. })));
    let large = vec![b' '; TRUST_LIST_BYTES_MAX + 1];
    assert!(matches!(current(&[large], &root), Err(TrustListError::TooLarge { .. })));
}

#[test]
fn a_list_says_what_counts() {
    let mut list = third(1, 2);
    assert_eq!((list.counts_at(at(20)), list.counts_at(at(1010))), (Ok(()), Ok(())));
    assert!(matches!(list.counts_at(at(19)), Err(Unfit::NotYet { number: 3, .. })));
    assert!(matches!(list.counts_at(at(1011)), Err(Unfit::Expired { number: 3, .. })));
    let (old, new, other) = (pem(1), pem(2), pem(9));
    assert_eq!((list.allows_root(&new, at(5000)), list.allows_root(&old, at(20))), (Ok(()), Ok(())));
    assert_eq!(list.allows_root(&old, at(21)), Err(Unfit::RootRetired { until: at(20) }));
    assert_eq!(list.allows_root(&other, at(0)), Err(Unfit::RootUnknown));
    assert_eq!(list.allows_key("machine", &digest("lost")), Err(Unfit::KeyRevoked { role: "machine" }));
    assert_eq!(list.allows_key("machine", &digest("found")), Ok(()));
    assert_eq!(list.allows_image(&digest("image"), 9), Err(Unfit::ImageRevoked));
    assert_eq!(list.allows_image(&digest("x"), 2), Err(Unfit::ReferenceStale { number: 2, minimum: 3 }));
    assert_eq!(list.allows_image(&digest("x"), 3), Ok(()));
    let job_signers = vec![PublicKey(key(5).verifying_key())];
    let policy = |number| Policy {
        version: 1,
        number,
        builder_ids: Vec::new(),
        job_signers: job_signers.clone(),
        profiles: Vec::new(),
        image_producers: Vec::new(),
        machines: None,
        hosts: Vec::new(),
    };
    assert_eq!(list.allows_policy(&policy(1)), Err(Unfit::PolicyRolledBack { number: 1, minimum: 2 }));
    assert_eq!(list.allows_policy(&policy(2)), Ok(()));
    list.revoked.policies.insert(Sha256Digest::of(&canonical::to_vec(&policy(2)).unwrap()));
    assert_eq!(list.allows_policy(&policy(2)), Err(Unfit::PolicyRevoked));
}

#[test]
fn a_reference_time_is_the_roots_word_for_one_site() {
    let (site, other): (Name, Name) = ("demo".parse().unwrap(), "other".parse().unwrap());
    let said = ReferenceTime { version: VERSION, site: site.clone(), time: at(0) };
    let file = said.sign(&key(1)).unwrap();
    assert_eq!(ReferenceTime::verify(&file, &site, &root(1)).unwrap(), said);
    assert!(matches!(ReferenceTime::verify(&file, &site, &root(2)), Err(TrustListError::Signature { .. })));
    assert!(matches!(ReferenceTime::verify(&file, &other, &root(1)), Err(TrustListError::Rule { .. })));
    // A list is no time, whoever signed it.
    let SignedList { signed, .. } = canonical::from_slice_exact(&sequence()[0]).unwrap();
    assert!(ReferenceTime::verify(&signed.to_vec().unwrap(), &site, &root(1)).is_err());
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(ReferenceTime::verify(&changed, &site, &root(1)).is_err(), "byte {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn foreign_bytes_never_panic(bytes: Vec<u8>) {
        prop_assert!(current(std::slice::from_ref(&bytes), &root(1)).is_err());
        prop_assert!(ReferenceTime::verify(&bytes, &"demo".parse().unwrap(), &root(1)).is_err());
    }

    /// A list is worth what its signature is worth, whatever it says.
    #[test]
    fn what_nobody_trusted_signed_is_refused(seed in 3u8.., number in 1u64..1000) {
        let list = TrustList { number, root: pem(1), ..first(1) };
        prop_assert!(current(&[list.sign(&key(seed), None).unwrap()], &root(1)).is_err());
    }
}
