//! What a site enrols is of one class, and an enrolment that names none is not guessed at.

use kiln_formats::endorsement::TpmClass::{self, Hardware, Virtual};

use super::super::enrolment::{EnrolmentError, Role, add_certificate, add_key, read};
use super::*;
use crate::authority::tests::endorsement::Maker;

#[test]
fn nothing_is_of_two_classes() {
    let (parent, site) = site();
    let file = parent.path().join("maker.der");
    fs::write(&file, Maker::of(0x51).certificate()).unwrap();
    let key = Sha256Digest::of(b"ek");
    let add = |class: TpmClass| {
        let root = add_certificate(&site, Role::Root(class), "maker", &file).map(drop);
        (root.map_err(|error| error.to_string()), add_key(&site, class, key).map_err(|error| error.to_string()))
    };
    for _ in 0..2 {
        assert_eq!(add(Virtual), (Ok(()), Ok(())));
    }
    let (root, listed) = add(Hardware);
    assert!(root.unwrap_err().contains("as the other class") && listed.unwrap_err().contains("as the other class"));
    let chosen = read(&site).unwrap();
    assert_eq!(chosen.keys, [(key, Virtual)].into());
    assert_eq!(chosen.roots.iter().map(|(class, _)| *class).collect::<Vec<_>>(), [Virtual]);
    // By hand it is no better: nobody enrols.
    let by_hand = site.join("enrolment/hardware/keys");
    fs::create_dir_all(by_hand.parent().unwrap()).unwrap();
    fs::write(&by_hand, format!("{key} # as hardware too\n")).unwrap();
    assert!(matches!(read(&site), Err(EnrolmentError::TwoClasses { path }) if path == by_hand));
    fs::remove_file(&by_hand).unwrap();
    let roots = site.join("enrolment/hardware/roots");
    fs::create_dir(&roots).unwrap();
    fs::copy(&file, roots.join("another name.pem")).unwrap();
    assert!(matches!(read(&site), Err(EnrolmentError::TwoClasses { path }) if path == roots));
}

/// As sites were before there were classes.
#[test]
fn an_enrolment_without_classes_is_not_guessed_at() {
    for before in ["enrolment/roots", "enrolment/keys"] {
        let (_parent, site) = site();
        fs::create_dir_all(site.join(before)).unwrap();
        let error = read(&site).unwrap_err();
        assert!(matches!(&error, EnrolmentError::Unclassified { path } if *path == site.join(before)));
        assert!(error.to_string().ends_with("move it below enrolment/hardware or enrolment/virtual"), "{error}");
        assert!(add_key(&site, Hardware, Sha256Digest::of(b"ek")).is_err());
    }
}
