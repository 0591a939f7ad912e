//! What every case works on: the real sandbox, an image with the host's shell in it, a site that is made up.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kiln_builder::custody::Custodian;
use kiln_builder::{Fault, ImageError, Images, Link, Machine, carry};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::manifest::Outcome;
use kiln_sandbox::{DetachedTree, Launcher};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::authority::{Authority, Got};
use crate::pid1::{self, Asked};
use crate::site::{SIGNER, signed, time};

/// The input of every job here.
pub(crate) const INPUT: &[u8] = b"an input";

/// Images by root hash, as they are.
struct Shelf {
    images: BTreeMap<Sha256Digest, DetachedTree>,
    intact: bool,
}

impl Images for Shelf {
    fn open(&mut self, root_hash: &Sha256Digest) -> Result<DetachedTree, ImageError> {
        self.images.get(root_hash).cloned().ok_or(ImageError::Missing { root_hash: *root_hash })
    }

    fn is_intact(&self, _: &Sha256Digest) -> Result<bool, ImageError> {
        Ok(self.intact)
    }
}

/// Shared by all cases, one after another.
pub(crate) struct Bench {
    machine: Machine,
    image: DetachedTree,
    scratch: TempDir,
}

/// How a machine's life ended, and what the others saw of it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Result<Outcome, Fault>,
    pub(crate) got: Got,
    pub(crate) asked: Asked,
}

impl Ended {
    /// The fault's code.
    pub(crate) fn fault(&self) -> &'static str {
        self.outcome.as_ref().unwrap_err().code()
    }
}

impl Bench {
    pub(crate) fn new(launcher: Launcher) -> Self {
        let image = image();
        let scratch = tempfile::tempdir().unwrap();
        let images = Box::new(Shelf { images: BTreeMap::new(), intact: true });
        let machine = Machine { launcher, images, memory_bytes: 1 << 30, scratch: PathBuf::new() };
        Self { machine, image, scratch }
    }

    /// A machine's whole life against this authority.
    pub(crate) fn run(&mut self, authority: Authority) -> Ended {
        self.run_with(authority, true)
    }

    /// The same with an image that turns out to be damaged while a step runs on it.
    pub(crate) fn run_damaged(&mut self, authority: Authority) -> Ended {
        self.run_with(authority, false)
    }

    fn run_with(&mut self, authority: Authority, intact: bool) -> Ended {
        let scratch = tempfile::tempdir_in(&self.scratch).unwrap();
        self.machine.scratch = scratch.path().to_owned();
        let images = BTreeMap::from([(Sha256Digest::of(b"image"), self.image.clone())]);
        self.machine.images = Box::new(Shelf { images, intact });
        let (socket, pid1) = pid1::start();
        let mut custodian = Custodian::new(socket);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (outcome, got) = runtime.block_on(async {
            let (transport, got) = authority.serve();
            let link = Link::open(transport).await.unwrap();
            (carry(&mut self.machine, link, &mut custodian).await, got)
        });
        drop((custodian, runtime));
        let asked = pid1.join().unwrap();
        Ended { outcome, got: Arc::into_inner(got).unwrap().into_inner().unwrap(), asked }
    }
}

/// A job of two steps: the first copies its input to `mid`, the second runs `script` and should leave `/work/out/hello`.
pub(crate) fn job(script: &str) -> Value {
    let limits =
        json!({ "memory_bytes": 64 << 20, "pids": 16, "wall_ms": 10_000, "log_bytes": 4096, "tmp_bytes": 1 << 20 });
    json!({
        "version": 1,
        "name": "hello",
        "expires": time(60),
        "image": [{ "name": "c", "root_hash": Sha256Digest::of(b"image") }],
        "input": [{
            "name": "in", "uri": "https://downloads.example/in", "sha256": Sha256Digest::of(INPUT), "size": INPUT.len(),
        }],
        "workspace": [{ "name": "mid", "size_bytes_max": 1 << 20 }, { "name": "out", "size_bytes_max": 1 << 20 }],
        "step": [
            {
                "name": "first", "image": "c", "argv": ["sh", "-c", "read -r x </inputs/in; echo \"$x\" >mid"],
                "env": { "PATH": "/bin" }, "workdir": "/work/mid", "inputs": ["in"],
                "workspaces": [{ "name": "mid", "access": "rw" }], "limits": limits,
            },
            {
                "name": "second", "image": "c", "argv": ["sh", "-c", script],
                "env": { "PATH": "/bin" }, "workdir": "/work/out",
                "workspaces": [{ "name": "mid", "access": "ro" }, { "name": "out", "access": "rw" }], "limits": limits,
            },
        ],
        "output": [{ "name": "hello", "workspace": "out", "path": "hello", "size_bytes_max": 100 }],
    })
}

/// An authority that hands this job over, and the input.
pub(crate) fn offering(job: &Value) -> Authority {
    Authority { document: signed(job, SIGNER), ..Authority::default() }.with_input(INPUT)
}

/// The host's shell and mkdir, and the libraries that they name, in memory.
fn image() -> DetachedTree {
    let tree = DetachedTree::workspace("image", 64 << 20, 1000).expect("a file system in memory (needs root)");
    let root = PathBuf::from(format!("/proc/self/fd/{}", tree.as_fd().as_raw_fd()));
    for directory in ["proc", "dev", "tmp", "work", "inputs", "bin"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    for program in ["bin/sh", "bin/mkdir"] {
        let on_host = Path::new("/").join(program);
        fs::copy(&on_host, root.join(program)).unwrap();
        let libraries = Command::new("ldd").arg(&on_host).output().unwrap().stdout;
        let libraries = String::from_utf8(libraries).unwrap();
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let to = root.join(library.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(Path::new(library), to).unwrap();
        }
    }
    tree
}
