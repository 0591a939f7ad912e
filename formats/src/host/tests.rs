//! A host that quotes for a build, and everything that is not one.

use p256::ecdsa::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::names::{BUILDER_SECURE_BOOT, MACHINE_BUILDERS};
use crate::quote::tests::{public_of, sign_with};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).unwrap()
}

/// The `TPMT_PUBLIC` of a key with these attributes.
fn public(seed: u8, attributes: [u8; 4]) -> Blob {
    Blob(public_of(&key(seed), attributes))
}

fn ek() -> Sha256Digest {
    Sha256Digest::of(b"the host's")
}

fn machine() -> Sha256Digest {
    Sha256Digest::of(b"the machine's")
}

fn binding() -> Sha256Digest {
    Sha256Digest::of(b"binding")
}

/// Register 2 comes before register 10, whatever their names' order.
fn host() -> Host {
    let pcrs =
        [("2", [2; 32]), ("10", [10; 32])].map(|(name, value)| (name.to_owned(), Sha256Digest::from_bytes(value)));
    Host { endorsement_key_sha256: ek(), attestation_key: public(1, [0, 5, 0, 0x72]), pcrs: pcrs.into() }
}

/// What that host's TPM would say.
struct Draft {
    kind: u16,
    qualifying: Vec<u8>,
    bank: u8,
    selection: [u8; 3],
    values: Vec<u8>,
    key: u8,
}

impl Default for Draft {
    fn default() -> Self {
        let values = [[2; 32], [10; 32]].concat();
        Self {
            kind: 0x8018,
            qualifying: binding().as_bytes().to_vec(),
            bank: 0x0b,
            selection: [4, 4, 0],
            values,
            key: 1,
        }
    }
}

impl Draft {
    fn said(&self) -> HostQuote {
        let mut quote = [&0xff54_4347_u32.to_be_bytes()[..], &self.kind.to_be_bytes()].concat();
        quote
            .extend([&[0, 34, 0, 0x0b][..], &[0xaa; 32], &[0, self.qualifying.len() as u8], &self.qualifying].concat());
        quote.extend([&[0; 25][..], &[0, 0, 0, 1, 0, self.bank, 3], &self.selection].concat());
        quote.extend([&[0, 32][..], Sha256Digest::of(&self.values).as_bytes()].concat());
        let signature = Blob(sign_with(&key(self.key), &quote));
        HostQuote { endorsement_key_sha256: ek(), quote: Blob(quote), signature }
    }

    fn file(&self) -> Vec<u8> {
        canonical::to_vec(&self.said()).unwrap()
    }
}

fn of(host: Host, file: &[u8]) -> Result<Option<Hosted>, HostFault> {
    check(BUILDER_HOSTED, &[host], Some(file), &binding(), &machine())
}

fn code(found: Result<Option<Hosted>, HostFault>) -> &'static str {
    found.map(drop).map_err(|fault| fault.code()).unwrap_err()
}

#[test]
fn a_host_that_booted_as_enrolled_quotes_for_this_build() {
    let file = Draft::default().file();
    let hosted = of(host(), &file).unwrap().unwrap();
    assert_eq!((hosted.endorsement_key_sha256, hosted.file_sha256), (ek(), Sha256Digest::of(&file)));
    // Among others.
    let other = Host { endorsement_key_sha256: machine(), ..host() };
    let hosts = [Host { endorsement_key_sha256: binding(), ..other }, host()];
    assert!(check(BUILDER_HOSTED, &hosts, Some(&file), &binding(), &machine()).is_ok());
}

#[test]
fn a_quote_is_there_where_the_builder_id_says_so_and_nowhere_else() {
    let file = Draft::default().file();
    for builder_id in MACHINE_BUILDERS {
        let check = |file| check(builder_id, &[host()], file, &binding(), &machine());
        if builder_id == BUILDER_HOSTED {
            assert_eq!(check(None), Err(HostFault::Missing));
        } else {
            assert_eq!((check(None), check(Some(&file))), (Ok(None), Err(HostFault::Unexpected)), "{builder_id}");
        }
    }
    assert_eq!(check(BUILDER_SECURE_BOOT, &[], None, &binding(), &machine()), Ok(None));
}

#[test]
fn a_quote_of_another_host_build_key_or_state_does_not_count() {
    let draft = |edit: fn(&mut Draft)| {
        let mut draft = Draft::default();
        edit(&mut draft);
        code(of(host(), &draft.file()))
    };
    assert_eq!(draft(|it| it.key = 2), "host_quote");
    assert_eq!(draft(|it| it.kind = 0x8017), "host_quote");
    assert_eq!(draft(|it| it.qualifying[0] ^= 1), "host_other_build");
    assert_eq!(draft(|it| it.qualifying.push(0)), "host_other_build");
    assert_eq!(draft(|it| it.qualifying.clear()), "host_other_build");
    assert_eq!(draft(|it| it.values[0] ^= 1), "host_registers");
    // The order is that of the numbers.
    assert_eq!(draft(|it| it.values.rotate_left(32)), "host_registers");
    assert_eq!(draft(|it| it.bank = 4), "host_registers");
    // One register less, or more, or others, with values that would fit.
    for selection in [[4, 0, 0], [4, 4, 1], [8, 4, 0], [0, 0, 0]] {
        let file = Draft { selection, ..Draft::default() }.file();
        assert_eq!(of(host(), &file), Err(HostFault::Selection), "{selection:?}");
    }
    let file = Draft::default().file();
    assert_eq!(code(check(BUILDER_HOSTED, &[], Some(&file), &binding(), &machine())), "host_unknown");
    assert_eq!(code(check(BUILDER_HOSTED, &[host()], Some(&file), &machine(), &machine())), "host_other_build");
    assert_eq!(code(check(BUILDER_HOSTED, &[host()], Some(&file), &binding(), &ek())), "host_itself");
}

#[test]
fn an_entry_that_nothing_can_be_held_against_is_an_error() {
    let file = Draft::default().file();
    let entry = |edit: fn(&mut Host)| {
        let mut host = host();
        edit(&mut host);
        code(of(host, &file))
    };
    assert_eq!(entry(|it| it.pcrs.clear()), "host_entry");
    for name in ["24", "02", "+2", "-1", "two", "", "4294967298"] {
        let mut host = host();
        host.pcrs.insert(name.to_owned(), ek());
        assert_eq!(code(of(host, &file)), "host_entry", "{name}");
    }
    // Not restricted: it signs what it is given; not of the TPM: it is elsewhere too.
    assert_eq!(entry(|it| it.attestation_key = public(1, [0, 4, 0, 0x72])), "host_entry");
    assert_eq!(entry(|it| it.attestation_key = public(1, [0, 5, 0, 0x70])), "host_entry");
    assert_eq!(entry(|it| it.attestation_key.0.clear()), "host_entry");
    // More is asked of the host than it quoted.
    assert_eq!(entry(|it| it.pcrs.extend([("7".to_owned(), ek())])), "host_registers");
}

#[test]
fn only_the_canonical_file_is_read() {
    let file = Draft::default().file();
    let spaced = [b" ".as_slice(), &file].concat();
    let large = [file.as_slice(), &vec![b' '; HOST_QUOTE_BYTES_MAX]].concat();
    for other in [b"".as_slice(), b"{}", &file[1..], &spaced, &large] {
        assert_eq!(code(of(host(), other)), "host_quote");
    }
}

proptest! {
    #[test]
    fn no_byte_may_differ(at in 0..10_000_usize, bit in 0..8_u32) {
        let mut file = Draft::default().file();
        let at = at % file.len();
        file[at] ^= 1 << bit;
        prop_assert!(of(host(), &file).is_err());
    }

    #[test]
    fn whatever_the_policy_names_nothing_panics(names in proptest::collection::btree_map(".{0,4}", any::<[u8; 32]>(), 0..4), key in any::<Vec<u8>>()) {
        let pcrs = names.into_iter().map(|(name, value)| (name, Sha256Digest::from_bytes(value))).collect();
        let host = Host { pcrs, attestation_key: Blob(key), ..host() };
        prop_assert!(of(host, &Draft::default().file()).is_err());
    }
}
