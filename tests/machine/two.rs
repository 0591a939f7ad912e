//! Two machines of one site at the same time, one of them with its clock in 2020: evidence of one is no evidence of the other, whatever
//! is swapped, and no time of a machine comes from its clock. Their certificates are SPIFFE's, rule by rule.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use kiln_formats::canonical;
use kiln_formats::certificate::{Authority, Certificate, CertificateError};
use kiln_formats::challenge::Binding;
use kiln_formats::manifest::path;
use kiln_formats::names::{BUILDER_DIRECT, BUILDER_FIRMWARE, BUILDER_METAL, BUILDER_SECURE_BOOT};
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::Policy;
use kiln_verifier::Anchors;
use serde_json::json;

use crate::fixture::{Hello, finish, good, kiln, site, tool};
use crate::tamper::{Files, evidence_in, judge, site_anchors};

/// How far from the machine's challenge any time in its evidence may be, in seconds: the deadline of a run.
const HOUR: i64 = 3600;

/// Directories whose `qemu-system-x86_64` is QEMU with its clock set back.
fn clock_in_2020(directory: &Path) -> PathBuf {
    let (program, marker) = (directory.join("qemu-system-x86_64"), directory.join("used"));
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {}\nexec /usr/bin/qemu-system-x86_64 \"$@\" -rtc base=2020-01-01\n",
        marker.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    marker
}

/// Both outputs: built side by side, once for all tests.
fn both() -> &'static [Hello; 2] {
    static BOTH: OnceLock<[Hello; 2]> = OnceLock::new();
    BOTH.get_or_init(|| {
        let jobs = [Hello::new(), Hello::new()];
        let programs = tempfile::tempdir().unwrap();
        let marker = clock_in_2020(programs.path());
        let search = std::env::var("PATH").unwrap();
        let paths = [search.clone(), format!("{}:{search}", programs.path().display())];
        let mut running = Vec::new();
        for (job, search) in jobs.iter().zip(paths) {
            fs::write(job.path("job.toml"), &job.draft).unwrap();
            let mut command = Command::new(tool());
            command.args(job.arguments("job.toml", &["--boot", "direct"])).env("PATH", search);
            running.push(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        }
        for child in running {
            finish(child).expect(0);
        }
        assert!(fs::read_to_string(marker).unwrap().contains("-drive"), "the machine's clock was not set back");
        jobs
    })
}

fn anchors() -> Anchors {
    both();
    site_anchors()
}

fn pair() -> [Files; 2] {
    both().each_ref().map(|job| evidence_in(&job.out()))
}

/// The directory of a file that is swapped as a whole.
fn piece(file: &str) -> &str {
    let mut cuts = file.match_indices('/').map(|(at, _)| at);
    let first = cuts.next();
    // Below `evidence/` each directory, or file, is a piece of its own.
    file.starts_with("evidence/").then(|| cuts.next()).flatten().or(first).map_or(file, |at| &file[..at])
}

#[test]
fn untouched_both_hold() {
    let anchors = anchors();
    for files in pair() {
        let verdict = judge(&files, &anchors);
        assert!(verdict.passed(), "{:?}", verdict.findings);
    }
}

#[test]
fn no_file_of_one_can_stand_for_any_file_of_the_other() {
    let anchors = anchors();
    let (mut tried, [one, other]) = (0, pair());
    for (mine, theirs) in [(&one, &other), (&other, &one)] {
        for (name, bytes) in mine {
            for (foreign, put) in theirs.iter().filter(|(_, put)| *put != bytes) {
                let mut files = mine.clone();
                files.insert(name.clone(), put.clone());
                assert!(!judge(&files, &anchors).passed(), "{foreign} of the other as {name}");
                tried += 1;
            }
        }
    }
    assert!(tried > 1000, "only {tried} pairs were tried");
}

/// Every set of directories: all quotes, or all quotes and all certificates, and so on.
#[test]
fn no_set_of_directories_can_be_swapped() {
    let anchors = anchors();
    let [one, other] = pair();
    let pieces: BTreeSet<&str> = one.keys().map(|name| piece(name)).collect();
    let pieces: Vec<&str> = pieces.into_iter().collect();
    assert!((8..=16).contains(&pieces.len()), "{pieces:?}");
    let mut tried = 0;
    for set in 1u32..(1 << pieces.len()) - 1 {
        let taken = |name: &String| {
            pieces.iter().position(|piece| piece == &self::piece(name)).is_some_and(|at| set >> at & 1 == 1)
        };
        let mut files: Files =
            one.iter().filter(|(name, _)| !taken(name)).map(|(a, b)| (a.clone(), b.clone())).collect();
        files.extend(other.iter().filter(|(name, _)| taken(name)).map(|(a, b)| (a.clone(), b.clone())));
        if files == one || files == other {
            continue;
        }
        assert!(
            !judge(&files, &anchors).passed(),
            "{:?}",
            pieces.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1)
        );
        tried += 1;
    }
    assert!(tried > 200, "only {tried} sets were tried");
}

#[test]
fn no_time_is_that_of_the_machines_clock() {
    for files in pair() {
        let binding: Binding = canonical::from_slice_exact(&files[path::BINDING]).unwrap();
        let issued = binding.challenge.issued;
        let mut times = 0;
        for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with("json")) {
            let text = payload(bytes);
            for word in text.split('"').filter_map(|word| word.parse::<Timestamp>().ok()) {
                // A job's end is its signer's to say.
                let near = (word.unix() - issued.unix()).abs() <= if name == path::JOB { 24 * HOUR } else { HOUR };
                assert!(near, "{name}: {word} where the challenge is of {issued}");
                times += 1;
            }
        }
        assert!(times > 8, "only {times} times were found");
    }
}

/// What an envelope holds, or the document itself.
fn payload(bytes: &[u8]) -> String {
    use base64::Engine as _;
    let document: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    let payload = document.get("payload").and_then(|text| text.as_str());
    let payload = payload.map(|text| base64::engine::general_purpose::STANDARD.decode(text).unwrap());
    String::from_utf8(payload.unwrap_or_else(|| bytes.to_vec())).unwrap()
}

fn openssl(arguments: &[&str], directory: &Path) -> (bool, String) {
    let ran = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
    (ran.status.success(), String::from_utf8_lossy(&ran.stdout).into_owned())
}

/// Source: SPIFFE X.509-SVID, sections 2 to 5 and appendix A.
#[test]
fn every_certificate_is_of_spiffes_profile() {
    let mut ids = BTreeSet::new();
    for job in both() {
        let directory = job.out().join("evidence");
        let files =
            evidence_in(&job.out()).into_keys().filter_map(|file| Some(file.strip_prefix("evidence/")?.to_owned()));
        for file in files.filter(|file| file.ends_with(".pem")) {
            let text = openssl(&["x509", "-in", &file, "-noout", "-text"], &directory).1;
            let behind = |title: &str| {
                let mut lines = text.lines().skip_while(|line| !line.trim().starts_with(title));
                lines.next().map(|title| (title.contains("critical"), lines.next().unwrap_or_default().trim()))
            };
            let (critical, usage) = behind("X509v3 Key Usage:").unwrap();
            assert!(critical, "{file}: the key usage is not critical");
            let constraints = behind("X509v3 Basic Constraints:").unwrap().1;
            let below = match file.as_str() {
                "certificates/authority.pem" => Some("CA:TRUE, pathlen:1"),
                "certificates/issuer.pem" => Some("CA:TRUE, pathlen:0"),
                _ => None,
            };
            // A quarter of an hour: no job that takes as long as the default gets longer-lived ones.
            let seconds = lifetime_seconds(&fs::read(directory.join(&file)).unwrap());
            assert!(seconds <= 900 || file == "certificates/authority.pem", "{file} lives for {seconds} s");
            if let Some(below) = below {
                assert_eq!((usage, constraints), ("Certificate Sign", below), "{file}");
                // A signer that has a SPIFFE id has one without a path. Ours have none: an authority is named after its machines.
                let name = behind("X509v3 Subject Alternative Name:").map(|(_, name)| name.to_owned());
                let expected = (file == "certificates/authority.pem").then(|| format!("URI:{BUILDER_DIRECT}"));
                assert_eq!(name, expected, "{file}");
                continue;
            }
            assert_eq!((usage, constraints), ("Digital Signature", "CA:FALSE"), "{file}");
            let names = behind("X509v3 Subject Alternative Name:").unwrap().1;
            let id = names.strip_prefix("URI:spiffe://").unwrap();
            assert!(!names.contains(',') && id.contains('/') && names.len() <= 2048 + 4, "{file}: {names}");
            assert!(!id.contains(['?', '#', '@', ':', '%']) && !id.ends_with('/'), "{file}: {names}");
            assert!(ids.insert(id.to_owned()), "{id} twice");
        }
    }
    assert_eq!(ids.len(), 8);
}

fn lifetime_seconds(pem: &[u8]) -> u64 {
    let certificate = Certificate::from_pem(pem).unwrap();
    let validity = certificate.as_x509().tbs_certificate().validity();
    (validity.not_after.to_unix_duration() - validity.not_before.to_unix_duration()).as_secs()
}

/// OpenSSL takes the chain of each build at its time; not a later one, and not with another site's root.
#[test]
fn openssl_takes_the_chains_at_their_time() {
    let root = site().join("root.pem");
    for job in both() {
        let files = evidence_in(&job.out());
        let binding: Binding = canonical::from_slice_exact(&files[path::BINDING]).unwrap();
        let directory = job.out().join("evidence/certificates");
        let verify = |file: &str, at: i64, purpose: &[&str]| {
            let at = at.to_string();
            let root = root.to_str().unwrap();
            let mut arguments =
                vec!["verify", "-x509_strict", "-attime", &at, "-CAfile", root, "-untrusted", "authority.pem"];
            arguments.extend(purpose);
            openssl(&[&arguments[..], &[file]].concat(), &directory).0
        };
        let issued = binding.challenge.issued.unix();
        for file in ["statement.pem", "attestation.pem", "dispatch.pem"] {
            assert!(verify(file, issued, &[]), "{file}");
            assert!(!verify(file, issued + 901, &[]) && !verify(file, issued - 1, &[]), "{file} at another time");
        }
        let alone = openssl(
            &["verify", "-attime", &issued.to_string(), "-CAfile", "authority.pem", "statement.pem"],
            &directory,
        );
        assert!(!alone.0, "without the site's root");
    }
}

/// The step of each build is taken under its own boot's chain at the challenge's time, and never under the other's, although root and
/// authority are the same.
#[test]
fn openssl_takes_a_step_under_the_chain_of_its_own_boot_alone() {
    let desk = tempfile::tempdir().unwrap();
    let builds = pair();
    for (at, files) in builds.iter().enumerate() {
        let chain = [&files[path::ISSUER][..], &files[path::AUTHORITY]].concat();
        fs::write(desk.path().join(format!("chain-{at}.pem")), chain).unwrap();
        fs::write(desk.path().join(format!("step-{at}.pem")), &files["evidence/identities/00-compile.pem"]).unwrap();
    }
    let root = site().join("root.pem");
    for (one, other) in [(0, 1), (1, 0)] {
        let binding: Binding = canonical::from_slice_exact(&builds[one][path::BINDING]).unwrap();
        let issued = binding.challenge.issued.unix();
        let takes = |chain: usize, at: i64| {
            let (at, chain, step) = (at.to_string(), format!("chain-{chain}.pem"), format!("step-{one}.pem"));
            let root = root.to_str().unwrap();
            let arguments = ["verify", "-x509_strict", "-attime", &at, "-CAfile", root, "-untrusted", &chain, &step];
            openssl(&arguments, desk.path()).0
        };
        assert!(takes(one, issued), "under its own chain");
        assert!(!takes(other, issued), "under the chain of another boot");
        assert!(!takes(one, issued + 901) && !takes(one, issued - 1), "at another time");
    }
}

/// Builds in two modes have signers of their own under one root, and a policy for production takes neither the one's word nor its
/// signer's in another's place.
#[test]
fn machines_of_two_modes_have_chains_of_their_own() {
    let root = site().join("root.pem");
    let (direct, firmware) = (both()[0].out(), good());
    let certificate = |out: &Path, file: &str| Certificate::from_pem(&fs::read(out.join(file)).unwrap()).unwrap();
    let root_certificate = Certificate::from_pem(&fs::read(&root).unwrap()).unwrap();
    let mut keys = BTreeSet::new();
    for (out, own, other) in
        [(direct.as_path(), BUILDER_DIRECT, BUILDER_FIRMWARE), (firmware, BUILDER_FIRMWARE, BUILDER_DIRECT)]
    {
        let binding: Binding = canonical::from_slice_exact(&fs::read(out.join(path::BINDING)).unwrap()).unwrap();
        let authority = certificate(out, path::AUTHORITY);
        let check = |of| Authority::check(&root_certificate, &authority, binding.challenge.issued, of);
        assert!(check(own).unwrap().statement(&certificate(out, path::STATEMENT_KEY)).is_ok());
        assert_eq!(check(other).err(), Some(CertificateError::OtherMode { certified_for: own }));
        keys.insert(authority.spki().unwrap());
    }
    assert_eq!(keys.len(), 2, "one key for two modes");
    let binding: Binding = canonical::from_slice_exact(&fs::read(direct.join(path::BINDING)).unwrap()).unwrap();
    let at = binding.challenge.issued.unix().to_string();
    let takes = |out: &Path| {
        let files = [root.clone(), out.join(path::AUTHORITY), direct.join(path::STATEMENT_KEY)];
        let [root, authority, leaf] = files.each_ref().map(|file| file.to_str().unwrap());
        let arguments = |trusted: [&'static str; 3], file, of: &[&str]| {
            let arguments = [&["verify", "-x509_strict", "-attime", &at][..], &trusted, &[file], of, &[leaf]].concat();
            openssl(&arguments, &direct).0
        };
        let by_the_root = arguments(["-no-CApath", "-no-CAstore", "-CAfile"], root, &["-untrusted", authority]);
        // Who means one mode alone takes its authority for the root.
        let by_the_mode = arguments(["-no-CApath", "-partial_chain", "-trusted"], authority, &[]);
        assert_eq!(by_the_root, by_the_mode);
        by_the_root
    };
    assert!(takes(&direct) && !takes(firmware), "what one mode signed under the other's certificate");

    let desk = tempfile::tempdir().unwrap();
    let mut policy: Policy = serde_json::from_slice(&fs::read(site().join("policy.json")).unwrap()).unwrap();
    policy.builder_ids = vec![BUILDER_METAL.to_owned(), BUILDER_SECURE_BOOT.to_owned()];
    let production = desk.path().join("policy.json");
    fs::write(&production, canonical::to_vec(&policy).unwrap()).unwrap();
    let reference = fs::read_dir(site().join("reference")).unwrap().next().unwrap().unwrap().path();
    for out in [direct.as_path(), firmware] {
        let judged = kiln([
            "verify".as_ref(),
            out.as_os_str(),
            "--root".as_ref(),
            root.as_os_str(),
            "--policy".as_ref(),
            production.as_os_str(),
            "--reference".as_ref(),
            reference.as_os_str(),
        ]);
        let said = judged.expect(13).stdout;
        assert!(said.contains("builder_id"), "{said}");
    }
}

/// The launcher saw both machines go, and its word on one is no word on the other.
#[test]
fn each_teardown_is_of_its_own_machine() {
    let verify = |out: &Path| kiln(["verify".as_ref(), out.as_os_str(), "--site".as_ref(), site().as_os_str()]);
    let told = |out: &Path, code| {
        let words = ["verify".as_ref(), out.as_os_str(), "--site".as_ref(), site().as_os_str(), "--json".as_ref()];
        kiln(words).expect(code).json()
    };
    let [one, other] = both().each_ref().map(Hello::out);
    let said = verify(&one).expect(0).stdout;
    assert!(said.contains("the launcher says that nothing of it is left"), "{said}");
    assert!(said.contains(" has a virtual TPM\n"), "{said}");
    let json = told(&one, 0);
    assert_eq!((&json["teardown"]["state"], &json["machine_class"]), (&json!("holds"), &json!("virtual")));
    for key in ["build_id", "builder_id"] {
        assert_eq!(json["teardown"][key], json[key], "{json}");
    }
    let said_of = |key: &str| json["teardown"][key].as_str().unwrap();
    assert!(said.contains(&format!("ran from {} to {};", said_of("started"), said_of("ended"))), "{said}");
    let desk = tempfile::tempdir().unwrap();
    let copy = desk.path().join("copy");
    assert!(Command::new("cp").arg("-a").args([&one, &copy]).status().unwrap().success());
    let file = copy.join(path::TEARDOWN);
    let good = fs::read(&file).unwrap();
    fs::write(&file, fs::read(other.join(path::TEARDOWN)).unwrap()).unwrap();
    let refused = verify(&copy).expect(13).stderr;
    assert!(refused.contains("teardown.json: it is in the name of"), "{refused}");
    let json = told(&copy, 13);
    assert_eq!((&json["teardown"]["state"], &json["teardown"]["code"]), (&json!("refused"), &json!("teardown")));
    assert_eq!(json["findings"], json!([]), "the evidence is none the worse");
    for at in (0..good.len()).step_by(good.len() / 16) {
        let mut changed = good.clone();
        changed[at] ^= 1;
        fs::write(&file, changed).unwrap();
        verify(&copy).expect(13);
    }
    // Its absence says nothing.
    fs::remove_file(&file).unwrap();
    let silent = verify(&copy).expect(0).stdout;
    assert!(!silent.contains("the launcher says"), "{silent}");
    assert_eq!(told(&copy, 0)["teardown"], json!({ "state": "absent" }));
    // And where nothing is proved it says nothing either.
    fs::write(&file, good).unwrap();
    fs::remove_file(copy.join(path::JOB)).unwrap();
    assert_eq!(told(&copy, 13)["teardown"], json!({ "state": "not_judged" }));
}
