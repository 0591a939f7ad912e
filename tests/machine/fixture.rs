//! What the tests share: the tool, one site, the images, small jobs, and one good build to examine.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use ed25519_dalek::pkcs8::DecodePrivateKey as _;
use ed25519_dalek::{Signer as _, SigningKey};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dsse::{Envelope, pae};
use kiln_formats::job::CheckedJob;
use kiln_formats::names::PAYLOAD_JOB;
use kiln_formats::timestamp::Timestamp;
use kiln_formats::{canonical, job};
use serde_json::Value;
use tempfile::TempDir;

/// The tool, as `cargo kiln test` built it.
pub(crate) fn tool() -> PathBuf {
    std::env::var_os("KILN")
        .map(PathBuf::from)
        .expect("KILN is not set: whole machines are tested by `cargo kiln test`")
}

/// A directory that goes with the process that made it, on the disk and not in memory.
pub(crate) fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("kiln-test-").tempdir().unwrap()
}

/// What a run of the tool printed, and how it ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn from(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Asserts the exit code, showing everything if it is another.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// Runs the tool to its end.
pub(crate) fn kiln<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    Ran::from(&Command::new(tool()).args(arguments).stdin(Stdio::null()).output().unwrap())
}

/// Starts the tool and leaves it running.
pub(crate) fn start<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Child {
    Command::new(tool())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for a started tool.
pub(crate) fn finish(child: Child) -> Ran {
    Ran::from(&child.wait_with_output().unwrap())
}

/// One site for all tests, made once.
pub(crate) fn site() -> &'static Path {
    static SITE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, site) = SITE.get_or_init(|| {
        let dir = scratch();
        let site = dir.path().join("site");
        kiln([OsStr::new("keygen"), OsStr::new("--site"), site.as_os_str()]).expect(0);
        (dir, site)
    });
    site
}

/// What `kiln build WHAT --json` says; everything is in the cache after the first time.
pub(crate) fn build(what: &str) -> Value {
    kiln(["build", what, "--json"]).expect(0).json()
}

/// The dm-verity root hash of the toolchain image `c`, and its file.
pub(crate) fn toolchain() -> (Sha256Digest, PathBuf) {
    static TOOLCHAIN: OnceLock<(Sha256Digest, PathBuf)> = OnceLock::new();
    TOOLCHAIN
        .get_or_init(|| {
            let built = build("toolchain");
            let text = |key: &str| built[key].as_str().unwrap_or_else(|| panic!("no {key} in {built}")).to_owned();
            (text("root_hash").parse().unwrap(), PathBuf::from(text("path")))
        })
        .clone()
}

const SOURCE: &str = "#include <stdio.h>\nint main(void) { puts(\"hello from a kiln\"); return 0; }\n";

/// A small job in a directory of its own: one C file, one compiler call, one output.
pub(crate) struct Hello {
    pub(crate) dir: TempDir,
    pub(crate) draft: String,
}

impl Hello {
    pub(crate) fn new() -> Self {
        let dir = scratch();
        fs::write(dir.path().join("hello.c"), SOURCE).unwrap();
        let draft = include_str!("hello.toml")
            .replace("@ROOT_HASH@", &toolchain().0.to_string())
            .replace("@SHA256@", &Sha256Digest::of(SOURCE.as_bytes()).to_string())
            .replace("@SIZE@", &SOURCE.len().to_string());
        Self { dir, draft }
    }

    /// The same job with some text of its draft replaced.
    pub(crate) fn with(mut self, from: &str, to: &str) -> Self {
        assert!(self.draft.contains(from), "{from} is not in the draft");
        self.draft = self.draft.replace(from, to);
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The job as the machine would read it.
    pub(crate) fn checked(&self) -> CheckedJob {
        job::draft::parse(&self.draft, Timestamp::from_unix(4_000_000_000).unwrap()).unwrap()
    }

    /// Writes the draft and runs it.
    pub(crate) fn run(&self, more: &[&str]) -> Ran {
        fs::write(self.path("job.toml"), &self.draft).unwrap();
        self.run_document("job.toml", more)
    }

    /// Runs a document of the job's directory.
    pub(crate) fn run_document(&self, document: &str, more: &[&str]) -> Ran {
        finish(start(self.arguments(document, more)))
    }

    /// How the tool is called to run a document of the job's directory.
    pub(crate) fn arguments(&self, document: &str, more: &[&str]) -> Vec<std::ffi::OsString> {
        let mut arguments: Vec<std::ffi::OsString> = vec!["run".into(), self.path(document).into()];
        for (flag, value) in [("--site", site().to_owned()), ("--out", self.out())] {
            arguments.extend([flag.into(), value.into()]);
        }
        let input = format!("hello.c={}", self.path("hello.c").display());
        arguments.extend(["--input".into(), input.into()]);
        arguments.extend(more.iter().map(Into::into));
        arguments
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// Signs any bytes as a job with the site's invoker key, and writes the document.
    pub(crate) fn sign(&self, document: &str, payload: &[u8], key: &SigningKey) {
        let signature = key.sign(&pae(PAYLOAD_JOB, payload)).to_bytes();
        fs::write(self.path(document), Envelope::new(PAYLOAD_JOB, payload, &signature).to_vec().unwrap()).unwrap();
    }

    /// The canonical payload of the job.
    pub(crate) fn payload(&self) -> Vec<u8> {
        canonical::to_vec(self.checked().job()).unwrap()
    }

    /// Whether the run left nothing but its own files: no partial output beside OUT.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let known = ["hello.c", "job.toml", "job.json", "out", "hello.bad"];
        let names =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !known.contains(&name.as_str())).collect()
    }
}

/// The key with which the site's people sign jobs.
pub(crate) fn invoker() -> SigningKey {
    SigningKey::from_pkcs8_pem(&fs::read_to_string(site().join("invoker.key")).unwrap()).unwrap()
}

/// One good build of the small job under measuring firmware: made once, examined by many tests.
pub(crate) fn good() -> &'static Path {
    static GOOD: OnceLock<Hello> = OnceLock::new();
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    OUT.get_or_init(|| {
        let hello = GOOD.get_or_init(Hello::new);
        hello.run(&["--boot", "firmware"]).expect(0);
        assert!(hello.leftovers().is_empty(), "{:?}", hello.leftovers());
        hello.out()
    })
}

/// Every file below a directory, by its path there.
pub(crate) fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(here) = waiting.pop() {
        for entry in fs::read_dir(&here).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Processes whose command line names a path: there must be none when a run is over.
pub(crate) fn processes_with(text: &str) -> Vec<String> {
    let commands = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    let commands = commands.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    commands.filter(|line| line.contains(text) && (line.contains("qemu-system") || line.contains("swtpm"))).collect()
}
