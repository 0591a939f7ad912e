//! What the authority remembers, and its service, from outside: exit codes, messages, and what others' clients find.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::image::vouch;
use crate::{JOB, code, desk, kiln, text};

const VERIFY: [&str; 5] = ["attestor", "ledger", "verify", "--site", "site"];

#[test]
fn a_new_site_has_a_ledger_that_holds() {
    let desk = desk();
    let verified = kiln(desk.path(), &VERIFY);
    assert_eq!(code(&verified), 0, "{}", text(&verified.stderr));
    assert!(text(&verified.stdout).starts_with("the ledger holds: 1 entries"), "{}", text(&verified.stdout));
    let status = kiln(desk.path(), &["attestor", "status", "--site", "site", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["entries"], &status["certified"]), (&1.into(), &0.into()), "{status}");
    let shown = kiln(desk.path(), &["attestor", "ledger", "show", "--site", "site"]);
    assert!(text(&shown.stdout).contains("begun       site key "), "{}", text(&shown.stdout));
    // The printed bytes are what the head names: nothing of ours is needed to see it.
    let shown = kiln(desk.path(), &["attestor", "ledger", "show", "--site", "site", "--json"]);
    fs::write(desk.path().join("entry"), text(&shown.stdout).trim_end()).unwrap();
    let digest = Command::new("sha256sum").arg("entry").current_dir(desk.path()).output().unwrap();
    assert!(text(&verified.stdout).contains(&text(&digest.stdout)[..64]), "{}", text(&digest.stdout));
}

/// Whoever enrols says what it is; nothing is taken for a device because nobody said.
#[test]
fn what_is_enrolled_is_hardware_or_virtual() {
    let desk = desk();
    let enrol = |more: &[&str]| kiln(desk.path(), &[&["attestor", "enrol", "--site", "site"], more].concat());
    let key = "8d".repeat(32);
    for unsaid in [&["--key", &key][..], &["--key", &key, "--class", "metal"], &["--root", "maker.pem"]] {
        assert_eq!(code(&enrol(unsaid)), 2, "{unsaid:?}");
    }
    let hardware = enrol(&["--class", "hardware", "--key", &key, "--json"]);
    assert_eq!(code(&hardware), 0, "{}", text(&hardware.stderr));
    let chosen: serde_json::Value = serde_json::from_slice(&hardware.stdout).unwrap();
    let expected = serde_json::json!({
        "hardware": { "roots": 0, "keys": [key] }, "virtual": { "roots": 0, "keys": [] }, "issuers": 0,
    });
    assert_eq!(chosen, expected);
    let both = enrol(&["--class", "virtual", "--key", &key]);
    assert_eq!(code(&both), 2);
    assert!(text(&both.stderr).contains("as the other class"), "{}", text(&both.stderr));
    // A site from before there were classes.
    fs::write(desk.path().join("site/enrolment/keys"), &key).unwrap();
    let before = enrol(&[]);
    assert_eq!(code(&before), 2);
    assert!(text(&before.stderr).contains("hardware or virtual"), "{}", text(&before.stderr));
}

#[test]
fn a_changed_file_and_a_replaced_one_are_noticed() {
    let desk = desk();
    let head = kiln(desk.path(), &["attestor", "ledger", "head", "--site", "site"]);
    fs::write(desk.path().join("kept.json"), &head.stdout).unwrap();
    let kept = [&VERIFY[..], &["--head", "kept.json"]].concat();
    assert_eq!(code(&kiln(desk.path(), &kept)), 0);

    let file = desk.path().join("site/attestor.db");
    let whole = fs::read(&file).unwrap();
    let mut changed = whole.clone();
    let at = changed.windows(5).position(|window| window == b"begun").unwrap();
    changed[at] = b'B';
    fs::write(&file, changed).unwrap();
    let noticed = kiln(desk.path(), &VERIFY);
    assert_eq!(code(&noticed), 13);
    assert!(text(&noticed.stderr).contains("entry 0 was changed"), "{}", text(&noticed.stderr));

    // Lost, it is not made again by itself; begun again, it is another one.
    fs::remove_file(&file).unwrap();
    let missing = kiln(desk.path(), &VERIFY);
    assert_eq!(code(&missing), 2);
    assert!(text(&missing.stderr).contains("kiln attestor ledger begin"), "{}", text(&missing.stderr));
    std::thread::sleep(std::time::Duration::from_millis(1100)); // times are whole seconds
    let begin = ["attestor", "ledger", "begin", "--site", "site"];
    assert_eq!(code(&kiln(desk.path(), &begin)), 0);
    assert_eq!(code(&kiln(desk.path(), &begin)), 2);
    assert_eq!(code(&kiln(desk.path(), &VERIFY)), 0);
    let noticed = kiln(desk.path(), &kept);
    assert_eq!(code(&noticed), 13);
    assert!(text(&noticed.stderr).contains("entry 0 was changed or replaced"), "{}", text(&noticed.stderr));
    fs::write(&file, whole).unwrap();
    assert_eq!(code(&kiln(desk.path(), &kept)), 0);
}

/// A service that listens, and where.
struct Serving {
    child: Child,
    address: String,
    metrics: String,
}

impl Serving {
    fn start(desk: &Path) -> Self {
        fs::write(desk.join("job.toml"), JOB).unwrap();
        let zeros = "0".repeat(64);
        let reference = format!(r#"{{"image_sha256":"{zeros}","init_sha256":"{zeros}","machines":[],"version":1}}"#);
        fs::write(desk.join("reference.json"), reference).unwrap();
        vouch(desk, zeros.parse().unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
        command.args(["attestor", "serve", "--site", "site", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
        command.args([
            "--name",
            "attestor.example",
            "--job",
            "job.toml",
            "--reference",
            "reference.json",
            "--out",
            "out",
        ]);
        let mut child = command.current_dir(desk).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = |message: &str| {
            let mut line = String::new();
            log.read_line(&mut line).unwrap();
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(entry["message"], message, "{entry}");
            entry["address"].as_str().unwrap().to_owned()
        };
        let (metrics, address) = (said("telling numbers"), said("serving"));
        // Its log is read on, so that it is never waited for.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, address, metrics }
    }

    fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    fn numbers(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.metrics).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// What OpenSSL finds who trusts the site's root and looks for this name.
    fn openssl(&self, desk: &Path, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-connect",
            &self.address,
            "-CAfile",
            "site/root.pem",
            "-verify_return_error",
            "-brief",
        ]);
        let output = command.args(arguments).current_dir(desk).stdin(Stdio::null()).output().unwrap();
        (output.status.success(), text(&output.stderr) + &text(&output.stdout))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_service_shows_its_certificate_and_numbers_and_ends_when_it_is_told_to() {
    let desk = desk();
    let mut serving = Serving::start(desk.path());
    let (good, said) = serving.openssl(desk.path(), &["-verify_hostname", "attestor.example", "-x509_strict"]);
    assert!(good && said.contains("TLSv1.3") && said.contains("Verification: OK"), "{said}");
    for refused in [&["-verify_hostname", "other.example"][..], &["-verify_hostname", "attestor.example", "-tls1_2"]] {
        let (good, said) = serving.openssl(desk.path(), refused);
        assert!(!good, "{refused:?}: {said}");
    }
    let numbers = serving.numbers("/metrics");
    assert!(numbers.starts_with("HTTP/1.1 200 OK") && numbers.contains("application/openmetrics-text"), "{numbers}");
    assert!(numbers.contains("\nkiln_attestor_connections_total 3\n") && numbers.ends_with("# EOF\n"), "{numbers}");
    assert!(serving.numbers("/other").starts_with("HTTP/1.1 404"));
    // The state can be read while it is served from.
    assert_eq!(code(&kiln(desk.path(), &VERIFY)), 0);
    serving.interrupt();
    assert_eq!(serving.child.wait().unwrap().code(), Some(130));
    // A job that nobody had leaves nothing.
    assert_eq!(fs::read_dir(desk.path().join("out")).unwrap().count(), 0);
}

#[test]
fn a_service_says_what_it_cannot_serve() {
    let desk = desk();
    fs::write(desk.path().join("job.toml"), JOB).unwrap();
    let serve = |more: &[&str]| {
        let base =
            ["attestor", "serve", "--site", "site", "--listen", "127.0.0.1:0", "--job", "job.toml", "--out", "out"];
        let output = kiln(desk.path(), &[&base[..], more].concat());
        assert!(!desk.path().join("out").exists());
        (code(&output), text(&output.stderr))
    };
    let (exit, said) = serve(&[]);
    assert!(exit == 2 && said.contains("no reference values"), "{said}");
    fs::write(desk.path().join("file"), "x").unwrap();
    let (exit, said) = serve(&["--reference", "file"]);
    assert!(exit == 2 && said.contains("cannot be read"), "{said}");
    // Servers have a signer of their own.
    fs::remove_file(desk.path().join("site/authorities/metal-v1.key")).unwrap();
    let (exit, said) = serve(&["--metal"]);
    assert!(exit == 2 && said.contains("cannot read site/authorities/metal-v1.key"), "{said}");
    let (exit, said) = serve(&["--name", "*.example"]);
    assert!(exit == 2 && said.contains("neither a DNS name nor an IP address"), "{said}");
}
