//! A machine on a host that quotes what it booted itself: swtpm stands in for the host's own TPM, and tpm2-tools alone use it.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_formats::manifest::path;
use kiln_formats::names::BUILDER_HOSTED;
use tempfile::TempDir;

use crate::fixture::{Hello, Ran, finish, kiln, scratch, start};
use crate::maker;

/// How long a software TPM may take to listen, on a busy host.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A TPM in software that a host would have in hardware; ends when dropped.
struct HostTpm {
    process: Child,
    tcti: String,
    directory: TempDir,
}

impl HostTpm {
    fn start() -> Self {
        let directory = scratch();
        maker::manufacture(directory.path());
        // The TSS wants the control port to be the one above the server's.
        let pair = |_| {
            let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
            TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok().map(|_| port)
        };
        let port = (0..100).find_map(pair).unwrap();
        let listen = |port: u16| format!("type=tcp,bindaddr=127.0.0.1,port={port}");
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
            .args([
                &format!("dir={}", directory.path().join("tpm").display()),
                "--server",
                &listen(port),
                "--ctrl",
                &listen(port + 1),
            ])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let tpm = Self { process, tcti: format!("swtpm:host=127.0.0.1,port={port}"), directory };
        let begin = Instant::now();
        while !tpm.tool("tpm2_pcrread sha256:0") {
            assert!(begin.elapsed() < START_TIMEOUT, "swtpm does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        // What a host's firmware and boot loader would have measured.
        let digest = "11".repeat(32);
        for register in [0, 4, 7] {
            assert!(tpm.tool(&format!("tpm2_pcrextend {register}:sha256={digest}")));
        }
        tpm
    }

    fn tool(&self, line: &str) -> bool {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env("TPM2TOOLS_TCTI", &self.tcti).current_dir(self.directory.path());
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }
}

impl Drop for HostTpm {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A site of its own, beside what it is given.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        let site = Self(scratch());
        kiln(["keygen".as_ref(), "--site".as_ref(), site.path().as_os_str()]).expect(0);
        site
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("site")
    }

    fn enrol(&self, tpm: &HostTpm, more: &[&str]) -> Ran {
        let words = ["host", "enrol", "--tpm", &tpm.tcti, "--site"].map(OsString::from);
        let site = [self.path().into()];
        kiln(words.into_iter().chain(site).chain(more.iter().map(OsString::from)))
    }

    /// Puts the policy in force that an enrolment printed.
    fn put_in_force(&self, printed: &Ran) {
        let file = self.0.path().join("policy.json");
        fs::write(&file, &printed.stdout).unwrap();
        let site = self.path();
        let words = ["trust".as_ref(), "policy".as_ref(), file.as_os_str(), "--site".as_ref(), site.as_os_str()];
        kiln(words).expect(0);
    }

    fn run(&self, job: &Hello, tpm: &HostTpm) -> Ran {
        fs::write(job.path("job.toml"), &job.draft).unwrap();
        let mut words = job.arguments("job.toml", &["--secure-boot", "--host-tpm", &tpm.tcti, "--json"]);
        let at = words.iter().position(|word| word == "--site").unwrap();
        words[at + 1] = self.path().into();
        finish(start(words))
    }
}

fn verify(out: &Path, site: &Path) -> Ran {
    kiln(["verify".as_ref(), out.as_os_str(), "--site".as_ref(), site.as_os_str(), "--json".as_ref()])
}

/// From a host that nobody knows to evidence that names it; then something else is booted there.
#[test]
fn a_host_quotes_for_its_machine_and_one_that_booted_otherwise_gets_no_job() {
    let (site, tpm, job) = (Site::new(), HostTpm::start(), Hello::new());
    // No key of a host's is there yet, and a TPM that nobody calls hardware is no host's.
    site.run(&job, &tpm).expect(20);
    assert!(site.enrol(&tpm, &[]).expect(11).stderr.contains("endorsement_untrusted"));
    maker::enrol(tpm.directory.path(), &site.path());
    let enrolled = site.enrol(&tpm, &["--pcrs", "0,4,7"]).expect(0);
    let key = enrolled.json()["hosts"][0]["endorsement_key_sha256"].clone();
    // Its key is in its TPM now; the policy does not say so yet. A key is not replaced by chance.
    assert!(site.run(&job, &tpm).expect(2).stderr.contains("kiln host enrol"));
    assert!(site.enrol(&tpm, &[]).expect(20).stderr.contains("--replace"));
    site.put_in_force(&enrolled);

    let built = site.run(&job, &tpm).expect(0).json();
    assert_eq!(built["outcome"], "built");
    let verdict = verify(&job.out(), &site.path()).expect(0).json();
    assert_eq!((&verdict["builder_id"], &verdict["host"]), (&BUILDER_HOSTED.into(), &key));
    // Without the host's quote it is worth nothing.
    let file = job.out().join(path::HOST_QUOTE);
    let kept = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    verify(&job.out(), &site.path()).expect(13);
    fs::write(&file, kept).unwrap();
    verify(&job.out(), &site.path()).expect(0);

    // As if another boot loader had been started.
    assert!(tpm.tool(&format!("tpm2_pcrextend 4:sha256={}", "22".repeat(32))));
    let job = Hello::new();
    let refused = site.run(&job, &tpm).expect(11).json();
    assert_eq!(refused["not_attested"][0]["code"], "host_registers", "{refused}");
    assert!(!job.out().exists());
    // Taken down anew, under the next policy, it is a host again; what it built before counts by the policy of that time.
    let again = site.enrol(&tpm, &["--pcrs", "0,4,7", "--replace"]).expect(0);
    assert_eq!(again.json()["hosts"].as_array().unwrap().len(), 1);
    assert_ne!(again.json()["hosts"][0]["pcrs"]["4"], enrolled.json()["hosts"][0]["pcrs"]["4"]);
}
