//! No image holds a private key: neither one of the site's, in any encoding, nor anybody's in a form in which keys are kept.
//!
//! What is searched is each file of both images and all that is packed in them, down to the files ([`layers`]). That the search finds
//! what it looks for is shown with keys that are planted in copies, each form by itself and at each depth.

mod search;
mod unpack;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::firmware::Disk;
use crate::fixture::{build, files, kiln, scratch, site, toolchain};
use crate::metal::{Server, attestor_at};
use search::{Search, Secret};
use unpack::{layers, pack_kernel};

/// The files of an image that `kiln build image` names.
const FILES: [&str; 5] = ["kernel", "init", "initrd", "uki", "disk"];
/// What every UKI must be found to hold: if one of these is missing, nothing was unpacked and nothing searched.
const DEPTHS: [&str; 4] = ["/.linux/vmlinux", "/.initrd/archive", "/.cmdline", "/.osrel"];

/// Every private key in these directories, by directory and file.
fn secrets(directories: &[(&str, PathBuf)]) -> Vec<Secret> {
    directories
        .iter()
        .flat_map(|(dir, path)| files(path).into_iter().map(move |(name, bytes)| (format!("{dir}/{name}"), bytes)))
        .filter_map(|(name, bytes)| Secret::of_pem(name, &bytes))
        .collect()
}

fn path(image: &serde_json::Value, part: &str) -> PathBuf {
    PathBuf::from(image[part]["path"].as_str().unwrap_or_else(|| panic!("no {part} in {image}")))
}

/// Where a file or anything in it holds what looks like a private key, and the names of all that was looked into.
fn found_in(search: &Search, name: &str, bytes: &[u8]) -> (Vec<String>, BTreeSet<String>) {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    layers(name, bytes, &mut |name, bytes| {
        found.extend(search.find(bytes).into_iter().map(|(at, what)| format!("{name} at {at:#x}: {what}")));
        seen.insert(name.to_owned());
    });
    (found, seen)
}

#[test]
fn no_image_holds_a_private_key() {
    let server = Server::new(&attestor_at(8443), &["--scratch-mib", "0"]);
    let secrets = secrets(&["site", "maker"].map(|name| (name, server.path(name))));
    let names: Vec<&str> = secrets.iter().map(|secret| secret.name.as_str()).collect();
    for known in ["root", "ledger", "invoker", "image", "authorities/metal-v1", "secure-boot/PK", "secure-boot/db"] {
        assert!(names.contains(&format!("site/{known}.key").as_str()), "{known} is not in {names:?}");
    }
    assert!(names.contains(&"maker/signkey.pem"), "{names:?}");
    let search = Search::for_secrets(&secrets);

    let mut searched: Vec<(String, PathBuf)> =
        ["kiln.efi", "disk.img", "variables.fd"].map(|name| (name.to_owned(), server.path("disk").join(name))).into();
    for flavour in ["vm", "metal"] {
        let ran = kiln(["build", "image", "--flavour", flavour, "--json"]).expect(0).json();
        searched.extend(FILES.map(|part| (format!("{flavour} {part}"), path(&ran, part))));
    }
    searched.push(("toolchain".to_owned(), toolchain().1));
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for (name, file) in &searched {
        let (here, layers) = found_in(&search, name, &fs::read(file).unwrap());
        found.extend(here);
        seen.extend(layers);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    for uki in ["kiln.efi", "vm uki", "metal uki", "vm disk/1/EFI/BOOT/BOOTX64.EFI", "disk.img/1/EFI/BOOT/BOOTX64.EFI"]
    {
        for depth in DEPTHS {
            assert!(seen.contains(&format!("{uki}{depth}")), "{uki}{depth} was not searched: {seen:#?}");
        }
    }
    for file in ["vm kernel/vmlinux", "vm initrd/archive", "disk.img/1/kiln/uplink.json", "disk.img/2/usr/bin/mawk"] {
        assert!(seen.contains(file), "{file} was not searched");
    }
}

/// Runs openssl; what it printed.
fn openssl(line: &str, input: &Path) -> Vec<u8> {
    let mut openssl = Command::new("openssl");
    let ran = openssl.args(line.split(' ')).stdin(fs::File::open(input).unwrap()).stderr(Stdio::null()).output();
    let ran = ran.unwrap();
    assert!(ran.status.success() && !ran.stdout.is_empty(), "openssl {line}");
    ran.stdout
}

/// Somebody's keys in each form in which keys are kept, made by openssl: the form's name, and the key.
fn kept() -> Vec<(&'static str, Vec<u8>)> {
    let dir = scratch();
    let mut kept = Vec::new();
    let algorithms = [
        ("-algorithm ED25519", None),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", Some(("SEC 1", "ec"))),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-384", Some(("SEC 1", "ec"))),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", Some(("PKCS #1", "rsa -traditional"))),
    ];
    for (algorithm, older) in algorithms {
        let file = dir.path().join("key");
        let pem = openssl(&format!("genpkey {algorithm}"), Path::new("/dev/null"));
        fs::write(&file, &pem).unwrap();
        let escaped = String::from_utf8(pem.clone()).unwrap().replace('\n', "\\n");
        kept.extend([("PEM", pem), ("PEM", escaped.into_bytes())]);
        kept.push(("PEM", openssl("pkcs8 -topk8 -passout pass:word", &file)));
        kept.push(("PKCS #8", openssl("pkcs8 -topk8 -nocrypt -outform DER", &file)));
        if let Some((form, command)) = older {
            kept.push(("PEM", openssl(command, &file)));
            kept.push((form, openssl(&format!("{command} -outform DER"), &file)));
        }
    }
    kept
}

/// A copy of something with these planted in its middle, apart from each other.
fn planted<'a>(bytes: &[u8], seeds: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (before, after) = bytes.split_at(bytes.len() / 2);
    let seeds: Vec<u8> = seeds.into_iter().flat_map(|seed| [seed, b"\0apart\0"].concat()).collect();
    [before, &seeds, after].concat()
}

#[test]
fn a_planted_key_is_found_in_each_form() {
    let init = fs::read(path(&build("image"), "init")).unwrap();
    let kept = kept();
    let search = Search::for_secrets(&[]);
    let words = |found: Vec<(usize, String)>| found.into_iter().map(|(_, what)| what).collect::<Vec<_>>();
    let expected: Vec<String> = kept
        .iter()
        .flat_map(|(form, key)| {
            let found = search.find(key);
            assert_eq!(found[0], (0, (*form).to_owned()));
            // What is in PKCS #8 may be a key in an older form.
            words(found)
        })
        .collect();
    let found = search.find(&planted(&init, kept.iter().map(|(_, key)| key.as_slice())));
    assert_eq!(words(found), expected);
}

#[test]
fn a_planted_key_of_the_site_is_found_in_each_encoding() {
    let init = fs::read(path(&build("image"), "init")).unwrap();
    let secrets = secrets(&[("site", site().to_owned())]);
    assert!(secrets.iter().all(|secret| secret.encodings.len() > 12), "a key without numbers");
    let search = Search::for_secrets(&secrets);
    assert_eq!(search.find(&init), []);
    let all = secrets.iter().flat_map(|secret| secret.encodings.iter().map(move |encoding| (secret, encoding)));
    let seeds = all.clone().map(|(_, (_, bytes))| bytes.as_slice());
    let found: BTreeSet<String> = search.find(&planted(&init, seeds)).into_iter().map(|(_, what)| what).collect();
    for (secret, (encoding, _)) in all {
        let what = format!("{encoding} of {}", secret.name);
        assert!(found.contains(&what), "{what} was not found");
    }
}

/// What programs that handle keys have in them, and what everybody may have.
#[test]
fn what_is_no_private_key_is_not_taken_for_one() {
    let dir = scratch();
    let key = dir.path().join("key");
    fs::write(&key, openssl("genpkey -algorithm ED25519", Path::new("/dev/null"))).unwrap();
    let request = "req -x509 -new -key /dev/stdin -subj /CN=name";
    let der = openssl("pkey -outform DER", &key);
    // What ring puts before a P-256 key that it makes, and what happens to follow. Source: ring, src/ec/suite_b/ecdsa/.
    let template = b"0\x81\x87\x02\x01\0\x30\x13\x06\x07*\x86H\xce=\x02\x01\x06\x08*\x86H\xce=\x03\x01\x07\x04m0k\x02\x01\x01\x04 \xa1D\x03B\0";
    let harmless: [(&str, Vec<u8>); 8] = [
        ("a template", [template.as_slice(), &[b' '; 200]].concat()),
        ("bare words", b"-----BEGIN PRIVATE KEY-----\0-----END PRIVATE KEY-----\0".to_vec()),
        ("a format", b"-----BEGIN %s-----\n-----BEGIN RSA PRIVATE KEY-----\n%s\n".to_vec()),
        ("a certificate", openssl(&format!("{request} -outform DER"), &key)),
        ("a certificate in PEM", openssl(request, &key)),
        ("a public key", openssl("pkey -pubout -outform DER", &key)),
        ("a public key in PEM", openssl("pkey -pubout", &key)),
        ("a key that is cut short", der[..der.len() - 1].to_vec()),
    ];
    let search = Search::for_secrets(&[]);
    assert_eq!(search.find(&der).len(), 1);
    for (what, bytes) in harmless {
        assert_eq!(search.find(&bytes), [], "{what}");
    }
}

/// The same key below each packing: nothing is seen from outside, and all of it from inside.
#[test]
fn a_planted_key_is_found_at_each_depth() {
    let image = build("image");
    let read = |part: &str| fs::read(path(&image, part)).unwrap();
    let (search, key) =
        (Search::for_secrets(&[]), openssl("genpkey -algorithm ED25519 -outform DER", Path::new("/dev/null")));
    let kernel = pack_kernel(&read("kernel"), |vmlinux| planted(&vmlinux, [key.as_slice()]));
    let (found, _) = found_in(&search, "kernel", &kernel);
    assert!(found.len() == 1 && found[0].starts_with("kernel/vmlinux at"), "{found:?}");

    let initrd = unpack::pack(&planted(&unpack::unpack(&read("initrd")).unwrap(), [key.as_slice()]));
    let (found, _) = found_in(&search, "initrd", &initrd);
    assert!(found.len() == 1 && found[0].starts_with("initrd/archive at"), "{found:?}");

    // Not a whole UKI that starts, but sections of one, on a disk.
    let disk = Disk::copy(&path(&image, "disk"));
    let disk = disk.put("EFI/BOOT/BOOTX64.EFI", b"").put("kiln/initrd", &initrd);
    let (found, _) = found_in(&search, "disk", &fs::read(disk.path()).unwrap());
    assert!(found.len() == 1 && found[0].starts_with("disk/1/kiln/initrd/archive at"), "{found:?}");
}
