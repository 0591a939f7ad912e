//! Finds private keys in bytes: armoured ones, DER structures that only a private key has, and given secrets in any encoding.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};

/// Tags of DER. Source: X.690, section 8.
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// How a private key begins that is armoured, up to the kind of key. Source: RFC 7468, section 10.
const BEGIN: &[u8] = b"-----BEGIN ";
/// The longest label that is read: "OPENSSH PRIVATE KEY" has 19 bytes.
const LABEL_BYTES_MAX: usize = 40;
/// How much base64 makes a key of a label: the shortest, of an Ed25519 key, has 64 characters.
const BODY_BYTES_MIN: usize = 32;
/// Bytes of the private number of an elliptic curve, from P-224 to P-521.
const CURVE_BYTES: std::ops::RangeInclusive<usize> = 28..=66;
/// Bytes of the smallest RSA modulus that counts.
const MODULUS_BYTES_MIN: usize = 64;
/// What is too short to be a secret of its own: small numbers, of which there are many everywhere.
const SECRET_BYTES_MIN: usize = 16;

/// A private key of the site's, by the name of its file.
pub(super) struct Secret {
    pub(super) name: String,
    /// What the encoding is called, and the bytes.
    pub(super) encodings: Vec<(String, Vec<u8>)>,
}

impl Secret {
    /// The key in a PEM file; none if the file holds something else. A key that cannot be read fails its test.
    pub(super) fn of_pem(name: String, file: &[u8]) -> Option<Self> {
        // Some tools write words before it.
        let start = (0..file.len()).find(|at| armoured(&file[*at..]).is_some())?;
        let text = std::str::from_utf8(&file[start..]).unwrap().trim_end();
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = BASE64_STANDARD.decode(body).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut encodings = vec![("PEM".to_owned(), text.as_bytes().to_vec())];
        encodings.extend(encoded("DER", &der));
        let numbers = numbers(&der).unwrap_or_else(|| panic!("{name} is in no form that is known here"));
        encodings.extend((1..).zip(&numbers).flat_map(|(at, number)| encoded(&format!("number {at}"), number)));
        Some(Self { name, encodings })
    }
}

/// Secret bytes as they are, backwards (as processors and some TPM libraries keep numbers), in hexadecimal and in base64.
fn encoded(what: &str, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        ("bytes", bytes.to_vec()),
        ("reversed", bytes.iter().rev().copied().collect()),
        ("hex", hex.clone().into_bytes()),
        ("HEX", hex.to_uppercase().into_bytes()),
        ("base64", BASE64_STANDARD_NO_PAD.encode(bytes).into_bytes()),
        ("base64url", BASE64_URL_SAFE_NO_PAD.encode(bytes).into_bytes()),
    ]
    .map(|(how, bytes)| (format!("{what}, {how},"), bytes))
    .into()
}

/// What is looked for.
pub(super) struct Search {
    /// By its first byte: what it is, and the bytes.
    secrets: Vec<Vec<(String, Vec<u8>)>>,
}

impl Search {
    /// Anybody's private key in the forms in which keys are kept, and these in any encoding.
    pub(super) fn for_secrets(list: &[Secret]) -> Self {
        let mut secrets = vec![Vec::new(); 256];
        for Secret { name, encodings } in list {
            for (encoding, bytes) in encodings {
                secrets[usize::from(bytes[0])].push((format!("{encoding} of {name}"), bytes.clone()));
            }
        }
        Self { secrets }
    }

    /// Where something is that is a private key, and what it is.
    pub(super) fn find(&self, bytes: &[u8]) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (at, first) in bytes.iter().enumerate() {
            let rest = &bytes[at..];
            let form = match *first {
                b'-' => armoured(rest),
                SEQUENCE => form(rest),
                _ => None,
            };
            found.extend(form.map(|form| (at, form.to_owned())));
            let secrets = self.secrets[usize::from(*first)].iter().filter(|(_, secret)| rest.starts_with(secret));
            found.extend(secrets.map(|(what, _)| (at, what.clone())));
        }
        found
    }
}

/// An armoured private key, encrypted or not, with some of it behind the label; its lines may end as in JSON.
fn armoured(bytes: &[u8]) -> Option<&'static str> {
    let rest = bytes.strip_prefix(BEGIN)?;
    let end = rest.iter().take(LABEL_BYTES_MAX).position(|byte| *byte == b'-')?;
    let rest = rest[..end].ends_with(b"PRIVATE KEY").then(|| rest[end..].strip_prefix(b"-----"))??;
    let rest =
        [b"\r\n".as_slice(), b"\n", b"\\r\\n", b"\\n"].into_iter().find_map(|line_end| rest.strip_prefix(line_end))?;
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || [b'+', b'/'].contains(byte);
    let body = rest.iter().take(BODY_BYTES_MIN).filter(|byte| is_base64(byte)).count() == BODY_BYTES_MIN;
    (body || rest.starts_with(b"Proc-Type: ")).then_some("PEM")
}

/// The form of the private key with which these bytes begin.
fn form(bytes: &[u8]) -> Option<&'static str> {
    let (SEQUENCE, content, _) = value(bytes)? else { return None };
    // Every form begins with a version, and little else does: most is sorted out here.
    if !content.starts_with(&[INTEGER, 1]) {
        return None;
    }
    match values(content)?.as_slice() {
        // Source: RFC 5958, section 2.
        [(INTEGER, [0 | 1]), (SEQUENCE, [OBJECT_IDENTIFIER, ..]), (OCTET_STRING, key), ..] if is_key(key) => {
            Some("PKCS #8")
        }
        // Source: RFC 5915, section 3.
        [(INTEGER, [1]), (OCTET_STRING, key), rest @ ..]
            if CURVE_BYTES.contains(&key.len()) && rest.iter().all(|(tag, _)| [0xa0, 0xa1].contains(tag)) =>
        {
            Some("SEC 1")
        }
        // Source: RFC 8017, section A.1.2.
        [(INTEGER, [0]), (INTEGER, modulus), rest @ ..]
            if modulus.len() >= MODULUS_BYTES_MIN && rest.len() == 7 && rest.iter().all(|(tag, _)| *tag == INTEGER) =>
        {
            Some("PKCS #1")
        }
        _ => None,
    }
}

/// Whether these bytes are a key within PKCS #8: a seed, a number, or an older form. Libraries have templates with all but that.
fn is_key(bytes: &[u8]) -> bool {
    match value(bytes) {
        Some((OCTET_STRING | INTEGER, secret, [])) => secret.len() >= SECRET_BYTES_MIN,
        Some((SEQUENCE, _, [])) => form(bytes).is_some(),
        _ => false,
    }
}

/// The secret numbers of a private key in one of these forms: the seed or scalar; of RSA the exponents, the primes, the coefficient.
fn numbers(der: &[u8]) -> Option<Vec<Vec<u8>>> {
    let form = form(der)?;
    let (_, content, _) = value(der)?;
    let parts = values(content)?;
    match form {
        "PKCS #8" => match value(parts[2].1)? {
            // Source: RFC 8410, section 7.
            (OCTET_STRING, seed, _) => Some(vec![seed.to_vec()]),
            _ => numbers(parts[2].1),
        },
        "SEC 1" => Some(vec![parts[1].1.to_vec()]),
        _ => {
            let secret = parts[3..].iter().map(|(_, number)| number.strip_prefix(&[0]).unwrap_or(number).to_vec());
            Some(secret.filter(|number| number.len() >= SECRET_BYTES_MIN).collect())
        }
    }
}

/// All values of a content that is nothing but values: tag and content of each.
fn values(mut content: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while !content.is_empty() {
        let (tag, inner, rest) = value(content)?;
        found.push((tag, inner));
        content = rest;
    }
    Some(found)
}

/// The first value: its tag and content, and what follows. A length in more bytes than it needs is not DER.
fn value(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (length, rest) = match bytes.get(1..)? {
        [short @ 0..=0x7f, rest @ ..] => (usize::from(*short), rest),
        [0x81, length @ 0x80..=0xff, rest @ ..] => (usize::from(*length), rest),
        [0x82, high @ 1..=0xff, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((bytes[0], content, rest))
}
