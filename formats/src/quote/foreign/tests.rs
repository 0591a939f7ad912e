//! Quotes that swtpm 0.7.1 and tpm2-tools 5.4 made, and the same with something wrong.

use proptest::prelude::*;

use super::super::tests::{REAL_ATTEST, REAL_PUBLIC, REAL_SIGNATURE};
use super::*;

/// `tpm2_create -G rsa2048:rsassa-sha256:null`, `tpm2_pcrevent 15` of `final`, `tpm2_quote -l sha256:0,7,15+sha1:15 -q 1122`: the
/// key as `-u` and as PEM, quote, signature.
const RSA_PUBLIC: &str = concat!(
    "01180001000b00050072000000100014000b0800000000000100c9ba91995e7ba4f3a4d0f72ea6329c211bf196eb097a307c",
    "2d3cd263e4f09c1a42c26935af4029b24f8ff73fd8e8b0df79adccb2bd8dba08cf3c52529e41f3694dcef047e2963b8b2e43",
    "576acef5514ac9a0770c8399d8f5b68e249489113396e9928fbe7414fc78558d86d85c5fddf8ec4bada2ca809b9dd4c5a336",
    "a6b0ff2e0451953691b041ad602a4d836a65355ffa475a3c94b675f798b72605809961863058369f8a705e37521c6332be5c",
    "04e0884dfc6791c3876c324cffc7daed92c2ffb53671ae5b77535fdc04034fa8850a347ee5e15bbebcbbd322c2eb9fc7c395",
    "425280d6e3b3db15748a6099fab5b1268a5c7ee244193099ff95b3cd7c2701b1"
);
const RSA_ATTEST: &str = concat!(
    "ff54434780180022000b9c4d0abd39e54a5c646c01668bd5f1d1de4a120d42131ffd3bcaaa587038a6ef0002112200000000",
    "00000985000000010000000001201910230016363600000002000b03818000000403008000002073ed6cb85e5fcc7590b490",
    "42d58ccea7cf3cc66f6dc1f6daf6e75136b07fe80d"
);
const RSA_SIGNATURE: &str = concat!(
    "0014000b0100a5a37ca95b263a5132c289cf304ef5122534942b504ec409d2179c3e5d4e261f5cecee01c6456f7e3fc4490b",
    "dbe85a6189a60ab7b9e798859cc5537c080057f2efd6cf1473ff2df43f752b22ed0525e787df4a2f6e79471edf722ae5a16b",
    "e58fd034b3215492350ad7a5d72cc255b9d877d06e09b0f3e9a769c994e5a85646fd6079165b2dc41f5d6f7c90ff7dea61d0",
    "864d978d8c65a9144b9df93eeb2930d652c490611968f96e7fcded7031338be74c6400748f602b7fe835e3c282f8ceb5c036",
    "b6d543d5b52641d51254e0827f38dad905362706810fe029ba0076f12bb9974bc219370e878b0017b3545d7831e76c0b0ae6",
    "d70fe5a72aeed6c4b9bd4e50"
);
const RSA_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAybqRmV57pPOk0PcupjKc\n\
IRvxlusJejB8LTzSY+TwnBpCwmk1r0Apsk+P9z/Y6LDfea3Msr2NugjPPFJSnkHz\n\
aU3O8EfiljuLLkNXas71UUrJoHcMg5nY9baOJJSJETOW6ZKPvnQU/HhVjYbYXF/d\n\
+OxLraLKgJud1MWjNqaw/y4EUZU2kbBBrWAqTYNqZTVf+kdaPJS2dfeYtyYFgJlh\n\
hjBYNp+KcF43UhxjMr5cBOCITfxnkcOHbDJM/8fa7ZLC/7U2ca5bd1Nf3AQDT6iF\n\
CjR+5eFbvry70yLC65/Hw5VCUoDW47PbFXSKYJn6tbEmilx+4kQZMJn/lbPNfCcB\n\
sQIDAQAB\n\
-----END PUBLIC KEY-----\n";

fn bytes(hex_digits: &str) -> Vec<u8> {
    hex::decode(hex_digits).unwrap()
}

/// What the TPM held.
fn values() -> PcrValues {
    let mut values = PcrValues::new();
    for bank in [Bank::Sha1, Bank::Sha256] {
        values.extend(PcrIndex::RUNTIME, &bank.hash(b"final").unwrap());
    }
    values
}

#[test]
fn an_rsa_key_quotes_two_banks() {
    for key in [bytes(RSA_PUBLIC), bytes(RSA_PUBLIC)[2..].to_vec(), RSA_PEM.as_bytes().to_vec()] {
        let key = QuoteKey::read(&key).unwrap();
        let quote = ForeignQuote::verify(&bytes(RSA_ATTEST), &bytes(RSA_SIGNATURE), &key).unwrap();
        assert_eq!(quote.qualifying, [0x11, 0x22]);
        assert_eq!(quote.quoted.digest_of(&values()), Some(quote.quoted.digest()));
        assert_ne!(quote.quoted.digest_of(&PcrValues::new()), Some(quote.quoted.digest()));
        assert!(quote.quoted.covers(Bank::Sha1, PcrIndex::RUNTIME));
        assert!(!quote.quoted.covers(Bank::Sha1, PcrIndex::new(7).unwrap()));
        assert_eq!(quote.quoted.selections().len(), 2);
    }
}

#[test]
fn our_own_quotes_read_as_well() {
    let key = QuoteKey::read(&bytes(REAL_PUBLIC)).unwrap();
    let quote = ForeignQuote::verify(&bytes(REAL_ATTEST), &bytes(REAL_SIGNATURE), &key).unwrap();
    assert_eq!(quote.qualifying, [0x11; 32]);
    let mut values = PcrValues::new();
    values.extend(PcrIndex::RUNTIME, &Bank::Sha256.hash(b"final").unwrap());
    assert_eq!(quote.quoted, Quoted::by_kiln(values.quote_digest()).unwrap());
}

#[test]
fn no_bit_may_differ() {
    for (public, attest, signature) in
        [(RSA_PUBLIC, RSA_ATTEST, RSA_SIGNATURE), (REAL_PUBLIC, REAL_ATTEST, REAL_SIGNATURE)]
    {
        let key = QuoteKey::read(&bytes(public)).unwrap();
        let (attest, signature) = (bytes(attest), bytes(signature));
        for at in 0..attest.len() {
            let mut other = attest.clone();
            other[at] ^= 1 << (at % 8);
            assert_eq!(ForeignQuote::verify(&other, &signature, &key), Err(ForeignQuoteError::Signature), "byte {at}");
        }
        for at in 0..signature.len() {
            let mut other = signature.clone();
            other[at] ^= 1 << (at % 8);
            assert!(ForeignQuote::verify(&attest, &other, &key).is_err(), "byte {at}");
        }
        let longer = [signature.as_slice(), &[0]].concat();
        assert_eq!(ForeignQuote::verify(&attest, &longer, &key), Err(ForeignQuoteError::SignatureFormat));
    }
    let other = QuoteKey::read(&bytes(REAL_PUBLIC)).unwrap();
    let mixed = ForeignQuote::verify(&bytes(RSA_ATTEST), &bytes(RSA_SIGNATURE), &other);
    assert_eq!(mixed, Err(ForeignQuoteError::SignatureFormat));
}

#[test]
fn a_key_that_signs_anything_is_no_key_of_quotes() {
    let mut public = bytes(RSA_PUBLIC);
    public[7] &= !1; // restricted
    assert!(matches!(QuoteKey::read(&public), Err(ForeignQuoteError::Unrestricted { .. })));
    for bad in [&b""[..], b"-----BEGIN PUBLIC KEY-----", &bytes(RSA_PUBLIC)[..200], &[0; 300]] {
        assert_eq!(QuoteKey::read(bad), Err(ForeignQuoteError::Key));
    }
    assert_eq!(RsaKey::new(&[0xff; 256], 4), None, "an even exponent");
    assert_eq!(RsaKey::new(&[0xff; 128], 65537), None, "1024 bits");
}

#[test]
fn only_a_quote_is_a_quote() {
    let attest = bytes(RSA_ATTEST);
    let with = |at: usize, byte: u8| {
        let mut other = attest.clone();
        other[at] = byte;
        decode(&other, Bank::Sha256)
    };
    assert!(decode(&attest, Bank::Sha256).is_ok());
    assert_eq!(with(0, 0), Err(ForeignQuoteError::NotAQuote), "made by someone else than the TPM");
    assert_eq!(with(5, 0x17), Err(ForeignQuoteError::NotAQuote), "another kind of attestation");
    assert_eq!(decode(&attest, Bank::Sha384), Err(ForeignQuoteError::Malformed), "the digest's length");
    assert_eq!(decode(&[attest.as_slice(), &[0]].concat(), Bank::Sha256), Err(ForeignQuoteError::Malformed));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(head in 0_usize..120, bytes: Vec<u8>) {
        let attest = self::bytes(RSA_ATTEST);
        let _ = decode(&[&attest[..head], &bytes].concat(), Bank::Sha256);
        let _ = QuoteKey::read(&bytes);
        let _ = QuoteKey::read(&[&self::bytes(RSA_PUBLIC)[..head], &bytes].concat());
    }
}
