//! A PE32+ file made by hand, with everything that Authenticode treats in its own way.

use super::*;

/// Where the optional header begins: DOS header, signature, COFF header.
const OPTIONAL: usize = 64 + 4 + 20;
/// Bytes of the headers: padded to the file alignment.
const HEADERS: usize = 0x400;

/// Two sections in the file in the opposite order of the table, four bytes behind them, then a certificate table.
pub(crate) fn sample(sections: &[(&str, &[u8])], certificate: &[u8]) -> Vec<u8> {
    let mut file = vec![0; HEADERS];
    let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(60, &64u32.to_le_bytes());
    put(64, b"PE\0\0");
    put(68, &0x8664u16.to_le_bytes());
    put(70, &(u16::try_from(sections.len()).unwrap()).to_le_bytes());
    put(84, &240u16.to_le_bytes());
    put(OPTIONAL, &0x20bu16.to_le_bytes());
    put(OPTIONAL + 60, &u32::try_from(HEADERS).unwrap().to_le_bytes());
    put(OPTIONAL + CHECKSUM_OFFSET, b"csum");
    put(OPTIONAL + 108, &16u32.to_le_bytes());
    let body: usize = sections.iter().map(|(_, content)| content.len().next_multiple_of(16)).sum();
    if !certificate.is_empty() {
        put(OPTIONAL + CERTIFICATE_ENTRY_OFFSET, &u32::try_from(HEADERS + body + 4).unwrap().to_le_bytes());
        put(OPTIONAL + CERTIFICATE_ENTRY_OFFSET + 4, &u32::try_from(certificate.len()).unwrap().to_le_bytes());
    }
    let mut end = HEADERS + body;
    for (index, (name, content)) in sections.iter().enumerate() {
        let header = OPTIONAL + 240 + index * 40;
        let raw = content.len().next_multiple_of(16);
        end -= raw;
        put(header, name.as_bytes());
        put(header + 8, &u32::try_from(content.len()).unwrap().to_le_bytes());
        put(header + 12, &u32::try_from(0x1000 * (index + 1)).unwrap().to_le_bytes());
        put(header + 16, &u32::try_from(raw).unwrap().to_le_bytes());
        put(header + 20, &u32::try_from(end).unwrap().to_le_bytes());
    }
    for (_, content) in sections.iter().rev() {
        file.extend_from_slice(content);
        file.resize(file.len().next_multiple_of(16), 0);
    }
    file.extend_from_slice(b"rest");
    file.extend_from_slice(certificate);
    file
}

fn digest(file: &[u8]) -> Result<Vec<u8>, PeError> {
    Pe::parse(file)?.authenticode()
}

#[test]
fn sections_have_their_loaded_length() {
    let file = sample(&[(".osrel", b"ID=kiln\n"), (".linux", b"kernel")], b"");
    let sections = Pe::parse(&file).unwrap().sections().unwrap();
    let found: Vec<(&str, &[u8])> = sections.iter().map(|s| (s.name.as_str(), s.content)).collect();
    assert_eq!(found, [(".osrel", &b"ID=kiln\n"[..]), (".linux", b"kernel")]);
}

#[test]
fn authenticode_covers_all_but_checksum_and_certificates() {
    let file = sample(&[(".osrel", b"ID=kiln\n"), (".linux", b"kernel")], b"certificate");
    let whole = digest(&file).unwrap();
    let signed_end = file.len() - b"certificate".len();
    for index in 0..file.len() {
        let mut changed = file.clone();
        changed[index] ^= 1;
        let checksum = (OPTIONAL + CHECKSUM_OFFSET..).take(4).any(|at| at == index);
        let entry = (OPTIONAL + CERTIFICATE_ENTRY_OFFSET..).take(8).any(|at| at == index);
        // The entry's size says how much is left out, so that changing it is allowed to change the digest.
        if checksum || index >= signed_end {
            assert_eq!(digest(&changed).as_ref(), Ok(&whole), "byte {index}");
        } else if !entry {
            assert_ne!(digest(&changed).as_ref(), Ok(&whole), "byte {index}");
        }
    }
}

#[test]
fn a_signature_does_not_change_the_digest() {
    let unsigned = sample(&[(".linux", b"kernel")], b"");
    assert_eq!(digest(&unsigned), digest(&sample(&[(".linux", b"kernel")], b"certificate")));
}

#[test]
fn no_cut_and_no_number_makes_it_panic() {
    let file = sample(&[(".osrel", b"ID=kiln\n"), (".linux", b"kernel")], b"certificate");
    for length in 0..HEADERS {
        assert!(digest(&file[..length]).is_err(), "{length}");
    }
    for index in 0..HEADERS {
        for value in [0, 0x7f, 0xff] {
            let mut changed = file.clone();
            changed[index] = value;
            let _ = Pe::parse(&changed).map(|pe| (pe.sections().map(drop), pe.authenticode().map(drop)));
        }
    }
}

#[test]
fn memory_is_filled_with_zeros_up_to_a_bound() {
    let mut file = sample(&[(".linux", b"kernel")], b"");
    file[OPTIONAL + 240 + 8] = 0xff;
    let sections = Pe::parse(&file).unwrap().sections().unwrap();
    // The file has as much as its alignment gives it.
    assert_eq!((sections[0].content.len(), sections[0].zeros), (16, 0xff - 16));
    file[OPTIONAL + 240 + 11] = 0xff;
    assert!(Pe::parse(&file).unwrap().sections().is_err());
}

#[test]
fn the_signatures_are_the_last_bytes() {
    let file = sample(&[(".linux", b"kernel")], b"certificate");
    assert_eq!(Pe::parse(&file).unwrap().certificates(), Ok(&b"certificate"[..]));
    let unsigned = sample(&[(".linux", b"kernel")], b"");
    assert_eq!(Pe::parse(&unsigned).unwrap().certificates(), Ok(&b""[..]));
}
