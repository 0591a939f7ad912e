//! Other people's tools on the same UKIs: `systemd-measure` says the same PCR 11, `ukify inspect` the same sections.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_formats::digest::Sha256Digest;
use serde_json::{Value, json};

use crate::fixture::{build, kiln, scratch};

/// The banks that systemd-measure has.
const BANKS: [&str; 4] = ["sha1", "sha256", "sha384", "sha512"];

fn tool_root(name: &str) -> PathBuf {
    std::env::var_os(name)
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{name} is not set: whole machines are tested by `cargo kiln test`"))
}

fn ukify(arguments: &[String]) -> Vec<u8> {
    let root = tool_root("IMAGE_TOOLS");
    let output = Command::new("/usr/bin/python3")
        .arg(root.join("usr/bin/ukify"))
        .args(arguments)
        .env("PYTHONPATH", root.join("usr/lib/python3/dist-packages"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// PCR 11 in each bank, of these sections, as systemd-measure says.
fn systemd_measure(sections: &[(String, PathBuf)]) -> Vec<String> {
    let root = tool_root("SYSTEMD_MEASURE");
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(format!("{0}:{0}/systemd", libraries.display()));
    command.arg(root.join("usr/lib/systemd/systemd-measure")).args(["calculate", "--phase=:", "--json=short"]);
    command.args(BANKS.map(|bank| format!("--bank={bank}")));
    for (name, path) in sections {
        // Version 257 takes one for the other, in names and contents; the stub of that version does not.
        let option = match name.as_str() {
            ".dtbauto" => "hwids",
            ".hwids" => "dtbauto",
            other => other.trim_start_matches('.'),
        };
        command.arg(format!("--{option}={}", path.display()));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    BANKS.map(|bank| said[bank][0]["hash"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned()).into()
}

/// PCR 11 in each bank as we say.
fn ours(uki: &Path, machine: &str) -> Vec<String> {
    let dir = scratch();
    let file = dir.path().join("machine.toml");
    fs::write(&file, format!("{machine}banks = {BANKS:?}\n")).unwrap();
    let arguments = ["reference".as_ref(), uki.as_os_str(), "--machine".as_ref(), file.as_os_str(), "--json".as_ref()];
    let said = kiln(arguments).expect(0).json();
    let machine = &said["predicate"]["machines"][0];
    assert_eq!(machine["not_predicted"], json!({}));
    BANKS.map(|bank| machine["pcrs"]["11"]["values"][bank].as_str().unwrap().to_owned()).into()
}

/// The sections of a PE file by name, as `ukify inspect` says.
fn inspected(uki: &Path) -> Value {
    let arguments = ["inspect", uki.to_str().unwrap(), "--all", "--json=short"].map(str::to_owned);
    serde_json::from_slice(&ukify(&arguments)).unwrap()
}

/// The sections of a PE file in its order, by name, as far as the file has them. Source: PE Format, "Section Table".
pub(crate) fn sections(pe: &[u8]) -> Vec<(String, &[u8])> {
    let word = |at: usize| u32::from_le_bytes(pe[at..at + 4].try_into().unwrap()) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes(pe[at..at + 2].try_into().unwrap()));
    let coff = word(0x3c) + 4;
    let table = coff + 20 + half(coff + 16);
    let headers = (0..half(coff + 2)).map(|number| table + 40 * number);
    let section = |header: usize| {
        let name = pe[header..header + 8].split(|byte| *byte == 0).next().unwrap_or_default();
        let length = word(header + 8).min(word(header + 16));
        (String::from_utf8_lossy(name).into_owned(), &pe[word(header + 20)..word(header + 20) + length])
    };
    headers.map(section).collect()
}

/// The content of the first section of that name.
fn content(pe: &[u8], name: &str) -> Vec<u8> {
    let found = sections(pe).into_iter().find(|(other, _)| other == name);
    found.unwrap_or_else(|| panic!("no {name}")).1.to_vec()
}

#[test]
fn our_image() {
    let image = build("image");
    let uki = PathBuf::from(image["uki"]["path"].as_str().unwrap());
    let (found, bytes) = (inspected(&uki), fs::read(&uki).unwrap());
    let parts = image["parts"].as_object().unwrap().iter();
    let sections: Vec<_> = parts.filter_map(|(name, part)| Some((name.strip_prefix("uki/")?, part))).collect();
    assert!(sections.len() > 6, "{sections:?}");
    for (name, part) in sections {
        assert_eq!((&found[name]["size"], &found[name]["sha256"]), (&part["bytes"], &part["sha256"]), "{name}");
        assert_eq!(part["sha256"], json!(Sha256Digest::of(&content(&bytes, name))), "{name}");
    }
    let dir = scratch();
    let measured = [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"].map(|name| {
        let path = dir.path().join(name);
        fs::write(&path, content(&bytes, name)).unwrap();
        (name.to_owned(), path)
    });
    assert_eq!(ours(&uki, ""), systemd_measure(&measured));
}

#[test]
fn every_section_and_two_profiles() {
    let image = build("image");
    let dir = scratch();
    let put = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let names =
        [".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".pcrpkey", ".dtbauto", ".hwids"];
    let mut sections: Vec<(String, PathBuf)> =
        names.map(|name| (name.to_owned(), put(name, format!("content of {name}\n").as_bytes()))).into();
    let other_dtb = put("other.dtb", b"another device's tree");
    let firmware = put("firmware", b"not measured by this stub");
    let linux = PathBuf::from(image["kernel"]["path"].as_str().unwrap());
    let of = |name: &str| sections.iter().find(|(other, _)| other == name).unwrap().1.display().to_string();
    let (main, other) = (put("main", b"ID=main\n"), put("other", b"ID=other\n"));
    let loud = put("loud", b"loud");
    let profile = dir.path().join("other.efi");
    let stubs = tool_root("IMAGE_TOOLS").join("usr/lib/systemd/boot/efi");
    let common = |stub: &str, output: &Path| {
        let (stub, output) = (stubs.join(stub), output.display());
        vec!["build".to_owned(), format!("--stub={}", stub.display()), format!("--output={output}")]
    };
    let arguments = [format!("--profile=@{}", other.display()), format!("--cmdline=@{}", loud.display())];
    ukify(&[common("addonx64.efi.stub", &profile), arguments.into()].concat());
    let uki = dir.path().join("every.efi");
    let arguments = [
        format!("--linux={}", linux.display()),
        format!("--initrd={}", of(".initrd")),
        format!("--cmdline=@{}", of(".cmdline")),
        format!("--os-release=@{}", of(".osrel")),
        format!("--microcode={}", of(".ucode")),
        format!("--splash={}", of(".splash")),
        format!("--devicetree={}", of(".dtb")),
        format!("--uname={}", fs::read_to_string(of(".uname")).unwrap()),
        format!("--pcrpkey={}", of(".pcrpkey")),
        format!("--section=.dtbauto:@{}", other_dtb.display()),
        format!("--section=.dtbauto:@{}", of(".dtbauto")),
        format!("--section=.hwids:@{}", of(".hwids")),
        format!("--section=.efifw:@{}", firmware.display()),
        format!("--profile=@{}", main.display()),
        format!("--join-profile={}", profile.display()),
    ];
    ukify(&[common("linuxx64.efi.stub", &uki), arguments.into()].concat());
    let bytes = fs::read(&uki).unwrap();
    sections.push((".linux".to_owned(), linux));
    sections.push((".sbat".to_owned(), put(".sbat", &content(&bytes, ".sbat"))));

    let with = |more: &[(&str, &PathBuf)]| {
        let mut sections = sections.clone();
        for (name, path) in more {
            sections.retain(|(other, _)| other != name);
            sections.push(((*name).to_owned(), (*path).clone()));
        }
        systemd_measure(&sections)
    };
    assert_eq!(ours(&uki, "dtbauto = { index = 1 }\n"), with(&[(".profile", &main)]));
    assert_eq!(
        ours(&uki, "dtbauto = { index = 0 }\nprofile = 1\n"),
        with(&[(".profile", &other), (".cmdline", &loud), (".dtbauto", &other_dtb)])
    );
    let found = inspected(&uki);
    assert_eq!(found[".ucode"]["size"], "content of .ucode\n".len());
}
